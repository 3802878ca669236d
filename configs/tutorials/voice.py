"""A voice that learns eight sentences by heart in less than a minute on two CPU cores, for the notebooks.

python -m speech_jax.prepare synthetic --out data --train-a 8 --train-b 0 --dev 8 --test 1 --voices 1
python -m speech_jax.train --config tutorials/voice
"""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig

# Training and evaluation set: what is looked at is how well the sentences were learned.
sentences = DataConfig(sources=(SourceConfig(path="data/A/train.jsonl"),), plan=PlanConfig(num_buckets=1, rows=8))

config = TrainConfig(
    out_dir="runs/voice",
    data=sentences,
    task=Tacotron2TaskConfig(
        model=Tacotron2Config(
            embedding=96,
            encoder_layers=1,
            encoder_width=96,
            prenet=64,
            attention_rnn=192,
            decoder_rnn=256,
            attention=AttentionConfig(kind="dynamic", width=64),
            postnet_layers=2,
            postnet=96,
            conv_dropout=0.0,
            prenet_dropout=0.2,
            held_rate=0.0,
            reduction=4,
        ),
        audio=dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, hop=320, num_mels=64, fmax=7_600.0),
        frames="l1",
        guided=1.0,
    ),
    evaluate=(EvalConfig("known", sentences),),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=6e-3, warmup_steps=20, weight_decay=0.0),
    trainer=TrainerConfig(steps=400, eval_every=0, log_every=10, checkpoint=CheckpointConfig(every=0)),
)
