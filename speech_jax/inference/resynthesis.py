"""Resynthesis of recordings from their own mel frames, which measures a vocoder alone.

    python -m speech_jax.synthesize --checkpoint RUN --resynthesize MANIFEST --vocoder WAVENET --out DIR

DIR gets a WAV file per recording and manifest.jsonl with the same ids, so that `python -m speech_jax.evaluate --speech
DIR/manifest.jsonl --manifest MANIFEST` measures the two against each other. The mel settings are those of RUN, a voice
or a vocoder.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_frames
from speech_jax.core.compile_clock import Stopwatch
from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.inference.audio_output import Vocoder, sound_file

SAMPLES_MULTIPLE = 16384  # recordings are padded to multiples of this, so that few programs are compiled


def resynthesize(vocoder: Vocoder, audio: AudioConfig, manifest: str, out: str) -> int:
    """Write OUT/NUMBER.wav and OUT/manifest.jsonl.

    Args:
        vocoder: The vocoder.
        audio: Audio settings of its mel frames.
        manifest: Recordings to resynthesize.
        out: Folder to write to.

    Returns:
        Exit code: 2 if recordings were left out, else 0.

    Raises:
        UserError: If the manifest cannot be read.
    """
    utterances = read_manifest(manifest, on_error="skip")
    folder, written, left_out, watch = Path(out), [], [], Stopwatch()
    for number, utterance in enumerate(tqdm(utterances, unit="recording", disable=None, file=sys.stderr)):
        try:
            wave = vocoder.wave(extract_mel(read_recording(utterance, audio.sample_rate), audio))
        except UserError as error:
            left_out.append(f"{utterance.where}: {error}")
            continue
        watch.add_audio(len(wave) / audio.sample_rate)
        path = folder / f"{number:06d}.wav"
        with sound_file(path, audio.sample_rate) as write:
            write(wave)
        written.append(
            utterance._replace(audio=str(path), start=0.0, end=None, seconds=len(wave) / audio.sample_rate, mel="")
        )
    write_manifest(folder / "manifest.jsonl", written)
    for line in left_out:
        print(f"error: left out: {line}", file=sys.stderr)
    watch.print_summary(len(written))
    return 2 if left_out else 0


def extract_mel(wave: Float[np.ndarray, " time"], audio: AudioConfig) -> Float[np.ndarray, "frames mels"]:
    """Return the mel frames of a recording."""
    padded = np.zeros((1, -(-max(len(wave), 1) // SAMPLES_MULTIPLE) * SAMPLES_MULTIPLE), np.float32)
    padded[0, : len(wave)] = wave
    mel, _ = _features(audio)(padded, np.array([len(wave)]))
    return np.asarray(mel)[0, : num_frames(len(wave), audio)]


@functools.cache
def _features(audio: AudioConfig):
    return jax.jit(functools.partial(extract_features, config=audio))
