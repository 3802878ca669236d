"""Second stage: Asterisk's English prompts alone, with joined utterances."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.data.config import DataConfig, JoinConfig, PlanConfig
from speech_jax.finetuning.config import StartConfig
from speech_jax.training.config import CheckpointConfig

first = runpy.run_path(str(Path(__file__).with_name("pretrain.py")))
manifest, before = first["manifest"], first["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/long_recordings/finetuned",
    init_from=before.out_dir,
    start=StartConfig(which="last"),
    task=None,
    data=DataConfig(
        sources=manifest("asterisk/train"),
        plan=PlanConfig(
            num_buckets=2, seconds_per_batch=36, row_multiple=4, max_seconds=12,
            join=JoinConfig(share=0.4, seconds=12.0),
        ),
    ),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=1.5e-3, warmup_steps=50, decay_steps=250),
    trainer=dataclasses.replace(before.trainer, steps=1200, eval_every=400, checkpoint=CheckpointConfig(every=200)),
)  # fmt: skip
