"""Starting from a checkpoint: its parameters, if they fit the model at hand."""

from __future__ import annotations

from pathlib import Path

from speech_jax.training.checkpoint import Which, load_params
from speech_jax.training.state import check_shapes
from speech_jax.types import PyTree


def start_from(
    path: str | Path, params_like: PyTree, model_state_like: PyTree, *, which: Which = "best", ema: bool = True
) -> tuple[PyTree, PyTree]:
    """(params, model_state) of a run's folder or of one step's folder, to be handed to `fit` as `init`.

    params_like, model_state_like: arrays or shapes of the model that is to be trained (`training.state.init_shapes`).
    ema: the moving average instead of the parameters, where the run kept one.
    Raises UserError if there is no whole checkpoint there, or if a leaf is missing or has another shape; names the
    leaf and both shapes.
    """
    params, model_state = load_params(path, which, ema=ema)
    check_shapes(params, params_like, f"{path}: the parameters")
    check_shapes(model_state, model_state_like, f"{path}: the model state")
    return params, model_state
