"""Written text to spoken words, the same for training and for scoring.

English gets the full treatment: digits, ordinals, money, times and signs become words, letters lose their accents.
Every other language is folded lightly: lower case, one Unicode form, no punctuation; its digits stay, and the tokenizer
then names the line, because reading them needs a grammar that is not here.
"""

from __future__ import annotations

import re
import unicodedata

from speech_jax.core.errors import UserError
from speech_jax.text import numbers

LIGHT = ("none", "be", "bg", "ca", "cs", "da", "de", "el", "es", "fi", "fr", "hu", "it", "nl", "no", "pl", "pt", "ro")
LIGHT += ("ru", "sk", "sl", "sr", "sv", "tr", "uk")

# Letters that Unicode does not decompose into a plain letter and an accent.
_PLAIN = {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i", "ß": "ss"}
PLAIN_LETTERS = str.maketrans(_PLAIN)
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u02b9\uff07\u0060\u00b4\u2032", "'"))
_MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d", "-"))

_TITLES = {"mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "jr": "junior"}
_TITLES |= {"sr": "senior", "vs": "versus", "etc": "et cetera", "st": "saint", "mt": "mount"}
_SIGNS = {"%": "percent", "&": "and", "+": "plus", "@": "at", "=": "equals", "#": "pound", "*": "star"}
_SIGNS |= {"°": "degrees", "§": "section", "©": "copyright"}
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen")}
_WHOLE = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"


def normalize(text: str, language: str = "en") -> str:
    """Lower-case words, one space apart; apostrophes only between letters. normalize(normalize(x)) == normalize(x).

    language: "en", or one of `LIGHT` for the light folding ("none" where the language is not known).
    """
    check_language(language)
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES).translate(_MINUS)).translate(_APOSTROPHES)
    if language == "en":
        text = _english(_fold(text.lower()))
    else:
        text = unicodedata.normalize("NFC", text.lower())
    return _words_only(text)


def check_language(language: str) -> None:
    """Raises UserError where `normalize` does not know the language."""
    if language != "en" and language not in LIGHT:
        raise UserError(f"language: found {language!r}, expected en or one of {', '.join(LIGHT)}")


def _fold(text: str) -> str:
    """Latin letters without accents; other scripts as they are. A mark on anything but a letter is dropped."""
    parts, bears_marks = [], False
    for character in unicodedata.normalize("NFD", text.translate(PLAIN_LETTERS)):
        if unicodedata.category(character)[0] == "M":
            if bears_marks:
                parts.append(character)
            continue
        bears_marks = character.isalpha() and not character.isascii()
        parts.append(character)
    return unicodedata.normalize("NFC", "".join(parts))


def _words_only(text: str) -> str:
    """Letters, their marks, digits, and apostrophes between letters; all else becomes a space."""
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    kept = re.sub(r"(?<![^\W\d_])'|'(?![^\W\d_])", " ", kept)
    return " ".join(kept.split())


def _english(text: str) -> str:
    """Figures and signs of lower-case text as words. The order matters: the longest forms are read first."""
    text = re.sub(r"\b(" + "|".join(_TITLES) + r")\.", lambda m: _TITLES[m[1]] + " ", text)
    for pattern, reader in _READERS:
        text = pattern.sub(lambda m, reader=reader: f" {reader(m)} ", text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, f" {word} ")
    return text


def _money(match: re.Match) -> str:
    return numbers.money(match["whole"], match["cents"], match["scale"], *_MONEY[match["sign"]])


def _plain(match: re.Match) -> str:
    sign = "minus " if match["minus"] else ""
    return sign + numbers.decimal(match["whole"], match["decimals"])


# All patterns see lower-case text. `\d` would match every script's digits, so re.ASCII is set.
_READERS = tuple(
    (re.compile(pattern, re.ASCII), reader)
    for pattern, reader in (
        (
            rf"(?P<sign>[$€£¥])\s?(?P<whole>{_WHOLE})(?:\.(?P<cents>\d{{1,2}})(?!\d))?"
            r"(?:\s(?P<scale>hundred|thousand|million|billion|trillion))?",
            _money,
        ),
        # A time has two digits of minutes and is no longer chain of colons.
        (
            r"(?<![\d:])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?![\d:])",
            lambda m: numbers.time_of_day(int(m["hour"]), int(m["minute"])),
        ),
        (r"(?<![\d.])(\d{1,4})\s?/\s?(\d{1,4})(?![\d./])", lambda m: numbers.fraction(int(m[1]), int(m[2]))),
        (rf"({_WHOLE})(?:st|nd|rd|th)\b", lambda m: numbers.ordinal(numbers.parse(m[1]))),
        (r"(?<!\d)(\d+)'?s\b", lambda m: numbers.plural(numbers.year_or_number(m[1]))),
        # Versions and addresses: 1.4.2
        (r"(?<![\d.])\d+(?:\.\d+){2,}", lambda m: " point ".join(numbers.cardinal(int(p)) for p in m[0].split("."))),
        (r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(?![\d,.]*\d)", lambda m: numbers.year(int(m[1]))),
        (rf"(?P<minus>(?<![\w\d)-])-)?(?P<whole>{_WHOLE})(?:\.(?P<decimals>\d+))?", _plain),
    )
)
