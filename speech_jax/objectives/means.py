"""Losses of several means, as functions of sums, so that micro-batches add up to exactly the whole batch.

A loss such as CTC per label plus a distance per frame has no single weight: the mean of micro-batches' losses, whatever
they are weighted by, is not the loss of the whole batch. The sums are: they are added over the micro-batches first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.core.types import LossOut, PyTree

PENALTY = "penalty"  # key of the terms in `LossOut.sums` that are logged with their share of the gradient


def mean(pair: tuple[Array, Array]) -> Float[Array, ""]:
    """Return sum / count of (sum, count); 0 without any units."""
    total, count = pair
    return total / jnp.maximum(count, 1.0)


def weighted_means(factors: Mapping[str, Any], sums: Mapping[str, Any]) -> Float[Array, ""]:
    """Return the sum of factor · mean over all terms.

    As `LossOut.of_sums`: `jax.tree_util.Partial(weighted_means, factors)`.

    Args:
        factors: name -> factor, nested as `sums`.
        sums: name -> (sum over the valid units, number of valid units).

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.objectives.means import weighted_means
        >>> sums = {"ctc": (jnp.float32(6), jnp.float32(3)), "penalty": {"teacher": (jnp.float32(8), jnp.float32(2))}}
        >>> float(weighted_means({"ctc": 0.75, "penalty": {"teacher": 0.25}}, sums))
        2.5
    """
    terms = jax.tree.map(lambda factor, pair: factor * mean(pair), dict(factors), dict(sums))
    return sum(jax.tree.leaves(terms), jnp.zeros(()))


def loss_of(sums: PyTree, of_sums: Any, weight: Array, model_state: PyTree, metrics: Mapping[str, Any]) -> LossOut:
    """Return the loss of a batch from its sums; see `LossOut` for the arguments."""
    return LossOut(of_sums(sums), weight, model_state, metrics, sums, of_sums)


def sums_of(out: LossOut) -> tuple[PyTree, Any]:
    """Return (sums, function from sums to value) of a loss; one mean over `weight` units if it names no sums."""
    if out.of_sums is not None:
        return out.sums, out.of_sums
    weight = jnp.asarray(out.weight, jnp.float32)
    total = jnp.where(weight > 0, weight * jnp.asarray(out.value, jnp.float32), 0.0)
    return (total, weight), jax.tree_util.Partial(_quotient)


def _quotient(pair: tuple[Array, Array]) -> Array:
    total, weight = pair
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)
