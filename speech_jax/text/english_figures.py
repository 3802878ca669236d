"""English figures read aloud: dates, times, telephone numbers, money, units, ranges, fractions, years.

`read_figures` applies `_READERS` in order, the longest forms first; each match becomes words. No pattern can backtrack
over more than one number, so the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from speech_jax.text import numbers
from speech_jax.text.english_tables import CURRENCIES, MONTH_OF, MONTHS, PER, SCALES, UNITS

SENTENCE = r"\s(?:[A-Z][a-z]|[AI]\s)"  # the start of a sentence after a full stop, but not an acronym
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = rf"{_WHOLE}(?:\.\d+)?"
_MINUS = r"(?P<minus>(?<![\w)\-.])-)?"
_MONTH = rf"(?P<month>{'|'.join(MONTHS)}|(?:{'|'.join(sorted(set(MONTH_OF) - set(MONTHS), reverse=True))})\b\.?)"
_SCALE = r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion)\b|(?P<short>[KkMmBT]|bn|mn|tn)\b)?"
_SIGN = r"(?:US|C|A|NZ|HK)?\$|[€£¥₹₽₩]|\b(?:USD|EUR|GBP|JPY|CHF)\b"


def read_figures(text: str) -> str:
    """Replace every figure by words, with spaces around them for the caller to clean up."""
    if not any(c in _DIGITS for c in text):
        return text
    for pattern, reader in _READERS:
        text = pattern.sub(lambda match, reader=reader: _spaced(match, reader), text)
    return text


_DIGITS = frozenset("0123456789")


def _spaced(match: re.Match, reader: Callable[[re.Match], str | None]) -> str:
    """Return the reader's words between spaces; a match that it refuses (None) stays for the next reader."""
    words = reader(match)
    return match[0] if words is None else f" {words} "


def number(text: str) -> str:
    """Read a number aloud: "1,234.5" -> "one thousand two hundred thirty four point five"."""
    whole, _, decimals = text.partition(".")
    return numbers.decimal(whole, decimals)


# ---- Dates


def _year(text: str) -> str:
    """Read a year of two or four digits aloud."""
    if len(text) == 2:
        return f"oh {numbers.cardinal(int(text))}" if text[0] == "0" else numbers.cardinal(int(text))
    value = numbers.parse(text)
    return numbers.year(value) if isinstance(value, int) and 1000 <= value < 2100 else number(text)


