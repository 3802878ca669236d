"""Self-attention, with relative positions (Transformer-XL, Dai et al. 2019, appendix B, as NeMo's Conformer has it),
rotary ones, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from speech_jax.kernels import attention_tpu as attention_pallas
from speech_jax.models.layers import dense, dropout

ATTENDED = "attended"  # the name of what comes out of attention, for a policy of jax.checkpoint
BLOCK = 128  # queries at a time, where nothing is said


def relative_positions(time: int, width: int) -> Float[Array, "2*time-1 width"]:
    """Sinusoids of the distances time-1 … -(time-1), sine and cosine interleaved along the channels.

    A positive distance means that the key lies to the left of the query.
    """
    shape = (2 * time - 1, width // 2)
    distance = (time - 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    rate = jnp.exp(lax.broadcasted_iota(jnp.float32, shape, 1) * 2.0 * -(math.log(10000.0) / width))
    angle = distance.astype(jnp.float32) * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(2 * time - 1, width)


def relative_shift(scores: Float[Array, "batch heads queries places"]) -> Float[Array, "batch heads queries keys"]:
    """Row i of the result is row i of `scores` from column queries-1-i on: distances become absolute key positions.
    There are places - queries + 1 keys.

    By padding and reshaping, never a gather.
    """
    batch, heads, queries, places = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    shifted = padded.reshape(batch, heads, places + 1, queries)[:, :, 1:].reshape(batch, heads, queries, places)
    return shifted[..., : places - queries + 1]


def rotate(x: Float[Array, "batch time d"], heads: int, base: float) -> Float[Array, "batch time d"]:
    """Rotary positions (Su et al. 2021): in each head channel i and channel i + half turn by t / base^(i / half)."""
    batch, time, width = x.shape
    half = width // heads // 2
    first, second = jnp.moveaxis(x.reshape(batch, time, heads, 2, half), 3, 0)
    rate = base ** -(jnp.arange(half) / half)
    angle = (jnp.arange(time)[:, None] * rate[None])[None, :, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=3).reshape(batch, time, width)


class Asked(NamedTuple):
    """What attention is computed from: scaled queries, for the keys and (None without positions) for the distances;
    keys and values; the projected distances, of the last query's first key first; and which keys are there."""

    query: Float[Array, "batch queries heads d"]
    query_at: Float[Array, "batch queries heads d"] | None
    key: Float[Array, "batch keys heads d"]
    value: Float[Array, "batch keys heads d"]
    place: Float[Array, "queries+keys-1 heads d"] | None
    mask: Bool[Array, "batch keys"]


def attend(asked: Asked, key: Array | None, rate: float) -> Float[Array, "batch queries heads d"]:
    """The values, each query's mean of them. key: of the weights' dropout, None without."""
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)  # what a matrix unit adds up in anyway
    scores = product("bqhd,bkhd->bhqk", asked.query, asked.key)
    if asked.place is not None:
        scores = scores + relative_shift(product("bqhd,phd->bhqp", asked.query_at, asked.place))
    # Only the keys are masked: a padded query gives garbage, but finite, and nobody reads it. A row without any
    # valid key (a filler utterance) would be a uniform average, and is zero after the second `where`.
    valid = asked.mask[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jnp.where(valid, weights, 0.0).astype(asked.value.dtype)
    if key is not None:
        weights = dropout(weights, key, rate)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, asked.value)


def attend_in_blocks(asked: Asked, size: int, key: Array | None, rate: float) -> Float[Array, "batch queries heads d"]:
    """`attend`, `size` queries after the other, each block computed again in the backward pass: the memory grows with
    the keys, not with queries times keys. Dropout draws other numbers than `attend`."""
    batch, time, heads, width = asked.query.shape
    count = -(-time // size)
    more = count * size - time

    def blocks(x: Array | None) -> Array | None:
        if x is None:
            return None
        padded = jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0)))
        return jnp.moveaxis(padded.reshape(batch, count, size, heads, width), 1, 0)

    place = None if asked.place is None else jnp.pad(asked.place, ((more, 0), (0, 0), (0, 0)))
    keys = asked.key.shape[1]

    @jax.checkpoint
    def one(number: Array, query: Array, query_at: Array | None, asked: Asked, place: Array | None) -> Array:
        if place is not None:  # the distances of this block's queries
            place = lax.dynamic_slice_in_dim(place, (count - 1 - number) * size, size + keys - 1)
        own = None if key is None else jax.random.fold_in(key, number)
        return attend(asked._replace(query=query, query_at=query_at, place=place), own, rate)

    rest = asked._replace(query=None, query_at=None, place=None)
    mixed = lax.map(
        lambda block: one(*block, rest, place), (jnp.arange(count), blocks(asked.query), blocks(asked.query_at))
    )
    return jnp.moveaxis(mixed, 0, 1).reshape(batch, count * size, heads, width)[:, :time]


