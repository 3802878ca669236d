"""wav2vec 2.0 (Baevski et al. 2020) and Wav2Vec2-Conformer with a CTC head.

Waveform → convolutions → Transformer or Conformer layers, with the arithmetic of transformers' Wav2Vec2ForCTC and
Wav2Vec2ConformerForCTC. Unlike there, padding has no influence: the group norm of the first convolution is over valid
frames, and beyond them the Conformer's convolutions read zeros. So the scores of an utterance are in every batch those
that transformers gives it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.core.arrays import check_count
from speech_jax.core.hashing import random_keep
from speech_jax.core.types import Batch, Model
from speech_jax.models.attention import RelativeAttention, relative_positions, rotate
from speech_jax.models.config import ConformerConfig, Wav2Vec2Config
from speech_jax.models.conformer import ConvModule
from speech_jax.models.convolution import grouped_conv1d, strided_conv1d
from speech_jax.models.layers import (
    Dropout,
    FeedForward,
    LayerNorm,
    MaskedGroupNorm,
    check_features,
    dense,
    uniform_fan_in,
)
from speech_jax.models.linen import as_model

ACTIVATIONS: dict[str, Callable] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
    "swish": jax.nn.silu,
}


def samples_per_frame(config: Wav2Vec2Config) -> int:
    """Return the number of samples between the starts of two output frames."""
    return math.prod(config.conv_stride)


def output_length(samples: Any, config: Wav2Vec2Config) -> Any:
    """Return the number of output frames of `samples` samples (an int, or an integer array) whose windows fit."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples * (samples > 0)


