"""Unicode characters of written text: format characters, compatibility forms, apostrophes, and case by language.

Used by normalize.py (labels and scores) and fold.py (a voice's text), so that both see the same letters.
"""

from __future__ import annotations

import functools
import re
import unicodedata

# Letters that Unicode does not decompose into a plain letter and an accent.
_PLAIN = {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i", "ß": "ss"}
PLAIN_LETTERS = str.maketrans(
    _PLAIN | {"Æ": "AE", "Œ": "OE", "Ø": "O", "Đ": "D", "Ð": "D", "Þ": "TH", "Ł": "L", "ẞ": "SS"}
)
APOSTROPHES = "\u2019\u2018\u201b\u02bc\u02b9\u055a\uff07\u0060\u00b4\u2032"
_STRAIGHT = str.maketrans(dict.fromkeys(APOSTROPHES, "'") | dict.fromkeys("\u2212\ufe63\uff0d", "-"))
# Superscript figures -> the figure after "^": 10² is not 102.
SUPERSCRIPTS = {character: f"^{figure}" for figure, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "^-"}
FRACTIONS = {c: unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"}
# A space inside a number that no line may end at: 12 500.
_INSIDE_NUMBERS = re.compile("(?<=\\d)[\u00a0\u2007\u2009\u202f](?=\\d{3}(?!\\d))")
_AFTER_FIGURES = re.compile(f"(?<=\\d)(?=[{''.join(FRACTIONS)}{''.join(SUPERSCRIPTS)}])")

# Letters that NFKC takes apart although they are written as one (Thai and Lao am, Lao ho no and ho mo, Armenian yev,
# Korean single letters), and signs that it turns into letters nobody says.
_WHOLE = re.compile("[\u0e33\u0eb3\u0edc\u0edd\u0587\u3131-\u318e\u2116\u2122\u2120\u2121\u213b]+")
# Thai and Lao am typed as two characters, with or without a tone mark between them.
_TYPED_APART = re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32|\u0ecd([\u0ec8-\u0ecb]?)\u0eb2")
# Letters that older texts write as consonant + virama + zero-width joiner (The Unicode Standard, chapter 12: Malayalam
# chillus, Bengali khanda ta). Without the joiner they would be other letters.
_JOINED = {"ണ്\u200d": "ൺ", "ന്\u200d": "ൻ", "ര്\u200d": "ർ", "ല്\u200d": "ൽ", "ള്\u200d": "ൾ", "ക്\u200d": "ൿ"}
_JOINED |= {"\u09a4\u09cd\u200d": "\u09ce"}
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\u0640")
_SMALL_I = str.maketrans("Iİ", "ıi")
_DOTLESS = ("tr", "az", "crh", "tt", "gag")  # I is ı and İ is i


@functools.lru_cache(maxsize=1 << 12)
def is_format(character: str) -> bool:
    """Return True if the character is invisible and belongs to no word.

    These are soft hyphens, joiners, zero-width spaces, direction marks, variation selectors, fillers, and the Arabic
    stroke that lengthens a line.
    """
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return selector or character in _IGNORABLE or unicodedata.category(character) == "Cf"


def group_thousands(text: str) -> str:
    """Return text with commas for the non-breaking and thin spaces inside numbers; as long as before."""
    return _INSIDE_NUMBERS.sub(",", text)


class _Formats(dict):
    """A table for `str.translate` that removes format characters."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if is_format(chr(code)) else code
        return self[code]


_FORMATS = _Formats()


def without_formats(text: str) -> str:
    """Remove format characters; letters that are written with a joiner become the single letter."""
    if "\u200d" in text:
        for written, letter in _JOINED.items():
            text = text.replace(written, letter)
    return text.translate(_FORMATS)


def compose(text: str) -> str:
    """Return text in one Unicode form: NFKC, but with letters that it takes apart kept whole.

    Format characters are removed, apostrophes and minus signs are "'" and "-", fractions and powers stay apart from
    the figures before them: "1½" becomes "1 1⁄2".
    """
    text = _AFTER_FIGURES.sub(" ", without_formats(text)).translate(_STRAIGHT)
    parts, position = [], 0
    for match in _WHOLE.finditer(text):
        parts += [unicodedata.normalize("NFKC", text[position : match.start()]), match[0]]
        position = match.end()
    parts.append(unicodedata.normalize("NFKC", text[position:]))
    text = unicodedata.normalize("NFC", "".join(parts)).translate(_STRAIGHT).translate(_FORMATS)
    return _TYPED_APART.sub(lambda m: (m[1] or "") + "\u0e33" if m[0][0] == "\u0e4d" else (m[2] or "") + "\u0eb3", text)


def small_i(text: str, language: str) -> str:
    """Return text of Turkish and its relatives with ı for I and i for İ, as long as before; other languages stay."""
    return text.translate(_SMALL_I) if language in _DOTLESS else text


def lower(text: str, language: str = "") -> str:
    """Return lower-case letters by the rules of the language: Turkish and Azeri I is ı."""
    if language in _DOTLESS:
        text = small_i(text.replace("I\u0307", "i"), language)
    text = text.lower()
    return unicodedata.normalize("NFC", text.replace("i\u0307", "i")) if "i\u0307" in text else text
