"""Text front end of a voice: written text to symbol ids, as one object that a checkpoint stores.

It has a tokenizer's interface (`encode`, `decode`, `vocab_size`, `characters`, `fingerprint`, `to_json`), so data/ can
use it in place of one. Nothing is dropped silently: a character that cannot be spoken is an error that names it or,
with `unknown = "skip"`, a warning.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.english import read_english
from speech_jax.text.espeak import phonemize_with_espeak
from speech_jax.text.fold import Folded, fold
from speech_jax.text.phonemes import phonemize
from speech_jax.text.symbols import TACOTRON2, Symbols, graphemes

# Letters, marks, digits, punctuation, currency and math signs, spaces. No emoji: espeak-ng drops most of them silently.
_ESPEAK_READS = frozenset("Lu Ll Lt Lm Lo Mn Mc Nd Nl No Pc Pd Ps Pe Pi Pf Po Sc Sm Zs".split())
_SHOWN = 40  # characters of a text that an error shows


@dataclass(frozen=True)
class FrontEnd:
    """A front end: its config and its symbol table.

    Attributes:
        config: settings.
        symbols: table of symbols and their ids.
    """

    config: FrontEndConfig
    symbols: Symbols

    @property
    def pieces(self) -> tuple[str, ...]:
        """Symbols by id, under the name that a tokenizer uses."""
        return self.symbols.names

    @property
    def vocab_size(self) -> int:
        """Number of symbol ids, padding included."""
        return self.symbols.vocab_size

    def characters(self) -> frozenset[str]:
        """Return the characters of the table."""
        return self.symbols.characters()

    def prepare(self, text: str) -> Folded:
        """Return the text as spoken, in the table's symbols, with replaced and unknown characters by position."""
        return _prepare(self, text)

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Return the symbol ids of a text.

        Args:
            text: written text.
            source: position of the text ("FILE:LINE"), for messages.

        Raises:
            UserError: nothing to speak, or a character that cannot be spoken (a warning with `unknown = "skip"`).
        """
        spoken = self.prepare(text)
        if spoken.unknown and self.config.unknown == "error":
            raise UserError(
                f"{source or 'text'}: found {spoken.warning().removeprefix('left out: ')}, expected symbols "
                f"of the voice: {''.join(sorted(self.characters()))[:80]!r}"
            )
        if spoken.unknown:
            log.warning("%s: %s", source or "text", spoken.warning())
        if not any(character.isalpha() for character in spoken.text):
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            raise UserError(f"{source or 'text'}: found {shown!r}, expected something to speak")
        return self.symbols.encode(spoken.text, source=source)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the symbols of ids as text, phonemes in braces."""
        return self.symbols.decode(ids)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the symbol table; equal if ids have the same meaning."""
        return self.symbols.fingerprint()

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON values, from which `from_json` restores the front end."""
        return {**vars(self.config), **self.symbols.to_json()}

    @staticmethod
    def from_json(value: dict[str, Any] | str) -> FrontEnd:
        """Restore a front end from `to_json`'s dict, or from its JSON text."""
        try:
            fields: dict[str, Any] = json.loads(value) if isinstance(value, str) else dict(value)
            config = FrontEndConfig(*(fields[name] for name in ("units", "language", "unknown")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"frontend: found bad JSON ({error}), expected units, language, unknown, names") from error
        return FrontEnd(config, Symbols.from_json(fields))


def make_front_end(config: FrontEndConfig, texts: Iterable[str] = ()) -> FrontEnd:
    """Build the front end of a voice.

    Args:
        config: settings.
        texts: the training texts; they determine the symbol table of graphemes and ipa.

    Example:
        >>> from speech_jax.text.config import FrontEndConfig
        >>> from speech_jax.text.frontend import make_front_end
        >>> front_end = make_front_end(FrontEndConfig(units="arpabet"))
        >>> front_end.decode(front_end.encode("Dr. Smith paid $2."))
        '{D AA1 K T ER0} {S M IH1 TH} {P EY1 D} {T UW1} {D AA1 L ER0 Z}.'
    """
    if config.units in ("tacotron2", "arpabet"):
        return FrontEnd(config, TACOTRON2)
    if config.units == "ipa":
        return FrontEnd(config, graphemes(phonemize_with_espeak(text, config.language) for text in texts))
    if config.language == "en":
        return FrontEnd(config, graphemes(read_english(text).text.lower() for text in texts))
    return FrontEnd(config, graphemes(_letters(text) for text in texts))


def _letters(text: str) -> str:
    """Return lower-case letters with marks, punctuation and spaces; reading digits and signs would need a grammar."""
    text = unicodedata.normalize("NFC", text).lower()
    return "".join(c for c in " ".join(text.split()) if c == " " or unicodedata.category(c)[0] in "LMP")


@functools.lru_cache(maxsize=1 << 14)
def _prepare(front_end: FrontEnd, text: str) -> Folded:
    config, table = front_end.config, front_end.symbols.characters()
    if config.units == "ipa":
        folded = fold(text, frozenset(c for c in text if unicodedata.category(c) in _ESPEAK_READS))
        if not any(unicodedata.category(c)[0] in "LN" for c in folded.text):
            return folded._replace(text="")
        return _fold_again(phonemize_with_espeak(folded.text, config.language), table, folded)
    if config.language != "en":
        return fold(text, table)
    spoken = read_english(text)
    if config.units == "arpabet":
        return spoken._replace(text=phonemize(spoken.text))
    # The public Tacotron 2 was trained on lower case; its capitals have no meaning.
    lower = re.sub(r"\{[^{}]*\}|[^{}]+", lambda m: m[0] if m[0][0] == "{" else m[0].lower(), spoken.text)
    if config.units == "tacotron2":
        return spoken._replace(text=lower)
    return _fold_again(lower, table, spoken)


def _fold_again(spoken: str, table: frozenset[str], earlier: Folded) -> Folded:
    """Fold `spoken` to the table's characters and append its changes, by position in `spoken`, to the earlier ones."""
    folded = fold(spoken, table)
    return Folded(folded.text, earlier.replaced + folded.replaced, earlier.unknown + folded.unknown)
