"""Second part of the pre-training: the first part's model goes on at a high rate, with more augmentation.

After 8,000 steps of `pretrain.py` the training loss is half that of the held-out scenes: more of the same would learn
by heart. So speed and masks vary more, and dropout is doubled.
"""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.audio.config import AugmentConfig

before = runpy.run_path(str(Path(__file__).with_name("pretrain.py")))["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_speech/pretrain_longer",
    init_from=before.out_dir,
    task=dataclasses.replace(
        before.task,
        model=dataclasses.replace(before.task.model, dropout=0.1, dropout_pre_encoder=0.1, dropout_att=0.1),
        augment=AugmentConfig(speed=(0.9, 1.0, 1.1), freq_masks=2, freq_width=20, time_masks=5),
    ),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=1.5e-3, decay_steps=3000),
    trainer=dataclasses.replace(before.trainer, steps=7500),
)
