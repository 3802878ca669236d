"""NeMo's FastConformer-CTC large on a pod slice: 8 × subsampling, depthwise-separable; see conformer_large.py."""

import dataclasses
import runpy
from pathlib import Path

large = runpy.run_path(str(Path(__file__).with_name("conformer_large.py")))["config"]

config = dataclasses.replace(
    large,
    out_dir="runs/pods/fastconformer_large",
    task=dataclasses.replace(
        large.task,
        model=dataclasses.replace(
            large.task.model,
            layers=17,
            kernel_size=9,
            subsampling="dw_striding",
            subsampling_factor=8,
            subsampling_channels=256,
        ),
        augment=dataclasses.replace(large.task.augment, time_masks=10),
    ),
)
