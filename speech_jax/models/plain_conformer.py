"""The Conformer of torchaudio (torchaudio.models.Conformer) with a CTC head: no subsampling and no positions.

A file of its own and not options of `conformer`: there is nothing in front of the layers but perhaps a linear map,
attention knows nothing of distances, the convolution may come before it, and the feed-forward modules have any width,
so that all but the convolution module is different. torchaudio's convolutions and its group norm see the padding; here
they do not, and an utterance has in every batch the scores that it has there alone.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, Model
from speech_jax.models.attention import RelativeAttention
from speech_jax.models.config import ConformerConfig, PlainConformerConfig
from speech_jax.models.conformer import ConvModule
from speech_jax.models.layers import Dropout, FeedForward, LayerNorm, dense
from speech_jax.models.linen import as_model


def _convolution(config: PlainConformerConfig) -> ConformerConfig:
    """What the Conformer's convolution module has to know."""
    return ConformerConfig(
        width=config.width, heads=config.heads, kernel_size=config.kernel_size, conv_norm=config.conv_norm,
        conv_norm_groups=1, dtype=config.dtype,
    )  # fmt: skip


def output_length(frames: int, config: PlainConformerConfig) -> int:
    """Output frames that `frames` feature frames become: as many."""
    return frames


class PlainConformerLayer(nn.Module):
    """Half a feed-forward, attention and convolution in either order, half a feed-forward; then a norm."""

    config: PlainConformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
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


class Encoder(nn.Module):
    """Everything but the head."""

    config: PlainConformerConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch time f"], mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
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
        x = Encoder(self.config, name="encoder")(batch["features"], batch["mask"], train)
        logits = dense(self.config.width, self.vocab_size, name="head", dtype=jnp.float32)(x.astype(jnp.float32))
        return {"logits": logits, "mask": batch["mask"], "encoded": x}


def plain_conformer_ctc(config: PlainConformerConfig, vocab_size: int) -> Model:
    """The model as two pure functions, with the batch and outputs of `conformer_ctc` and an output frame a frame.

    Raises UserError where features go in as they are and are not as many as the channels.
    """
    if not config.projection and config.num_features != config.width:
        raise UserError(
            f"task.model: found {config.num_features} features for {config.width} channels, expected as many, "
            f"or a projection"
        )
    return as_model(PlainConformer(config, vocab_size))
