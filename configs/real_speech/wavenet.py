"""A vocoder for two CPU cores: 12 layers of 64 channels with one Gaussian, on acted English (Amazon Queen)."""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.wavenet import small
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig

DATA = "data/real"
AUDIO = dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, fmax=7_600.0)  # hop 256: 62.5 frames a second


def recordings(name: str, **plan) -> DataConfig:
    """A part of the set that `python -m speech_jax.prepare queen` writes."""
    return DataConfig(sources=(SourceConfig(path=f"{DATA}/{name}.jsonl"),), plan=PlanConfig(**plan))


config = TrainConfig(
    out_dir="runs/real_speech/wavenet",
    data=recordings("queen/train", num_buckets=3, rows=8, min_seconds=1, max_seconds=8),
    task=WaveNetTaskConfig(model=small(), audio=AUDIO, crop_frames=16, pre_emphasis=0.85, clip_seconds=2.0),
    evaluate=(EvalConfig("queen", recordings("queen/dev", num_buckets=1, rows=8)),),
    optimizer=OptimizerConfig(schedule="wsd", peak_lr=2e-3, warmup_steps=200, decay_steps=5_000, weight_decay=0.0),
    trainer=TrainerConfig(
        steps=40_000,
        step=StepConfig(ema=0.999),
        checkpoint=CheckpointConfig(every=2_000, metric="queen/loss"),
        eval_every=2_000,
        log_every=50,
    ),
)
