"""A vocoder of one voice: the hero of Flight of the Amazon Queen, an hour of acted speech, for two CPU cores.

One cycle of ten dilations sees 1,023 samples, 93 ms and several periods of the voice, for less arithmetic than the
12-layer preset's two cycles of six, which see 127. The rate is the recordings' own, 11,025 Hz: brought to 16,000, as
for the voice (joe.py), they hold nothing above 4.7 kHz, so that a sample is nearly determined by those before it. µ-law
classes learn to follow a mel in fewer steps than a Gaussian (experiments/real_vocoder). The frames are therefore not
those of joe.py's voice.
"""

import dataclasses
import runpy
from pathlib import Path

from speech_jax.config import EvalConfig

everyone = runpy.run_path(str(Path(__file__).parents[1] / "real_speech" / "wavenet.py"))["config"]
recordings = runpy.run_path(str(Path(__file__).with_name("joe.py")))["recordings"]

config = dataclasses.replace(
    everyone,
    out_dir="runs/real_vocoder/joe",
    data=recordings("joe/train", num_buckets=3, rows=2, row_multiple=2, min_seconds=1, max_seconds=8),
    task=dataclasses.replace(
        everyone.task,
        audio=dataclasses.replace(everyone.task.audio, sample_rate=11_025, window=512, hop=128, fmax=5_000.0),
        model=dataclasses.replace(everyone.task.model, layers=10, cycles=1, output="mulaw"),
        crop_frames=40,
    ),
    evaluate=(EvalConfig("joe", recordings("joe/dev", num_buckets=1, rows=8)),),
    optimizer=dataclasses.replace(everyone.optimizer, warmup_steps=100, decay_steps=2_000),
    trainer=dataclasses.replace(  # an hour and a half of two cores, and not yet enough
        everyone.trainer,
        steps=14_500,
        eval_every=1_000,
        checkpoint=dataclasses.replace(everyone.trainer.checkpoint, every=500, metric="joe/loss"),
    ),
)
