"""A vocoder of one voice: the hero of Flight of the Amazon Queen, an hour of acted speech, for two CPU cores."""

import dataclasses
import runpy

from speech_jax.config import EvalConfig

everyone = runpy.run_path("configs/real_speech/wavenet.py")["config"]
recordings = runpy.run_path("configs/real_voice/joe.py")["recordings"]

config = dataclasses.replace(
    everyone,
    out_dir="runs/real_vocoder/joe",
    data=recordings("joe/train", num_buckets=3, rows=4, row_multiple=4, min_seconds=1, max_seconds=8),
    evaluate=(EvalConfig("joe", recordings("joe/dev", num_buckets=1, rows=8)),),
    optimizer=dataclasses.replace(everyone.optimizer, warmup_steps=100, decay_steps=1_000),
    trainer=dataclasses.replace(  # an hour of one core, and far from enough
        everyone.trainer,
        steps=3_200,
        eval_every=800,
        checkpoint=dataclasses.replace(everyone.trainer.checkpoint, every=800, metric="joe/loss"),
    ),
)
