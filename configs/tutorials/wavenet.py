"""A very small WaveNet vocoder for one voice, trained in less than a minute on two CPU cores, for the notebooks.

python -m speech_jax.prepare synthetic --out data --train-a 96 --train-b 0 --dev 8 --test 8 --voices 1
python -m speech_jax.train --config tutorials/wavenet
"""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConditionConfig, WaveNetConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig


def recordings(name: str) -> DataConfig:
    """One part of the corpus, in batches of 8 utterances."""
    return DataConfig(sources=(SourceConfig(path=f"data/{name}.jsonl"),), plan=PlanConfig(num_buckets=1, rows=8))


config = TrainConfig(
    out_dir="runs/wavenet",
    data=recordings("A/train"),
    task=WaveNetTaskConfig(
        model=WaveNetConfig(
            layers=6,
            cycles=1,
            kernel_size=3,
            residual=32,
            gate=64,
            skip=32,
            head=32,
            output="mulaw",
            condition=ConditionConfig(width=64, context=1),
        ),
        audio=dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, num_mels=40, fmax=7_600.0),
        crop_frames=8,
        clip_seconds=0.0,
    ),
    evaluate=(EvalConfig("dev", recordings("A/dev")),),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=1e-2, warmup_steps=20, weight_decay=0.0),
    trainer=TrainerConfig(
        steps=400, step=StepConfig(ema=0.98), eval_every=0, log_every=10, checkpoint=CheckpointConfig(every=0)
    ),
)
