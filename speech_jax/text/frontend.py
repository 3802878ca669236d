"""Text front end of a voice: written text to symbol ids, as one object that a checkpoint stores.

It has a tokenizer's interface (`encode`, `decode`, `vocab_size`, `characters`, `fingerprint`, `to_json`), so data/ can
use it in place of one. Nothing is dropped silently: a character that cannot be spoken is an error that names it, its
word and its place in the written text or, with `unknown = "skip"`, a warning.

`encode` gives a training text's symbols, `split` the same symbols cut into the pieces that a voice synthesizes.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.text.characters import lower, small_i
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.espeak import phonemize_with_espeak, phonemize_words
from speech_jax.text.fold import Change, Folded, fold
from speech_jax.text.phonemes import phonemize
from speech_jax.text.sentences import END, GLUE, LONGEST, cut_symbols, mark_ends, split_paragraphs
from speech_jax.text.symbols import TACOTRON2, Symbols, describe, graphemes
from speech_jax.text.tags import blank_tags

# Letters, marks, digits, punctuation, currency and math signs, spaces. No emoji: espeak-ng drops most of them silently.
_ESPEAK_READS = frozenset("Lu Ll Lt Lm Lo Mn Mc Nd Nl No Pc Pd Ps Pe Pi Pf Po Sc Sm Zs".split())
_SHOWN = 40  # characters of a text that an error shows
_NAMED = 8  # unknown symbols that a message names
_MARKS = frozenset((END, GLUE))
_NO_MARKS = {ord(END): "\ufffd", ord(GLUE): "\ufffd"}  # in a written text they are characters like others
# Sounds near to one that a voice does not have, the nearest first; "" where the sound before it says enough.
_NEAR = {
    "ʔ": "t", "θ": "tfs", "ð": "dz", "ɾ": "tdr", "ɹ": "rʁɾ", "r": "ɹʁɾ", "ʁ": "rɹʀ", "ʀ": "ʁr", "ɫ": "l", "ɭ": "l",
    "x": "hk", "χ": "xhk", "ç": "ʃx", "ɕ": "ʃ", "ʑ": "ʒ", "ʂ": "ʃ", "ʐ": "ʒ", "ɦ": "h", "ʍ": "w", "ŋ": "n", "ɲ": "n",
    "ʎ": "lj", "ɡ": "gk", "g": "ɡk", "ʋ": "vw", "β": "bv", "ɸ": "f", "ɣ": "ɡg", "ʃ": "s", "ʒ": "zʃ",
    "y": "iu", "ʏ": "ɪiy", "ø": "eœ", "œ": "ɛøe", "ɨ": "iɪ", "ᵻ": "ɪi", "ɜ": "əɛ", "ɐ": "əa", "ɚ": "ə", "ɝ": "ɚɜə",
    "ɑ": "aɔ", "ɒ": "ɔɑo", "ʌ": "ɐəa", "æ": "aɛ", "ɪ": "i", "ʊ": "u", "ɔ": "o", "ɛ": "e", "ə": "ɐɛe", "ɵ": "oø",
    "ʉ": "uy", "ɯ": "u", "ɤ": "o",
}  # fmt: skip


class TextPiece(NamedTuple):
    """Piece of a text as a voice speaks it.

    Attributes:
        text: The text as spoken, in the voice's symbols; phonemes in braces.
        ids: The ids of its symbols.
    """

    text: str
    ids: list[int]


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
    def language(self) -> str:
        """The language whose rules read the texts, under the name that a tokenizer uses."""
        return self.config.language

    @property
    def vocab_size(self) -> int:
        """Number of symbol ids, padding included."""
        return self.symbols.vocab_size

    def characters(self) -> frozenset[str]:
        """Return the characters of the table."""
        return self.symbols.characters()

    def with_unknown(self, unknown: Literal["error", "skip"]) -> FrontEnd:
        """Return the front end with another handling of characters that cannot be spoken."""
        return replace(self, config=replace(self.config, unknown=unknown))

    def prepare(self, text: str) -> Folded:
        """Return the text as spoken, in the table's symbols, with replaced and unknown characters by position."""
        marked = _prepare(self, text)
        return marked._replace(text=marked.text.replace(END, "").replace(GLUE, ""))

    def encode(self, text: str, *, source: str = "") -> list[int]:
        """Return the symbol ids of a text.

        Args:
            text: written text.
            source: position of the text ("FILE:LINE"), for messages.

        Raises:
            UserError: nothing to speak, or a character that cannot be spoken (a warning with `unknown = "skip"`).
        """
        spoken = self._spoken(text, source).replace(END, "").replace(GLUE, "")
        return self.symbols.encode(spoken, source=source)

    def split(self, text: str, *, source: str = "", longest: int = LONGEST) -> list[TextPiece]:
        """Read a text as `encode` does, and cut what is spoken into pieces.

        Together the pieces have the symbols of `encode`, but for spaces at the cuts and pieces without a word. A piece
        is a sentence, several short ones, or a part of one of more than `longest` symbols, see `cut_symbols`.

        Args:
            text: written text, of any length.
            source: position of the text ("FILE:LINE"), for messages.
            longest: greatest number of symbols of a piece.

        Raises:
            UserError: as `encode` does.

        Example:
            >>> from speech_jax.text.config import FrontEndConfig
            >>> from speech_jax.text.frontend import make_front_end
            >>> front_end = make_front_end(FrontEndConfig())
            >>> text = "Dr. Smith of No. 5, Main St., had paid $2.50. He said so twice, at 10:30 a.m. and later."
            >>> for piece in front_end.split(text):
            ...     print(piece.text)
            doctor smith of number five, main street, had paid two dollars and fifty cents.
            he said so twice, at ten thirty a m and later.
        """
        spoken = self._spoken(text, source)
        if len(spoken) <= longest and END not in spoken:
            spoken = spoken.replace(GLUE, "")
        names = [self._names(sentence, source) for sentence in spoken.split(END)]
        pieces = [[self.symbols.id_of(name) for name in piece] for piece in cut_symbols(names, longest)]
        texts = [self.decode(piece) for piece in pieces]
        return [TextPiece(t, ids) for t, ids in zip(texts, pieces, strict=True) if any(c.isalpha() for c in t)]

    def _names(self, marked: str, source: str) -> list[str]:
        """Return the names of a sentence's symbols, and GLUE before spaces at which no cut may lie."""
        parts = [self.symbols.encode(part, source=source) for part in marked.split(GLUE)]
        names = [[self.symbols.names[i] for i in part] for part in parts]
        return [name for part in names for name in (*part, GLUE)][:-1]

    def _spoken(self, text: str, source: str) -> str:
        """Return the text as spoken, with marks. Raises UserError as `encode` does."""
        spoken = _prepare(self, text)
        if spoken.unknown and self.config.unknown == "error":
            named, known = name_unknown(text, spoken.unknown, skip=False), "".join(sorted(self.characters()))[:80]
            raise UserError(f"{source or 'text'}: found {named}, expected symbols of the voice: {known!r}")
        if spoken.unknown:
            count = len(spoken.unknown)
            named = name_unknown(text, spoken.unknown, skip=True)
            log.warning("%s: left out or replaced %d: %s", source or "text", count, named)
        if not any(character.isalpha() for character in spoken.text):
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            raise UserError(f"{source or 'text'}: found {shown!r}, expected something to speak")
        return spoken.text

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
            if not all(isinstance(fields[name], str) for name in ("units", "language", "unknown")):
                raise TypeError("units, language and unknown must be strings")
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
        marked = (mark_ends(text.translate(_NO_MARKS), config.language) for text in texts)
        spoken = (phonemize_with_espeak(text, config.language) for text in marked)
        return FrontEnd(config, graphemes(text.replace(END, "") for text in spoken))
    if config.language == "en":
        return FrontEnd(config, graphemes(_read_english(text).text.lower() for text in texts))
    return FrontEnd(config, graphemes(_letters(text, config.language) for text in texts))


