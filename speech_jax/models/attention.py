"""Multi-head self-attention with relative positions, rotary positions, or none.

Relative positions are those of Transformer-XL (Dai et al. 2019, appendix B), as in NeMo's Conformer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from speech_jax.kernels import attention_tpu
from speech_jax.kernels.attention_tpu import AttentionInputs
from speech_jax.models.layers import dense, dropout

ATTENDED = "attended"  # checkpoint name of attention's output, for a policy of jax.checkpoint
BLOCK = 128  # queries per block of fused attention's fallback, if `block` is 0


def relative_positions(time: int, width: int) -> Float[Array, "{2*time-1} width"]:
    """Return sinusoids of the distances time-1 … -(time-1), sine and cosine interleaved along the channels.

    A positive distance means that the key is to the left of the query.
    """
    shape = (2 * time - 1, width // 2)
    distance = (time - 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    rate = jnp.exp(lax.broadcasted_iota(jnp.float32, shape, 1) * 2.0 * -(math.log(10000.0) / width))
    angle = distance.astype(jnp.float32) * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(2 * time - 1, width)


def relative_shift(scores: Float[Array, "batch heads queries distances"]) -> Float[Array, "batch heads queries keys"]:
    """Turn scores by distance into scores by key, by padding and reshaping (never a gather).

    Row i of the result is row i of `scores` from column queries-1-i on; keys = distances - queries + 1.
    """
    batch, heads, queries, distances = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    shifted = padded.reshape(batch, heads, distances + 1, queries)[:, :, 1:].reshape(batch, heads, queries, distances)
    return shifted[..., : distances - queries + 1]


def rotate(x: Float[Array, "batch time d"], heads: int, base: float) -> Float[Array, "batch time d"]:
    """Apply rotary positions (Su et al. 2021).

    In each head, with half its channels each, (channel i, channel i + half) rotates by t / base^(i / half) at frame t.

    Args:
        x: vectors of all heads side by side.
        heads: number of heads.
        base: base of the wave lengths.
    """
    batch, time, width = x.shape
    half = width // heads // 2
    first, second = jnp.moveaxis(x.reshape(batch, time, heads, 2, half), 3, 0)
    rate = base ** -(jnp.arange(half) / half)
    angle = (jnp.arange(time)[:, None] * rate[None])[None, :, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=3).reshape(batch, time, width)


def attend(inputs: AttentionInputs, key: Array | None, rate: float) -> Float[Array, "batch queries heads d"]:
    """Return each query's weighted mean of the values.

    Args:
        inputs: queries, keys and values; here `key_mask` may also be [batch, queries, keys].
        key: random key of dropout; None for no dropout.
        rate: dropout of the weights.

    Returns:
        The means; zeros where no key is valid.
    """
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)  # matrix units sum in float32 anyway
    scores = product("bqhd,bkhd->bhqk", inputs.query, inputs.key)
    if inputs.relative_key is not None:
        scores = scores + relative_shift(product("bqhd,phd->bhqp", inputs.position_query, inputs.relative_key))
    # Only keys are masked: the output of a padded query is finite and unused. A row without any valid key (a filler
    # utterance) would be a uniform average, and is zero after the second `where`.
    valid = inputs.key_mask[:, None, None, :] if inputs.key_mask.ndim == 2 else inputs.key_mask[:, None]
    weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jnp.where(valid, weights, 0.0).astype(inputs.value.dtype)
    if key is not None:
        weights = dropout(weights, key, rate)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, inputs.value)


def attend_in_blocks(
    inputs: AttentionInputs, size: int, key: Array | None, rate: float
) -> Float[Array, "batch queries heads d"]:
    """Return `attend`, computed in blocks of `size` queries, one block after the other.

    Each block is recomputed in the backward pass, so that memory grows with the keys, not with queries times keys.
    Dropout draws other numbers than in `attend`. Arguments are as for `attend`.
    """
    batch, time, heads, width = inputs.query.shape
    count = -(-time // size)
    padding = count * size - time

    def blocks(x: Array | None) -> Array | None:
        if x is None:
            return None
        padded = jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0)))
        return jnp.moveaxis(padded.reshape(batch, count, size, heads, width), 1, 0)

    relative_key = inputs.relative_key
    if relative_key is not None:
        relative_key = jnp.pad(relative_key, ((padding, 0), (0, 0), (0, 0)))
    keys = inputs.key.shape[1]

    @jax.checkpoint
    def attend_block(
        number: Array, query: Array, position_query: Array | None, inputs: AttentionInputs, relative_key: Array | None
    ) -> Array:
        if relative_key is not None:  # the distances of this block's queries
            relative_key = lax.dynamic_slice_in_dim(relative_key, (count - 1 - number) * size, size + keys - 1)
        block_key = None if key is None else jax.random.fold_in(key, number)
        inputs = inputs._replace(query=query, position_query=position_query, relative_key=relative_key)
        return attend(inputs, block_key, rate)

    shared = inputs._replace(query=None, position_query=None, relative_key=None)
    mixed = lax.map(
        lambda block: attend_block(*block, shared, relative_key),
        (jnp.arange(count), blocks(inputs.query), blocks(inputs.position_query)),
    )
    return jnp.moveaxis(mixed, 0, 1).reshape(batch, count * size, heads, width)[:, :time]


def attend_fused(
    inputs: AttentionInputs, size: int, key: Array | None, rate: float, *, tpu: bool, gpu: bool
) -> Float[Array, "batch queries heads d"]:
    """Return `attend`, computed by Pallas kernels where they run, else `attend_in_blocks`.

    Dropout draws other numbers than in `attend` and `attend_in_blocks`; all kernels draw the same ones.

    Args:
        inputs: queries, keys and values.
        size: queries per block where no kernel runs.
        key: random key of dropout; None for no dropout.
        rate: dropout of the weights.
        tpu: use kernels/attention_tpu.py on a TPU v5 or later, if the keys fit into VMEM.
        gpu: use kernels/attention_gpu.py on an NVIDIA GPU, if heads are narrow enough.
    """
    batch, queries, heads, width = inputs.query.shape
    itemsize = inputs.query.dtype.itemsize

    def in_blocks(inputs: AttentionInputs) -> Array:
        return attend(inputs, key, rate) if queries <= size else attend_in_blocks(inputs, size, key, rate)

    def by(kernel: Callable, kernel_size: int) -> Callable:
        def attend_by_kernel(inputs: AttentionInputs) -> Array:
            seeds = None if key is None else jax.random.bits(key, (batch, heads), jnp.uint32)
            return kernel(inputs, seeds, rate, size=kernel_size)

        return attend_by_kernel

    kernels = {}
    old_tpu = jax.default_backend() == "tpu" and not attention_tpu.runs_on(jax.devices()[0].device_kind)
    if tpu and not old_tpu:
        kernel_size = attention_tpu.block_size(queries, inputs.key.shape[1], width, itemsize)
        if kernel_size:
            kernels["tpu"] = by(attention_tpu.attend, kernel_size)
    if gpu:
        from speech_jax.kernels import attention_gpu  # imported here, since it needs private modules of JAX

        kernel_size = attention_gpu.block_size(width, itemsize)
        if kernel_size:
            kernels["cuda"] = by(attention_gpu.attend, kernel_size)
    return lax.platform_dependent(inputs, default=in_blocks, **kernels) if kernels else in_blocks(inputs)


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions, or without any.

    Each layer has its own position biases u and v ("untied").

    Attributes:
        width: channels of all heads together.
        heads: number of heads.
        dropout: dropout of the attention weights.
        use_bias: biases in the projections of queries, keys, values and output.
        dtype: type of the computation; the softmax is float32.
        block: queries per block, see `attend_in_blocks`; 0 for all at once.
        fused: on a TPU by a kernel, see `attend_fused`.
        fused_gpu: on an NVIDIA GPU by kernels, see `attend_fused`.
    """

    width: int
    heads: int
    _: KW_ONLY
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
        query_key_input: Float[Array, "batch time d"] | None = None,
    ) -> Float[Array, "batch time d"]:
        """Return the attention's output.

        Args:
            x: input vectors.
            positions: `relative_positions`; None for attention without positions.
            mask: True on valid frames.
            train: apply dropout, with the key of the "dropout" stream.
            query_key_input: input of the projections of queries and keys, if it is not x: Wav2Vec2-Conformer applies
                rotary positions before these projections, not after them.
        """
        batch, time, _ = x.shape
        heads, head_width = self.heads, self.width // self.heads

        def project(name: str, x: Array) -> Float[Array, "batch time heads d_head"]:
            y = dense(self.width, self.width, name=name, dtype=self.dtype, use_bias=self.use_bias)(x)
            return y.reshape(batch, time, heads, head_width)

        query_key_input = x if query_key_input is None else query_key_input
        query, key = project("linear_q", query_key_input), project("linear_k", query_key_input)
        value = project("linear_v", x)
        scale = jnp.asarray(1.0 / math.sqrt(head_width), self.dtype)
        if positions is None:
            inputs = AttentionInputs(query * scale, None, key, value, None, mask)
        else:
            relative_key = dense(self.width, self.width, name="linear_pos", dtype=self.dtype, use_bias=False)(positions)
            relative_key = relative_key.reshape(2 * time - 1, heads, head_width)
            bias_u = self.param("pos_bias_u", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
            bias_v = self.param("pos_bias_v", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
            query, position_query = ((query + bias[None, None]) * scale for bias in (bias_u, bias_v))
            inputs = AttentionInputs(query, position_query, key, value, relative_key, mask)
        dropout_key = self.make_rng("dropout") if train and self.dropout > 0.0 else None
        if self.fused or self.fused_gpu:
            size = self.block or BLOCK
            mixed = attend_fused(inputs, size, dropout_key, self.dropout, tpu=self.fused, gpu=self.fused_gpu)
        elif self.block and time > self.block:
            mixed = attend_in_blocks(inputs, self.block, dropout_key, self.dropout)
        else:
            mixed = attend(inputs, dropout_key, self.dropout)
        mixed = checkpoint_name(mixed.reshape(batch, time, self.width), ATTENDED)
        return dense(self.width, self.width, name="linear_out", dtype=self.dtype, use_bias=self.use_bias)(mixed)
