"""What a run's folder says of its model, and a model that was not trained here as such a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from speech_jax.audio.config import fingerprint
from speech_jax.config import TrainConfig, config_from_assets, make_assets
from speech_jax.core.config_dict import to_text
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.types import PyTree, TrainState
from speech_jax.data.config import DataConfig
from speech_jax.training.checkpoint import FOLDER, CheckpointConfig, Checkpoints, saved_steps
from speech_jax.training.state import check_shapes


def task_in(assets: dict, kind: type | tuple[type, ...], path: str | Path, whose: str, *, reads: bool = True) -> Any:
    """The task of the checkpoint with these assets. Raises UserError if it is not of this kind ("a recognizer's"), or
    if its audio settings are not those that it was hashed with. reads: whether it has to have a tokenizer."""
    missing = [key for key in ("config", "tokenizer")[: 1 + reads] if key not in assets]
    if missing:
        raise UserError(f"{path}: found a checkpoint without {missing[0]}, expected {whose}")
    task = config_from_assets(assets).task
    if not isinstance(task, kind):
        raise UserError(f"{path}: found a checkpoint of {type(task).__name__}, expected {whose}")
    if assets.get("audio_fingerprint", fingerprint(task.audio)) != fingerprint(task.audio):
        raise UserError(
            f"{path}: found audio settings with another fingerprint than the checkpoint's, expected the same"
        )
    return task


def write_run(
    out: str | Path, task: Any, reader: Any, params: PyTree, model_state: PyTree, expected: PyTree, **more_assets: Any
) -> None:
    """Writes config.json and step 0. reader: the tokenizer, a voice's front end, or None. expected: (params,
    model_state) of the network as shapes.

    Raises UserError, and writes nothing, if the parameters do not fit the network, or if there is a run already.
    """
    out = Path(out)
    if saved_steps(out / FOLDER):
        raise UserError(f"{out}: found checkpoints of a run, expected an empty or a new folder")
    check_shapes((params, model_state), expected, f"{out}: the parameters")
    config = TrainConfig(out_dir=str(out), data=DataConfig(), task=task)
    write_file(out / "config.json", to_text(config))
    checkpoints = Checkpoints(out, CheckpointConfig(), make_assets(config, reader) | more_assets)
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, (), None)
    try:
        checkpoints.save(0, state, {"data": {}, "pipeline": {}, "metrics": None}, wait=True)
    finally:
        checkpoints.close()
