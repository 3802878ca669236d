"""Fine-tuning of the tutorials' recognizer on another domain: other words and other voices, over a telephone line.

python -m speech_jax.prepare synthetic --out data --train-a 1200 --train-b 300 --voices 1 --words-per-minute 160 180 \\
    --sample-rate 8000
python -m speech_jax.train --config tutorials/recognizer
python -m speech_jax.train --config tutorials/finetune --alpha.start 0.3
"""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.config import EvalConfig
from speech_jax.objectives.config import AlphaConfig

recognizer = runpy.run_path(str(Path(__file__).with_name("recognizer.py")))
recordings, before = recognizer["recordings"], recognizer["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/finetuned",
    init_from=before.out_dir,
    task=None,  # network, audio settings and tokenizer are the checkpoint's
    data=recordings("B/train", rows=8),
    pre=recordings("A/train", rows=8),
    alpha=AlphaConfig(start=0.3),
    evaluate=(*before.evaluate, EvalConfig("new", recordings("B/dev", rows=64))),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=3e-3, warmup_steps=10),
    trainer=dataclasses.replace(before.trainer, steps=120, eval_every=30),
)
