"""torchaudio's Conformer (torchaudio.models.Conformer) with a CTC head: no subsampling and no positions.

It is a module of its own rather than options of `conformer`, since only the convolution module is the same: there is
at most a linear layer before the Conformer layers, attention has no positions, the convolution may come before
attention, and the feed-forward modules have any width. torchaudio's convolutions and group norm depend on the padding;
here they do not, so the scores of an utterance are in every batch those that torchaudio gives it alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.core.arrays import check_count
from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, Model
from speech_jax.models.attention import RelativeAttention
from speech_jax.models.config import ConformerConfig, PlainConformerConfig
from speech_jax.models.conformer import ConvModule
from speech_jax.models.layers import Dropout, FeedForward, LayerNorm, check_features, dense
from speech_jax.models.linen import as_model


def _convolution(config: PlainConformerConfig) -> ConformerConfig:
    """Return the settings of the Conformer's convolution module."""
    return ConformerConfig(
        width=config.width, heads=config.heads, kernel_size=config.kernel_size, conv_norm=config.conv_norm,
        conv_norm_groups=1, dtype=config.dtype,
    )  # fmt: skip


def output_length(frames: Any, config: PlainConformerConfig) -> Any:
    """Return the number of output frames of `frames` feature frames, which is the same."""
    return frames


class PlainConformerLayer(nn.Module):
    """Half a feed-forward, attention and convolution in either order, half a feed-forward; then a norm."""

    config: PlainConformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
        """Return the layer's output."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        drop, half = partial(Dropout(config.dropout), train=train), jnp.asarray(0.5, dtype)

        def feed_forward(x: Array, n: int) -> Array:
            y = LayerNorm(dtype, name=f"norm_feed_forward{n}")(x)
            module = FeedForward(
                config.hidden, dropout_hidden=config.dropout, dropout=config.dropout, dtype=dtype,
                name=f"feed_forward{n}",
            )  # fmt: skip
            return x + half * module(y, train=train)

        def attention(x: Array) -> Array:
            y = LayerNorm(dtype, name="norm_self_att")(x)
            module = RelativeAttention(
                config.width, config.heads, dropout=config.dropout, dtype=dtype, name="self_attn"
            )
            return x + drop(module(y, None, mask, train=train))

        def convolution(x: Array) -> Array:
            y = LayerNorm(dtype, name="norm_conv")(x)
            return x + drop(ConvModule(_convolution(config), name="conv")(y, mask, train=train))

        x = feed_forward(x, 1)
        x = attention(convolution(x)) if config.convolution_first else convolution(attention(x))
        return LayerNorm(dtype, name="norm_out")(feed_forward(x, 2))


class PlainConformerEncoder(nn.Module):
    """The network without the head."""

    config: PlainConformerConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch time f"], mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
        """Return the encoded vectors."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x = jnp.where(mask[..., None], features, 0.0).astype(dtype)
        if config.projection:
            x = dense(config.num_features, config.width, name="projection", dtype=dtype)(x)
        layer = nn.remat(PlainConformerLayer, static_argnums=(3,)) if config.remat and train else PlainConformerLayer
        for i in range(config.layers):
            x = layer(config, name=f"layers_{i}")(x, mask, train)
        return x


class PlainConformer(nn.Module):
    """The network; called with {"features", "mask"}."""

    config: PlainConformerConfig
    vocab_size: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """Return {"logits", "mask", "encoded"}."""
        check_features(batch, self.config.num_features)
        x = PlainConformerEncoder(self.config, name="encoder")(batch["features"], batch["mask"], train)
        logits = dense(self.config.width, self.vocab_size, name="head", dtype=jnp.float32)(x.astype(jnp.float32))
        return {"logits": logits, "mask": batch["mask"], "encoded": x}


def plain_conformer_ctc(config: PlainConformerConfig, vocab_size: int) -> Model:
    """Return a plain Conformer with a CTC head, as pure functions.

    Batch and outputs are those of `conformer_ctc`, with one output frame per feature frame.

    Args:
        config: settings of the network.
        vocab_size: number of classes, the blank included.

    Raises:
        UserError: there is no projection, and num_features is not the width.
    """
    if not config.projection and config.num_features != config.width:
        raise UserError(
            f"task.model: found num_features {config.num_features} and width {config.width}, expected equal numbers, "
            f"or --task.model.projection"
        )
    check_count("vocab_size", vocab_size)
    return as_model(PlainConformer(config, vocab_size))
