"""Random bits by hashing a key and a position: elementwise, so that it fuses and each device computes its shard."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Bool, UInt32


def hash_bits(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The integer hash "lowbias32" (Chris Wellons, 2018): every output bit depends on every input bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed_key(key: Array) -> Array:
    """A key of the same numbers for a generator made of `hash_bits`, good enough for dropout.

    Threefry takes some hundred scalar instructions a key, and a TPU runs them one after the other in every layer.
    """
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_HASHED)


def _fold(key: Array, data: Array) -> Array:
    """[…, 2] a key for every number."""
    data = jnp.asarray(data).astype(jnp.uint32)
    first = hash_bits(key[0] ^ hash_bits(data + key[1]))
    return jnp.stack([first, hash_bits(first + hash_bits(data ^ key[1]))], axis=-1)


def _hashed_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    place = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    if width == 64:
        high, low = (_hashed_bits(_fold(key, n), 32, shape).astype(jnp.uint64) for n in range(2))
        return high << 32 | low
    return hash_bits(hash_bits(place ^ key[0]) + key[1]).astype(f"uint{width}")
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
    """True with probability 1 - rate, independently at every place.

    A counter-based hash of (key, place) and not `jax.random.bernoulli`: Threefry would take longer on a CPU than all
    matrix products of a Conformer together. Being elementwise it fuses, and each device computes only its own shard.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        place = place + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= shape[axis]
    bits = hash_bits(hash_bits(place ^ seed[0]) + seed[1])
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
