"""Second part of Joe's training: the first part's model goes on at the high rate.

After 4,500 steps of `joe.py` the frames are blurred, and the loss of the training part is that of held-out lines: it
has not learned by heart, it has not learned enough.
"""

import dataclasses
import runpy
from pathlib import Path

before = runpy.run_path(str(Path(__file__).with_name("joe.py")))["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_voice/joe_longer",
    init_from=before.out_dir,
    optimizer=dataclasses.replace(before.optimizer, hold_steps=4_500),
    trainer=dataclasses.replace(before.trainer, steps=6_000),
)
