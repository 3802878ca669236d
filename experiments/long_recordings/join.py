"""Join the clips of a manifest to long recordings: `python -m experiments.long_recordings.join --manifest M --out DIR`.

Writes a manifest of one row for each gap and condition, such as DIR/joined_0.5_noise-60.jsonl, and the clips by
themselves in each condition, such as DIR/clips_noise-60.jsonl. Noise is white, its level relative to full scale; it
lies under the speech too. MP3 is that of libsndfile with its default settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.data.utterances import Utterance

RATE = 16_000
GAPS = (0.0, 0.5, 1.5)
CONDITIONS: dict[str, float | None] = {"clean": None, "noise-60": -60.0, "noise-40": -40.0, "mp3": None}


def joined(recordings: Iterable[np.ndarray], gap: float) -> np.ndarray:
    """Return recordings one after the other, with `gap` seconds of digital silence between them."""
    quiet = np.zeros(round(gap * RATE), np.float32)
    return np.concatenate([part for audio in recordings for part in (quiet, audio)][1:])


def write(folder: Path, name: str, rows: list[tuple[Utterance, np.ndarray]], condition: str) -> None:
    """Write recordings in a condition, and their manifest."""
    level, ending = CONDITIONS[condition], "mp3" if condition == "mp3" else "flac"
    noise = np.random.default_rng(0)
    (folder / name).mkdir(parents=True, exist_ok=True)
    written = []
    for number, (utterance, audio) in enumerate(rows):
        path = folder / name / f"{number:04d}.{ending}"
        if level is not None:
            audio = audio + 10 ** (level / 20) * noise.standard_normal(len(audio))
        soundfile.write(path, audio, RATE)
        seconds = soundfile.info(path).duration
        written.append(utterance._replace(audio=str(path), start=0.0, end=None, seconds=seconds))
    write_manifest(folder / f"{name}.jsonl", written)


def main() -> None:
    """Make all recordings and manifests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="the clips")
    parser.add_argument("--clips", type=int, default=0, help="take the first ones only; 0 takes all")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings and manifests")
    options = parser.parse_args()
    utterances = list(read_manifest(options.manifest))[: options.clips or None]
    clips = [(utterance, read_recording(utterance, RATE)) for utterance in utterances]
    whole = utterances[0]._replace(id="joined", text=" ".join(utterance.text for utterance in utterances))
    for condition in CONDITIONS:
        write(options.out, f"clips_{condition}", clips, condition)
        for gap in GAPS:
            recording = joined((audio for _, audio in clips), gap)
            write(options.out, f"joined_{gap:g}_{condition}", [(whole, recording)], condition)


if __name__ == "__main__":
    main()
