"""Scripts that write no spaces between words, such as Chinese, Japanese, Thai, Lao, Khmer and Burmese.

Where words need a unit, a sign of these scripts is one: a letter with all that is written on or around it. Words by a
dictionary would depend on its version, and no two toolkits would count the same.
"""

from __future__ import annotations

import re
import unicodedata

# Ideographs, kana, bopomofo, Thai, Lao, Burmese, Khmer and their neighbors.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"
    "\u3031-\u3035\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_SIGN = re.compile(f"[{_UNSPACED}]")
_JOINS = "\u0e33\u0eb3\u200c\u200d"  # Thai and Lao am, which are no marks to Unicode; joiners
_STACKS = "\u1039\u17d2"  # Burmese and Khmer: the next consonant is written below


def has_unspaced(text: str) -> bool:
    """Return True if a text has signs of a script that writes no spaces."""
    return _SIGN.search(text) is not None


def split_words(text: str) -> list[str]:
    """Split a text into words: at white space, and in scripts without spaces into signs.

    Example:
        >>> from speech_jax.text.scripts import split_words
        >>> split_words("你好 jax 世界")
        ['你', '好', 'jax', '世', '界']
        >>> split_words("ทำงาน")
        ['ทำ', 'ง', 'า', 'น']
    """
    if not has_unspaced(text):
        return text.split()
    return [unit for chunk in text.split() for unit in _split_chunk(chunk)]


def _split_chunk(chunk: str) -> list[str]:
    units: list[str] = []
    before = " "  # the last character
    for char in chunk:
        spaced = not _SIGN.match(char) and not _SIGN.match(before)
        mark = unicodedata.category(char).startswith("M") or char in _JOINS
        if units and (spaced or mark or before in _STACKS):
            units[-1] += char
        else:
            units.append(char)
        before = char
    return units


def columns(text: str) -> int:
    r"""Return the width of a text in columns: wide signs, such as ideographs, take two, and combining marks none.

    Example:
        >>> from speech_jax.text.scripts import columns
        >>> columns("cafe\u0301"), columns("世界")
        (4, 4)
    """
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in text)
