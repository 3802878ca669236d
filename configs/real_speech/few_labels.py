"""A recognizer of one voice from 14 minutes with texts (Asterisk): on top of unsupervised pre-training, or from nothing
with `--init-from ''`. The upper half of the layers begins anew: what it had learned belongs to the pretext."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.audio.config import AugmentConfig
from speech_jax.finetuning.config import StartConfig

tuned = runpy.run_path(str(Path(__file__).with_name("finetune.py")))["config"]

config = dataclasses.replace(
    tuned,
    out_dir="runs/real_speech/few_labels",
    init_from="runs/real_speech/unsupervised",
    start=StartConfig(fresh=("layers_[345]/",)),
    task=dataclasses.replace(
        tuned.task, augment=AugmentConfig(speed=(0.9, 1.0, 1.1), freq_masks=2, freq_width=15, time_masks=2)
    ),
    pre=None,
    alpha=dataclasses.replace(tuned.alpha, start=0.0),
    evaluate=tuned.evaluate[:1],
    optimizer=dataclasses.replace(tuned.optimizer, peak_lr=1e-3, warmup_steps=100, decay_steps=400),
    trainer=dataclasses.replace(tuned.trainer, steps=1000, eval_every=250),
)
