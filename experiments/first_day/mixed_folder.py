"""Make a folder as a new user brings it: WAV, FLAC and MP3, mono and stereo, 8 to 44.1 kHz, and a CSV of the texts.

python -m experiments.first_day.mixed_folder --manifest data/asterisk/train.jsonl --out my_recordings
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from speech_jax import read_audio, read_manifest
from speech_jax.data.utterances import Utterance

FORMS = list(itertools.product((8_000, 16_000, 22_050, 44_100), (1, 2), ("wav", "flac", "mp3")))


def write_mixed_folder(rows: Iterable[Utterance], out: Path) -> None:
    """Write each recording in the next of the 24 forms, and `texts.csv` with the columns `file` and `text`."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "texts.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "text"))
        for row, (rate, channels, ending) in zip(rows, itertools.cycle(FORMS)):
            samples = read_audio(row.audio, rate, start=row.start, end=row.end)
            name = f"{row.id}.{ending}"
            soundfile.write(out / name, np.repeat(samples[:, None], channels, axis=1), rate)
            table.writerow((name, row.text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=None, help="the first so many; all if it is not given")
    arguments = parser.parse_args()
    everything = itertools.chain.from_iterable(read_manifest(manifest) for manifest in arguments.manifest)
    write_mixed_folder(itertools.islice(everything, arguments.count), arguments.out)
