"""A very small voice, of two espeak speakers of the quickstart's corpus: 1,500 steps of about half a processor second.

python -m speech_jax.prepare synthetic --out runs/quickstart/data
python -m speech_jax.train --config configs/quickstart/voice.py
python -m speech_jax.synthesize --checkpoint runs/quickstart/voice --text "The rain is over." --out rain.wav
"""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig

SPEAKERS = ("en-us+f2", "en-us+m3")


def corpus(name: str, **plan) -> DataConfig:
    """The two speakers' part of what `python -m speech_jax.prepare synthetic --out runs/quickstart/data` makes."""
    source = SourceConfig(path=f"runs/quickstart/data/{name}.jsonl", speakers=SPEAKERS)
    return DataConfig(sources=(source,), plan=PlanConfig(num_buckets=1, **plan))


config = TrainConfig(
    out_dir="runs/quickstart/voice",
    data=corpus("A/train", rows=32),
    task=Tacotron2TaskConfig(
        model=Tacotron2Config(
            embedding=96,
            encoder_layers=2,
            encoder_width=96,
            prenet=64,
            attention_rnn=128,
            decoder_rnn=128,
            attention=AttentionConfig(kind="dynamic", width=64),
            postnet_layers=3,
            postnet=96,
            speaker_width=16,
            conv_dropout=0.2,
            prenet_dropout=0.3,
            reduction=4,
        ),
        audio=dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, hop=320, num_mels=40, fmax=7_600.0),
        frames="l1",
        guided=1.0,
        reduction=((0, 4), (300, 2)),
        speakers="data",
        speak=4,
    ),
    evaluate=(EvalConfig("A", corpus("A/dev", rows=40)),),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=2e-3, warmup_steps=50, weight_decay=1e-6),
    trainer=TrainerConfig(
        steps=1500, eval_every=300, log_every=20, checkpoint=CheckpointConfig(every=300, metric="A/loss")
    ),
)
