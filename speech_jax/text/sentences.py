"""Ends of sentences in written text of any language, and the cutting of a voice's symbols into pieces.

A text is read first and cut afterwards: marks that carry no sound go with it through the front end and say where
sentences end and where no cut may lie.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

END = "\ue001"  # in a text that is being read: a sentence ends here
GLUE = "\ue002"  # before a space: the words around it belong together
LONGEST = 200  # symbols of a piece; a longer sentence is cut at commas, else between words
SHORTEST = 30  # symbols, about two seconds; a shorter sentence is spoken together with its neighbor

_STOPS = ".!?…؟।॥۔"
_WIDE = "。！？｡．"  # of scripts without spaces
_CLOSING = "\"'”’»)]」』】）"
_OPENING = "\"'“‘„«([¿¡「『【（"
_STOP = re.compile(f"[{_STOPS}{_WIDE}]+[{re.escape(_CLOSING)}]*")
_PARAGRAPH = re.compile(r"\s*\n[^\S\n]*\n\s*")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
# Abbreviations that a name or the rest of the sentence follows: a stop after them ends none.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st mt ft rev hon gen col lt sgt capt cmdr gov sen rep pres messrs mme mlle mm vs cf eds approx "
    "dept univ assn str hr fr hrn dipl ing bzw ca evtl ggf inkl exkl vgl abb sog gem usf zzgl bspw tél env éd chap "
    "sr sra srta srs dra ud uds pág págs av avda tel sigg dott pag geom avv dhr mevr bijv blz exmo exma "
    "např tzv tj resp np tzn tzw ul godz inż mgr г гг ул стр см руб тыс млн млрд напр рис табл".split()
)
# Others are words, too, and abbreviations only before a number.
_BEFORE_NUMBERS = frozenset(
    "no nos nr núm čís vol vols fig figs eq ch sec p pp pg art abs bd kap kl bl "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri".split()
)
_ORDINALS = frozenset("bs cs da de et fi hr hu is lb lv nb nn no pl sk sl sr tr".split())


def mark_ends(text: str, language: str = "en") -> str:
    """Return `text` with the mark END after each sentence but the last, and after each paragraph.

    A stop is no end inside a token ("3.14", "example.com", "e.g."), after an initial or an abbreviation that something
    follows ("Dr. Smith", "z. B."), before a small letter and, in languages that write ordinals with one, after a number
    of two digits ("3. Mai").
    """
    ordinals = language.lower()[:2] in _ORDINALS
    paragraphs = _PARAGRAPH.split(text.strip())
    gaps = _PARAGRAPH.findall(text.strip())
    marked = [_mark_paragraph(paragraph, ordinals) for paragraph in paragraphs]
    return "".join(part + (END + gap if gap else "") for part, gap in zip(marked, [*gaps, ""], strict=True))


def split_paragraphs(text: str) -> list[tuple[int, str]]:
    """Return (position, text) of each paragraph; blank lines are between them."""
    starts = [0, *(match.end() for match in _PARAGRAPH.finditer(text))]
    ends = [*(match.start() for match in _PARAGRAPH.finditer(text)), len(text)]
    return [(start, text[start:end]) for start, end in zip(starts, ends, strict=True)]


def _mark_paragraph(text: str, ordinals: bool) -> str:
    cased = text != text.lower()
    parts, start = [], 0
    for match in _STOP.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, match, cased, ordinals):
            parts.append(text[start : match.end()] + END)
            start = match.end()
    return "".join([*parts, text[start:]])


def _ends_sentence(text: str, match: re.Match, cased: bool, ordinals: bool) -> bool:
    stops = match[0].rstrip(_CLOSING)
    if any(c in _WIDE for c in stops):
        return not text[match.end()].isdecimal()
    if not text[match.end()].isspace():
        return False
    following = text[match.end() : match.end() + 40].lstrip().lstrip(_OPENING)[:1]
    if any(c in "!?؟।॥۔" for c in stops):
        return not (stops != match[0] and following.islower())  # "Stop!" he said
    if following.islower() and cased:
        return False
    if stops != ".":
        return True
    word = text[max(0, match.start() - 40) : match.start()].split()[-1:] or [""]
    word = word[0].lstrip(_OPENING)
    if _INITIALS.fullmatch(word) and word.lower() != word.upper():
        return False
    ordinal = ordinals and word.isdecimal() and len(word) <= 2 and following.isalpha()
    numbered = word.lower() in _BEFORE_NUMBERS and following.isdecimal()
    return not ordinal and not numbered and word.lower() not in _ABBREVIATIONS


def cut_symbols(
    sentences: Sequence[Sequence[str]], longest: int = LONGEST, shortest: int = SHORTEST
) -> list[list[str]]:
    """Cut the symbols of sentences into pieces; only spaces at the cuts, and the marks, are dropped.

    A sentence of more than `longest` symbols is cut after a comma, else between words, else between symbols. One of
    fewer than `shortest` is joined with its neighbor, which may make `longest` + `shortest` symbols.

    Args:
        sentences: symbols by name: characters, phonemes such as "@HH", and the mark GLUE.
        longest: greatest number of symbols of a piece that is not joined.
        shortest: least number of symbols of a piece that has a neighbor.

    Returns:
        The symbols of each piece.
    """
    pieces: list[list[str]] = []
    for sentence in sentences:
        for number, part in enumerate(_cut(list(sentence), longest)):
            space = [" "] if part[:1] == [" "] else []
            part = _strip(part)
            before = pieces[-1] if pieces else []
            short = min(len(before), len(part)) < shortest and len(before) + len(part) < longest + shortest
            if before and short and (number > 0 or _is_punctuation(before[-1])):  # a heading stays alone
                before += space + part
            elif part:
                pieces.append(part)
    return [[name for name in piece if name != GLUE] for piece in pieces]


def _is_punctuation(name: str) -> bool:
    return len(name) == 1 and unicodedata.category(name)[0] == "P"


def _strip(names: list[str]) -> list[str]:
    first = next((i for i, name in enumerate(names) if name != " "), len(names))
    last = next((i for i in range(len(names), first, -1) if names[i - 1] != " "), first)
    return names[first:last]


def _cut(names: list[str], longest: int) -> list[list[str]]:
    parts = []
    while len(names) > longest:
        at = _place(names, longest)
        parts.append(names[:at])
        names = names[at:]
    return [*parts, names]


def _place(names: list[str], longest: int) -> int:
    """Return the last good place for a cut within the first `longest` symbols."""
    places = range(longest, longest // 4, -1)
    spaces = [i for i in places if names[i] == " "]
    words = [i for i in spaces if names[i - 1] not in (GLUE, ".")]  # a stop inside a sentence is an abbreviation's
    digits = [i for i in words if names[i - 1].isdecimal() and "".join(names[i + 1 : i + 2]).isdecimal()]
    commas = [i for i in places if names[i - 1] in "，、；：،؛" or (names[i] == " " and names[i - 1] in ",;:")]
    dashes = [i for i in spaces if names[i - 1] in "-–—" and names[i - 2] == " "]
    # in a word without an end: between its symbols, but not before a mark of the symbol before it
    inside = [i for i in places if names[i] != "ː" and unicodedata.category(names[i][-1])[0] != "M"]
    for choice in (commas, dashes, [i for i in words if i not in digits], spaces, inside):
        if choice:
            return choice[0]
    return longest
