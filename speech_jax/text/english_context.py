"""The text around a match, which decides how an abbreviation or a figure is read."""

from __future__ import annotations

import re
from collections.abc import Callable

from speech_jax.text import numbers
from speech_jax.text.english_tables import NO_THINGS

Reader = Callable[[re.Match], str | None]
SENTENCE = r"\s(?:[A-Z][a-z]|[AI]\s)"  # the start of a sentence after a full stop, but not an acronym
_NEAR = 40  # the longest context that any reader uses
_DETERMINERS = "a|an|the|his|her|my|your|our|their|this|that|another|every|each"


def preceding(match: re.Match) -> str:
    """Return the text before the match."""
    return match.string[max(0, match.start() - _NEAR) : match.start()]


def following(match: re.Match) -> str:
    """Return the text after the match."""
    return match.string[match.end() : match.end() + _NEAR]


def stop(match: re.Match, before_capital: bool = True) -> str:
    """Return "." if the full stop of an abbreviation also ends the sentence, else ""."""
    rest = following(match)
    ends = not rest.strip() or (before_capital and re.match(SENTENCE, rest) is not None)
    return "." if ends and match[0].endswith(".") else ""


def before_a_thing(match: re.Match) -> bool:
    """Return True where a quantity describes the noun after it: "a $5 bill", "the 10 km run"."""
    thing = re.match(r"\s([a-z]{3,})", following(match))
    article = re.search(rf"\b(?:{_DETERMINERS})\s$", preceding(match), re.IGNORECASE)
    return article is not None and thing is not None and thing[1] not in NO_THINGS


def number(text: str) -> str:
    """Read a number, with decimals or a fraction after it: "1,234.5", ".5", "5 1/2", "3/4"."""
    if "/" in text:
        whole, _, part = text.replace("-", " ").rpartition(" ")
        top, _, bottom = part.partition("/")
        words = numbers.fraction(int(top), int(bottom))
        if words.startswith("one ") and whole:
            words = f"{'an' if words[4] in 'aeiou' else 'a'} {words[4:]}"
        return f"{number(whole)} and {words}" if whole else words
    whole, _, decimals = text.partition(".")
    return numbers.decimal(whole, decimals) if whole else f"point {numbers.digits(decimals)}"


def apply(readers: tuple[tuple[re.Pattern, Reader], ...], text: str) -> str:
    """Replace what the readers match by their words between spaces; a match that a reader refuses (None) stays."""
    for pattern, reader in readers:
        text = pattern.sub(lambda match, reader=reader: _spaced(match, reader), text)
    return text


def _spaced(match: re.Match, reader: Reader) -> str:
    words = reader(match)
    return match[0] if words is None else f" {words} "
