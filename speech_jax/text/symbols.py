"""Input symbols of a voice: the 148 of the public Tacotron 2, the letters of a language, or its phonemes.

`Symbols` has the methods of a recognizer's tokenizer; id 0 is the padding. In texts, phonemes are written in braces,
`{HH AH0 L OW1}`, if the table has any.
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
# The phonemes of cmudict: every vowel carries its stress, 0 none, 1 primary, 2 secondary.
PHONES = tuple(sorted([v + stress for v in VOWELS for stress in "012"] + list(CONSONANTS)))
# The same and vowels without stress, as in the public Tacotron 2: 84.
ARPABET = tuple(sorted([v + stress for v in VOWELS for stress in ("", "0", "1", "2")] + list(CONSONANTS)))
PAD = "_"
PHONE_MARK = "@"  # prefix of phonemes in the table, to tell the letter "B" from the phoneme "B"
_INLINE = re.compile(r"\{([^{}]*)\}")
_SHOWN = 8  # unknown characters that an error names


@dataclass(frozen=True)
class Symbols:
    """A table of symbols and their ids.

    Attributes:
        names: symbols by id: single characters, and phonemes as "@HH". `names[0]` is the padding, which no text
            contains.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or "" in self.names or not self.names:
            raise UserError("symbols: found an empty list, or empty or repeated symbols, expected each symbol once")
        for name in self.names:
            if len(name) != 1 and not name.startswith(PHONE_MARK):
                raise UserError(f"symbols: found {name!r}, expected single characters and phonemes like '@AA1'")

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding included."""
        return len(self.names)

    def characters(self) -> frozenset[str]:
        """Return the characters that `encode` accepts outside braces."""
        return frozenset(name for name in self._ids if len(name) == 1)

    def phones(self) -> frozenset[str]:
        """Return the phonemes that `encode` accepts within braces, without their mark."""
        return frozenset(name[1:] for name in self._ids if len(name) > 1)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names) if i}

    def id_of(self, name: str) -> int:
        """Return the id of a symbol by its name in the table."""
        return self._ids[name]

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Return the ids of `text`, one per character and per phoneme of `{HH AH0}`.

        Args:
            text: text in the table's symbols.
            source: position of the text ("FILE:LINE"), for messages.

        Raises:
            UserError: symbols outside the table; the message gives their positions, counting from 1.
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
            expected = "".join(sorted(self.characters()))
            expected = expected if len(expected) <= 80 else expected[:80] + "…"
            raise UserError(f"{source or 'text'}: found symbols outside the table: {shown}, expected {expected!r}")
        return ids

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Return (position, symbol name) of each symbol in `text`; braces enclose phonemes if the table has any."""
        symbols: list[tuple[int, str]] = []
        position = 0
        for match in _INLINE.finditer(text) if self.phones() else ():
            symbols += [(i, text[i]) for i in range(position, match.start())]
            symbols += [(match.start(1) + m.start(), PHONE_MARK + m[0]) for m in re.finditer(r"\S+", match[1])]
            position = match.end()
        return symbols + [(i, text[i]) for i in range(position, len(text))]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without padding, with adjacent phonemes in one pair of braces."""
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
        """Return the SHA-256 of the list of symbols; equal for equal tables."""
        return hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON values, from which `from_json` restores the table."""
        return {"names": list(self.names)}

    @staticmethod
    def from_json(value: dict[str, Any] | str) -> Symbols:
        """Restore a table from `to_json`'s dict, or from its JSON text."""
        try:
            names = (json.loads(value) if isinstance(value, str) else value)["names"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("names must be a list of strings")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"symbols: found bad JSON ({error}), expected names") from error
        return Symbols(tuple(names))


def describe(name: str) -> str:
    """Describe a symbol for an error: a character with its Unicode name, 'é' (U+00E9 LATIN SMALL …), or a phoneme."""
    if len(name) != 1:
        return f"phoneme {name.removeprefix(PHONE_MARK)!r}"
    return f"{name!r} (U+{ord(name):04X}{' ' + unicodedata.name(name) if unicodedata.name(name, '') else ''})"


def graphemes(texts: Iterable[str]) -> Symbols:
    """Return the table of all characters of `texts`, sorted, after the padding: letters, or phonemes in IPA."""
    characters = sorted(set().union(*texts) - {PAD})
    if not characters:
        raise UserError("symbols: found no characters in the training texts, expected at least one")
    return Symbols((PAD, *characters))


PUNCTUATION = "!'(),.:;? "
_ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# The table of NVIDIA's Tacotron 2 (its text/symbols.py), in the same order, so that its embedding can be used directly.
TACOTRON2 = Symbols((PAD, "-", *PUNCTUATION, *_ASCII, *_ASCII.lower(), *(PHONE_MARK + phone for phone in ARPABET)))
