"""Grapheme-to-phoneme conversion: bidirectional recurrent layers over a word's letters, and a CTC head.

After Rao et al. 2015. A letter may stand for several phonemes ("x", "u"), so every letter has `frames_per_letter`
outputs: the layers run over the letters, and only the head is wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, Model
from speech_jax.models.crnn import BidirectionalRNN
from speech_jax.models.layers import Dropout, LayerNorm, dense
from speech_jax.models.linen import as_model


@dataclass(frozen=True)
class G2PConfig:
    """Small network from the letters of a word to its phonemes."""

    width: int = 128
    """Channels of each direction."""
    layers: int = 2
    """Bidirectional recurrent layers."""
    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell."""
    embedding: int = 64
    """Channels of a letter's embedding."""
    frames_per_letter: int = 2
    """Outputs per letter; a word can have at most this many times as many phonemes as letters."""
    dropout: float = 0.05
    """Dropout of the input of each recurrent layer and of the head."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "embedding", "frames_per_letter"):
            if getattr(self, name) < 1:
                raise UserError(f"G2PConfig.{name}: found {getattr(self, name)}, expected at least 1")


class LetterToSound(nn.Module):
    """The network; called with {"letters" int [batch, letters], "mask" bool [batch, letters]}."""

    config: G2PConfig
    num_letters: int
    num_phones: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """Return {"logits", "mask"}."""
        config, mask = self.config, batch["mask"]
        x = nn.Embed(self.num_letters, config.embedding, name="letters")(batch["letters"])
        for i in range(config.layers):
            x = Dropout(config.dropout)(x, train=train)
            x = BidirectionalRNN(config.width, config.cell, name=f"layers_{i}")(x, mask)
            x = LayerNorm(name=f"norm_{i}")(x)
        x = Dropout(config.dropout)(x, train=train)
        frames = config.frames_per_letter
        logits = dense(2 * config.width, frames * self.num_phones, name="head", dtype=jnp.float32)(x)
        logits = logits.reshape(x.shape[0], x.shape[1] * frames, self.num_phones)
        return {"logits": logits, "mask": jnp.repeat(mask, frames, axis=1)}


def letter_to_sound(config: G2PConfig, num_letters: int, num_phones: int) -> Model:
    """Return the network as pure functions.

    A batch is {"letters": int [batch, letters], "mask": bool [batch, letters]}.

    Args:
        config: settings of the network.
        num_letters: size of the alphabet.
        num_phones: number of classes, the blank included.

    Returns:
        The model. Its outputs are {"logits": float32 [batch, letters * frames_per_letter, num_phones], "mask"}.
    """
    return as_model(LetterToSound(config, num_letters, num_phones))
