"""A small recognizer (a quarter of the parameters) from a large one: CTC on the texts, and the posteriors and the
encoder of the large one as targets."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.tasks.ctc import TeacherConfig

before = runpy.run_path(str(Path(__file__).with_name("pretrain_longer.py")))["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_speech/distilled",
    init_from="",
    task=dataclasses.replace(
        before.task,
        model=dataclasses.replace(before.task.model, width=64, subsampling_channels=16, dropout=0.0, dropout_att=0.0),
    ),
    teacher=TeacherConfig(checkpoint=before.out_dir, weight=0.7, temperature=2.0, hidden=1.0),
)
