"""Read and write a voice's checkpoint folder: config, front end, parameters, speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from speech_jax.artifacts.folder import task_in, write_run
from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree
from speech_jax.models.tacotron2 import init_params
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig, network_config
from speech_jax.text.frontend import FrontEnd
from speech_jax.training.checkpoint import Which, find_checkpoint, read_assets, read_params
from speech_jax.training.state import check_shapes


class VoiceParts(NamedTuple):
    """What a voice's checkpoint folder holds. speakers: their names, where it has several."""

    task: Tacotron2TaskConfig
    front_end: FrontEnd
    params: PyTree
    model_state: PyTree
    speakers: tuple[str, ...] = ()


def load_voice_parts(path: str | Path, which: Which = "best") -> VoiceParts:
    """The voice in a run's folder. Raises UserError where there is no whole checkpoint, or not a voice's, or where its
    symbols, speakers or mel settings are not those that its parameters were made for."""
    folder = find_checkpoint(path, which)
    assets = read_assets(folder)
    task = task_in(assets, Tacotron2TaskConfig, path, "a voice's")
    params, model_state = read_params(folder)
    front_end, speakers = FrontEnd.from_json(assets["tokenizer"]), tuple(assets.get("speakers", ()))
    if len(speakers) not in (0, task.model.speakers):
        raise UserError(f"{path}: found {len(speakers)} names of speakers, expected {task.model.speakers}")
    check_shapes((params, model_state), network_shapes(task, front_end.vocab_size), f"{path}: the parameters")
    return VoiceParts(task, front_end, params, model_state, speakers)


def network_shapes(task: Tacotron2TaskConfig, symbols: int) -> PyTree:
    """(params, model_state) of the network as shapes."""
    parts = make_parts(network_config(task))
    return jax.eval_shape(lambda key: init_params(parts, symbols, key), jax.random.key(0))


def save_voice(out: str | Path, parts: VoiceParts, **more_assets: Any) -> None:
    """Writes a run's folder with one checkpoint, step 0. Raises UserError, and writes nothing, if the parameters do not
    fit the network, or if there is a run already."""
    more_assets |= {"speakers": list(parts.speakers)} if parts.speakers else {}
    expected = network_shapes(parts.task, parts.front_end.vocab_size)
    write_run(out, *parts[:4], expected=expected, **more_assets)