class _Conv(nn.Module):
    """Kernel [k, in, out] and bias with torch's initial values, for one of the functions of convolution.py."""

    shape: tuple[int, int, int]
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, convolve: Callable, x: Float[Array, "batch time c"]) -> Float[Array, "batch time_out d"]:
        init = uniform_fan_in(self.shape[0] * self.shape[1])
        y = convolve(x.astype(self.dtype), self.param("kernel", init, self.shape).astype(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", init, self.shape[-1:]).astype(self.dtype)[None, None]
        return y


class FeatureEncoder(nn.Module):
    """Convolutions over the waveform: ceil(samples / stride) frames, of which `output_length` are valid.

    The samples are padded with zeros at the end, so that the number of frames is a fixed fraction of the number of
    samples and the windows of a long recording lie on one grid; frames that depend on these zeros are not valid.
    """

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, samples: Float[Array, "batch samples 1"], mask: Bool[Array, "batch samples"]
    ) -> tuple[Float[Array, "batch time c"], Bool[Array, "batch time"]]:
        """Return (vectors, their mask)."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x = jnp.where(mask[..., None], samples, 0.0)
        needed = frames = max(1, -(-x.shape[1] // samples_per_frame(config)))
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            needed = (needed - 1) * stride + kernel
        x = jnp.pad(x, ((0, 0), (0, max(0, needed - x.shape[1])), (0, 0)))
        lengths, inputs = mask.sum(axis=1), 1
        for i, width in enumerate(config.conv_width):
            kernel, stride = config.conv_kernel[i], config.conv_stride[i]
            convolve = partial(strided_conv1d, stride=stride)
            x = _Conv((kernel, inputs, width), config.conv_bias, dtype, name=f"conv{i}")(convolve, x)
            lengths, inputs = jnp.maximum((lengths - kernel) // stride + 1, 0), width
            valid = jnp.arange(x.shape[1])[None, :] < lengths[:, None]
            if config.conv_norm == "layer":
                x = LayerNorm(dtype, name=f"norm{i}")(x)
            elif i == 0:
                x = MaskedGroupNorm(width, dtype, name="norm0")(x, valid)
            x = ACTIVATIONS[config.conv_activation](x)
        return x[:, :frames], valid[:, :frames]


def _feed_forward(config: Wav2Vec2Config, name: str) -> FeedForward:
    return FeedForward(
        config.hidden, ACTIVATIONS[config.activation], config.dropout_hidden, config.dropout, jnp.dtype(config.dtype),
        name=name,
    )  # fmt: skip


def _attention(config: Wav2Vec2Config) -> RelativeAttention:
    return RelativeAttention(
        config.width, config.heads, dropout=config.dropout_att, dtype=jnp.dtype(config.dtype), name="self_attn"
    )


class TransformerLayer(nn.Module):
    """Self-attention, feed-forward, each residual, with a norm before (norm_first) or after."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], positions: None, mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
        """Return the layer's output. positions: unused."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        norm1, norm2 = (LayerNorm(dtype, config.eps, name=n) for n in ("norm_self_att", "norm_feed_forward"))
        attention, feed_forward = _attention(config), _feed_forward(config, "feed_forward")
        drop = partial(Dropout(config.dropout), train=train)
        if config.norm_first:
            x = x + drop(attention(norm1(x), None, mask, train=train))
            return x + feed_forward(norm2(x), train=train)
        x = norm1(x + drop(attention(x, None, mask, train=train)))
        return norm2(x + feed_forward(x, train=train))


class Wav2Vec2ConformerLayer(nn.Module):
    """Conformer layer with wav2vec 2.0's feed-forward modules, biases and dropout."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time d"],
        positions: Float[Array, "2*time-1 d"] | None,
        mask: Bool[Array, "batch time"],
        train: bool,
    ) -> Float[Array, "batch time d"]:
        """Return the layer's output. positions: from `relative_positions`; None for rotary positions or none."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        convolution = ConvModule(
            ConformerConfig(
                width=config.width, heads=config.heads, kernel_size=config.kernel_size, use_bias=False,
                dtype=config.dtype,
            ),
            ACTIVATIONS[config.activation],
            name="conv",
        )  # fmt: skip
        half = jnp.asarray(0.5, dtype)
        y = LayerNorm(dtype, name="norm_feed_forward1")(x)
        x = x + half * _feed_forward(config, "feed_forward1")(y, train=train)
        y = LayerNorm(dtype, name="norm_self_att")(x)
        rotated = rotate(y, config.heads, config.rotary_base) if config.positions == "rotary" else None
        y = _attention(config)(y, positions, mask, train=train, query_key_input=rotated)
        x = x + Dropout(config.dropout_att)(y, train=train)
        y = convolution(LayerNorm(dtype, name="norm_conv")(x), mask, train=train)
        x = x + Dropout(config.dropout_conv)(y, train=train)
        y = LayerNorm(dtype, name="norm_feed_forward2")(x)
        x = x + half * _feed_forward(config, "feed_forward2")(y, train=train)
        return LayerNorm(dtype, name="norm_out")(x)


def _spans(key: Array, share: float, span: int, shape: tuple[int, ...]) -> Bool[Array, "batch positions"]:
    """Draw spans that cover about `share` of all positions: each position starts one with probability share / span.

    transformers draws a fixed number of spans, at least two per utterance.
    """
    starts = ~random_keep(key, share / span, shape)
    started = jnp.cumsum(starts, axis=1)
    return started > jnp.pad(started, ((0, 0), (span, 0)))[:, : shape[1]]


class Wav2Vec2Encoder(nn.Module):
    """The network without the head."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, samples: Float[Array, "batch samples 1"], mask: Bool[Array, "batch samples"], train: bool
    ) -> tuple[Float[Array, "batch time d"], Bool[Array, "batch time"]]:
        """Return (encoded vectors, their mask)."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        rematerialize = partial(nn.remat, prevent_cse=True) if config.remat and train else lambda module, **_: module
        x, mask = rematerialize(FeatureEncoder)(config, name="features")(samples, mask)
        x = LayerNorm(dtype, config.eps, name="projection_norm")(x)
        x = dense(config.conv_width[-1], config.width, name="projection", dtype=dtype)(x)
        x = Dropout(config.dropout_projection)(x, train=train)
        mask_vector = self.param("mask_vector", nn.initializers.uniform(1.0), (config.width,)).astype(dtype)
        if train and config.mask_time > 0:
            spans = _spans(self.make_rng("dropout"), config.mask_time, config.mask_time_span, mask.shape)
            x = jnp.where(spans[..., None], mask_vector[None, None], x)
        if train and config.mask_channels > 0:
            shape = (x.shape[0], config.width)
            spans = _spans(self.make_rng("dropout"), config.mask_channels, config.mask_channels_span, shape)
            x = jnp.where(spans[:, None], jnp.zeros((), dtype), x)
        x = jnp.where(mask[..., None], x, jnp.zeros((), dtype))

        drop, norm = partial(Dropout(config.dropout), train=train), LayerNorm(dtype, config.eps, name="norm")
        positions = None
        if config.block == "transformer":
            shape = (config.position_kernel, config.width // config.position_groups, config.width)
            position = _Conv(shape, True, dtype, name="position_conv")(grouped_conv1d, x)
            x = x + ACTIVATIONS[config.conv_activation](position)
            x = drop(x if config.norm_first else norm(x))
        else:
            x = drop(x)
            if config.positions == "relative":
                positions = relative_positions(x.shape[1], config.width).astype(dtype)
        kind: Any = TransformerLayer if config.block == "transformer" else Wav2Vec2ConformerLayer
        layer = rematerialize(kind, static_argnums=(4,))
        for i in range(config.layers):
            y = layer(config, name=f"layers_{i}")(x, positions, mask, train)
            if train and config.layer_drop > 0:
                skip = jax.random.bernoulli(self.make_rng("dropout"), config.layer_drop, (x.shape[0], 1, 1))
                y = jnp.where(skip, x, y)
            x = y
        return x if config.block == "transformer" and not config.norm_first else norm(x), mask


class Wav2Vec2(nn.Module):
    """The network; called with {"features", "mask"}."""

    config: Wav2Vec2Config
    vocab_size: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """Return {"logits", "mask", "encoded"}."""
        check_features(batch, 1)
        x, mask = Wav2Vec2Encoder(self.config, name="encoder")(batch["features"], batch["mask"], train)
        y = Dropout(self.config.dropout_final)(x.astype(jnp.float32), train=train)
        logits = dense(self.config.width, self.vocab_size, name="head", dtype=jnp.float32)(y)
        return {"logits": logits, "mask": mask, "encoded": x}


def wav2vec2_ctc(config: Wav2Vec2Config, vocab_size: int) -> Model:
    """Return wav2vec 2.0 with a CTC head, as pure functions.

    A batch is {"features": float32 [batch, samples, 1], "mask": bool [batch, samples]}. Values in masked samples, NaN
    too, change nothing. `apply` with train=True needs a key, and with Conformer layers returns new batch statistics.

    Args:
        config: settings of the network.
        vocab_size: number of classes, the blank included.

    Returns:
        The model. Its outputs are {"logits": float32 [batch, time, vocab_size], "mask": bool [batch, time], "encoded":
        [batch, time, width]} with time = ceil(samples / samples_per_frame(config)), of which output_length are True in
        the mask.

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import Wav2Vec2Config
        >>> from speech_jax.models.wav2vec2 import wav2vec2_ctc
        >>> config = Wav2Vec2Config(
        ...     width=8, layers=1, heads=2, hidden=16, position_kernel=4, position_groups=2,
        ...     conv_width=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 4),
        ... )
        >>> model = wav2vec2_ctc(config, vocab_size=30)
        >>> batch = {"features": jnp.ones((2, 400, 1)), "mask": jnp.arange(400)[None] < jnp.array([[400], [200]])}
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> outputs["logits"].shape, outputs["mask"].shape
        ((2, 20, 30), (2, 20))
    """
    check_count("vocab_size", vocab_size)
    return as_model(Wav2Vec2(config, vocab_size))
