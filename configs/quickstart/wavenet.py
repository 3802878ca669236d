"""A very small WaveNet vocoder, 5 layers of 32 channels, on domain A of the synthetic corpus. Its mel frames are those
of the quickstart's voice."""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConditionConfig, WaveNetConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig


def corpus(name: str, rows: int) -> DataConfig:
    """One part of the corpus that `python -m speech_jax.prepare synthetic --out runs/quickstart/data` makes."""
    source = SourceConfig(path=f"runs/quickstart/data/{name}.jsonl")
    return DataConfig(sources=(source,), plan=PlanConfig(num_buckets=1, rows=rows))


config = TrainConfig(
    out_dir="runs/quickstart/vocoder",
    data=corpus("A/train", rows=8),
    task=WaveNetTaskConfig(
        model=WaveNetConfig(
            layers=5,
            cycles=1,
            kernel_size=2,
            residual=32,
            gate=64,
            skip=32,
            head=32,
            condition=ConditionConfig(width=64, context=1),
        ),
        audio=dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, hop=320, num_mels=40, fmax=7_600.0),
        crop_frames=8,
        pre_emphasis=0.85,
        clip_seconds=0.5,
    ),
    evaluate=(EvalConfig("A", corpus("A/dev", rows=8)),),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=4e-3, warmup_steps=50, weight_decay=0.0),
    trainer=TrainerConfig(
        steps=300,
        step=StepConfig(ema=0.99),
        eval_every=150,
        log_every=20,
        checkpoint=CheckpointConfig(every=150, metric="A/loss"),
    ),
)
