"""WaveNet of 24 layers and 128 channels on a small slice, LJSpeech's 24 hours, one Gaussian a sample."""

from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.wavenet import base
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig


def manifest(name: str) -> tuple[SourceConfig, ...]:
    return (SourceConfig(path=f"data/ljspeech/{name}.jsonl"),)


config = TrainConfig(
    out_dir="runs/pods/wavenet",
    data=DataConfig(sources=manifest("train"), plan=PlanConfig(num_buckets=2, rows=64, max_seconds=10.5)),
    task=WaveNetTaskConfig(model=base(), crop_frames=40),
    evaluate=(EvalConfig("dev", DataConfig(sources=manifest("dev"), plan=PlanConfig(num_buckets=1, rows=16))),),
    optimizer=OptimizerConfig(schedule="wsd", peak_lr=1e-3, warmup_steps=1000, decay_steps=50_000, weight_decay=0.0),
    trainer=TrainerConfig(
        steps=300_000, step=StepConfig(ema=0.9999), checkpoint=CheckpointConfig(every=2000, metric="dev/loss")
    ),
)
