"""The quickstart's second run: fine-tuning on domain B. `--alpha.start 0` is plain fine-tuning; above 0, old recordings
hold the model to what it knew. Network, audio settings and tokenizer come from the pre-trained checkpoint."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.objectives.config import AlphaConfig

pretrain = runpy.run_path(str(Path(__file__).with_name("pretrain.py")))
corpus, before = pretrain["corpus"], pretrain["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/quickstart/finetuned",
    init_from=before.out_dir,
    task=None,
    data=corpus("B/train", rows=16),
    pre=corpus("A/train", rows=16),
    alpha=AlphaConfig(start=0.3),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=2e-3, warmup_steps=20),
    trainer=dataclasses.replace(
        before.trainer,
        steps=400,
        eval_every=100,
        checkpoint=dataclasses.replace(before.trainer.checkpoint, every=100, metric="B/wer"),
    ),
)
