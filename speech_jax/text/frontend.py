"""The text front end of a voice: written text to the ids of its symbols, as one object that a checkpoint carries.

It has what a tokenizer has (`encode`, `decode`, `vocab_size`, `characters`, `fingerprint`, `to_json`), so data/ takes
it in a tokenizer's place. Nothing is dropped in silence: a character that cannot be spoken is an error that names it,
or, with `unknown = "skip"`, a warning.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.english import read_english
from speech_jax.text.espeak import phonemize_with_espeak
from speech_jax.text.fold import Change, Folded, fold
from speech_jax.text.phonemes import phonemize
from speech_jax.text.symbols import TACOTRON2, Symbols, graphemes

log = logging.getLogger("speech_jax")
# Letters, marks, figures, punctuation, signs of money and arithmetic, spaces. Emoji are not: it would drop most.
_ESPEAK_READS = frozenset("Lu Ll Lt Lm Lo Mn Mc Nd Nl No Pc Pd Ps Pe Pi Pf Po Sc Sm Zs".split())
_SHOWN = 40  # characters of a text that an error shows


@dataclass(frozen=True)
class FrontEnd:
    """A config with its table of symbols."""

    config: FrontEndConfig
    symbols: Symbols

    @property
    def pieces(self) -> tuple[str, ...]:
        """The symbols by id, under the name that a tokenizer has for them."""
        return self.symbols.names

    @property
    def vocab_size(self) -> int:
        """Number of symbol ids, the padding among them."""
        return self.symbols.vocab_size

    def characters(self) -> frozenset[str]:
        """The characters of the table."""
        return self.symbols.characters()

    def prepare(self, text: str) -> Folded:
        """What is spoken, in the table's symbols, and what was replaced or is unknown, at its place in `text`."""
        return _prepare(self, text)

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Ids of `text`. `source` ("FILE:LINE") opens the UserError for a text without anything to speak, or with a
        character that cannot be spoken (with `unknown = "skip"` that one is a warning)."""
        found = self.prepare(text)
        if found.unknown and self.config.unknown == "error":
            raise UserError(f"{source or 'text'}: found {found.warning().removeprefix('left out: ')}, expected symbols "
                            f"of the voice: {''.join(sorted(self.characters()))[:80]!r}")  # fmt: skip
        if found.unknown:
            log.warning("%s: %s", source or "text", found.warning())
        if not any(character.isalpha() for character in found.text):
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            raise UserError(f"{source or 'text'}: found {shown!r}, expected something to speak")
        return self.symbols.encode(found.text, source=source)

    def decode(self, ids: Iterable[int]) -> str:
        """The symbols of ids as text, phonemes in braces."""
        return self.symbols.decode(ids)

    def fingerprint(self) -> str:
        """SHA-256 of the table: equal for voices whose ids mean the same."""
        return self.symbols.fingerprint()

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values that `from_json` turns back into the same front end."""
        return {**vars(self.config), **self.symbols.to_json()}

    @staticmethod
    def from_json(value: dict[str, Any] | str) -> FrontEnd:
        """The front end of `to_json`'s dict, or of its JSON text."""
        try:
            value = json.loads(value) if isinstance(value, str) else dict(value)
            config = FrontEndConfig(*(value[name] for name in ("units", "language", "unknown")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"frontend: found bad JSON ({error}), expected units, language, unknown, names") from error
        return FrontEnd(config, Symbols.from_json(value))


def make_front_end(config: FrontEndConfig, texts: Iterable[str] = ()) -> FrontEnd:
    """The front end of a voice. `texts`, the training texts, decide the table of graphemes and of ipa."""
    if config.units in ("tacotron2", "arpabet"):
        return FrontEnd(config, TACOTRON2)
    if config.units == "ipa":
        return FrontEnd(config, graphemes(phonemize_with_espeak(text, config.language) for text in texts))
    if config.language == "en":
        return FrontEnd(config, graphemes(read_english(text).text.lower() for text in texts))
    return FrontEnd(config, graphemes(_letters(text) for text in texts))


def _letters(text: str) -> str:
    """Lower-case letters with their marks, punctuation and spaces: figures and signs need a grammar to be read."""
    text = unicodedata.normalize("NFC", text).lower()
    return "".join(c for c in " ".join(text.split()) if c == " " or unicodedata.category(c)[0] in "LMP")


@functools.lru_cache(maxsize=1 << 14)
def _prepare(front_end: FrontEnd, text: str) -> Folded:
    config, known = front_end.config, front_end.symbols.characters()
    if config.units == "ipa":
        found = fold(text, frozenset(c for c in text if unicodedata.category(c) in _ESPEAK_READS))
        if not any(unicodedata.category(c)[0] in "LN" for c in found.text):
            return found._replace(text="")
        return _known_only(phonemize_with_espeak(found.text, config.language), known, found.replaced, found.unknown)
    if config.language != "en":
        return fold(text, known)
    found = read_english(text)
    if config.units == "arpabet":
        return found._replace(text=phonemize(found.text))
    # The public Tacotron 2 was trained on lower case; its capitals have no meaning.
    lower = re.sub(r"\{[^{}]*\}|[^{}]+", lambda m: m[0] if m[0][0] == "{" else m[0].lower(), found.text)
    if config.units == "tacotron2":
        return found._replace(text=lower)
    return _known_only(lower, known, found.replaced, found.unknown)


def _known_only(
    spoken: str, known: frozenset[str], replaced: tuple[Change, ...], unknown: tuple[Change, ...]
) -> Folded:
    """`spoken` in the table's characters; those that no training text had are unknown, at their place in `spoken`."""
    folded = fold(spoken, known)
    return Folded(folded.text, replaced + folded.replaced, unknown + folded.unknown)