def _letters(text: str, language: str) -> str:
    """Return lower-case letters with marks, punctuation and spaces; reading digits and signs would need a grammar."""
    text = lower(unicodedata.normalize("NFC", blank_tags(text)[0]), language)
    return "".join(c for c in " ".join(text.split()) if c == " " or unicodedata.category(c)[0] in "LMP")


def name_unknown(text: str, unknown: Sequence[Change], *, skip: bool) -> str:
    """Return one line that names unknown symbols, each with its word and its place in the written text."""
    named = []
    for change in unknown[:_NAMED]:
        symbol = describe(change.original if change.original.isascii() else change.original[0])
        near = text[max(0, change.position - _SHOWN) : change.position], text[change.position :]
        word = re.split(r"\s", near[0])[-1] + re.split(r"\s", near[1], maxsplit=1)[0]
        word = f" in {word[:_SHOWN]!r}" if word != change.original else ""
        before = text[: change.position].split("\n")
        place = f"character {len(before[-1]) + 1}"
        place = f"line {len(before)}, {place}" if "\n" in text.strip() else place
        other = "read as" if skip else "unknown = 'skip' reads it as"
        other = f" ({other} {change.replacement!r})" if change.replacement else ""
        named.append(f"{symbol}{word} at {place}{other}")
    rest = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return ", ".join(named) + rest


