"""Conformer-CTC (Gulati et al. 2020) and FastConformer (Rekesh et al. 2023), with NeMo's dimensions and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.errors import UserError
from speech_jax.models.attention import RelativeAttention, relative_positions
from speech_jax.models.convolution import DepthwiseConv1d
from speech_jax.models.layers import Dropout, LayerNorm, MaskedBatchNorm, MaskedGroupNorm, StochasticDepth, dense
from speech_jax.models.linen import as_model
from speech_jax.models.subsampling import ConvSubsampling, halve
from speech_jax.types import Model


@dataclass(frozen=True)
class ConformerConfig:
    """A Conformer encoder with a CTC head. The defaults are NeMo's Conformer-CTC small."""

    num_features: int = 80
    """Feature bands a frame (mel bands, or cepstra)."""
    width: int = 176
    """Channels of the encoder (d_model)."""
    layers: int = 16
    """Conformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    feed_forward_multiple: int = 4
    """Hidden channels of the feed-forward modules, in units of the width."""
    kernel_size: int = 31
    """Frames that the depthwise convolution sees; odd."""
    subsampling: Literal["striding", "dw_striding"] = "striding"
    """Full strided convolutions, or depthwise-separable ones (FastConformer; cheaper)."""
    subsampling_factor: Literal[4, 8] = 4
    """Feature frames per encoder frame."""
    subsampling_channels: int = 0
    """Channels of the subsampling convolutions; 0 means as many as the width."""
    conv_norm: Literal["batch", "layer", "group"] = "batch"
    """Norm inside the convolution module. Batch statistics are over valid frames only."""
    conv_norm_groups: int = 16
    """Groups of the group norm; must divide the width."""
    use_bias: bool = True
    """Biases in the linear and convolution layers of the Conformer layers."""
    xscaling: bool = True
    """Multiply the subsampled vectors by sqrt(width)."""
    dropout: float = 0.1
    """Dropout in and after the feed-forward, attention and convolution modules."""
    dropout_pre_encoder: float = 0.1
    """Dropout of the subsampled vectors."""
    dropout_emb: float = 0.0
    """Dropout of the position sinusoids."""
    dropout_att: float = 0.1
    """Dropout of the attention weights."""
    stochastic_depth: float = 0.0
    """Chance that the last layer is skipped for an utterance in training; it rises linearly from 0 at the first."""
    remat: bool = False
    """Compute the layers' activations again in the backward pass: less memory, about a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Parameters, norms' statistics, softmax and logits are float32 always."""

    def __post_init__(self) -> None:
        for ok, text in (
            (self.width % self.heads == 0, f"width {self.width} with {self.heads} heads, expected a multiple of them"),
            (self.width % 2 == 0, f"width {self.width}, expected an even number"),
            (self.kernel_size % 2 == 1, f"kernel_size {self.kernel_size}, expected an odd number"),
            (self.layers >= 1, f"layers {self.layers}, expected at least 1"),
            (
                self.conv_norm != "group" or self.width % self.conv_norm_groups == 0,
                f"conv_norm_groups {self.conv_norm_groups}, expected a divisor of the width {self.width}",
            ),
            (0 <= self.stochastic_depth < 1, f"stochastic_depth {self.stochastic_depth}, expected 0 <= p < 1"),
        ):
            if not ok:
                raise UserError(f"ConformerConfig: found {text}")


def small() -> ConformerConfig:
    """NeMo's Conformer-CTC small: 12,972,608 parameters in the encoder."""
    return ConformerConfig()


def medium() -> ConformerConfig:
    """NeMo's Conformer-CTC medium: 30,505,472 parameters in the encoder."""
    return ConformerConfig(width=256, layers=18)


def large() -> ConformerConfig:
    """NeMo's Conformer-CTC large: 121,435,136 parameters in the encoder."""
    return ConformerConfig(width=512, layers=18, heads=8)


def fastconformer_large() -> ConformerConfig:
    """NeMo's FastConformer-CTC large: 108,762,112 parameters in the encoder."""
    return replace(
        large(), layers=17, kernel_size=9, subsampling="dw_striding", subsampling_factor=8, subsampling_channels=256
    )


def output_length(frames: int, config: ConformerConfig) -> int:
    """Encoder frames that `frames` feature frames become (int, or an integer array)."""
    return halve(frames, {4: 2, 8: 3}[config.subsampling_factor])


