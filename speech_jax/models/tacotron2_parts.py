"""Layers of Tacotron 2 shared by training and synthesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.models.attention_tts import Attention, make_attention
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.convolution import Conv1d
from speech_jax.models.layers import Dropout, MaskedBatchNorm
from speech_jax.models.recurrent import Regularizer


def make_regularizer(config: Tacotron2Config) -> Regularizer:
    """Return the regularizer of the decoder's LSTMs: zoneout or dropout."""
    return Regularizer(config.held, config.held_rate)


class ConvStack(nn.Module):
    """Convolutions with batch norm and dropout that ignore the padding.

    Attributes:
        widths: channels of each convolution.
        kernel_size: kernel size of all.
        activation: activation of all.
        dropout: dropout after each.
        last_plain: leave out the activation of the last one.
        fixed: use the running batch statistics in training too, and do not update them.
    """

    widths: tuple[int, ...]
    kernel_size: int
    activation: Callable
    dropout: float
    last_plain: bool = False
    fixed: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> Float[Array, "batch time width"]:
        """Return the output of the last convolution; zero in the padding."""
        for i, width in enumerate(self.widths):
            x = jnp.where(mask[..., None], x, 0.0)
            x = Conv1d(width, self.kernel_size, name=f"conv{i}")(x)
            x = MaskedBatchNorm(name=f"norm{i}")(x, mask, train=train and not self.fixed)
            if not (self.last_plain and i == len(self.widths) - 1):
                x = self.activation(x)
            x = Dropout(self.dropout)(x, train=train)
        return jnp.where(mask[..., None], x, 0.0)


class Parts(NamedTuple):
    """Modules of a network.

    Attributes:
        config: settings of the network.
        encoder: convolutions of the encoder.
        postnet: convolutions of the post-net.
        attention: attention over the text.
    """

    config: Tacotron2Config
    encoder: ConvStack
    postnet: ConvStack
    attention: Attention


def make_parts(config: Tacotron2Config) -> Parts:
    """Return the modules of a network."""
    shared = {"kernel_size": config.kernel_size, "dropout": config.conv_dropout}
    shared |= {"fixed": config.norm_statistics == "fixed"}
    encoder = ConvStack((config.embedding,) * config.encoder_layers, activation=nn.relu, **shared)
    widths = (config.postnet,) * (config.postnet_layers - 1) + (config.num_mels,)
    postnet = ConvStack(widths, activation=jnp.tanh, last_plain=True, **shared)
    return Parts(config, encoder, postnet, make_attention(config.attention, config.attention_rnn, config.memory))
