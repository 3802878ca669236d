"""Conversion of Unicode text to a limited set of characters, with a list of everything replaced or left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from speech_jax.text.characters import PLAIN_LETTERS, SUPERSCRIPTS, is_format
from speech_jax.text.symbols import describe


class Change(NamedTuple):
    """A character that was replaced or left out.

    Attributes:
        position: index in the text, from 0.
        original: the character with its combining marks, or an unknown phoneme in braces.
        replacement: the text in its place; empty if it was left out.
    """

    position: int
    original: str
    replacement: str


class Folded(NamedTuple):
    """A text in the allowed characters.

    Attributes:
        text: the result.
        replaced: characters with a replacement, and silent punctuation that was left out.
        unknown: characters that cannot be represented and were left out.
    """

    text: str
    replaced: tuple[Change, ...]
    unknown: tuple[Change, ...]

    def warning(self) -> str:
        """Return one line that names the unknown characters; empty if there are none."""
        characters = [c.original if c.original.isascii() else c.original[0] for c in self.unknown[:8]]
        named = [f"{describe(name)} at {c.position + 1}" for name, c in zip(characters, self.unknown, strict=False)]
        rest = f" and {len(self.unknown) - 8} more" if len(self.unknown) > 8 else ""
        return f"left out: {', '.join(named)}{rest}" if named else ""


# Replacements of a character, in order of preference. An empty string at the end: it may be left out as silent.
_ALTERNATIVES: dict[str, tuple[str, ...]] = {}
for _characters, _replacements in (
    ("\u2018\u2019\u201a\u201b\u02bc\u02b9\u02bb\u2032\uff07\u0060\u00b4\u2039\u203a", ("'", "")),
    ("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02\u300c\u300d\u300e\u300f", ('"', "")),
    ('"', ("",)),
    ("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d\u2043", ("-", "")),
    ("\u2014\u2015\u2e3a\u2e3b", (", ", "")),  # a dash is a pause, a hyphen is not
    ("\u2026", ("...", ".", "")),
    ("\u2044\u2215", ("/",)),
    ("[\u3010\u3014", ("(", "")),
    ("]\u3011\u3015", (")", "")),
    ("{}|<>*_~^\u00b6\u2020\u2021\u00a6", ("",)),
    ("\u2122\u00ae\u2120", ("",)),
    ("\u2022\u00b7\u25cf\u25aa\u2023\u30fb\u2219\u22c5\u25e6\u25cb\u25a0\u25a1\u25c6\u25c7", (",", "")),
    ("\u00ba", ("\u00b0",)),
    ("\u3001\uff0c\u060c", (",", "")),
    ("\u3002\uff0e\u06d4\u0964", (".", "")),
    ("\u00bf\u00a1", ("",)),
    ("\u061f\uff1f", ("?", "")),
    ("\u061b\uff1b", (";", "")),
    ("\u00d7", ("x",)),
    ("\u03bc", ("\u00b5",)),
    ("\ufe0e\ufe0f", ("",)),
    ("()!?,.;:'-", (",", ".", "")),
    ("\t\n\r\v\f\u0085\u2028\u2029", (" ",)),
):
    _ALTERNATIVES |= {character: _replacements for character in _characters}
_ALTERNATIVES |= {character: (power,) for character, power in SUPERSCRIPTS.items()}


def fold(text: str, keep: frozenset[str]) -> Folded:
    """Rewrite `text` in the characters of `keep`, words one space apart.

    Each character is tried in this order: unchanged, a common replacement (such as straight quotes), Unicode's
    compatibility form (NFKC), the other case, without accents. Characters left over are unknown; a space replaces
    them, so that the words around them do not merge.
    """
    parts: list[str] = []
    replaced: list[Change] = []
    unknown: list[Change] = []
    for position, cluster in _clusters(text):
        replacement = _fold_cluster(cluster, keep)
        if replacement is None:
            unknown.append(Change(position, cluster, ""))
            parts.append(" ")
        else:
            if replacement != cluster and not (cluster.isspace() and replacement == " "):
                replaced.append(Change(position, cluster, replacement))
            # 5½ is 5 1/2 and not 51/2.
            if replacement[:1].isdigit() and "/" in replacement and parts and parts[-1][-1:].isdigit():
                parts.append(" ")
            parts.append(replacement)
    return Folded(" ".join("".join(parts).split()), tuple(replaced), tuple(unknown))


def _clusters(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position, character with its combining marks)."""
    start = 0
    for i in range(1, len(text) + 1):
        # At most 8 marks per cluster: more occur in no writing system and would make NFKC slow.
        if i == len(text) or i - start > 8 or unicodedata.category(text[i])[0] != "M":
            yield start, text[start:i]
            start = i


def _fold_cluster(cluster: str, keep: frozenset[str]) -> str | None:
    """Return the cluster in characters of `keep`, or None if there are none."""
    composed = unicodedata.normalize("NFC", cluster)
    if all(c in keep for c in composed):
        return composed
    folded = _fold_each(composed, keep)
    if folded is None:
        marks = unicodedata.normalize("NFD", composed)
        bare = "".join(c for c in marks if unicodedata.category(c)[0] != "M")
        folded = _fold_each(bare, keep) if bare else None
    return folded


def _fold_each(text: str, keep: frozenset[str]) -> str | None:
    """None where one of the characters cannot be folded."""
    parts = [part for c in text if (part := _fold_character(c, keep)) is not None]
    return "".join(parts) if len(parts) == len(text) else None


def _fold_character(character: str, keep: frozenset[str]) -> str | None:
    if character in keep:
        return character
    if character.isspace():
        return " "
    if is_format(character):
        return ""
    for replacement in _ALTERNATIVES.get(character, ()):
        if all(c in keep or c == " " for c in replacement):
            return replacement
    if character.isdecimal() and (digit := str(unicodedata.decimal(character))) in keep:
        return digit  # digits of other scripts
    compatible = unicodedata.normalize("NFKC", character)
    if compatible != character:
        folded = _fold_each(compatible, keep)
        if folded is not None:
            return folded
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
