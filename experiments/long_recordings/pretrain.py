"""First stage: Amazon Queen and, eight times as often, Asterisk's English prompts, without joined utterances."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.training.config import CheckpointConfig, StepConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "real_speech"
real = runpy.run_path(str(CONFIGS / "pretrain.py"))
manifest, before = real["manifest"], real["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/long_recordings/pretrained",
    data=DataConfig(
        sources=manifest("queen/train", "asterisk8"),
        plan=PlanConfig(num_buckets=4, seconds_per_batch=48, row_multiple=4, max_seconds=12),
    ),
    task=dataclasses.replace(
        before.task,
        model=dataclasses.replace(
            before.task.model, layers=5, dropout=0.1, dropout_pre_encoder=0.1, dropout_att=0.1
        ),
        augment=AugmentConfig(speed=(0.9, 1.0, 1.1), freq_masks=2, freq_width=15, time_masks=2),
    ),
    evaluate=(EvalConfig("asterisk", DataConfig(sources=manifest("asterisk/dev"), plan=PlanConfig(num_buckets=2))),),
    optimizer=dataclasses.replace(before.optimizer, warmup_steps=200, decay_steps=1),
    trainer=dataclasses.replace(
        before.trainer, steps=1470, step=StepConfig(ema=0.995), eval_every=1000, checkpoint=CheckpointConfig(every=500)
    ),
)
