"""Unsupervised pre-training: the recordings of all three domains without their texts, by the masked auto-encoder.

`--task.method best_rq` or `contrastive` are the other two ways. `few_labels.py` starts from what comes out. Spans of
160 ms: of 400 ms, the public recipes' for a thousand times as much, a few hours on a processor learn little.
"""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig

supervised = runpy.run_path(str(Path(__file__).with_name("pretrain.py")))
manifest, before = supervised["manifest"], supervised["config"]

config = dataclasses.replace(
    before,
    out_dir="runs/real_speech/unsupervised",
    data=dataclasses.replace(before.data, sources=manifest("queen/train", "synth/train", "asterisk/train")),
    task=PretrainTaskConfig(
        method="autoencoder", hidden_span=4, model=before.task.model, augment=AugmentConfig(speed=(0.9, 1.0, 1.1))
    ),
    evaluate=(
        EvalConfig("asterisk", DataConfig(sources=manifest("asterisk/dev"), plan=PlanConfig(num_buckets=2))),
        EvalConfig("queen", DataConfig(sources=manifest("queen/dev"), plan=PlanConfig(num_buckets=2))),
    ),
    optimizer=dataclasses.replace(before.optimizer, peak_lr=2e-3, decay_steps=1500),
    trainer=dataclasses.replace(
        before.trainer,
        steps=6000,
        checkpoint=dataclasses.replace(before.trainer.checkpoint, metric="asterisk/loss"),
    ),
)
