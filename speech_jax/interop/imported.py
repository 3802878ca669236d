"""What every importer hands to the front door, and how it becomes an ordinary checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from speech_jax.config import TrainConfig
from speech_jax.config_dict import to_text
from speech_jax.data.config import DataConfig
from speech_jax.errors import UserError
from speech_jax.tasks.ctc import CTCTaskConfig, network_shapes
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.train import make_assets
from speech_jax.training.checkpoint import FOLDER, CheckpointConfig, Checkpoints, saved_steps
from speech_jax.training.rules import named_leaves
from speech_jax.training.state import check_shapes, num_params
from speech_jax.types import PyTree, TrainState


class Imported(NamedTuple):
    """A recogniser out of somebody else's files.

    ignored: {tensor or setting that was not taken: the reason}
    notes:   what the user should know, a line each
    """

    task: CTCTaskConfig
    tokenizer: Tokenizer
    params: PyTree
    model_state: PyTree
    ignored: dict[str, str]
    notes: list[str]


def write_checkpoint(found: Imported, out: str | Path, source: str) -> int:
    """Writes a run's folder with one checkpoint, step 0, for every front door; returns how many parameters it has.

    Raises UserError, and writes nothing, if the tensors do not fit the network, or if there is a run already.
    """
    out = Path(out)
    if saved_steps(out / FOLDER):
        raise UserError(f"{out}: found checkpoints of a run, expected an empty or a new folder")
    expected = network_shapes(found.task, found.tokenizer.vocab_size)
    check_shapes((found.params, found.model_state), expected, source)
    for name, leaf in named_leaves(found.params).items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{source}: found numbers that are not finite in what becomes {name}")
    config = TrainConfig(out_dir=str(out), data=DataConfig(), task=found.task)
    assets: dict[str, Any] = make_assets(config, found.tokenizer)
    assets["imported"] = {"source": Path(source).name, "ignored": found.ignored, "notes": found.notes}
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(to_text(config), encoding="utf-8")
    checkpoints = Checkpoints(out, CheckpointConfig(), assets)
    state = TrainState(jnp.zeros((), jnp.int32), found.params, found.model_state, (), None)
    try:
        checkpoints.save(0, state, {"data": {}, "pipeline": {}, "metrics": None}, wait=True)
    finally:
        checkpoints.close()
    return num_params(found.params)
