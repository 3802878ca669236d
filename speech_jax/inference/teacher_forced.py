"""Mel frames that a Tacotron 2 predicts for recordings with teacher forcing: training data for a vocoder.

    python -m speech_jax.synthesize --checkpoint TACOTRON --teacher-forced MANIFEST --out DIR

Teacher forcing keeps the frames aligned with the recording, but they are predictions, as smooth as the voice's. With
that voice, a vocoder trained on them sounds better than one trained on the recordings' own frames (Shen et al. 2018,
table 2). DIR/manifest.jsonl lists the recordings with their mel files; `task.mels = "manifest"` trains on it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.artifacts.voice import load_voice_parts
from speech_jax.audio.features import num_frames
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.mels import write_mel
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import eval_plan, left_out, lengths
from speech_jax.data.speakers import speaker_ids
from speech_jax.tasks.tacotron2_task import tacotron2_task

PLAN = PlanConfig(num_buckets=4, seconds_per_batch=60, row_multiple=4)
SEED = 0  # of the prenet's dropout, so that a checkpoint and recordings always give the same frames


def export_mels(checkpoint: str, manifest: str, out: str, which: Literal["best", "last"] = "best") -> int:
    """Write OUT/mels/NUMBER.safetensors and OUT/manifest.jsonl.

    Args:
        checkpoint: Folder of a voice.
        manifest: Recordings with their texts.
        out: Folder to write to.
        which: The run's best or last checkpoint.

    Returns:
        Exit code: 2 if recordings were left out, else 0.

    Raises:
        UserError: If the checkpoint is not a voice, if the manifest cannot be read, or if it names a speaker that a
            voice of several speakers does not have.
    """
    parts = load_voice_parts(checkpoint, which)
    task, audio = tacotron2_task(parts.task, parts.front_end), parts.task.audio
    utterances = read_manifest(manifest, on_error="skip")
    speakers = speaker_ids(utterances, parts.speakers) if parts.speakers else None
    seconds, labels = lengths(utterances, parts.front_end)
    plan = eval_plan(seconds, labels, PLAN, sample_rate=audio.sample_rate)
    params, model_state = jax.device_put((parts.params, parts.model_state))

    @jax.jit
    def predict(params, model_state, batch):
        return task.model.apply(params, model_state, batch, key=jax.random.key(SEED))[0]["mel_post"]

    folder, written = Path(out), {}
    with batches(utterances, plan, parts.front_end, DataConfig(), speakers=speakers) as stream:
        for batch in tqdm(stream, total=plan.total_steps, unit="batch", disable=None, file=sys.stderr):
            frames = np.asarray(predict(params, model_state, batch))
            for row in np.flatnonzero(batch["index"] >= 0):
                number = int(batch["index"][row])
                path = folder / "mels" / f"{number:06d}.safetensors"
                count = num_frames(int(batch["audio_lengths"][row]), audio)
                write_mel(path, frames[row, :count], audio)
                written[number] = utterances[number]._replace(mel=str(path))
        skipped = list(stream.skipped.values())
    write_manifest(folder / "manifest.jsonl", [written[number] for number in sorted(written)])
    for line in left_out(plan, utterances) + skipped:
        print(f"error: left out: {line}", file=sys.stderr)
    print(f"{folder}: mel frames of {len(written)} of {len(utterances)} recordings", file=sys.stderr)
    return 0 if len(written) == len(utterances) else 2
