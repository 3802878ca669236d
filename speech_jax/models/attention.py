"""Self-attention, with relative positions (Transformer-XL, Dai et al. 2019, appendix B, as NeMo's Conformer has it),
rotary ones, or none."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from speech_jax.models.layers import Dropout, dense


def relative_positions(time: int, width: int) -> Float[Array, "2*time-1 width"]:
    """Sinusoids of the distances time-1 … -(time-1), sine and cosine interleaved along the channels.

    A positive distance means that the key lies to the left of the query.
    """
    shape = (2 * time - 1, width // 2)
    distance = (time - 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    rate = jnp.exp(lax.broadcasted_iota(jnp.float32, shape, 1) * 2.0 * -(math.log(10000.0) / width))
    angle = distance.astype(jnp.float32) * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(2 * time - 1, width)


def relative_shift(scores: Float[Array, "batch heads time 2*time-1"]) -> Float[Array, "batch heads time time"]:
    """Row i of the result is row i of `scores` from column time-1-i on: distances become absolute key positions.

    By padding and reshaping, never a gather.
    """
    batch, heads, time, places = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    shifted = padded.reshape(batch, heads, places + 1, time)[:, :, 1:].reshape(batch, heads, time, places)
    return shifted[..., :time]


def rotate(x: Float[Array, "batch time d"], heads: int, base: float) -> Float[Array, "batch time d"]:
    """Rotary positions (Su et al. 2021): in each head channel i and channel i + half turn by t / base^(i / half)."""
    batch, time, width = x.shape
    half = width // heads // 2
    first, second = jnp.moveaxis(x.reshape(batch, time, heads, 2, half), 3, 0)
    rate = base ** -(jnp.arange(half) / half)
    angle = (jnp.arange(time)[:, None] * rate[None])[None, :, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=3).reshape(batch, time, width)


class RelativeAttention(nn.Module):
    """Multi-head self-attention; each layer has its own position biases u and v ("untied").

    Without `positions` it is the ordinary dot-product attention. asking: what queries and keys are made of, where it is
    not x itself (Wav2Vec2-Conformer turns the input of their projections by rotary positions, and not their output).
    """

    width: int
    heads: int
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = jnp.float32

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
            scores = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key).astype(jnp.float32)
        else:
            scores = self._relative_scores(query, key, positions, scale)

        # Only the keys are masked: a padded query gives garbage, but finite, and nobody reads it. A row without any
        # valid key (a filler utterance) would be a uniform average, and is zero after the second `where`.
        valid = mask[:, None, None, :]
        weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(jnp.float32).min), axis=-1)
        weights = jnp.where(valid, weights, 0.0).astype(self.dtype)
        weights = Dropout(self.dropout)(weights, train=train)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, time, self.width)
        return dense(self.width, self.width, name="linear_out", dtype=self.dtype, use_bias=self.use_bias)(mixed)

    def _relative_scores(self, query: Array, key: Array, positions: Array, scale: Array) -> Array:
        _, time, heads, head_width = query.shape
        place = dense(self.width, self.width, name="linear_pos", dtype=self.dtype, use_bias=False)(positions)
        place = place.reshape(2 * time - 1, heads, head_width)
        bias_u = self.param("pos_bias_u", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
        bias_v = self.param("pos_bias_v", nn.initializers.zeros, (heads, head_width)).astype(self.dtype)
        content = jnp.einsum("bqhd,bkhd->bhqk", (query + bias_u[None, None]) * scale, key)
        distance = jnp.einsum("bqhd,phd->bhqp", (query + bias_v[None, None]) * scale, place)
        return (content + relative_shift(distance)).astype(jnp.float32)
