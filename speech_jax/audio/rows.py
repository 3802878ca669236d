"""Random draws with one key per row, so that they depend on the utterance and not on the rest of its batch.

Draws of one row have shape () or (n,), and the first values do not depend on n (JAX's partitionable threefry): an
utterance gets the same noise in a longer bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Each effect folds its own number into the row's key, so that all of them can share one key.
SPEED, REVERB, NOISE, GAIN, SPEC_AUGMENT, DITHER, PHASE = range(7)


def row_keys(key: jax.Array, rows: int, index: Int[Array, " rows"] | None, effect: int) -> jax.Array:
    """Return one key per row: fold_in(fold_in(key, index[i]), effect).

    `index` is the number of each utterance in its manifest, by default the row number.
    """
    index = jnp.arange(rows) if index is None else jnp.asarray(index)
    return fold(jax.vmap(lambda i: jax.random.fold_in(key, i))(index.astype(jnp.uint32)), effect)


def place_key(key: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """Return the key of draws that follow the place in the batch, such as dropout: another one in each micro-batch.

    Draws that belong to an utterance take the key itself: they are the same whether the batch is split or not.
    """
    return jax.random.fold_in(key, batch["micro_batch"]) if "micro_batch" in batch else key


def fold(keys: jax.Array, number: int) -> jax.Array:
    """Apply `fold_in` to each row's key."""
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def uniform(keys: jax.Array, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Float[Array, "rows ..."]:
    """Draw numbers in [low, high): [rows], or [rows, count]."""
    shape = () if count is None else (count,)
    return jax.vmap(lambda k: jax.random.uniform(k, shape, minval=low, maxval=high))(keys)


def normal(keys: jax.Array, count: int) -> Float[Array, "rows count"]:
    """Draw standard normal numbers, [rows, count]."""
    return jax.vmap(lambda k: jax.random.normal(k, (count,)))(keys)


def choice(keys: jax.Array, count: int) -> Int[Array, " rows"]:
    """Draw integers from 0 to count - 1, [rows]."""
    return jnp.minimum((uniform(keys) * count).astype(jnp.int32), count - 1)
