"""Read and write a voice's checkpoint folder: config, front end, parameters, speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from speech_jax.artifacts.folder import read_model_of, write_run
from speech_jax.core.errors import UserError
from speech_jax.core.types import Checkpointed, PyTree
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.tacotron2_task import network_shapes
from speech_jax.text.frontend import FrontEnd
from speech_jax.training.checkpoint import Which, open_checkpoint
from speech_jax.training.state import check_shapes


class VoiceParts(NamedTuple):
    """Contents of a voice's checkpoint folder.

    Attributes:
        task: Its task config.
        front_end: Its text front end.
        params: Parameters.
        model_state: Batch statistics.
        speakers: Names of its speakers, where it has several.
    """

    task: Tacotron2TaskConfig
    front_end: FrontEnd
    params: PyTree
    model_state: PyTree
    speakers: tuple[str, ...] = ()


def load_voice_parts(path: str | Path, which: Which = "best") -> VoiceParts:
    """Read the voice in a run's folder.

    Raises UserError where there is no whole checkpoint, or not a voice's, or where its symbols, speakers or mel
    settings are not those that its parameters were made for.
    """
    checkpoint = open_checkpoint(path, which)
    task, front_end, speakers = read_model_of(checkpoint, "voice")
    task, front_end = cast(Tacotron2TaskConfig, task), cast(FrontEnd, front_end)
    params, model_state = checkpoint.params()
    if len(speakers) not in (0, task.model.speakers):
        raise UserError(f"{path}: found {len(speakers)} names of speakers, expected {task.model.speakers}")
    check_shapes((params, model_state), network_shapes(task, front_end.vocab_size), f"{path}: the parameters")
    return VoiceParts(task, front_end, params, model_state, speakers)


def save_voice(out: str | Path, parts: VoiceParts, **more_assets: Any) -> None:
    """Write a run's folder with one checkpoint, step 0.

    Raises UserError, and writes nothing, if the parameters do not fit the network, or if there is a run already.
    """
    expected = network_shapes(parts.task, parts.front_end.vocab_size)
    model = Checkpointed(parts.task, parts.front_end, parts.speakers)
    write_run(out, model, parts.params, parts.model_state, expected=expected, **more_assets)
