"""Convert between manifests and `synthesize`: texts of a manifest as lines, synthesized recordings as a manifest.

    python -m experiments.real_voice.lists texts MANIFEST TEXTS
    python -m experiments.real_voice.lists manifest MANIFEST FOLDER OUT

`synthesize --file TEXTS --out FOLDER` numbers its recordings by line; what it could not speak is not in the manifest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import soundfile

from speech_jax.core.files import write_file
from speech_jax.data.manifest import read_manifest, write_manifest


def texts(manifest: str, out: str) -> None:
    """One text a line, in the manifest's order."""
    write_file(out, "".join(" ".join(u.text.split()) + "\n" for u in read_manifest(manifest)))


def synthesized(manifest: str, folder: str, out: str) -> None:
    """The rows whose recording is there, under the ids of the originals."""
    rows = []
    for number, utterance in enumerate(read_manifest(manifest), 1):
        path = Path(folder) / f"{number:04d}.wav"
        if path.exists():
            info = soundfile.info(path)
            found = {"audio": str(path), "start": 0.0, "end": None, "seconds": info.frames / info.samplerate}
            rows.append(utterance._replace(**found))
    write_manifest(out, rows)


if __name__ == "__main__":
    {"texts": texts, "manifest": synthesized}[sys.argv[1]](*sys.argv[2:])
