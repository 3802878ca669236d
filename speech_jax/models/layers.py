"""Layers that several models share: dense maps with torch's initial values, dropout, and norms that know the padding.

Every layer takes `[batch, time, channels]` and, where neighboring frames meet, a mask `bool [batch, time]`
(True = real). Parameters are float32; `dtype` is what is computed in; statistics are always float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from speech_jax.core.hashing import random_keep


def uniform_fan_in(fan_in: int) -> Callable:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what torch gives the weights and biases of its linear and conv layers."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(inputs: int, outputs: int, *, name: str, dtype: Any, use_bias: bool = True) -> nn.Dense:
    """A linear map with torch's default initial values. `inputs` is its fan-in, which the bias's range needs."""
    init = uniform_fan_in(inputs)
    return nn.Dense(outputs, use_bias=use_bias, dtype=dtype, kernel_init=init, bias_init=init, name=name)


def linear_init(key: Array, inputs: int, outputs: int, scale: float | None = None) -> dict[str, Array]:
    """Parameters of a linear map as a plain dict: normal weights of deviation `scale`, 1/sqrt(inputs) by default."""
    scale = inputs**-0.5 if scale is None else scale
    return {"kernel": scale * jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def linear(params: dict[str, Array], x: Float[Array, "batch time inputs"]) -> Float[Array, "batch time outputs"]:
    """The linear map of `linear_init`."""
    return x @ params["kernel"] + params["bias"][None, None]


def dropout(x: Float[Array, "*shape"], key: Array, rate: float) -> Float[Array, "*shape"]:
    """Sets each value to zero with probability `rate` and scales the others by 1 / (1 - rate)."""
    if rate == 0.0:
        return x
    keep = random_keep(key, rate, x.shape)
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


class Dropout(nn.Module):
    """`dropout` in training, with the key of the "dropout" stream; nothing otherwise."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        return dropout(x, self.make_rng("dropout"), self.rate) if train and self.rate > 0.0 else x


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear, dropout: `hidden` channels inside, as many out as in."""

    hidden: int
    activation: Callable = jax.nn.silu
    dropout_hidden: float = 0.0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"], *, train: bool) -> Float[Array, "batch time d"]:
        width = x.shape[-1]
        x = self.activation(dense(width, self.hidden, name="linear1", dtype=self.dtype)(x))
        x = Dropout(self.dropout_hidden)(x, train=train)
        x = dense(self.hidden, width, name="linear2", dtype=self.dtype)(x)
        return Dropout(self.dropout)(x, train=train)


def stochastic_depth(
    before: Float[Array, "batch time d"], after: Float[Array, "batch time d"], key: Array, rate: Float[Array, ""]
) -> Float[Array, "batch time d"]:
    """Drops a layer for each utterance with probability `rate`: before + keep / (1 - rate) * (after - before).

    Huang et al. 2016, with NeMo's rescaling; NeMo draws once a batch.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, (before.shape[0], 1, 1))
    return before + (after - before) * jnp.where(keep, 1.0 / (1.0 - rate), 0.0).astype(after.dtype)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each frame; statistics in float32, eps as in torch."""

    dtype: Any = jnp.float32
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        d = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (d,))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        x = x.astype(jnp.float32)
        centered = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centered).mean(-1, keepdims=True)
        ones = (1,) * (x.ndim - 1)
        y = centered * lax.rsqrt(variance + self.eps) * scale.reshape(*ones, d) + bias.reshape(*ones, d)
        return y.astype(self.dtype)


class MaskedBatchNorm(nn.Module):
    """Batch normalization whose statistics are over the valid frames alone.

    Momentum and eps as in torch (0.1, 1e-5; the running variance is the unbiased one). Under a batch sharded by GSPMD
    the sums are global. A batch without any valid frame changes nothing. NeMo counts padded frames too, which makes
    its statistics depend on the padding; at evaluation the two are the same.
    """

    dtype: Any = jnp.float32
    momentum: float = 0.1
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> Float[Array, "batch time d"]:
        d = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (d,))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (d,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (d,), jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            weight = mask[..., None].astype(jnp.float32)
            count = weight.sum()
            mean = (x * weight).sum((0, 1)) / jnp.maximum(count, 1.0)
            var = (jnp.square(x - mean[None, None]) * weight).sum((0, 1)) / jnp.maximum(count, 1.0)
            if not self.is_initializing():
                rate = jnp.where(count > 0, self.momentum, 0.0)
                unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
                running_mean.value = (1.0 - rate) * running_mean.value + rate * mean
                running_var.value = (1.0 - rate) * running_var.value + rate * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * lax.rsqrt(var + self.eps)
        return (x * gain[None, None] + (bias - mean * gain)[None, None]).astype(self.dtype)


class MaskedGroupNorm(nn.Module):
    """Group normalization of each utterance over its valid frames and the channels of one group (torch's GroupNorm
    on `[batch, channels, time]`, but blind to the padding)."""

    groups: int
    dtype: Any = jnp.float32
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time d"]:
        batch, time, d = x.shape
        scale = self.param("scale", nn.initializers.ones, (d,))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        grouped = x.astype(jnp.float32).reshape(batch, time, self.groups, d // self.groups)
        weight = mask[:, :, None, None].astype(jnp.float32)
        count = jnp.maximum(weight.sum((1, 2, 3), keepdims=True) * (d // self.groups), 1.0)
        mean = (grouped * weight).sum((1, 3), keepdims=True) / count
        var = (jnp.square(grouped - mean) * weight).sum((1, 3), keepdims=True) / count
        y = ((grouped - mean) * lax.rsqrt(var + self.eps)).reshape(batch, time, d)
        return (y * scale[None, None] + bias[None, None]).astype(self.dtype)