@functools.lru_cache(maxsize=1 << 14)
def _prepare(front_end: FrontEnd, text: str) -> Folded:
    """Return the text as spoken, with marks of sentences' ends and of spaces that are no place for a cut."""
    config, table = front_end.config, front_end.symbols.characters()
    if config.units != "ipa" and config.language != "en":
        text, tags = blank_tags(text)
        lower = text if "I" in table else small_i(text, config.language)
        marked = mark_ends(lower.translate(_NO_MARKS), config.language)
        folded = fold(marked, table | _MARKS)
        spaces = folded.text if " " in table else folded.text.replace(" ", "")
        replaced = (*(Change(tag.position, tag.text, "") for tag in tags), *folded.replaced)
        return Folded(spaces, replaced, tuple(_without_marks(marked, folded.unknown)))
    if config.units == "ipa":
        text = blank_tags(text)[0]
        marked = mark_ends(text.translate(_NO_MARKS), config.language)
        folded = fold(marked, _MARKS.union(c for c in text if unicodedata.category(c) in _ESPEAK_READS))
        folded = folded._replace(unknown=tuple(_without_marks(marked, folded.unknown)))
        if not any(unicodedata.category(c)[0] in "LN" for c in folded.text):
            return folded._replace(text="")
        return _in_table(front_end, text, phonemize_with_espeak(folded.text, config.language), folded)
    spoken = _read_paragraphs(text)
    if config.units == "arpabet":
        # "\x1f" counts as space: the words around the mark are neighbors, which may decide a pronunciation
        return spoken._replace(text=phonemize(spoken.text.replace(GLUE, "\x1f")).replace("\x1f", GLUE))
    # The public Tacotron 2 was trained on lower case; its capitals have no meaning.
    lower = re.sub(r"\{[^{}]*\}|[^{}]+", lambda m: m[0] if m[0][0] == "{" else m[0].lower(), spoken.text)
    if config.units == "tacotron2":
        return spoken._replace(text=lower)
    return _in_table(front_end, text, lower, spoken)


def _without_marks(marked: str, unknown: Iterable[Change]) -> Iterator[Change]:
    """Yield changes with their positions in the text without marks."""
    for change in unknown:
        yield change._replace(position=change.position - marked.count(END, 0, change.position))


_BRACE = re.compile(r"\{[^{}]*\}|([{}])")
_FIGURES = (
    "zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|"
    "billion|trillion|point|minus"
)
_TOGETHER = re.compile(
    rf"\{{[^{{}}]*\}}|\b(?:(?i:{_FIGURES})(?: and)?(?= (?i:{_FIGURES})\b)|(?:dot|slash|underscore)(?= )|"
    r"\w+(?= (?:dot|slash)\b)|[A-Z](?= [A-Z]\b)|(?:Doctor|Mister|Missus|Miss|Professor|Saint|Number|number)(?= ))"
)


def _read_paragraphs(text: str) -> Folded:
    """Read English; a brace without its other half is unknown: the phonemes after it would be read as letters."""
    parts, replaced = [], []
    unknown = [Change(match.start(), match[1], "") for match in _BRACE.finditer(text) if match[1]]
    for start, paragraph in split_paragraphs(text):
        spoken = _read_english(paragraph)
        if spoken.text:
            parts.append(_TOGETHER.sub(lambda m: m[0] + GLUE * (m[0][0] != "{"), mark_ends(spoken.text)))
        replaced += [c._replace(position=c.position + start) for c in spoken.replaced]
        unknown += [c._replace(position=c.position + start) for c in spoken.unknown]
    return Folded(f"{END} ".join(parts), tuple(replaced), tuple(sorted(unknown)))


def _in_table(front_end: FrontEnd, text: str, spoken: str, earlier: Folded) -> Folded:
    """Fold `spoken`, the reading of `text`, to the table's characters.

    A sound outside the table is unknown at the place of the word that has it, and replaced by a near one if the table
    has one.
    """
    table = front_end.symbols.characters()
    folded = fold(spoken, table | _MARKS)
    if not folded.unknown:
        return Folded(folded.text, earlier.replaced, earlier.unknown)
    missing = dict.fromkeys(change.original for change in folded.unknown)
    near = {c: next((n for n in _NEAR.get(c, "") if n in table), "") for c in missing}
    folded = fold("".join(near.get(c) or c for c in spoken), table | _MARKS)
    words = [(match.start(), match[0]) for match in re.finditer(r"\S+", text)]
    readings = _read_words(front_end.config, [word for _, word in words])
    unknown = [
        Change(start, c, near[c])
        for (start, word), reading in zip(words, readings, strict=True)
        for c in missing
        if c in reading and not any(start <= change.position < start + len(word) for change in earlier.unknown)
    ]
    elsewhere = [c for c in missing if c not in {change.original for change in unknown}]  # of a reading in context
    unknown += [Change(words[0][0], c, near[c]) for c in elsewhere]
    return Folded(folded.text, earlier.replaced, tuple(sorted((*earlier.unknown, *unknown))))


def _read_english(text: str) -> Folded:
    from speech_jax.text.english import read_english  # slow to import: it compiles many patterns

    return read_english(text)


def _read_words(config: FrontEndConfig, words: Sequence[str]) -> list[str]:
    """Return the reading of each word alone."""
    if config.units == "ipa":
        return phonemize_words(words, config.language)
    return [_read_english(word).text.lower() for word in words]
