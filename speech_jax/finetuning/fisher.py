"""Fisher information: the importance of each parameter for a loss, for elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from speech_jax.core.types import Objective, PyTree
from speech_jax.training.frozen import NEVER, hold_statistics


class Fisher(NamedTuple):
    """Estimate of the diagonal of the empirical Fisher information.

    Attributes:
        weights: a tree of float32 NumPy arrays like the parameters, with a mean of 1 over all of them; zeros where the
            loss has no gradient.
        examples: number of utterances (or of batches) that it is the mean of.
        left_out: number of those whose gradient was not finite.
        size: mean over the examples of the squared norm of the gradient.
        deviation: standard deviation of the squared norm between examples.
        per: name of the examples.
    """

    weights: PyTree
    examples: int
    left_out: int
    size: float
    deviation: float
    per: str = "utterances"

    def describe(self) -> str:
        """Return number, spread and concentration of the estimate, for the log."""
        flat = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.weights)]))[::-1]
        half = int(np.searchsorted(np.cumsum(flat, dtype=np.float64), flat.sum(dtype=np.float64) / 2)) + 1
        left_out = f" ({self.left_out} left out: their gradient is not finite)" if self.left_out else ""
        error = self.deviation / max(self.examples, 1) ** 0.5
        return (
            f"mean squared gradient of {self.examples} {self.per}{left_out}: its norm is {self.size:.3g} ± {error:.2g} "
            f"(standard error; {self.deviation:.3g} between them), half of it in {100 * half / flat.size:.3g} % of the "
            "parameters"
        )


def estimate_fisher(
    objective: Objective,
    params: PyTree,
    model_state: PyTree,
    batches: Iterable[PyTree],
    *,
    per: Literal["utterance", "batch"] = "utterance",
    microbatch: int = 4,
    seed: int = 0,
) -> Fisher:
    """Estimate the diagonal of the empirical Fisher information (Kirkpatrick et al. 2017).

    It is the mean over utterances of the square of the utterance's gradient. Dropout and augmentation are on, as in
    training; batch norms use their running statistics, as one utterance has none of its own.

    Args:
        objective: the loss.
        params: the parameters.
        model_state: batch statistics.
        batches: batches of the old domain, each with "index", negative in rows that are only padding.
        per: "utterance", or "batch" for the square of each batch's mean gradient, times its rows: at a minimum, where
            the gradients of single utterances average to zero, that has the same mean, for one backward pass per batch.
            Away from it, it ranks parameters otherwise.
        microbatch: utterances whose gradients are computed at the same time; memory grows with it.
        seed: seed of dropout and augmentation.

    Returns:
        The estimate.
    """
    never = jax.tree.map(lambda _: NEVER, model_state)

    def gradient(params: PyTree, model_state: PyTree, batch: PyTree, key: Array, step: Array) -> PyTree:
        return jax.grad(lambda p: objective(p, model_state, batch, key, step).value)(params)

    @jax.jit
    def of_batch(params: PyTree, model_state: PyTree, batch: PyTree, step: Array) -> tuple[PyTree, Array, Array]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        squares = jax.tree.map(jnp.square, gradient(params, model_state, batch, key, step))
        rows = jnp.sum(batch["index"] >= 0).astype(jnp.float32)
        size = sum(jax.tree.leaves(jax.tree.map(jnp.sum, squares)), jnp.zeros(())) * rows
        good = jnp.isfinite(size) & (rows > 0)
        return jax.tree.map(lambda x: jnp.where(good, rows * x, 0.0), squares), size[None], rows[None] > 0

    @jax.jit
    def of_utterances(params: PyTree, model_state: PyTree, batch: PyTree, step: Array) -> tuple[PyTree, Array, Array]:
        held = hold_statistics(model_state, never, step)
        key = jax.random.fold_in(jax.random.key(seed), step)
        rows = len(batch["index"])

        def squares(row: Array) -> PyTree:
            utterance = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, row, 1), batch)
            return jax.tree.map(jnp.square, gradient(params, held, utterance, jax.random.fold_in(key, row), step))

        def add(total: PyTree, chunk: Array) -> tuple[PyTree, tuple[Array, Array]]:
            each = jax.vmap(squares)(jnp.minimum(chunk, rows - 1))
            squared = [jnp.sum(x.reshape(len(chunk), -1), axis=1) for x in jax.tree.leaves(each)]
            sizes = jnp.sum(jnp.stack(squared), axis=0)
            real = (chunk < rows) & (batch["index"][jnp.minimum(chunk, rows - 1)] >= 0)
            good = real & jnp.isfinite(sizes)

            def summed(x: Array) -> Array:
                return jnp.sum(jnp.where(good.reshape(-1, *[1] * (x.ndim - 1)), x, 0.0), axis=0)

            return jax.tree.map(lambda t, x: t + summed(x), total, each), (sizes, real)

        chunks = jnp.arange(-(-rows // microbatch) * microbatch).reshape(-1, microbatch)
        total, (sizes, real) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), chunks)
        return total, sizes.ravel(), real.ravel()

    of = of_utterances if per == "utterance" else of_batch
    total = jax.tree.map(lambda p: np.zeros(p.shape, np.float64), params)
    sizes: list[float] = []
    left_out = 0
    for step, batch in enumerate(batches):
        squares, each, real = jax.device_get(of(params, model_state, batch, jnp.int32(step)))
        good = np.isfinite(each) & real
        sizes += each[good].tolist()
        left_out += int(np.sum(real & ~good))
        total = jax.tree.map(np.add, total, squares)
    leaves = jax.tree.leaves(total)
    mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
    weights = jax.tree.map(lambda t: (t / mean if mean > 0 else t).astype(np.float32), total)
    size, deviation = (float(np.mean(sizes)), float(np.std(sizes))) if sizes else (0.0, 0.0)
    examples = "utterances" if per == "utterance" else "batches"
    return Fisher(weights, len(sizes), left_out, size, deviation, examples)
