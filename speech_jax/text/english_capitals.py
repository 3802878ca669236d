"""Roman numerals and words in capitals: "Henry VIII" is "Henry the eighth", "FBI" is spelled, "NASA" is a word."""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.english_context import following, preceding
from speech_jax.text.english_tables import CODAS, DOUBLED, MONARCHS, NUMBERED, ONSETS, RULERS, SPELLED, WORDS

# ---- Roman numerals

_VALID = r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_END = r"\b(?!'[a-rt-z]|-?[A-Za-z]|\.[A-Z])"
_AFTER_KING = re.compile(r"'s|\s(?:of|was|is|and|ruled|reigned|died|became|had|abdicated|married)\b|\s?[),.;?!]|\s*$")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_PARTS = "part|chapter|section|volume|act|scene|book|phase|stage"
_NAMED = re.compile(rf"\b([A-Z][A-Za-z]+|(?:{_PARTS})(?!\sI\s))(\s)({_VALID}){_END}")
_LOWER = re.compile(rf"\b((?i:{'|'.join(NUMBERED)}))(\s)((?i:x{{0,3}}(?:ix|iv|v?i{{0,3}})){_END})(?<=\w\w)")
_SECOND = re.compile(
    rf"(?P<first>\b(?:{'|'.join(NUMBERED)})\s(?:{_VALID}))(?P<joint>\s?-\s?|,?\s(?:and|or|to|through)\s)(?P<second>{_VALID}){_END}"
)
# No word and no acronym: II, III, VII, VIII, XII …, but not VI, IX or XXX.
_ALONE = re.compile(rf"(?<![\w.'-])(?!XXX)(?:II|(?=[IVX]{{3}})X{{0,3}}(?:IX|IV|V?I{{0,3}})){_END}")
_YEARS = re.compile(rf"\bM{{1,3}}(?:CM|CD|D?C{{0,3}})(?:XC|XL|L?X{{0,3}})(?:IX|IV|V?I{{0,3}}){_END}")
_CENTURY = re.compile(rf"\b({_VALID})(?=\s(?:century|Century|Olympi)){_END}")
_ORDINAL = re.compile(rf"\b(?=[IVX]{{2}})({_VALID})(?:st|nd|rd|th)\b")
_TENS, _ONES = ("", "x", "xx", "xxx", "xl", "l"), ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
NUMERALS = tuple(ten + one for ten in _TENS for one in _ONES if len(ten + one) > 1)


def _value(numeral: str) -> int:
    values = [_VALUES[c] for c in numeral.upper()]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def read_roman(text: str) -> str:
    """Replace Roman numerals by words where the word before shows that they are numbers."""
    text = _SECOND.sub(_joined, text)
    text = _CENTURY.sub(lambda m: numbers.ordinal(_value(m[1])), text)
    text = _ORDINAL.sub(lambda m: numbers.ordinal(_value(m[1])), text)
    text = _YEARS.sub(lambda m: numbers.year(_value(m[0])) if len(m[0]) >= 4 else m[0], text)
    text = _LOWER.sub(lambda m: f"{m[1]} {numbers.cardinal(_value(m[3]))}", text)
    return _ALONE.sub(lambda m: numbers.cardinal(_value(m[0])), _NAMED.sub(_roman, text))


def _joined(match: re.Match) -> str:
    """Read "Parts I and II" or "Acts I-III"."""
    name, first = match["first"].split()
    joint = " to " if "-" in match["joint"] else match["joint"]
    return f"{name} {numbers.cardinal(_value(first))}{joint}{numbers.cardinal(_value(match['second']))}"


def _roman(match: re.Match) -> str:
    name, numeral = match[1].capitalize(), match[3]
    value, rest = _value(numeral), following(match)
    if re.match(r"\s[A-Z]\b", rest):  # spelled letters
        return match[0]
    if numeral in ("C", "D", "L", "M"):
        return match[0]
    ruler = name in MONARCHS or re.search(rf"\b(?:{RULERS})\s(?:[A-Z][a-z]+\s)?$", preceding(match)) is not None
    if ruler and name not in NUMBERED and value < 40:
        if len(numeral) > 1 or _AFTER_KING.match(rest):
            return f"{match[1]} the {numbers.ordinal(value)}"
    elif name in NUMBERED:
        return f"{match[1]} {numbers.cardinal(value)}"
    elif len(numeral) > 1 and value < 40 and numeral not in ("IV", "XX", "XXX"):
        return f"{match[1]} {numbers.cardinal(value)}"
    return match[0]


# ---- Capitals

_CAPITALS = re.compile(r"\b([A-Z]{2,})('?s|'S)?\b")
_MIXED = re.compile(r"\b([a-z])([A-Z]{1,3})\b")
_LETTERS = re.compile(r"[A-Za-z]+")
_CLAUSE_OR_THE = re.compile(r"(?:^|[.,:;!?(]|\bTHE)\s*$", re.IGNORECASE)


def is_shouted(text: str) -> bool:
    """Return True for a text in capitals, whose words are ordinary words."""
    words = _LETTERS.findall(text)
    long = [word for word in words if len(word) > 1]
    shouted = sum(word.isupper() for word in long)
    everything = len(words) >= 3 and text.upper() == text and any(len(word) >= 4 for word in words)
    ordinary = any(word.isupper() and (len(word) >= 4 or word in WORDS) for word in long)
    return everything or (shouted >= 3 and shouted > 0.6 * len(long) and ordinary)


def read_capitals(text: str, *, shouted: bool) -> str:
    """Expand words in capitals: acronyms are spelled ("F B I") or words ("nasa"); shouted text is ordinary words."""

    def read(match: re.Match) -> str:
        word, ending = match[1], match[2] or ""
        spelled = DOUBLED.get(word) or (" ".join(word) if _is_spelled(match, shouted) else "")
        if spelled:
            return spelled + ("'s" if ending else "")
        return word.lower() + ending.lower()

    text = _MIXED.sub(lambda m: " ".join(m[0].upper()), text)  # pH, mRNA, iOS
    return _CAPITALS.sub(read, text)


def _is_spelled(match: re.Match, shouted: bool) -> bool:
    word = match[1]
    if word == "US" and shouted:  # the pronoun begins no clause
        return _CLAUSE_OR_THE.search(preceding(match)) is not None
    if word == "WHO" and not shouted:
        return preceding(match).endswith(("the ", "The "))
    if word in SPELLED or not _is_pronounceable(word.lower()):
        return True
    return len(word) <= 3 and word not in WORDS and not shouted


def _is_pronounceable(word: str) -> bool:
    """Return True for a word with a vowel, whose first and last consonants can stand there in English."""
    parts = re.fullmatch(r"([^aeiouy]*)(?:.*[aeiouy])?([^aeiouy]*)", word)
    assert parts is not None
    onset, coda = parts[1], parts[2]
    if onset == word:
        return False
    return (not onset or onset in ONSETS) and (not coda or coda in CODAS)
