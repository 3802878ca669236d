"""Fine-tuning to one studio voice (Asterisk's English prompts), with Amazon Queen's recordings as the old domain."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.training.config import CheckpointConfig

manifest = runpy.run_path(str(Path(__file__).with_name("pretrain.py")))["manifest"]
before = runpy.run_path(str(Path(__file__).with_name("pretrain_longer.py")))["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_speech/finetuned",
    init_from=before.out_dir,
    task=dataclasses.replace(
        before.task, augment=AugmentConfig(speed=(0.9, 1.0, 1.1), freq_masks=2, freq_width=15, time_masks=2)
    ),
    data=DataConfig(
        sources=manifest("asterisk/train"),
        plan=PlanConfig(num_buckets=3, seconds_per_batch=60, row_multiple=4, max_seconds=15),
    ),
    pre=DataConfig(
        sources=manifest("queen/train"),
        plan=PlanConfig(num_buckets=3, seconds_per_batch=60, row_multiple=4, max_seconds=12),
    ),
    alpha=AlphaConfig(start=0.5),
    evaluate=(
        EvalConfig("asterisk", DataConfig(sources=manifest("asterisk/dev"), plan=PlanConfig(num_buckets=2))),
        EvalConfig("queen", DataConfig(sources=manifest("queen/dev"), plan=PlanConfig(num_buckets=2))),
    ),
    optimizer=dataclasses.replace(before.optimizer, schedule="wsd", peak_lr=5e-4, warmup_steps=50, decay_steps=200),
    trainer=dataclasses.replace(
        before.trainer,
        steps=400,
        eval_every=100,
        checkpoint=CheckpointConfig(every=100),
    ),
)
