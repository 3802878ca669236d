"""What every importer hands to the front door, and how it becomes an ordinary checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from speech_jax.artifacts.recognizer import RecognizerParts, save_recognizer
from speech_jax.artifacts.vocoder import VocoderParts, save_vocoder
from speech_jax.artifacts.voice import VoiceParts, save_voice
from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.training.state import num_params


class Imported(NamedTuple):
    """A recognizer, a voice or a vocoder out of somebody else's files.

    ignored: {tensor or setting that was not taken: the reason}
    notes:   what the user should know, a line each
    """

    parts: RecognizerParts | VoiceParts | VocoderParts
    ignored: dict[str, str]
    notes: list[str]


def write_checkpoint(found: Imported, out: str | Path, source: str) -> int:
    """Writes a run's folder with one checkpoint, step 0, for every front door; returns how many parameters it has.

    Raises UserError, and writes nothing, if the tensors do not fit the network, or if there is a run already.
    """
    model_state = {} if isinstance(found.parts, VocoderParts) else found.parts.model_state
    for name, leaf in named_leaves((found.parts.params, model_state)).items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{source}: found numbers that are not finite in what becomes {name.split('/', 1)[1]}")
    note = {"source": Path(source).name, "ignored": found.ignored, "notes": found.notes}
    save = {VoiceParts: save_voice, VocoderParts: save_vocoder}.get(type(found.parts), save_recognizer)
    save(out, found.parts, imported=note)
    return num_params(found.parts.params)
