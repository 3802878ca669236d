"""wav2vec 2.0 (Baevski et al. 2020) and Wav2Vec2-Conformer with a CTC head: waveform → convolutions → Transformer or
Conformer layers, with the arithmetic of transformers' Wav2Vec2ForCTC and Wav2Vec2ConformerForCTC.

Unlike there nothing that lies in the padding has any influence: the group norm of the first convolution is over the
real frames, and the Conformer's convolutions see zeros beyond them. So an utterance alone has the same scores in both,
and here it has them in every batch.
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

from speech_jax.core.hashing import random_keep
from speech_jax.core.types import Batch, Model
from speech_jax.models.attention import RelativeAttention, relative_positions, rotate
from speech_jax.models.config import ConformerConfig, Wav2Vec2Config
from speech_jax.models.conformer import ConvModule
from speech_jax.models.convolution import grouped_conv1d, strided_conv1d
from speech_jax.models.layers import Dropout, FeedForward, LayerNorm, MaskedGroupNorm, dense, uniform_fan_in
from speech_jax.models.linen import as_model

ACTIVATIONS: dict[str, Callable] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
    "swish": jax.nn.silu,
}


def samples_per_frame(config: Wav2Vec2Config) -> int:
    """Samples between the starts of two output frames."""
    return math.prod(config.conv_stride)


def output_length(samples: int, config: Wav2Vec2Config) -> int:
    """Output frames that `samples` samples become (int, or an integer array): only those whose window fits."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples * (samples > 0)


class _Conv(nn.Module):
    """A kernel [k, in, out] and a bias with torch's initial values, for one of the functions of `convolution`."""

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
    """The convolutions over the waveform: ceil(samples / stride) frames, of which `output_length` are valid.

    Zeros are put behind the samples, so that the number of frames is a whole fraction of theirs and windows of a long
    recording lie on one grid; frames that see those zeros are not valid.
    """

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, samples: Float[Array, "batch samples 1"], mask: Bool[Array, "batch samples"]
    ) -> tuple[Float[Array, "batch time c"], Bool[Array, "batch time"]]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x = jnp.where(mask[..., None], samples, 0.0)
        need = frames = max(1, -(-x.shape[1] // samples_per_frame(config)))
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            need = (need - 1) * stride + kernel
        x = jnp.pad(x, ((0, 0), (0, max(0, need - x.shape[1])), (0, 0)))
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
    """Self-attention, feed-forward, each added to its input, with a norm before (norm_first) or after."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], positions: None, mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        norm1, norm2 = (LayerNorm(dtype, config.eps, name=n) for n in ("norm_self_att", "norm_feed_forward"))
        attention, feed_forward = _attention(config), _feed_forward(config, "feed_forward")
        drop = partial(Dropout(config.dropout), train=train)
        if config.norm_first:
            x = x + drop(attention(norm1(x), None, mask, train=train))
            return x + feed_forward(norm2(x), train=train)
        x = norm1(x + drop(attention(x, None, mask, train=train)))
        return norm2(x + feed_forward(x, train=train))


class ConformerLayer(nn.Module):
    """The Conformer's order and convolution module, with wav2vec 2.0's feed-forward, biases and dropout."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time d"],
        positions: Float[Array, "2*time-1 d"] | None,
        mask: Bool[Array, "batch time"],
        train: bool,
    ) -> Float[Array, "batch time d"]:
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


def _spans(key: Array, share: float, span: int, shape: tuple[int, ...]) -> Bool[Array, "batch places"]:
    """True in about `share` of the places, in spans: each place begins one with the chance share / span.

    transformers draws a fixed number of spans, at least two an utterance.
    """
    starts = ~random_keep(key, share / span, shape)
    since = jnp.cumsum(starts, axis=1)
    return since > jnp.pad(since, ((0, 0), (span, 0)))[:, : shape[1]]


class Encoder(nn.Module):
    """Everything but the head."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, samples: Float[Array, "batch samples 1"], mask: Bool[Array, "batch samples"], train: bool
    ) -> tuple[Float[Array, "batch time d"], Bool[Array, "batch time"]]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        again = partial(nn.remat, prevent_cse=True) if config.remat and train else lambda module, **_: module
        x, mask = again(FeatureEncoder)(config, name="features")(samples, mask)
        x = LayerNorm(dtype, config.eps, name="projection_norm")(x)
        x = dense(config.conv_width[-1], config.width, name="projection", dtype=dtype)(x)
        x = Dropout(config.dropout_projection)(x, train=train)
        hidden = self.param("mask_vector", nn.initializers.uniform(1.0), (config.width,)).astype(dtype)
        if train and config.mask_time > 0:
            spans = _spans(self.make_rng("dropout"), config.mask_time, config.mask_time_span, mask.shape)
            x = jnp.where(spans[..., None], hidden[None, None], x)
        if train and config.mask_channels > 0:
            shape = (x.shape[0], config.width)
            spans = _spans(self.make_rng("dropout"), config.mask_channels, config.mask_channels_span, shape)
            x = jnp.where(spans[:, None], jnp.zeros((), dtype), x)
        x = jnp.where(mask[..., None], x, jnp.zeros((), dtype))

        drop, norm = partial(Dropout(config.dropout), train=train), LayerNorm(dtype, config.eps, name="norm")
        positions = None
        if config.block == "transformer":
            shape = (config.position_kernel, config.width // config.position_groups, config.width)
            place = _Conv(shape, True, dtype, name="position_conv")(grouped_conv1d, x)
            x = x + ACTIVATIONS[config.conv_activation](place)
            x = drop(x if config.norm_first else norm(x))
        else:
            x = drop(x)
            if config.positions == "relative":
                positions = relative_positions(x.shape[1], config.width).astype(dtype)
        kind: Any = TransformerLayer if config.block == "transformer" else ConformerLayer
        layer = again(kind, static_argnums=(4,))
        for i in range(config.layers):
            y = layer(config, name=f"layers_{i}")(x, positions, mask, train)
            if train and config.layer_drop > 0:
                left_out = jax.random.bernoulli(self.make_rng("dropout"), config.layer_drop, (x.shape[0], 1, 1))
                y = jnp.where(left_out, x, y)
            x = y
        return x if config.block == "transformer" and not config.norm_first else norm(x), mask


class Wav2Vec2(nn.Module):
    """The network; called with {"features", "mask"}."""

    config: Wav2Vec2Config
    vocab_size: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        x, mask = Encoder(self.config, name="encoder")(batch["features"], batch["mask"], train)
        y = Dropout(self.config.dropout_final)(x.astype(jnp.float32), train=train)
        logits = dense(self.config.width, self.vocab_size, name="head", dtype=jnp.float32)(y)
        return {"logits": logits, "mask": mask, "encoded": x}


def wav2vec2_ctc(config: Wav2Vec2Config, vocab_size: int) -> Model:
    """The model as two pure functions.

    A batch is {"features": f32 [batch, samples, 1], "mask": bool [batch, samples]}; whatever lies in masked samples,
    NaN too, changes nothing. Outputs: {"logits": f32 [batch, time, vocab_size], "mask": bool [batch, time], "encoded":
    [batch, time, width]} with time = ceil(samples / samples_per_frame(config)), of which output_length are True in the
    mask. `apply` with train=True needs a key, and returns new batch statistics where the layers are a Conformer's.
    """
    return as_model(Wav2Vec2(config, vocab_size))
