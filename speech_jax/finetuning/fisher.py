"""Fisher information: the importance of each parameter for a loss, for elastic weight consolidation."""

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
    """Estimate the diagonal of the empirical Fisher information.

    It sums the square of each batch's mean gradient, times the number of rows. At a minimum, where the gradients of
    single utterances average to zero, this is an unbiased estimate of their mean square (the usual definition), and
    costs only one backward pass per batch. Dropout and augmentation are on, as in training.

    Args:
        objective: the loss.
        params: the parameters.
        model_state: batch statistics.
        batches: batches of the old domain; those with a gradient that is not finite are left out.
        rows: batch -> number of real rows.
        seed: seed of dropout and augmentation.

    Returns:
        A tree of float32 NumPy arrays like `params`, with a mean of 1 over all parameters.
    """

    @jax.jit
    def squares(params: PyTree, model_state: PyTree, batch: PyTree, step: jax.Array) -> PyTree:
        key = jax.random.fold_in(jax.random.key(seed), step)
        gradient = jax.grad(lambda p: objective(p, model_state, batch, key, step).value)(params)
        return jax.tree.map(jnp.square, gradient)

    total = jax.tree.map(lambda p: np.zeros(p.shape, np.float64), params)
    for step, batch in enumerate(batches):
        estimate = jax.device_get(squares(params, model_state, batch, jnp.int32(step)))
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(estimate)):
            weighted = optax.tree.scale(float(rows(batch)), estimate)
            total = jax.tree.map(np.add, total, weighted)
    leaves = jax.tree.leaves(total)
    mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jax.tree.map(lambda t: (t / mean if mean > 0 else t).astype(np.float32), total)
