"""English dates and times of day read aloud: "on 12/25", "June 1-3", "in Oct '87", "7:05 a.m.", "1h 30m"."""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.english_context import following, number, preceding, stop
from speech_jax.text.english_tables import DAYS, MONTH_OF, MONTHS

_SHORT_MONTHS = "|".join(sorted(set(MONTH_OF) - set(MONTHS), reverse=True))
_MONTH = rf"(?P<month>(?i:{'|'.join(MONTHS)})|(?:{_SHORT_MONTHS})\b\.?)"
_TH = r"(?:(?i:st|nd|rd|th)\b)?"
_YEAR = r"(?:,?\s(?:(?P<year>\d{4})|'(?P<short>\d\d))\b)?"
# A month and a figure that are no date: "May 5:30", "March 3%", "Dec 3.5".
_NO_DAY = r"(?![\d:%/]|[.,-]\d|\s?[ap]\.?m)"
_TO = r"\s?(?:-|to|through)\s?"
_HALF = r"(?P<half>[AaPp])\.?\s?[Mm]\b\.?"
# Words before a month or a day of the week without a full stop: "in Oct", "every Sat".
_BEFORE_MONTHS = r"(?i:in|since|until|till|during|last|next|early|late|mid)"
_BEFORE_DAYS = r"(?:(?i:on|by|until|till|from|to|through|every|each|last|next|this)|[A-Z][a-z]+day,?(?: and| or)?)"


def year(text: str) -> str:
    """Read a year of two or four digits aloud."""
    if len(text) == 2:
        return f"oh {numbers.cardinal(int(text))}" if text[0] == "0" else numbers.cardinal(int(text))
    value = numbers.parse(text)
    return numbers.year(value) if isinstance(value, int) and 1000 <= value < 3000 else number(text)


