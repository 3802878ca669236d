"""Result of an import, and its checkpoint folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speech_jax.artifacts.folder import check_new
from speech_jax.artifacts.recognizer import RecognizerParts, save_recognizer
from speech_jax.artifacts.vocoder import VocoderParts, save_vocoder
from speech_jax.artifacts.voice import VoiceParts, save_voice
from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.interop.check import check_checkpoint
from speech_jax.training.checkpoint import FOLDER
from speech_jax.training.state import num_params


class Imported(NamedTuple):
    """A recognizer, voice or vocoder imported from another toolkit.

    Attributes:
        parts: config, parameters and assets.
        ignored: tensor or setting that was not used -> reason.
        notes: one-line messages for the user.
    """

    parts: RecognizerParts | VoiceParts | VocoderParts
    ignored: dict[str, str]
    notes: list[str]


def write_checkpoint(imported: Imported, out: str | Path, source: str) -> int:
    """Write an imported model as a run folder with one checkpoint, step 0, for use by every front door.

    Args:
        imported: the model.
        out: folder to write.
        source: path of the imported file, for messages and the checkpoint's notes.

    Returns:
        The number of parameters.

    Raises:
        UserError: the tensors do not fit the network, or the result cannot be read back and run, or the folder holds a
            run; nothing is left behind.
    """
    model_state = {} if isinstance(imported.parts, VocoderParts) else imported.parts.model_state
    for name, leaf in named_leaves((imported.parts.params, model_state)).items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{source}: found NaN or infinity in {name.split('/', 1)[1]}, expected finite numbers")
    note = {"source": Path(source).name, "ignored": imported.ignored, "notes": imported.notes}
    save = {VoiceParts: save_voice, VocoderParts: save_vocoder}.get(type(imported.parts), save_recognizer)
    existed = Path(out).exists()
    check_new(Path(out))  # before what is removed on errors
    try:
        save(out, imported.parts, imported=note)
        check_checkpoint(out, imported.parts)
    except UserError:
        for part in (Path(out),) if not existed else (Path(out) / "config.json", Path(out) / FOLDER):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        raise
    return num_params(imported.parts.params)
