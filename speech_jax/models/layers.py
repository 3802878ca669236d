"""Layers shared by several models: dense maps with torch's initial values, dropout, and norms that ignore padding.

Every layer takes `[batch, time, channels]` and, if frames affect each other, a mask `bool [batch, time]` (True =
valid). Parameters are float32; `dtype` is the type of the computation; statistics are always float32.
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

from speech_jax.core.arrays import check_batch
from speech_jax.core.hashing import random_keep
from speech_jax.core.types import Batch

HELD = "held"  # beside the mean and var of a batch norm: True where training, too, normalizes by these


def check_features(batch: Batch, channels: int) -> None:
    """Raise ValueError for a recognizer's batch whose features or mask have another shape or type."""
    check_batch(batch, features=("float", "batch", "time", channels), mask=("bool", "batch", "time"))


def uniform_fan_in(fan_in: int) -> Callable:
    """Return the initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's for linear and convolution layers."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(inputs: int, outputs: int, *, name: str, dtype: Any, use_bias: bool = True) -> nn.Dense:
    """Return a linear layer with torch's default initial values.

    Args:
        inputs: channels of its input; they determine the initial range of the bias.
        outputs: channels of its output.
        name: name of its parameters.
        dtype: type of the computation.
        use_bias: add a bias.
    """
    init = uniform_fan_in(inputs)
    return nn.Dense(outputs, use_bias=use_bias, dtype=dtype, kernel_init=init, bias_init=init, name=name)


def linear_init(key: Array, inputs: int, outputs: int, scale: float | None = None) -> dict[str, Array]:
    """Return the parameters of a linear map as a plain dict {"kernel", "bias"}.

    Args:
        key: random key.
        inputs: channels of its input.
        outputs: channels of its output.
        scale: standard deviation of the normal weights; by default 1/sqrt(inputs).
    """
    deviation = inputs**-0.5 if scale is None else scale
    return {"kernel": deviation * jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def linear(params: dict[str, Array], x: Float[Array, "batch time inputs"]) -> Float[Array, "batch time outputs"]:
    """Apply the linear map of `linear_init`."""
    return x @ params["kernel"] + params["bias"][None, None]


def dropout(x: Float[Array, "*shape"], key: Array, rate: float) -> Float[Array, "*shape"]:
    """Set each value to zero with probability `rate` and scale the others by 1 / (1 - rate)."""
    if rate == 0.0:
        return x
    keep = random_keep(key, rate, x.shape)
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


class Dropout(nn.Module):
    """`dropout` in training, with the key of the "dropout" stream; the identity otherwise."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        """Return x, with dropout if `train`."""
        return dropout(x, self.make_rng("dropout"), self.rate) if train and self.rate > 0.0 else x


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear, dropout.

    Attributes:
        hidden: channels between the two linear layers.
        activation: function after the first.
        dropout_hidden: dropout after the activation.
        dropout: dropout of the output.
        dtype: type of the computation.
    """

    hidden: int
    activation: Callable = jax.nn.silu
    dropout_hidden: float = 0.0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"], *, train: bool) -> Float[Array, "batch time d"]:
        """Return the module's output, which has as many channels as x."""
        width = x.shape[-1]
        x = self.activation(dense(width, self.hidden, name="linear1", dtype=self.dtype)(x))
        x = Dropout(self.dropout_hidden)(x, train=train)
        x = dense(self.hidden, width, name="linear2", dtype=self.dtype)(x)
        return Dropout(self.dropout)(x, train=train)


def stochastic_depth(
    before: Float[Array, "batch time d"], after: Float[Array, "batch time d"], key: Array, rate: Float[Array, ""]
) -> Float[Array, "batch time d"]:
    """Skip a layer per utterance with probability `rate`: before + keep / (1 - rate) * (after - before).

    Huang et al. 2016, with NeMo's rescaling; NeMo draws once per batch.

    Args:
        before: input of the layer.
        after: output of the layer.
        key: random key.
        rate: probability of skipping.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, (before.shape[0], 1, 1))
    return before + (after - before) * jnp.where(keep, 1.0 / (1.0 - rate), 0.0).astype(after.dtype)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each frame; statistics in float32, eps as in torch."""

    dtype: Any = jnp.float32
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Return x, normalized, in `dtype`."""
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
    """Batch normalization whose statistics are over valid frames only.

    Momentum and eps are torch's (0.1, 1e-5; the running variance is the unbiased one). If the batch is sharded by GSPMD
    the sums are global. A batch without any valid frame changes nothing. NeMo counts padded frames too, so that its
    statistics depend on the padding; in evaluation the two are the same.

    Where the variable "held" lies beside the running statistics and is True, training normalizes by them and leaves
    them as they are: a frozen norm computes as in evaluation. See `training.frozen.hold_statistics`.
    """

    dtype: Any = jnp.float32
    momentum: float = 0.1
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> Float[Array, "batch time d"]:
        """Return x, normalized; with `train` by the batch's statistics, which also update the running ones."""
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
            held = self.get_variable("batch_stats", HELD) if self.has_variable("batch_stats", HELD) else None
            if not self.is_initializing():
                old_mean, old_var = running_mean.value, running_var.value
                rate = jnp.where(count > 0, self.momentum, 0.0)
                unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
                new_mean = (1.0 - rate) * old_mean + rate * mean
                new_var = (1.0 - rate) * old_var + rate * unbiased
                if held is not None:
                    new_mean, new_var = jnp.where(held, old_mean, new_mean), jnp.where(held, old_var, new_var)
                    mean, var = jnp.where(held, old_mean, mean), jnp.where(held, old_var, var)
                running_mean.value, running_var.value = new_mean, new_var
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * lax.rsqrt(var + self.eps)
        return (x * gain[None, None] + (bias - mean * gain)[None, None]).astype(self.dtype)


class MaskedGroupNorm(nn.Module):
    """Group normalization of each utterance over its valid frames and the channels of one group.

    It is torch's GroupNorm on `[batch, channels, time]`, except that padding is ignored.
    """

    groups: int
    dtype: Any = jnp.float32
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time d"]:
        """Return x, normalized, in `dtype`."""
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
