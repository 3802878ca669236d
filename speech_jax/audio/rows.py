"""One random key a row, so that what is drawn for an utterance depends on the utterance and not on its batch mates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def row_keys(key: jax.Array, rows: int, index: Int[Array, " rows"] | None = None) -> jax.Array:
    """Key i is fold_in(key, index[i]); index is the utterance's number in its manifest, by default the row's number."""
    index = jnp.arange(rows) if index is None else jnp.asarray(index)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index.astype(jnp.uint32))
