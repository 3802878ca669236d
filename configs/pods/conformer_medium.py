"""NeMo's Conformer-CTC medium on a pod slice; see conformer_large.py."""

import dataclasses
import runpy
from pathlib import Path

large = runpy.run_path(str(Path(__file__).with_name("conformer_large.py")))["config"]

config = dataclasses.replace(
    large,
    out_dir="runs/pods/conformer_medium",
    task=dataclasses.replace(
        large.task,
        model=dataclasses.replace(
            large.task.model,
            width=256,
            layers=18,
            heads=4,
        ),
        augment=dataclasses.replace(large.task.augment, time_masks=5),
    ),
)