class FeedForward(nn.Module):
    """Linear, swish, dropout, linear."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"], *, train: bool) -> Float[Array, "batch time d"]:
        config = self.config
        hidden = config.width * config.feed_forward_multiple
        linear = partial(dense, dtype=jnp.dtype(config.dtype), use_bias=config.use_bias)
        x = jax.nn.silu(linear(config.width, hidden, name="linear1")(x))
        x = Dropout(config.dropout)(x, train=train)
        return linear(hidden, config.width, name="linear2")(x)


class ConvModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, norm, swish, pointwise convolution."""

    config: ConformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> Float[Array, "batch time d"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        linear = partial(dense, dtype=dtype, use_bias=config.use_bias)
        x = linear(config.width, 2 * config.width, name="pointwise_conv1")(x)
        x = jax.nn.glu(x, axis=-1)
        x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))  # the next convolution looks at neighbours
        x = DepthwiseConv1d(config.width, config.kernel_size, config.use_bias, dtype, name="depthwise_conv")(x)
        if config.conv_norm == "batch":
            x = MaskedBatchNorm(dtype, name="norm")(x, mask, train=train)
        elif config.conv_norm == "group":
            x = MaskedGroupNorm(config.conv_norm_groups, dtype, name="norm")(x, mask)
        else:
            x = LayerNorm(dtype, name="norm")(x)
        return linear(config.width, config.width, name="pointwise_conv2")(jax.nn.silu(x))


class ConformerLayer(nn.Module):
    """Half a feed-forward, self-attention, convolution, half a feed-forward, each added to its input; then a norm."""

    config: ConformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time d"],
        positions: Float[Array, "2*time-1 d"],
        mask: Bool[Array, "batch time"],
        train: bool,
    ) -> Float[Array, "batch time d"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        drop = partial(Dropout(config.dropout), train=train)
        attention = RelativeAttention(
            config.width, config.heads, config.dropout_att, config.use_bias, dtype, name="self_attn"
        )
        half = jnp.asarray(0.5, dtype)

        y = LayerNorm(dtype, name="norm_feed_forward1")(x)
        x = x + half * drop(FeedForward(config, name="feed_forward1")(y, train=train))
        y = LayerNorm(dtype, name="norm_self_att")(x)
        x = x + drop(attention(y, positions, mask, train=train))
        y = LayerNorm(dtype, name="norm_conv")(x)
        x = x + drop(ConvModule(config, name="conv")(y, mask, train=train))
        y = LayerNorm(dtype, name="norm_feed_forward2")(x)
        x = x + half * drop(FeedForward(config, name="feed_forward2")(y, train=train))
        return LayerNorm(dtype, name="norm_out")(x)


class ConformerEncoder(nn.Module):
    """Subsampling, then the layers."""

    config: ConformerConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch time freq"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> tuple[Float[Array, "batch time_out d"], Bool[Array, "batch time_out"]]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        stages = {4: 2, 8: 3}[config.subsampling_factor]
        channels = config.subsampling_channels or config.width
        x, mask = ConvSubsampling(
            config.width, channels, stages, config.subsampling, dtype, name="subsampling"
        )(features, mask)  # fmt: skip
        if config.xscaling:
            x = x * jnp.asarray(config.width**0.5, dtype)
        x = Dropout(config.dropout_pre_encoder)(x, train=train)
        positions = relative_positions(x.shape[1], config.width).astype(dtype)
        positions = Dropout(config.dropout_emb)(positions, train=train)

        layer_type: Any = nn.remat(ConformerLayer, static_argnums=(4,)) if config.remat else ConformerLayer
        for i in range(config.layers):
            y = layer_type(config, name=f"layers_{i}")(x, positions, mask, train)
            x = StochasticDepth(config.stochastic_depth * i / max(config.layers - 1, 1))(x, y, train=train)
        return x, mask


class ConformerCTC(nn.Module):
    """Encoder and a linear head (NeMo's 1x1 convolution) over `vocab_size` classes, the blank among them."""

    config: ConformerConfig
    vocab_size: int

    @nn.compact
    def __call__(self, batch: dict[str, Array], *, train: bool) -> dict[str, Array]:
        encoded, mask = ConformerEncoder(self.config, name="encoder")(batch["features"], batch["mask"], train=train)
        head = nn.Dense(
            self.vocab_size,
            dtype=jnp.float32,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.zeros,
            name="head",
        )
        return {"logits": head(encoded.astype(jnp.float32)), "mask": mask, "encoded": encoded}


def conformer_ctc(config: ConformerConfig, vocab_size: int) -> Model:
    """The model as two pure functions.

    A batch is {"features": f32 [batch, time, num_features], "mask": bool [batch, time]}; whatever lies in masked
    frames, NaN too, changes nothing. Outputs: {"logits": f32 [batch, time', vocab_size], "mask": bool [batch, time'],
    "encoded": [batch, time', width]} with time' = output_length(time, config). `apply` with train=True needs a key
    and returns new batch statistics.
    """
    return as_model(ConformerCTC(config, vocab_size))