def _date(years: str | None, month: int, day: int) -> str | None:
    """Read a date aloud: "March fourteenth, twenty twenty six"; None if there is no such day."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    words = f"{MONTHS[month - 1]} {numbers.ordinal(day)}"
    return f"{words}, {year(years)}" if years else words


def _month(match: re.Match) -> str:
    return MONTHS[MONTH_OF[match["month"].rstrip(".").capitalize()] - 1]


def _years(match: re.Match) -> str:
    figures = match["year"] or match["short"]
    return f", {year(figures)}" if figures else ""


def _days(match: re.Match) -> str | None:
    """Read a day or a range of days as ordinals; None if there are no such days."""
    days = [int(match["day"])] + ([int(match["last"])] if match["last"] else [])
    return " to ".join(map(numbers.ordinal, days)) if all(1 <= day <= 31 for day in days) else None


def _month_first(match: re.Match) -> str | None:
    days = _days(match)
    return days and f"{_month(match)} {days}{_years(match)}"


def _day_first(match: re.Match) -> str | None:
    days = _days(match)
    return days and f"the {days} of {_month(match)}{_years(match)}"


def _months(match: re.Match) -> str:
    """Read "Jan-Mar" and "June-August" as the first month to the last."""
    return " to ".join(MONTHS[MONTH_OF[name.rstrip(".")] - 1] for name in match[0].split("-")) + stop(match)


def _month_of_year(match: re.Match) -> str | None:
    """Read "2022-07" as a month; "2005-08" is a range of years."""
    after = int(match[2]) > int(match[1]) % 100
    return None if after else f"{MONTHS[int(match[2]) - 1]} {year(match[1])}"


def _slashed(match: re.Match) -> str | None:
    """Read a numeric date as month/day, or as day/month if the first number cannot be a month."""
    first, second = int(match[1]), int(match[3])
    if first > 12:
        first, second = second, first
    return _date(match[4], first, second)


_DATED = re.compile(
    r"\b(?:on|by|until|till|due|dated|before|after|since|from|through|to|starting|ending|of|[a-z]+day,?)\s+$"
    r"|\b(?:0?[1-9]|1[0-2])/(?:0?1|1[3-9]|2[1-9]|31)\s(?:and|or)\s+$",  # after another date
    re.IGNORECASE,
)


def _dotted_date(match: re.Match) -> str | None:
    """Read "31.12.1999", in which the day is first; a version is none."""
    if re.search(r"\b(?:version|patch|release|update|build)\s+$", preceding(match), re.IGNORECASE):
        return None
    first, second = int(match[1]), int(match[2])
    return _date(match[3], second, first) or _date(match[3], first, second)


def _month_and_day(match: re.Match) -> str | None:
    """Read "12/25" as a date where it cannot be a fraction, by the word before it or by its day."""
    month, day = int(match["first"]), int(match["second"])
    dated = "0" in (match["first"][0], match["second"][0]) or _DATED.search(preceding(match))
    quantity = re.match(r"\s(?:of|cups?|inch|inches|miles?|pounds?|full|empty|price|scale)\b", following(match))
    dated = dated or re.match(r"\sat\s\d", following(match))
    dated = dated or (match.string[match.start() - 1 : match.end() + 1] == f"({match[0]})" and month > day)
    never_a_part = day > 12 and day not in (15, 16, 20, 24, 25, 30)
    return _date(None, month, day) if not quantity and (dated or never_a_part) else None


def _half_of_day(match: re.Match) -> str:
    """Return " A M" or " P M", with the full stop of "p.m." if it also ends the sentence."""
    return f" {match['half'].upper()} M{stop(match)}" if match["half"] else ""


def _time(match: re.Match) -> str | None:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    if hour > 24:
        return None
    if second:
        end = f" and {numbers.cardinal(int(second))} second{'' if int(second) == 1 else 's'}" + _half_of_day(match)
    else:
        end = _half_of_day(match)
    if minute == 0 and (match["half"] or hour > 12):
        return numbers.cardinal(hour) + (end if match["half"] else " hundred" + end)
    if minute == 0 and hour == 0:
        return "midnight" + end
    return numbers.time_of_day(hour, minute) + end


def _hour(match: re.Match) -> str | None:
    return numbers.cardinal(int(match["hour"])) + _half_of_day(match) if int(match["hour"]) <= 12 else None


def _military(match: re.Match) -> str | None:
    """Read "0800 hours" as "zero eight hundred hours"."""
    hour, minute = match[1], match[2]
    words = numbers.digits(hour) if hour[0] == "0" else numbers.cardinal(int(hour))
    end = "hundred" if minute == "00" else numbers.digits(minute) if minute[0] == "0" else number(minute)
    return f"{words} {end} hours"


def _duration(match: re.Match) -> str:
    """Read "1h 30m" or "1h30" as hours and minutes."""
    names = ("hour", "minute", "second")
    parts = [(int(match[i + 1]), name) for i, name in enumerate(names) if match[i + 1]]
    return " ".join(f"{numbers.cardinal(value)} {name}{'' if value == 1 else 's'}" for value, name in parts)


def _day_of_week(match: re.Match) -> str:
    before = match.groupdict().get("before") or ""
    return before + DAYS[match[0][len(before) :].rstrip(".")] + stop(match)


_DAY = "|".join(sorted(DAYS, key=len, reverse=True))
DAY_READERS = (
    (rf"\b({_DAY})\.?\s?-\s?({_DAY})\b\.?", lambda m: f"{DAYS[m[1]]} to {DAYS[m[2]]}{stop(m)}"),
    (r"\b(Mon|Wed)\.(?=,?\s|$)|\b(Tues?|Thu(?:rs?)?|Fri)\b\.?", _day_of_week),
    (rf"\b({_DAY})\b\.?(?=,?\s(?:{'|'.join(MONTHS)}|{_SHORT_MONTHS})\b|,?\s\d)", _day_of_week),
    (r"\b(Sat|Sun)\.(?=,?\s[a-z])", _day_of_week),
    (rf"(?P<before>\b{_BEFORE_DAYS}\s)(Mon|Wed|Sat|Sun(?=\.))\b\.?(?!\s[A-Z])", _day_of_week),
)
MONTH_RANGE = rf"\b(?:{'|'.join(MONTH_OF)})\b\.?-(?:{'|'.join(MONTH_OF)})\b\.?"
# The month's abbreviation alone; those before a day or a year are read with it.
MONTH_READERS = (
    (MONTH_RANGE, _months),
    (rf"\b(?P<month>{_SHORT_MONTHS})\.(?=,?\s[A-Za-z]|[,;)]|'s|$)", lambda m: _month(m) + stop(m)),
)
_ANY_MONTH = rf"\b(?:{'|'.join(MONTHS)}|(?:{_SHORT_MONTHS})\b\.?)"
_DATE = rf"(?:{_ANY_MONTH}\s\d{{1,2}}{_TH}|\d{{1,2}}{_TH}\s{_ANY_MONTH})(?:,?\s\d{{4}})?"
DATE_READERS = (
    (rf"({_DATE})\s?-{{1,2}}\s?(?={_DATE})", lambda m: f"{m[1]} to"),
    (r"(?<![\d/-])(\d{4})([-/])(\d{1,2})\2(\d{1,2})(?![\d/-])", lambda m: _date(m[1], int(m[3]), int(m[4]))),
    (r"(?<![\w.,/-])((?:19|20)\d\d)-(0[1-9]|1[0-2])(?![\w-])", _month_of_year),
    (
        r"(?<![\w.,/])(0[1-9]|1[0-2])/((?:19|20)\d\d)(?![\w/])(-(?=(?:0[1-9]|1[0-2])/\d{4}))?",
        lambda m: f"{MONTHS[int(m[1]) - 1]} {year(m[2])}{' to' if m[3] else ''}",
    ),
    (r"(?<![\d/.-])(\d{1,2})([/-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/-])", _slashed),
    (
        r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.((?:1[5-9]|20)\d\d)(?!\d|\.\d)",
        _dotted_date,
    ),
    (
        rf"(?<![\w-])(\d{{1,2}})-(?P<month>{_SHORT_MONTHS})-(\d{{4}}|\d\d)(?![\w-])",
        lambda m: _date(m[3], MONTH_OF[m["month"]], int(m[1])),
    ),
    (rf"\b{_MONTH}\s(?P<day>\d{{1,2}}){_TH}(?:{_TO}(?P<last>\d{{1,2}}){_TH})?\b{_YEAR}{_NO_DAY}", _month_first),
    (
        rf"(?:\b[Tt]he\s)?(?<![\d,.:/$-])\b(?P<day>\d{{1,2}}){_TH}(?:{_TO}(?P<last>\d{{1,2}}){_TH})?\s(?:of\s)?{_MONTH}"
        rf"(?![a-z]){_YEAR}",
        _day_first,
    ),
    (rf"\b{_MONTH}(?=\s(?:\d{{4}}\b|'\d\d\b))", _month),
    (
        rf"(?P<before>\b{_BEFORE_MONTHS}\s)(?P<month>{_SHORT_MONTHS})\b(?!\.)(?!\s[A-Z])",
        lambda m: m["before"] + _month(m),
    ),
    (
        r"(?<![\w./:,-])(?P<first>0?[1-9]|1[0-2])/(?P<second>0?[1-9]|[12]\d|3[01])(?![\d/]|\.\d|-\d|\s?[\"'])",
        _month_and_day,
    ),
    # Ranges of times or decades; later readers handle the figures.
    (
        rf"(?<=[\dmM.])\s?-\s?(?=\d{{1,2}}(?::[0-5]\d|\s?{_HALF}))"
        r"|(?<=\d0s)\s?-\s?'?(?=(?:\d\d)?\d0s\b)|(?<=\d(?:st|nd|rd|th))-(?=\d+(?:st|nd|rd|th)\b)",
        lambda m: "to",
    ),
    (
        rf"(?<![\d:.])(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])(?:\s?{_HALF})?",
        _time,
    ),
    (rf"(?<![\w.,:])(?P<hour>\d{{1,2}})[.h](?P<minute>[0-5]\d)(?P<second>)\s?{_HALF}", _time),
    (rf"(?<![\w.,:])(?P<hour>\d{{1,2}})\s?{_HALF}", _hour),
    (r"(?<![\w.,:])([01]\d|2[0-4])([0-5]\d)\s(hours|hrs)\b", _military),
    (r"(?<![\w.,:])(\d{1,2})\s?h\s?([0-5]?\d)(?:\s?m(?:in)?)?(?:\s?(\d{1,2})\s?s)?\b", _duration),
    (r"(?<![\w.,:])()(\d{1,2})\s?m\s?(\d{1,2})\s?s\b", _duration),
)
