"""Fine-tuning on domain B that tells little about any one of its utterances: epsilon 7.5 at delta 1e-5.

Low-rank adapters leave few numbers to put noise on. A step takes all 500 utterances: what privacy costs is counted in
epochs, so the larger the batch, the less its noise. Old recordings would need batches of as many rows; their guarantee
would be void anyway, since the start model saw them without noise."""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.finetuning.config import AdapterConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.training.config import PrivacyConfig, StepConfig

finetune = runpy.run_path(str(Path(__file__).with_name("finetune.py")))
corpus, plain = finetune["corpus"], finetune["config"]

config = dataclasses.replace(
    plain,
    out_dir="runs/quickstart/private",
    data=corpus("B/train", rows=504),
    pre=None,
    alpha=AlphaConfig(start=0.0),
    adapter=AdapterConfig("lora", rank=4),
    optimizer=dataclasses.replace(plain.optimizer, peak_lr=5e-3, warmup_steps=5, clip_norm=None),
    trainer=dataclasses.replace(
        plain.trainer,
        steps=40,
        eval_every=20,
        step=StepConfig(privacy=PrivacyConfig(noise_multiplier=4.0, clip_norm=1.0)),
        checkpoint=dataclasses.replace(plain.trainer.checkpoint, every=20),
    ),
)
