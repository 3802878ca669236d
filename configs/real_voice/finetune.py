"""Another voice from at most ten minutes: Asterisk's English prompts, with Joe's recordings as the old domain.

`--alpha.start 0` is plain fine-tuning. The new speaker's vector begins as the mean of the old ones, Joe's is kept.
"""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.config import EvalConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.training.config import CheckpointConfig

recordings = runpy.run_path(str(Path(__file__).with_name("joe.py")))["recordings"]
before = runpy.run_path(str(Path(__file__).with_name("joe_longer.py")))["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_voice/asterisk",
    init_from=before.out_dir,
    task=dataclasses.replace(before.task, model=dataclasses.replace(before.task.model, norm_statistics="fixed")),
    data=recordings("asterisk/train", num_buckets=3, seconds_per_batch=36, row_multiple=4, min_seconds=0.3),
    pre=recordings("joe/train", num_buckets=3, seconds_per_batch=36, row_multiple=4, min_seconds=0.3, max_seconds=6),
    alpha=AlphaConfig(start=0.3),
    evaluate=(
        EvalConfig("asterisk", recordings("asterisk/dev", num_buckets=1)),
        EvalConfig("joe", recordings("joe/dev", num_buckets=1)),
    ),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=3e-4, warmup_steps=50, hold_steps=200),
    trainer=dataclasses.replace(
        before.trainer,
        steps=600,
        eval_every=150,
        checkpoint=CheckpointConfig(every=150, metric="asterisk/loss"),
    ),
)
