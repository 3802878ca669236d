"""Any Unicode text in the characters that a voice knows, with a list of everything that was replaced or left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from speech_jax.text.normalize import PLAIN_LETTERS
from speech_jax.text.symbols import describe


class Change(NamedTuple):
    """A character that is not in the result as it was written.

    position: where it stood in the text, from 0
    found:    the character, with the marks on it; or a phoneme in braces that there is not
    used:     what stands there now; empty where nothing does
    """

    position: int
    original: str
    replacement: str


class Folded(NamedTuple):
    """A text in known characters.

    text:     the result
    replaced: written in another way, or silent punctuation that was left out
    unknown:  cannot be spoken, and is missing in the result
    """

    text: str
    replaced: tuple[Change, ...]
    unknown: tuple[Change, ...]

    def warning(self) -> str:
        """One line that names what is missing; empty where nothing is."""
        found = [c.original if c.original.isascii() else c.original[0] for c in self.unknown[:8]]
        named = [f"{describe(what)} at {c.position + 1}" for what, c in zip(found, self.unknown, strict=False)]
        more = f" and {len(self.unknown) - 8} more" if len(self.unknown) > 8 else ""
        return f"left out: {', '.join(named)}{more}" if named else ""


# What may stand for a character, the first that is known. An empty string at the end: it is silent.
_ALTERNATIVES: dict[str, tuple[str, ...]] = {}
for _characters, _ways in (
    ("\u2018\u2019\u201a\u201b\u02bc\u02b9\u02bb\u2032\uff07\u0060\u00b4\u2039\u203a", ("'", "")),
    ("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02\u300c\u300d\u300e\u300f", ('"', "")),
    ('"', ("",)),
    ("\u2010\u2011\u2012\u2013\u00ad\u2212\ufe63\uff0d\u2043", ("-", "")),
    ("\u2014\u2015\u2e3a\u2e3b", (", ", "")),  # a dash is a pause, a hyphen is not
    ("\u2026", ("...", ".", "")),
    ("\u2044\u2215", ("/",)),
    ("[\u3010\u3014", ("(", "")),
    ("]\u3011\u3015", (")", "")),
    ("{}|<>*_~^\u00b6\u2020\u2021\u00a6", ("",)),
    ("\u2122\u00ae\u2120", ("",)),
    ("\u2022\u00b7\u25cf\u25aa\u2023\u30fb", (",", "")),
    ("\u3001\uff0c\u060c", (",", "")),
    ("\u3002\uff0e\u06d4\u0964", (".", "")),
    ("\u00bf\u00a1", ("",)),
    ("\u061f\uff1f", ("?", "")),
    ("\u061b\uff1b", (";", "")),
    ("\u00d7", ("x",)),
    ("\u03bc", ("\u00b5",)),
    ("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0e\ufe0f", ("",)),
    ("()!?,.;:'-", (",", ".", "")),
    ("\t\n\r\v\f\u0085\u2028\u2029", (" ",)),
):
    _ALTERNATIVES |= {character: _ways for character in _characters}


def fold(text: str, keep: frozenset[str]) -> Folded:
    """`text` in the characters of `keep`, one space apart.

    In this order: as it is, by `_ALTERNATIVES`, in Unicode's compatibility form (NFKC), in the other case, without its
    accents. What is left is unknown; a space takes its place, so that its neighbors do not become one word.
    """
    parts: list[str] = []
    replaced: list[Change] = []
    unknown: list[Change] = []
    for position, cluster in _clusters(text):
        used = _fold_cluster(cluster, keep)
        if used is None:
            unknown.append(Change(position, cluster, ""))
            parts.append(" ")
        else:
            if used != cluster and not (cluster.isspace() and used == " "):
                replaced.append(Change(position, cluster, used))
            # 5½ is 5 1/2 and not 51/2.
            if used[:1].isdigit() and "/" in used and parts and parts[-1][-1:].isdigit():
                parts.append(" ")
            parts.append(used)
    return Folded(" ".join("".join(parts).split()), tuple(replaced), tuple(unknown))


def _clusters(text: str) -> Iterator[tuple[int, str]]:
    """(position, a character with the combining marks on it)."""
    start = 0
    for i in range(1, len(text) + 1):
        # Clusters have at most 8 marks: more are no writing, and would make NFKC slow.
        if i == len(text) or i - start > 8 or unicodedata.category(text[i])[0] != "M":
            yield start, text[start:i]
            start = i


def _fold_cluster(cluster: str, keep: frozenset[str]) -> str | None:
    """None where no character of `keep` will do."""
    composed = unicodedata.normalize("NFC", cluster)
    if all(c in keep for c in composed):
        return composed
    parts = [_fold_character(c, keep) for c in composed]
    if None in parts:
        marks = unicodedata.normalize("NFD", composed)
        bare = "".join(c for c in marks if unicodedata.category(c)[0] != "M")
        parts = [_fold_character(c, keep) for c in bare] or [None]
    return None if None in parts else "".join(parts)


def _fold_character(character: str, keep: frozenset[str]) -> str | None:
    if character in keep:
        return character
    if character.isspace():
        return " "
    for way in _ALTERNATIVES.get(character, ()):
        if all(c in keep or c == " " for c in way):
            return way
    if character.isdecimal() and (figure := str(unicodedata.decimal(character))) in keep:
        return figure  # figures of other scripts
    compatible = unicodedata.normalize("NFKC", character)
    if compatible != character:
        parts = [_fold_character(c, keep) for c in compatible]
        if None not in parts:
            return "".join(parts)
    for other in (character.lower(), character.upper()):
        if other != character and other in keep:
            return other
    plain = character.lower().translate(PLAIN_LETTERS)
    plain = unicodedata.normalize("NFD", plain.capitalize() if character.isupper() else plain)
    plain = "".join(c for c in plain if unicodedata.category(c)[0] != "M")
    if plain and plain != character and all(c in keep for c in plain):
        return plain
    if plain and plain != character and all(c in keep for c in plain.lower()):
        return plain.lower()
    return None
