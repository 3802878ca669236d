"""Tacotron 2: its config and the layers that training and synthesis share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.models.attention_tts import Attention, AttentionConfig, make_attention
from speech_jax.models.convolution import Conv1d
from speech_jax.models.layers import Dropout, MaskedBatchNorm
from speech_jax.models.recurrent import Regularizer
from speech_jax.models.style import StyleConfig


@dataclass(frozen=True)
class Tacotron2Config:
    """The network."""

    num_mels: int = 80
    """Bands of a frame."""
    embedding: int = 512
    """Channels of a symbol, and of the encoder's convolutions."""
    encoder_layers: int = 3
    """Convolutions of the encoder."""
    encoder_width: int = 512
    """Channels of the encoder's LSTM, both directions together."""
    kernel_size: int = 5
    """Symbols or frames that a convolution of the encoder or the post-net sees."""
    prenet: int = 256
    """Channels of the two layers that the frame before goes through."""
    attention_rnn: int = 1024
    """Channels of the LSTM that asks where to look."""
    decoder_rnn: int = 1024
    """Channels of the LSTM that makes the frames."""
    attention: AttentionConfig = AttentionConfig()
    """How it finds its place in the text."""
    postnet_layers: int = 5
    """Convolutions of the post-net."""
    postnet: int = 512
    """Channels of the post-net."""
    reduction: int = 1
    """Frames a decoder step can make."""
    conv_dropout: float = 0.5
    """Dropout of all convolutions, in training."""
    norm_statistics: Literal["batch", "fixed"] = new_field("batch")
    """What the batch norms take in training: the batch's mean and variance, or the running ones that a checkpoint has,
    which then stay as they are. Fixed is for fine-tuning with old recordings beside the new: running statistics follow
    the new ones alone, and would misjudge the old voice."""
    prenet_dropout: float = 0.5
    """Dropout of the prenet: always, in synthesis too. It is drawn from the utterance's key, so synthesis repeats."""
    held: Literal["zoneout", "dropout"] = "zoneout"
    """What the LSTMs' states go through: the paper's zoneout, or NVIDIA's dropout of h."""
    held_rate: float = 0.1
    """With this probability."""
    speakers: int = 0
    """Voices, each with a learned vector; 0 is a network of one voice."""
    speaker_width: int = 64
    """Channels of that vector."""
    style: StyleConfig | None = None
    """A reference encoder with style tokens; none has none."""

    def __post_init__(self) -> None:
        if self.encoder_width % 2 or self.kernel_size % 2 == 0 or self.attention.filter_length % 2 == 0:
            raise UserError(
                f"model: found encoder_width {self.encoder_width}, kernel_size {self.kernel_size}, attention."
                f"filter_length {self.attention.filter_length}, expected an even width and odd lengths"
            )
        if not 0 <= self.prenet_dropout < 1 or not 0 <= self.held_rate < 1 or self.reduction < 1:
            raise UserError(
                f"model: found prenet_dropout {self.prenet_dropout}, held_rate {self.held_rate}, reduction "
                f"{self.reduction}, expected rates in [0, 1) and at least one frame a step"
            )

    @property
    def memory(self) -> int:
        """Channels of what the attention reads."""
        return (
            self.encoder_width + (self.speaker_width if self.speakers else 0) + (self.style.width if self.style else 0)
        )

    @property
    def regularizer(self) -> Regularizer:
        return Regularizer(self.held, self.held_rate)


class ConvStack(nn.Module):
    """Convolutions with batch norm and dropout that know the padding. `last` is the width of one more layer, without
    the activation, or 0."""

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
        for i, width in enumerate(self.widths):
            x = jnp.where(mask[..., None], x, 0.0)
            x = Conv1d(width, self.kernel_size, name=f"conv{i}")(x)
            x = MaskedBatchNorm(name=f"norm{i}")(x, mask, train=train and not self.fixed)
            if not (self.last_plain and i == len(self.widths) - 1):
                x = self.activation(x)
            x = Dropout(self.dropout)(x, train=train)
        return jnp.where(mask[..., None], x, 0.0)


class Parts(NamedTuple):
    """The network's pieces, made from a config."""

    config: Tacotron2Config
    encoder: ConvStack
    postnet: ConvStack
    attention: Attention


def make_parts(config: Tacotron2Config) -> Parts:
    """The pieces of the network of `config`."""
    shared = {"kernel_size": config.kernel_size, "dropout": config.conv_dropout}
    shared |= {"fixed": config.norm_statistics == "fixed"}
    encoder = ConvStack((config.embedding,) * config.encoder_layers, activation=nn.relu, **shared)
    widths = (config.postnet,) * (config.postnet_layers - 1) + (config.num_mels,)
    postnet = ConvStack(widths, activation=jnp.tanh, last_plain=True, **shared)
    return Parts(config, encoder, postnet, make_attention(config.attention, config.attention_rnn, config.memory))
