"""Settings of the tokenizer and of a voice's front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from speech_jax.core.claims import not_used_by
from speech_jax.core.errors import UserError


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings with which a tokenizer is made from the training texts.

    Example:
        >>> from speech_jax.text.config import TokenizerConfig
        >>> TokenizerConfig(kind="bpe", vocab_size=1024)
        TokenizerConfig(kind='bpe', vocab_size=1024, alphabet='', language='en')
    """

    kind: Literal["char", "bpe", "unigram"] = "char"
    """Kind of tokens. char: one per character. bpe, unigram: sentencepiece pieces, for large corpora; they give
    shorter label sequences."""
    vocab_size: int = 128
    """Number of tokens, including the blank, for bpe and unigram. A char tokenizer has one per character."""
    alphabet: str = ""
    """For char: the characters in the order of their ids; empty takes those of the training texts, sorted."""
    language: str = "en"
    """Language whose rules normalize texts before encoding (for en, numbers become words); empty turns it off."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return not_used_by("kind", self.kind, {"vocab_size": "bpe unigram", "alphabet": "char"})


Units = Literal["tacotron2", "arpabet", "graphemes", "ipa"]


@dataclass(frozen=True)
class FrontEndConfig:
    """Settings of a voice's text front end.

    Example:
        >>> from speech_jax.text.config import FrontEndConfig
        >>> FrontEndConfig(units="graphemes", language="de", unknown="skip")
        FrontEndConfig(units='graphemes', language='de', unknown='skip')
    """

    units: Units = "tacotron2"
    """Input units. tacotron2: letters of the public Tacotron 2's 148 symbols. arpabet: phonemes of the same table, from
    the CMU dictionary and a network for other words (English only). graphemes: the characters of the training texts,
    any language. ipa: phonemes by the program espeak-ng, any of its languages."""
    language: str = "en"
    """Language of the texts. For en, numbers, abbreviations and signs are expanded to words; for ipa, the name of
    espeak's voice."""
    unknown: Literal["error", "skip"] = "error"
    """Handling of characters that cannot be spoken. error: stop and name them. skip: warn and read the rest."""

    def __post_init__(self) -> None:
        if self.units not in get_args(Units):
            raise UserError(f"frontend.units: found {self.units!r}, expected one of {', '.join(get_args(Units))}")
        if self.units in ("tacotron2", "arpabet") and self.language != "en":
            pair = f"language {self.language!r} with units {self.units!r}"
            raise UserError(f"frontend: found {pair}, expected units graphemes or ipa for other languages than en")
        if self.unknown not in ("error", "skip"):
            raise UserError(f"frontend.unknown: found {self.unknown!r}, expected error or skip")
