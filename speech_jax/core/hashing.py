"""Random bits by hashing a key and a position: elementwise, so that XLA fuses it and each device computes its shard."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Bool, UInt32


def hash_bits(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Apply the integer hash "lowbias32" (Chris Wellons, 2018): every output bit depends on every input bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed_key(key: Array) -> Array:
    """Return a key with the same data for a generator based on `hash_bits`, of sufficient quality for dropout.

    Threefry takes about a hundred scalar instructions per key, which a TPU runs sequentially in every layer.
    """
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_HASHED)


def _fold(key: Array, data: Array | int) -> Array:
    """Return a key for each number in `data`, [..., 2]."""
    data = jnp.asarray(data).astype(jnp.uint32)
    first = hash_bits(key[0] ^ hash_bits(data + key[1]))
    return jnp.stack([first, hash_bits(first + hash_bits(data ^ key[1]))], axis=-1)


def _hashed_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    position = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    if width == 64:
        high, low = (_hashed_bits(_fold(key, n), 32, shape).astype(jnp.uint64) for n in range(2))
        return high << 32 | low
    return hash_bits(hash_bits(position ^ key[0]) + key[1]).astype(f"uint{width}")


_HASHED = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: _fold(jnp.zeros(2, jnp.uint32), seed),
    split=lambda key, shape: _fold(key, lax.iota(jnp.uint32, math.prod(shape)) + jnp.uint32(1 << 31)).reshape(
        *shape, 2
    ),
    random_bits=_hashed_bits,
    fold_in=_fold,
    name="hashed",
    tag="hash",
)


def random_keep(key: Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """Return a mask that is True with probability 1 - rate, independently at every position.

    A counter-based hash of (key, position) instead of `jax.random.bernoulli`: on a CPU, Threefry takes longer than all
    matrix products of a Conformer. It is elementwise, so it fuses, and each device computes only its shard.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        position = position + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= shape[axis]
    bits = hash_bits(hash_bits(position ^ seed[0]) + seed[1])
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
