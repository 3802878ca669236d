"""The symbols that a voice reads: the 148 of the public Tacotron 2, the letters of a language, or its phonemes.

A `Symbols` is what a tokenizer is for a recognizer, and has the same methods; id 0 is the padding. Between braces stand
phonemes, `{HH AH0 L OW1}`, wherever the table has them.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from speech_jax.core.errors import UserError

VOWELS = tuple("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CONSONANTS = tuple("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
# The phonemes of cmudict as it writes them: every vowel has its stress, 0 none, 1 primary, 2 secondary.
PHONES = tuple(sorted([v + stress for v in VOWELS for stress in "012"] + list(CONSONANTS)))
# The same with the vowels that bear no figure, as the public Tacotron 2 lists them: 84.
ARPABET = tuple(sorted([v + stress for v in VOWELS for stress in ("", "0", "1", "2")] + list(CONSONANTS)))
PAD = "_"
PHONE_MARK = "@"  # what a phoneme's name begins with in the table, so that "B" the letter is not "B" the phoneme
_INLINE = re.compile(r"\{([^{}]*)\}")
_SHOWN = 8  # unknown characters that an error names


@dataclass(frozen=True)
class Symbols:
    """Symbols by id: single characters, and phonemes as "@HH". `names[0]` is the padding, which no text contains."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or "" in self.names or not self.names:
            raise UserError("symbols: found an empty list, or empty or repeated symbols, expected each symbol once")
        for name in self.names:
            if len(name) != 1 and not name.startswith(PHONE_MARK):
                raise UserError(f"symbols: found {name!r}, expected single characters and phonemes like '@AA1'")

    @property
    def vocab_size(self) -> int:
        """Number of ids, the padding among them."""
        return len(self.names)

    def characters(self) -> frozenset[str]:
        """The characters that `encode` accepts outside braces."""
        return frozenset(name for name in self._ids if len(name) == 1)

    def phones(self) -> frozenset[str]:
        """The phonemes that `encode` accepts within braces, without their mark."""
        return frozenset(name[1:] for name in self._ids if len(name) > 1)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names) if i}

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Ids of `text`, one a character and one a phoneme of `{HH AH0}`.

        Raises UserError that opens with `source` and names what is not in the table, and where: character 1 is the
        first one.
        """
        ids: list[int] = []
        unknown: list[str] = []
        for position, name in self.pieces(text):
            if name in self._ids:
                ids.append(self._ids[name])
            else:
                unknown.append(f"{describe(name)} at {position + 1}")
        if unknown:
            shown = ", ".join(unknown[:_SHOWN]) + (" …" if len(unknown) > _SHOWN else "")
            known = "".join(sorted(self.characters()))
            known = known if len(known) <= 80 else known[:80] + "…"
            raise UserError(f"{source or 'text'}: found symbols outside the table: {shown}, expected {known!r}")
        return ids

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """(position, symbol's name) of everything in `text`. Braces hold phonemes only where the table has any."""
        found: list[tuple[int, str]] = []
        at = 0
        for match in _INLINE.finditer(text) if self.phones() else ():
            found += [(i, text[i]) for i in range(at, match.start())]
            found += [(match.start(1) + m.start(), PHONE_MARK + m[0]) for m in re.finditer(r"\S+", match[1])]
            at = match.end()
        return found + [(i, text[i]) for i in range(at, len(text))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: neighboring phonemes in one pair of braces, paddings left out."""
        parts: list[str] = []
        for i in ids:
            if not 0 <= int(i) < len(self.names):
                raise UserError(f"symbol ids: found {int(i)}, expected 0..{len(self.names) - 1}")
            name = self.names[int(i)]
            if int(i) == 0:
                continue
            if len(name) == 1:
                parts.append(name)
            elif parts and parts[-1].startswith("{"):
                parts[-1] = f"{parts[-1][:-1]} {name[1:]}}}"
            else:
                parts.append(f"{{{name[1:]}}}")
        return "".join(parts)

    def fingerprint(self) -> str:
        """SHA-256 of the list: equal for equal tables."""
        return hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values that `from_json` turns back into the same table."""
        return {"names": list(self.names)}

    @staticmethod
    def from_json(value: dict[str, Any] | str) -> Symbols:
        """The table of `to_json`'s dict, or of its JSON text."""
        try:
            names = (json.loads(value) if isinstance(value, str) else value)["names"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("names must be a list of strings")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"symbols: found bad JSON ({error}), expected names") from error
        return Symbols(tuple(names))


def describe(name: str) -> str:
    """A character with its number and name, or a phoneme, for an error: 'é' (U+00E9 LATIN SMALL LETTER …)."""
    if len(name) != 1:
        return f"phoneme {name.removeprefix(PHONE_MARK)!r}"
    return f"{name!r} (U+{ord(name):04X}{' ' + unicodedata.name(name) if unicodedata.name(name, '') else ''})"


def graphemes(texts: Iterable[str]) -> Symbols:
    """The characters of `texts`, sorted, after the padding: for letters of any language, and for phonemes in IPA."""
    found = sorted(set().union(*texts) - {PAD})
    if not found:
        raise UserError("symbols: found no characters in the training texts, expected at least one")
    return Symbols((PAD, *found))


PUNCTUATION = "!'(),.:;? "
_ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# The table of NVIDIA's Tacotron 2 (text/symbols.py there), in its order, so that its embedding can be taken as it is.
TACOTRON2 = Symbols((PAD, "-", *PUNCTUATION, *_ASCII, *_ASCII.lower(), *(PHONE_MARK + phone for phone in ARPABET)))
