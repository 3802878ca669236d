"""Tacotron 2 with the paper's sizes on a small slice, LJSpeech's 24 hours; two frames a step."""

from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import Tacotron2Config
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.training.config import CheckpointConfig, TrainerConfig
from speech_jax.training.presets import tacotron2_nvidia


def manifest(name: str) -> tuple[SourceConfig, ...]:
    return (SourceConfig(path=f"data/ljspeech/{name}.jsonl"),)


config = TrainConfig(
    out_dir="runs/pods/tacotron2",
    data=DataConfig(sources=manifest("train"), plan=PlanConfig(num_buckets=4, rows=128, max_seconds=10.5)),
    task=Tacotron2TaskConfig(model=Tacotron2Config(reduction=2), guided=1.0),
    evaluate=(EvalConfig("dev", DataConfig(sources=manifest("dev"), plan=PlanConfig(num_buckets=1, rows=32))),),
    optimizer=tacotron2_nvidia(),
    trainer=TrainerConfig(steps=60_000, checkpoint=CheckpointConfig(every=1000, metric="dev/loss")),
)
