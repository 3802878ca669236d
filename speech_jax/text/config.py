"""Settings of the tokenizer and of a voice's front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from speech_jax.core.errors import UserError


@dataclass(frozen=True)
class TokenizerConfig:
    """How the tokenizer is made from the training texts."""

    kind: Literal["char", "bpe", "unigram"] = "char"
    """char: one token a character. bpe, unigram: sentencepiece pieces, shorter label sequences for large corpora."""
    vocab_size: int = 128
    """Number of tokens with the blank, for bpe and unigram. A char tokenizer has as many as there are characters."""
    alphabet: str = ""
    """For char: the characters in their order, instead of those that occur in the training texts."""
    language: str = "en"
    """How texts are normalized before they are encoded ("en" turns figures into words); "" takes them as they are."""


Units = Literal["tacotron2", "arpabet", "graphemes", "ipa"]


@dataclass(frozen=True)
class FrontEndConfig:
    """How a voice reads text."""

    units: Units = "tacotron2"
    """tacotron2: letters of the public Tacotron 2's 148 symbols. arpabet: phonemes of the same table, by the CMU
    dictionary and a network for other words (English). graphemes: the characters of the training texts, any language.
    ipa: phonemes by the program espeak-ng, any language that it has."""
    language: str = "en"
    """"en" has its figures, abbreviations and signs read aloud; for ipa the name of espeak's voice."""
    unknown: Literal["error", "skip"] = "error"
    """A character that cannot be spoken: stop and name it, or warn and read the rest."""

    def __post_init__(self) -> None:
        if self.units not in get_args(Units):
            raise UserError(f"frontend.units: found {self.units!r}, expected one of {', '.join(get_args(Units))}")
        if self.units in ("tacotron2", "arpabet") and self.language != "en":
            found = f"language {self.language!r} with units {self.units!r}"
            raise UserError(f"frontend: found {found}, expected units graphemes or ipa for other languages than en")
        if self.unknown not in ("error", "skip"):
            raise UserError(f"frontend.unknown: found {self.unknown!r}, expected error or skip")
