"""Read the model of a checkpoint folder, and write imported weights as such a folder."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from speech_jax.audio.config import fingerprint
from speech_jax.config import TrainConfig, config_from_assets, make_assets
from speech_jax.core.config_dict import from_dict, to_text
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.types import Checkpointed, PyTree, TrainState
from speech_jax.data.config import DataConfig
from speech_jax.training.checkpoint import FOLDER, Checkpoints, OpenCheckpoint, saved_steps
from speech_jax.training.config import CheckpointConfig
from speech_jax.training.state import check_shapes

_MAX_LAYERS = 1024


def read_model(checkpoint: OpenCheckpoint) -> Checkpointed:
    """Return the task, reader and speakers of a checkpoint. Raises UserError where its config is missing or invalid."""
    assets = checkpoint.assets
    if "config" not in assets:
        raise UserError(f"{checkpoint.path}: found a checkpoint without config, expected the folder of a training run")
    task = config_from_assets(assets).task
    if task is None:
        raise UserError(f"{checkpoint.path}: found a checkpoint without a task, expected the folder of a training run")
    _check_layers(getattr(task, "model", None), f"{checkpoint.path}: task.model")
    if assets.get("audio_fingerprint", fingerprint(task.audio)) != fingerprint(task.audio):
        raise UserError(
            f"{checkpoint.path}: found audio settings with another fingerprint than the checkpoint's, expected the same"
        )
    if not isinstance(assets.get("tokenizer", {}), dict):
        raise UserError(f"{checkpoint.path}: found no tokenizer under that name, expected its pieces or symbols")
    reader = None if "tokenizer" not in assets else task.load_reader(assets["tokenizer"])
    speakers = from_dict(tuple[str, ...], assets.get("speakers", []), f"{checkpoint.path}: speakers")
    return Checkpointed(task, reader, speakers)


def read_row_seconds(checkpoint: OpenCheckpoint) -> float:
    """Return seconds that 95 % of the recordings a recognizer learned from do not exceed; 0 where it is unknown."""
    name = f"{checkpoint.path}: row_seconds"
    seconds = from_dict(float, checkpoint.assets.get("row_seconds", 0.0), name)
    if not 0 <= seconds < math.inf:
        raise UserError(f"{name}: found {seconds}, expected seconds")
    return seconds


def _check_layers(config: Any, name: str) -> None:
    """Refuse numbers of layers that building the network would take hours for."""
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value = getattr(config, field.name)
        _check_layers(value, f"{name}.{field.name}")
        if field.name.endswith("layers") and isinstance(value, int) and value > _MAX_LAYERS:
            raise UserError(f"{name}.{field.name}: found {value}, expected at most {_MAX_LAYERS}")


def read_model_of(checkpoint: OpenCheckpoint, *kinds: str, reads: bool = True) -> Checkpointed:
    """Return the model of a checkpoint of one of these kinds (`TaskConfig.kind`).

    Args:
        checkpoint: The checkpoint.
        *kinds: For example "recognizer", or "voice" and "vocoder".
        reads: A tokenizer or front end must be there.

    Returns:
        Its task, reader and speakers.

    Raises:
        UserError: If it is of another kind, lacks its reader, or has other audio settings than it was hashed with.
    """
    expected = " or ".join(f"a {kind}'s" for kind in kinds)
    if "config" not in checkpoint.assets:
        raise UserError(f"{checkpoint.path}: found a checkpoint without config, expected {expected}")
    if reads and "tokenizer" not in checkpoint.assets:
        raise UserError(f"{checkpoint.path}: found a checkpoint without tokenizer, expected {expected}")
    model = read_model(checkpoint)
    if model.task.kind not in kinds:
        name = type(model.task).__name__
        raise UserError(f"{checkpoint.path}: found a checkpoint of {name}, expected {expected}")
    return model


def check_new(out: Path) -> None:
    """Raise UserError for a folder that holds a run, or a config.json of anything else, which would be replaced."""
    if saved_steps(out / FOLDER):
        raise UserError(f"{out}: found checkpoints of a run, expected an empty or a new folder")
    if os.path.lexists(out / "config.json"):
        raise UserError(f"{out}: found a config.json, expected an empty or a new folder")


def write_run(
    out: str | Path,
    model: Checkpointed,
    params: PyTree,
    model_state: PyTree,
    *,
    expected: PyTree,
    **more_assets: Any,
) -> None:
    """Write config.json and a checkpoint of step 0.

    Args:
        out: The new folder.
        model: Task, reader and speakers.
        params: Its parameters.
        model_state: Its batch statistics.
        expected: (params, model_state) of the network as shapes.
        **more_assets: JSON to put beside the parameters.

    Raises:
        UserError: If the parameters do not fit the network, or if there is a run already. Nothing is written then.
    """
    out = Path(out)
    check_new(out)
    check_shapes((params, model_state), expected, f"{out}: the parameters")
    config = TrainConfig(out_dir=str(out), data=DataConfig(), task=model.task)
    write_file(out / "config.json", to_text(config))
    assets = make_assets(config, model.reader, model.speakers) | more_assets
    checkpoints = Checkpoints(out, CheckpointConfig(), assets)
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, (), None)
    try:
        checkpoints.save(0, state, {"data": {}, "pipeline": {}, "metrics": None}, wait=True)
    finally:
        checkpoints.close()
