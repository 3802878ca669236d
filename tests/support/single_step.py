"""A whole training step as one function; the loop runs the same parts as separate programs (training/compiling.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from speech_jax.core.types import Objective, PyTree, TrainState
from speech_jax.objectives.mix import terms
from speech_jax.training.config import StepConfig
from speech_jax.training.step import Metrics, make_gradient, make_update


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    *,
    seed: int,
    mesh: Mesh | None = None,
    rate: optax.Schedule | None = None,
    moving_state: PyTree | None = None,
    penalties: Callable | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics, jax.Array]]:
    """Make the pure function (state, batch) -> (state, metrics, finite)."""
    options: dict[str, Any] = {"mesh": mesh, "moving_state": moving_state}
    gradients = [(term, make_gradient(term, trainable, config, **options)) for term in terms(objective)]
    update = make_update(
        objective, optimizer, trainable, config, rate=rate, moving_state=moving_state, penalties=penalties
    )

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics, jax.Array]:
        key = jax.random.key(seed)
        outs = {t.name: f(state.params, state.model_state, state.step, t.select(batch), key) for t, f in gradients}
        state, metrics, finite = update(state, outs)
        return state, {**{k: v for out in outs.values() for k, v in out.metrics.items()}, **metrics}, finite

    return step
