"""Source: LJSpeech's layout (keithito.com/LJ-Speech-Dataset), metadata.csv of ID|text|normalized text and wavs/."""

from __future__ import annotations

import os
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import check_ids, measured
from speech_jax.data.utterances import Utterance, Utterances

_ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


def read_ljspeech(folder: str | Path, *, speaker: str = "", on_error: str = "raise") -> Utterances:
    """Read the utterances of a set in LJSpeech's layout, with the normalized text where there is one.

    Args:
        folder: the folder of metadata.csv.
        speaker: name of the speaker.
        on_error: "raise", or "skip": leave out rows whose recording cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong; the message names file and line.
    """
    folder = Path(folder)
    expected = "lines 'ID|text|normalized text'"
    result = []
    for where, line in read_lines(folder / "metadata.csv", expected):
        fields = line.split("|")
        if not 2 <= len(fields) <= 3 or not fields[0]:
            raise UserError(f"{where}: found {len(fields)} fields, expected {expected}")
        name = fields[0]
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{where}: found id {name!r}, expected the name of a file in wavs/")
        text = fields[2] if len(fields) == 3 and fields[2].strip() else fields[1]
        candidates = [folder / "wavs" / f"{name}{ending}" for ending in _ENDINGS]
        audio = next((path for path in candidates if os.path.exists(path)), candidates[0])
        result.append(Utterance(name, str(audio), text=text.strip(), speaker=speaker, where=where))
    result = Utterances.of(result)
    check_ids(result)
    return measured(result, folder, on_error)
