"""English numbers in words, American style: "one hundred five", not "one hundred and five"."""

from __future__ import annotations

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ("", "thousand", "million", "billion", "trillion")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_FIGURES = 15
LARGEST = 10**_FIGURES - 1
"""Largest number read as a number; above it, digits are read one by one."""


def parse(text: str) -> int | str:
    """Return the value of digits with or without commas; above `LARGEST`, the digits, which all readers accept."""
    figures = text.replace(",", "")
    return int(figures) if len(figures) <= _FIGURES else figures


def cardinal(number: int | str) -> str:
    """Read a number: 12345 -> "twelve thousand three hundred forty five". Digit by digit above `LARGEST`."""
    if isinstance(number, str):
        return digits(number)
    if number < 0:
        return "minus " + cardinal(-number)
    if number > LARGEST:
        return digits(str(number))
    if number == 0:
        return _SMALL[0]
    words, scale = [], 0
    while number:
        number, group = divmod(number, 1000)
        if group:
            words.append(_below_thousand(group) + (f" {_SCALES[scale]}" if scale else ""))
        scale += 1
    return " ".join(reversed(words))


def ordinal(number: int | str) -> str:
    """Read an ordinal: 21 -> "twenty first"."""
    return _ordinal_of(cardinal(number))


def plural(words: str) -> str:
    """Return the plural of number words: "nineteen ninety" -> "nineteen nineties", "six" -> "sixes"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


def digits(text: str) -> str:
    """Read digits one by one: "007" -> "zero zero seven"."""
    return " ".join(_SMALL[int(d)] for d in text)


def year(number: int) -> str:
    """Read four digits as a year: 1985 -> "nineteen eighty five", 1905 -> "nineteen oh five".

    2000 to 2009, and whole thousands, are read as plain numbers.
    """
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def time_of_day(hour: int, minute: int) -> str:
    """Read a time: 10:00 -> "ten o'clock", 10:05 -> "ten oh five", 10:30 -> "ten thirty"."""
    if minute == 0:
        return f"{cardinal(hour)} o'clock"
    return f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"


def fraction(numerator: int, denominator: int) -> str:
    """Read a fraction: 3/4 -> "three quarters", 1/2 -> "one half", 2/5 -> "two fifths", 2/1 -> "two over one"."""
    if denominator < 2:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    unit = {2: "half", 4: "quarter"}.get(denominator) or ordinal(denominator)
    if numerator != 1:
        unit = "halves" if denominator == 2 else unit + "s"
    return f"{cardinal(numerator)} {unit}"


def decimal(whole: str, decimals: str | None = None) -> str:
    """Read a decimal: "1,200" -> "one thousand two hundred", ("3", "14") -> "three point one four".

    Numbers with a leading zero ("007") are read digit by digit.
    """
    leading_zero = "," not in whole and len(whole) > 1 and whole[0] == "0"
    words = digits(whole) if leading_zero else cardinal(parse(whole))
    return f"{words} point {digits(decimals)}" if decimals else words


def money(whole: str, cents: str | None, unit: str, small: str) -> str:
    """Read an amount of money: ("3", "50", "dollar", "cent") -> "three dollars and fifty cents".

    Args:
        whole: digits before the decimal point.
        cents: two digits after it, or None.
        unit: name of the currency, singular.
        small: name of its hundredth, singular.
    """
    amount, part = parse(whole), int(cents or "0")
    words = f"{cardinal(amount)} {unit if amount == 1 else money_unit(unit)}"
    if not part:
        return words
    spoken = f"{cardinal(part)} {small if part == 1 else money_unit(small)}"
    return spoken if amount == 0 else f"{words} and {spoken}"


_PLURALS = {"penny": "pence", "paisa": "paise", "krona": "kronor", "krone": "kroner", "kopiyka": "kopiykas"}
_UNCHANGED = frozenset("sen yen won jeon yuan fen baht satang rand real dong hao lira kurus ore kobo naira".split())


def money_unit(unit: str) -> str:
    """Return the plural of a currency's unit."""
    last = unit.rpartition(" ")[2]
    if last in _UNCHANGED:
        return unit
    return unit.removesuffix(last) + _PLURALS.get(last, last + "s")


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [_SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10])
        rest %= 10
        if rest:
            words.append(_SMALL[rest])
    elif rest:
        words.append(_SMALL[rest])
    return " ".join(words)


def _ordinal_of(words: str) -> str:
    *head, last = words.split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join([*head, last])