def attend_fused(
    asked: Asked, size: int, key: Array | None, rate: float, *, tpu: bool, gpu: bool
) -> Float[Array, "batch queries heads d"]:
    """`attend` by kernels of our own: with `tpu`, on a TPU v5 or later, by that of attention_pallas.py where the keys
    fit into its VMEM; with `gpu`, on an NVIDIA GPU, by those of attention_pallas_gpu.py where heads are narrow enough.
    Otherwise `attend_in_blocks` of `size`. Dropout draws other numbers than either, in all kernels the same."""
    batch, queries, heads, width = asked.query.shape
    itemsize = asked.query.dtype.itemsize

    def in_blocks(asked: Asked) -> Array:
        return attend(asked, key, rate) if queries <= size else attend_in_blocks(asked, size, key, rate)

    def by(kernel: Callable, most: int) -> Callable:
        def attend_by_kernel(asked: Asked) -> Array:
            seeds = None if key is None else jax.random.bits(key, (batch, heads), jnp.uint32)
            return kernel(*asked, seeds, rate, size=most)

        return attend_by_kernel

    kernels = {}
    old = jax.default_backend() == "tpu" and not attention_pallas.runs_on(jax.devices()[0].device_kind)
    if tpu and not old and (most := attention_pallas.block_size(queries, asked.key.shape[1], width, itemsize)):
        kernels["tpu"] = by(attention_pallas.attend, most)
    if gpu:
        # only where it is asked for: it needs a part of JAX's inside
        from speech_jax.kernels import attention_gpu as attention_pallas_gpu

        if most := attention_pallas_gpu.block_size(width, itemsize):
            kernels["cuda"] = by(attention_pallas_gpu.attend, most)
    return lax.platform_dependent(asked, default=in_blocks, **kernels) if kernels else in_blocks(asked)


class RelativeAttention(nn.Module):
    """Multi-head self-attention; each layer has its own position biases u and v ("untied").

    Without `positions` it is the ordinary dot-product attention. asking: what queries and keys are made of, where it is
    not x itself (Wav2Vec2-Conformer turns the input of their projections by rotary positions, and not their output).
    block: so many queries at a time, see `attend_in_blocks`; 0 takes all at once. fused, fused_gpu: by a kernel of our
    own on a TPU, on a GPU, see `attend_fused`.
    """

    width: int
    heads: int
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = jnp.float32
    block: int = 0
    fused: bool = False
    fused_gpu: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time d"],
        positions: Float[Array, "2*time-1 d"] | None,
        mask: Bool[Array, "batch time"],
        *,
        train: bool,
        asking: Float[Array, "batch time d"] | None = None,
    ) -> Float[Array, "batch time d"]:
        batch, time, _ = x.shape
        heads, head_width = self.heads, self.width // self.heads

        def project(name: str, x: Array) -> Float[Array, "batch time heads d_head"]:
            y = dense(self.width, self.width, name=name, dtype=self.dtype, use_bias=self.use_bias)(x)
            return y.reshape(batch, time, heads, head_width)

        asking = x if asking is None else asking
        query, key, value = project("linear_q", asking), project("linear_k", asking), project("linear_v", x)
        scale = jnp.asarray(1.0 / math.sqrt(head_width), self.dtype)
        if positions is None:
            asked = Asked(query * scale, None, key, value, None, mask)
        else:
            place = dense(self.width, self.width, name="linear_pos", dtype=self.dtype, use_bias=False)(positions)
            place = place.reshape(2 * time - 1, heads, head_width)
            bias_u = self.param("pos_bias_u", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
            bias_v = self.param("pos_bias_v", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
            query, query_at = ((query + bias[None, None]) * scale for bias in (bias_u, bias_v))
            asked = Asked(query, query_at, key, value, place, mask)
        drop = self.make_rng("dropout") if train and self.dropout > 0.0 else None
        if self.fused or self.fused_gpu:
            size = self.block or BLOCK
            mixed = attend_fused(asked, size, drop, self.dropout, tpu=self.fused, gpu=self.fused_gpu)
        elif self.block and time > self.block:
            mixed = attend_in_blocks(asked, self.block, drop, self.dropout)
        else:
            mixed = attend(asked, drop, self.dropout)
        mixed = checkpoint_name(mixed.reshape(batch, time, self.width), ATTENDED)
        return dense(self.width, self.width, name="linear_out", dtype=self.dtype, use_bias=self.use_bias)(mixed)