def _date(year: str | None, month: int, day: int) -> str | None:
    """Read a date aloud: "March fourteenth, twenty twenty six"; None if there is no such day."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    words = f"{MONTHS[month - 1]} {numbers.ordinal(day)}"
    return f"{words}, {_year(year)}" if year else words


def _month_number(match: re.Match) -> int:
    return MONTH_OF[match["month"].rstrip(".")]


def _month_first(match: re.Match) -> str | None:
    return _date(match["year"], _month_number(match), int(match["day"]))


def _day_first(match: re.Match) -> str | None:
    day = int(match["day"])
    if not 1 <= day <= 31:
        return None
    year = f", {_year(match['year'])}" if match["year"] else ""
    return f"the {numbers.ordinal(day)} of {MONTHS[_month_number(match) - 1]}{year}"


def _slashed(match: re.Match) -> str | None:
    """Read a numeric date as month/day, or as day/month if the first number cannot be a month."""
    first, second = int(match[1]), int(match[3])
    if first > 12:
        first, second = second, first
    return _date(match[4], first, second)


# ---- Times


def _half_of_day(match: re.Match) -> str:
    """Return " A M" or " P M", with the full stop of "p.m." if it also ends the sentence."""
    if not match["half"]:
        return ""
    rest = match.string[match.end() : match.end() + 4]
    stop = match[0].endswith(".") and (not rest.strip() or re.match(SENTENCE, rest) is not None)
    return f" {match['half'].upper()} M" + ("." if stop else "")


def _time(match: re.Match) -> str | None:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    if hour > 24:
        return None
    if second:
        end = f" and {numbers.cardinal(int(second))} second{'' if int(second) == 1 else 's'}"
    else:
        end = _half_of_day(match)
    if minute == 0 and (match["half"] or hour > 12):
        return numbers.cardinal(hour) + (end if match["half"] else " hundred" + end)
    if minute == 0 and hour == 0:
        return "midnight" + end
    return numbers.time_of_day(hour, minute) + end


def _hour(match: re.Match) -> str | None:
    return numbers.cardinal(int(match["hour"])) + _half_of_day(match) if int(match["hour"]) <= 12 else None


# ---- Telephone numbers and other chains of figures


def _groups(match: re.Match) -> str:
    """Read a telephone number digit by digit, with a pause between groups."""
    groups = ", ".join(numbers.digits(group) for group in re.findall(r"\d+", match[0]))
    return "plus " + groups if match[0].startswith("+") else groups


def _version(match: re.Match) -> str:
    parts = match[0].split(".")
    joint = " dot " if len(parts) == 4 else " point "  # four parts are an IP address
    return joint.join(numbers.decimal(part) for part in parts)


# ---- Money


def _money(match: re.Match) -> str:
    groups = match.groupdict()
    unit, small = CURRENCIES[match["sign"]]
    whole, cents = groups["whole"] or "0", groups.get("cents")
    scale = groups.get("scale") or SCALES.get(groups.get("short") or "")
    words = "minus " if groups.get("minus") else ""
    if groups.get("low"):
        words += f"{number(groups['low'])} to "
    if cents and not scale and (len(cents) != 2 or groups.get("low")):
        return f"{words}{numbers.decimal(whole, cents)} {numbers.money_unit(unit)}"
    return words + numbers.money(whole, cents, scale, unit, small)


def _cents(match: re.Match) -> str:
    return f"{number(match[1])} cent{'' if match[1] == '1' else 's'}"


# ---- Quantities


def _quantity(match: re.Match) -> str:
    one, several = UNITS[match["unit"]]
    words = "minus " if match["minus"] else ""
    if match["low"]:
        words += f"{number(match['low'])} to "
    single = match["value"] == "1" and not match["low"]
    return f"{words}{number(match['value'])} {one if single or match['joint'] == '-' else several}"


def _feet_and_inches(match: re.Match) -> str:
    feet, inches = int(match[1]), int(match[2])
    units = "foot" if feet == 1 else "feet", "inch" if inches == 1 else "inches"
    return f"{numbers.cardinal(feet)} {units[0]} {numbers.cardinal(inches)} {units[1]}"


def _range(match: re.Match) -> str:
    low, high = match["low"], match["high"]
    read = _year if len(low) == len(high) == 4 else number
    if re.match(r"\s?=", match.string[match.end() : match.end() + 24]):
        return f"{number(low)} minus {number(high)}"
    return f"{read(low)} to {read(high)}"


def _product(match: re.Match) -> str:
    equation = re.match(r"[^.?!]{0,20}=", match.string[match.end() : match.end() + 24])
    return f"{number(match[1])} {'times' if equation else 'by'} {number(match[2])}"


def _mixed(match: re.Match) -> str:
    part = numbers.fraction(int(match[2]), int(match[3]))
    return f"{number(match[1])} and {'a' + part[3:] if part.startswith('one ') else part}"


def _fraction(match: re.Match) -> str:
    top, bottom = int(match[1]), int(match[2])
    if (top, bottom) in ((24, 7), (9, 11)):  # names, not quantities
        return f"{numbers.cardinal(top)} {numbers.cardinal(bottom)}"
    if bottom > 100 or (top > bottom and bottom > 10):
        return f"{numbers.cardinal(top)} over {numbers.cardinal(bottom)}"
    return numbers.fraction(top, bottom)


def _decade(match: re.Match) -> str:
    figures = match[1]
    words = _year(figures) if len(figures) == 4 and figures[-1] == "0" else number(figures)
    return numbers.plural(words)


def _plain(match: re.Match) -> str:
    sign, figures = "minus " if match["minus"] else "", match["value"]
    whole = figures.partition(".")[0]
    if figures == whole and len(whole) >= 7 and "," not in whole:
        return sign + numbers.digits(whole)  # an account, a serial number
    if figures == whole and len(whole) == 4 and 1100 <= int(whole) <= 2099:
        return sign + numbers.year(int(whole))
    return sign + number(figures)


_UNIT = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_PER = "|".join(sorted(PER, key=len, reverse=True))
_HALF = r"(?P<half>[AaPp])\.?\s?[Mm]\b\.?"

_READERS = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (r"(?<![\d,. ])(\d{1,3}(?:\s000)+)(?![\d,.])", lambda m: number(m[1].replace(" ", ""))),
        (r"(?<![\d-])(\d{4})-(\d{2})-(\d{2})(?![\d-])", lambda m: _date(m[1], int(m[2]), int(m[3]))),
        (r"(?<![\d/.-])(\d{1,2})([/-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/-])", _slashed),
        (
            r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d|\.\d)",
            lambda m: _date(m[3], int(m[2]), int(m[1])) or _date(m[3], int(m[1]), int(m[2])),
        ),
        (
            rf"\b{_MONTH}\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s(?P<year>\d{{4}})\b)?(?![\d:%/]|[.,-]\d|\s?[ap]\.?m)",
            _month_first,
        ),
        (
            rf"(?:\b[Tt]he\s)?(?<![\d,.:/$-])\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}(?![a-z])"
            r"(?:,?\s(?P<year>\d{4})\b)?",
            _day_first,
        ),
        (rf"\b{_MONTH}(?=\s\d{{4}}\b)", lambda m: MONTHS[_month_number(m) - 1]),
        # Ranges of times or decades; later readers handle the figures.
        (rf"(?<=[\dmM.])\s?-\s?(?=\d{{1,2}}(?::[0-5]\d|\s?{_HALF}))|(?<=\d0s)\s?-\s?'?(?=\d0s\b)", lambda m: "to"),
        (
            rf"(?<![\d:.])(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])(?:\s?{_HALF})?",
            _time,
        ),
        (rf"(?<![\w.,:])(?P<hour>\d{{1,2}})\s?{_HALF}", _hour),
        (r"(?<![\w.])(?:\+?1[-. ])?(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-.]\d{4}(?![\w-])", _groups),
        (r"\+\d{1,3}(?:[ -]\d{2,5}){2,5}(?![\w-])", _groups),
        (r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])|(?<![\w.-])\d{4}(?:[ -]\d{4}){3}(?![\w-])", _groups),
        (r"(?<![\w.-])\d{3}-\d{4}(?![\w-])", _groups),
        (
            rf"{_MINUS}(?P<sign>{_SIGN})\s?(?:(?P<low>{_NUMBER})\s?-\s?[$€£]?)?(?P<whole>{_WHOLE})(?:\.(?P<cents>\d+))?"
            + _SCALE,
            _money,
        ),
        (rf"(?P<sign>{_SIGN})(?P<whole>)\.(?P<cents>\d{{2}})(?!\d)", _money),
        (
            rf"(?<![\d.,]){_MINUS}(?P<whole>{_WHOLE})(?:[.,](?P<cents>\d{{2}})(?!\d))?\s?(?P<sign>[€£]|\b(?:USD|EUR|GBP|JPY|CHF)\b)",
            _money,
        ),
        (rf"(?<![\d.,])({_NUMBER})\s?¢", _cents),
        (r"(?<![\w.])(\d{1,2})'\s?(\d{1,2})(?:\"|'')", _feet_and_inches),
        (
            rf"(?<![\w.,]){_MINUS}(?:(?P<low>{_NUMBER})\s?-\s?)?(?P<value>{_NUMBER})(?P<joint>[\s-]?)(?P<unit>{_UNIT})"
            rf"(?![\w²³])(?!'\w)",
            lambda m: None if m["unit"] in _ATTACHED and m["joint"] != " " else _quantity(m),
        ),
        (r"(?<![\d/.])(\d{1,6})\s(\d{1,2})/(\d{1,3})(?![\d/])", _mixed),
        (r"(?<![\d/.,])(\d{1,4})/(\d{1,4})(?![\d/])", _fraction),
        (r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{1,15})(?:st|nd|rd|th)\b", lambda m: numbers.ordinal(numbers.parse(m[1]))),
        (r"(?<![\w.,'])'?(\d{1,15})'?s\b", _decade),
        (r"(?<![\w.,])'(\d\d)\b(?!')", lambda m: _year(m[1])),
        (r"(?<![\w.])\d+(?:\.\d+){2,}(?!\w)", _version),
        (rf"(?<![\w.,-])(?P<low>{_NUMBER})(?:-|\s-\s)(?P<high>{_NUMBER})(?![\w-])", _range),
        (r"(?<![\w.:])(\d{1,15}):(\d{1,15})(?![\w:])", lambda m: f"{number(m[1])} to {number(m[2])}"),
        (rf"(?<![\w.])({_NUMBER})\s?x\s?({_NUMBER})(?!\w)", _product),
        (r"(?<![\w.])\.(\d+)", lambda m: "point " + numbers.digits(m[1])),
        (rf"{_MINUS}(?P<value>{_NUMBER})", _plain),
    )
)
# One-letter units that are ambiguous without a space ("5s", "737s", "4K B").
_ATTACHED = frozenset(("s", "h", "B", "N", "J", "l", '"')) - {'"'}
_PER_WORDS = re.compile(rf"/\s?({_PER})\b")


def read_per(text: str) -> str:
    """Replace the slash before a unit of time, weight or length by "per": "$5/hour", "60 miles/h"."""
    return _PER_WORDS.sub(lambda m: f" per {PER[m[1]]}", text)
