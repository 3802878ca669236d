"""Fisher information: how much each parameter matters to a loss, for elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from speech_jax.core.types import Objective, PyTree


def estimate_fisher(
    objective: Objective,
    params: PyTree,
    model_state: PyTree,
    batches: Iterable[PyTree],
    *,
    rows: Callable[[PyTree], int],
    seed: int = 0,
) -> PyTree:
    """The diagonal of the empirical Fisher information, scaled to a mean of 1 over all parameters, as NumPy arrays.

    The square of each batch's mean gradient times its rows. At a minimum, where single gradients
    average to nothing, that is an unbiased estimate of the mean square of a single utterance's gradient (the usual
    definition), at the price of one backward pass a batch. Dropout and augmentation are on, as in training.
    """

    @jax.jit
    def squares(params: PyTree, model_state: PyTree, batch: PyTree, step: jax.Array) -> PyTree:
        key = jax.random.fold_in(jax.random.key(seed), step)
        gradient = jax.grad(lambda p: objective(p, model_state, batch, key, step).value)(params)
        return jax.tree.map(jnp.square, gradient)

    total = jax.tree.map(lambda p: np.zeros(p.shape, np.float64), params)
    for step, batch in enumerate(batches):
        found = jax.device_get(squares(params, model_state, batch, jnp.int32(step)))
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
            weighted = optax.tree.scale(float(rows(batch)), found)
            total = jax.tree.map(np.add, total, weighted)
    leaves = jax.tree.leaves(total)
    mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jax.tree.map(lambda t: (t / mean if mean > 0 else t).astype(np.float32), total)
