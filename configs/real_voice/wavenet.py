"""A vocoder of one voice: the hero of Flight of the Amazon Queen, an hour of acted speech, for two CPU cores.

One cycle of ten dilations sees 1,023 samples, 64 ms and several periods of the voice, for less arithmetic than the
12-layer preset's two cycles of six, which see 8 ms. The recordings hold nothing above 4.7 kHz, so that a sample is
nearly determined by those before it: the noise on them keeps the network from relying on that.
"""

import dataclasses
import runpy

from speech_jax.config import EvalConfig

everyone = runpy.run_path("configs/real_speech/wavenet.py")["config"]
recordings = runpy.run_path("configs/real_voice/joe.py")["recordings"]

config = dataclasses.replace(
    everyone,
    out_dir="runs/real_vocoder/joe",
    data=recordings("joe/train", num_buckets=3, rows=2, row_multiple=2, min_seconds=1, max_seconds=8),
    task=dataclasses.replace(
        everyone.task,
        model=dataclasses.replace(everyone.task.model, layers=10, cycles=1),
        crop_frames=20,
        input_noise=0.01,
    ),
    evaluate=(EvalConfig("joe", recordings("joe/dev", num_buckets=1, rows=8)),),
    optimizer=dataclasses.replace(everyone.optimizer, warmup_steps=100, decay_steps=2_000),
    trainer=dataclasses.replace(  # an hour of one core, and far from enough
        everyone.trainer,
        steps=7_000,
        eval_every=1_000,
        checkpoint=dataclasses.replace(everyone.trainer.checkpoint, every=1_000, metric="joe/loss"),
    ),
)
