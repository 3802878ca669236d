"""One random key a row, so that what is drawn for an utterance depends on the utterance and not on its batch mates.

Draws of one row have shape () or (n,), whose first values do not depend on n (JAX's partitionable threefry): an
utterance meets the same noise in a longer bucket.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Each effect folds its own number into the row's key, so that one key may serve them all.
SPEED, REVERB, NOISE, GAIN, SPEC_AUGMENT, DITHER, PHASE = range(7)


def row_keys(key: jax.Array, rows: int, index: Int[Array, " rows"] | None, effect: int) -> jax.Array:
    """Key i is fold_in(fold_in(key, index[i]), effect); index is the utterance's number, by default the row's."""
    index = jnp.arange(rows) if index is None else jnp.asarray(index)
    return fold(jax.vmap(lambda i: jax.random.fold_in(key, i))(index.astype(jnp.uint32)), effect)


def fold(keys: jax.Array, number: int) -> jax.Array:
    """fold_in for each row's key."""
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def uniform(keys: jax.Array, low: float = 0.0, high: float = 1.0, count: int | None = None) -> Float[Array, "rows ..."]:
    """[rows] numbers in [low, high), or [rows, count]."""
    shape = () if count is None else (count,)
    return jax.vmap(lambda k: jax.random.uniform(k, shape, minval=low, maxval=high))(keys)


def normal(keys: jax.Array, count: int) -> Float[Array, "rows count"]:
    """[rows, count] normal deviates."""
    return jax.vmap(lambda k: jax.random.normal(k, (count,)))(keys)


def choice(keys: jax.Array, count: int) -> Int[Array, " rows"]:
    """[rows] whole numbers from 0 to count - 1."""
    return jnp.minimum((uniform(keys) * count).astype(jnp.int32), count - 1)
