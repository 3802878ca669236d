"""Normalization of written text to spoken words, the same for training and for scoring.

For English, digits, ordinals, money, times and signs become words, and letters lose their accents. Other languages are
only lower-cased, brought to one Unicode form and stripped of punctuation. Their digits stay, since reading them needs a
grammar; the tokenizer then reports the line.
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
# English ASCII text in which these are not found needs no `_english`: every reader wants a figure.
_SIGN_OR_FIGURE = re.compile(r"[\d$" + "".join(sign for sign in _SIGNS if sign.isascii()) + "]")
_TITLE = re.compile(r"\.(?:" + "|".join(rf"(?<=\b{title}\.)" for title in _TITLES) + ")")  # begins at the dot: fast


def normalize(text: str, language: str = "en") -> str:
    """Normalize text to lower-case words, one space apart, with apostrophes only between letters.

    Idempotent: normalize(normalize(x)) == normalize(x).

    Args:
        text: written text.
        language: "en", or one of `LIGHT` for the reduced normalization ("none" for an unknown language).

    Raises:
        UserError: the language is not supported.

    Example:
        >>> from speech_jax.text.normalize import normalize
        >>> normalize("Dr. Gray's café opens at 9:30; entry is $2.50.")
        "doctor gray's cafe opens at nine thirty entry is two dollars and fifty cents"
        >>> normalize("Grüße aus Köln!", "de")
        'grüße aus köln'
    """
    check_language(language)
    if text.isascii():  # most of a large set; nothing to compose or to fold
        text = text.lower().replace("`", "'")
        if language == "en" and (_SIGN_OR_FIGURE.search(text) or _TITLE.search(text)):
            text = _english(text)
        return _ascii_words_only(text)
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES).translate(_MINUS)).translate(_APOSTROPHES)
    if language == "en":
        text = _english(_fold(text.lower()))
    else:
        text = unicodedata.normalize("NFC", text.lower())
    return _words_only(text)


def check_language(language: str) -> None:
    """Raise UserError if `normalize` does not support the language."""
    if language != "en" and language not in LIGHT:
        raise UserError(f"language: found {language!r}, expected en or one of {', '.join(LIGHT)}")


def _fold(text: str) -> str:
    """Remove accents from Latin letters, and marks on anything but a letter; other scripts stay."""
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
    """Keep letters, their marks, digits, and apostrophes between letters; all else becomes a space."""
    kept = re.sub(r"(?<![^\W\d_])'|'(?![^\W\d_])", " ", text.translate(_KEPT))
    return " ".join(kept.split())


def _ascii_words_only(text: str) -> str:
    """`_words_only` of lower-case ASCII."""
    text = text.translate(_ASCII_KEPT)
    return " ".join((_LOOSE_APOSTROPHE.sub(" ", text) if "'" in text else text).split())


class _Kept(dict):
    """A table for `str.translate`: letters, marks, figures and apostrophes stay, all else becomes a space."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        self[code] = code if character == "'" or unicodedata.category(character)[0] in "LMN" else ord(" ")
        return self[code]


_KEPT = _Kept()
_ASCII_KEPT = "".join(chr(_KEPT[code]) for code in range(128))
_LOOSE_APOSTROPHE = re.compile(r"(?<![a-z])'|'(?![a-z])")


def _english(text: str) -> str:
    """Replace figures and signs of lower-case text by words, the longest forms first."""
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
        # A time has two digits of minutes and no further colons.
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
