"""English figures read aloud: telephone numbers, money, units, powers, fractions, ranges, years and plain numbers.

`read_figures` applies `_READERS` in order, the longest forms first; each match becomes words. No pattern can backtrack
over more than one number, so the time is linear in the length of the text.
"""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.english_context import apply, before_a_thing, following, number, preceding, stop
from speech_jax.text.english_dates import DATE_READERS, year
from speech_jax.text.english_tables import CODES, COUNTED, CURRENCIES, MONTHS, PER, SCALES, UNITS

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = rf"(?:{_WHOLE}(?:\.\d+)?|(?<![\w.])\.\d+)"
_VALUE = rf"(?:\d{{1,6}}[ -]\d{{1,2}}/\d{{1,3}}(?![\d/])|\d{{1,2}}/\d{{1,3}}(?![\d/])|{_NUMBER})"
_MINUS = r"(?P<minus>(?<![\w)\-.])-)?"
_SCALE = (
    r"(?:[\s-]?(?P<scale>hundred|thousand|million|billion|trillion|lakh|crore)\b|\s?(?P<mil>mil)\b|(?P<short>[KkMmBT]|bn|mn|tn)\b)?"
)
_LOW_SCALE = r"(?:[KkMmBT]|bn|mn|tn|\s(?:hundred|thousand|million|billion|trillion|lakh|crore))?"
_SIGN = "|".join(re.escape(sign) for sign in sorted(CURRENCIES, key=len, reverse=True) if sign != "Rs")
_CODE = rf"\b(?:{'|'.join(CODES)})\b"
_EXPONENT = r"(?:\^-?)+\d{1,3}(?:\^\d{1,3})*"  # ^10, or ^1^0 of superscript figures
_FIGURE = frozenset("0123456789")
# Thousands after spaces or full stops, as in "10 000" and "1.000.000".
_GROUPED = re.compile(
    r"(?<![\w.,])(?<!\d\s)(?:\d{1,3}(?:\s000)+|\d{1,2}(?:\s\d{3}){2,}|\d{1,3}(?:\.\d{3}){2,})(?![.,]?\d|\s\d)"
)


def read_figures(text: str) -> str:
    """Replace every figure by words, with spaces around them for the caller to clean up."""
    if _FIGURE.isdisjoint(text):
        return text
    return apply(_READERS, _GROUPED.sub(lambda m: re.sub("[ .]", ",", m[0]), text))


# ---- Telephone numbers and other chains of figures


def _groups(match: re.Match) -> str:
    """Read a telephone number digit by digit, with a pause between groups."""
    groups = ", ".join(
        ("extension " if mark else "") + numbers.digits(group) for mark, group in re.findall(r"(x?)(\d+)", match[0])
    )
    return "plus " + groups if match[0].startswith("+") else groups


def _vanity(match: re.Match) -> str:
    return f"{numbers.digits(match[1])}, {number(match[2])}, {match[3].lower()}"


def _named_chain(match: re.Match) -> str:
    """Read the figures after "dial", "ZIP code" or "extension" one by one."""
    return f"{match['words']} {', '.join(numbers.digits(group) for group in re.split('[- ]', match['chain']))}"


def _three_figures(match: re.Match) -> str:
    """Read the number of a route or an aircraft in two parts: "Boeing 747" is "seven forty seven"."""
    hundreds, rest = divmod(int(match[2]), 100)
    tail = "hundred" if rest == 0 else f"{'oh ' if rest < 10 else ''}{numbers.cardinal(rest)}"
    model = f" {number(match[3])}" if match[3] else ""  # Boeing 737-800
    return f"{match[1]}{numbers.cardinal(hundreds)} {tail}{model}"


def _version(match: re.Match) -> str:
    parts = match[0].split(".")
    joint = " dot " if len(parts) == 4 else " point "  # four parts are an IP address
    return joint.join(numbers.decimal(part) for part in parts)


# ---- Money


def _money(match: re.Match) -> str:
    groups = match.groupdict()
    sign = groups["sign"].rstrip(".")
    unit, small = CURRENCIES.get(sign) or CODES[sign]
    whole, cents = groups["whole"] or "0", groups.get("cents")
    scale = groups.get("scale") or ("million" if groups.get("mil") else "") or SCALES.get(groups.get("short") or "")
    thing = before_a_thing(match) or re.match(r"-an?-[a-z]", following(match))
    several = unit if thing else numbers.money_unit(unit)
    words = "minus " if groups.get("minus") else ""
    if groups.get("low"):
        first = (groups["first"] or "").strip()
        words += " ".join((number(groups["low"]), *filter(None, (SCALES.get(first, first),)), "to "))
    if scale:
        return f"{words}{numbers.decimal(whole, cents)} {scale} {several}"
    if cents and (len(cents) != 2 or groups.get("low")):
        return f"{words}{numbers.decimal(whole, cents)} {several}"
    if several == unit and not int(cents or 0):
        return f"{words}{numbers.cardinal(numbers.parse(whole))} {unit}"
    return words + numbers.money(whole, cents, unit, small)


def _small_money(match: re.Match) -> str:
    one, several = ("cent", "cents") if match[2] == "¢" else ("penny", "pence")
    return f"{number(match[1])} {one if match[1] == '1' or before_a_thing(match) else several}"


# ---- Quantities


def _quantity(match: re.Match) -> str | None:
    """Read a number with its unit: "5-10 kg", "4 x 6 m", "3/4 lb", "a 10 mm screw", "5 million km", "12 g/L"."""
    value, symbol, low, joint = match["value"], match["unit"], match["low"], match["joint"]
    spelled = len(symbol) == 1 and re.match(r"\s[A-Z]\b", following(match))  # 300 B C
    quoted = symbol == '"' and match.string.count('"', 0, match.start()) % 2
    if spelled or quoted or (symbol in _SPACED and not joint):
        return None
    one, several = UNITS[symbol]
    between = "by" if match["between"] in ("x", "×", "by") else "to"
    first = f" {UNITS[match['first']][1]}" if (match["first"] or symbol) != symbol else ""  # 10 kg to 20 lb
    words = ("minus " if match["minus"] else "") + (f"{number(low)}{first} {between} " if low else "") + number(value)
    if match["scale"]:
        words += f" {match['scale']}"
    single = (value == "1" and not low and not match["scale"]) or joint == "-" or before_a_thing(match)
    if re.fullmatch(r"\d+/\d+", value):
        single = True
        words += {True: "", False: " of an" if one[0] in "aeiou" or one == "hour" else " of a"}[value[:2] == "1/"]
    unit = one if single else several
    if match["per"]:
        return f"{words} {unit} per {PER[match['per']]}"
    return f"{words} {unit}" + (stop(match) if match["dot"] else "")


def _feet_and_inches(match: re.Match) -> str:
    feet, inches = number(match[1]), match[2]
    words = f"{feet} {'foot' if match[1] == '1' else 'feet'}"
    return f"{words} {number(inches)} {'inch' if inches == '1' else 'inches'}" if inches else words


def _inches(match: re.Match) -> str:
    one = match[1] == "1" or match[2] == "-" or before_a_thing(match)
    return f"{number(match[1])} {'inch' if one else 'inches'}{stop(match)}"


def _scaled(match: re.Match) -> str:
    return f"{number(match[1])} {SCALES[match[2]]}"


def _scientific(match: re.Match) -> str:
    """Read "6.02e23" or "6 x 10^23": times ten to a power."""
    return f"{number(match[1])} times ten {_power(match[2])}{_unit_after(match)}"


def _power_of_ten(match: re.Match) -> str:
    return f"ten {_power(match[2])}{_unit_after(match)}"


def _unit_after(match: re.Match) -> str:
    if not match["unit"]:
        return ""
    return f" {UNITS[match['unit']][1]}" + (f" per {PER[match['per']]}" if match["per"] else "")


def _power(figures: str) -> str:
    value = int(figures.replace("^", ""))
    if value in (2, 3):
        return {2: "squared", 3: "cubed"}[value]
    return f"to the minus {numbers.cardinal(-value)}" if value < 0 else f"to the {numbers.ordinal(value)}"


# ---- Ranges, products, fractions


def _range(match: re.Match) -> str:
    low, high = match["low"], match["high"]
    if re.match(r"\s?=", following(match)):
        return f"{number(low)} minus {number(high)}"
    if low == high or (low, high) == ("24", "7"):  # 50-50
        return f"{number(low)} {number(high)}"
    years = re.fullmatch(r"[12]\d{3}", low) and re.fullmatch(r"[12]\d{3}|\d\d", high)
    read = year if years else number
    return f"{read(low)} to {read(high)}"


def _product(match: re.Match) -> str:
    """Read "3 x 4 = 12" as "times" and "a 3x5 card" as "by"; " × " is "times" unless a unit follows."""
    rest = following(match)
    sides = re.split(r"\s?[x×]\s?", match[0])
    equation = re.match(r"[^.,;?!]{0,20}=|\s(?:is|are|equals|makes|gives)\b", rest)
    measure = re.match(rf"\s?-?(?:{_UNIT})\b", rest)
    times = equation or (" × " in match[0] and not measure)
    pixels = all(re.fullmatch(r"[1-9]\d{3}|[1-9]\d\d", side) for side in sides) and len(sides) == 2
    read = _pixels if pixels and not times else number
    return (" times " if times else " by ").join(map(read, sides))


def _pixels(figures: str) -> str:
    """Read 1920 as "nineteen twenty", and 720 as "seven twenty"."""
    value = int(figures)
    if value >= 1000:
        return numbers.year(value)
    return number(figures) if value % 100 < 10 else f"{numbers.cardinal(value // 100)} {numbers.cardinal(value % 100)}"


def _multiple(match: re.Match) -> str:
    """Read "3x faster" as "three times faster", but "= 2x" as an equation."""
    equation = re.search(r"=[^.?!]{0,20}$", preceding(match))
    return f"{number(match[1])} {'x' if equation else 'times'}"


def _mixed(match: re.Match) -> str:
    return number(f"{match[1]} {match[2]}")


_SCORED = re.compile(
    r"\b(?:got|gets?|scored?|scores|scoring|earned|rated?|rates|rating|received|grade|marks?|gave|gives?)"
    r"(?:\s(?:it|him|her|me|them))?(?:\s(?:is|was|of|at|a|an))?:?\s+$",
    re.IGNORECASE,
)


def _fraction(match: re.Match) -> str:
    top, bottom = int(match[1]), int(match[2])
    if 1900 <= top < 2100 and bottom in ((top + 1) % 100, top + 1):  # the winter of 2019/20
        return f"{numbers.year(top)} {year(match[2]) if bottom else numbers.year(top + 1)}"
    if re.match(r"\s?=", following(match)):
        return f"{numbers.cardinal(top)} divided by {numbers.cardinal(bottom)}"
    if (top, bottom) in ((24, 7), (9, 11), (7, 11)) or (top >= 10 and (top == bottom == 20 or top + bottom == 100)):
        return f"{numbers.cardinal(top)} {numbers.cardinal(bottom)}"  # names, not quantities: 24/7, 20/20, 50/50
    if bottom in (5, 10, 20, 50, 100) and (_SCORED.search(preceding(match)) or (top == bottom and bottom % 20)):
        return f"{numbers.cardinal(top)} out of {numbers.cardinal(bottom)}"
    if bottom > 100 or (top > bottom and bottom > 10):
        return f"{numbers.cardinal(top)} over {numbers.cardinal(bottom)}"
    return numbers.fraction(top, bottom)


# ---- Years and plain numbers

_DATED = re.compile(
    r"\b(?:in|since|until|till|year|during|circa|class|summer|winter|spring|fall|autumn|A D|copyright|"
    rf"{'|'.join(MONTHS)}),?\s+$",
    re.IGNORECASE,
)
_PERHAPS_DATED = re.compile(r"\b(?:by|of|from|to|before|after|around|early|late|mid)\s+$", re.IGNORECASE)
_COUNTED = re.compile(rf"\s+(?:{'|'.join(sorted(COUNTED))})\b")


def _is_year(value: int, before: str, after: str) -> bool:
    """Decide between "nineteen eighty four" and "one thousand nine hundred eighty four" for four figures."""
    if _DATED.search(before):
        return 1000 <= value < 3000
    if _COUNTED.match(after) and value % 100:
        return False
    return 1100 <= value < 2100 or (1000 <= value < 1100 and _PERHAPS_DATED.search(before) is not None)


def _seconds(match: re.Match) -> str:
    """Read "in 60s" as seconds; "in the 60s" is a decade."""
    return f"{match['words']}{number(match['seconds'])} second{'' if match['seconds'] == '1' else 's'}"


def _decade(match: re.Match) -> str:
    figures = match[1]
    words = year(figures) if len(figures) == 4 and figures[-1] == "0" else number(figures)
    return numbers.plural(words)


def _plain(match: re.Match) -> str:
    sign, figures = "minus " if match["minus"] else "", match["value"]
    if not figures.isdigit():
        return sign + number(figures)
    if len(figures) >= 10 and not figures.endswith("000"):
        return sign + numbers.digits(figures)  # an account, a serial number
    if len(figures) == 4 and figures[0] != "0":
        value = int(figures)
        if _is_year(value, preceding(match), following(match)):
            return sign + numbers.year(value)
    return sign + number(figures)


_UNIT = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_PER = "|".join(re.escape(unit) for unit in sorted(PER, key=len, reverse=True))
_AFTER_POWER = rf"(?:\s?(?P<unit>{_UNIT})(?:/(?P<per>{_PER}))?(?![\w^']))?"
# One-letter units that are ambiguous without a space: "5s", "737s", "4K B", "221B".
_SPACED = frozenset(("s", "B", "N", "J", "l", "ct", "pt", "cc"))
_CHAIN_WORDS = (
    r"(?:dial|call|ring|text|phone|zip(?:\scode)?|postcode|pin(?:\scode)?|passcode|password|code|extension|ext\.?|"
    r"account|card|serial|invoice|emergency|combination)"
)
_BETWEEN = r"(?:\s(?:is|was|number|no\.|code|at|to))*[:,]?\s#?"

_READERS = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        *DATE_READERS,
        (r"(?<![\w.])1-(8\d\d)-([A-Z]{4,})\b", lambda m: f"one, {numbers.digits(m[1])}, {m[2].lower()}"),
        (
            r"(?<![\w.])(?:\+?1[-. ]{0,2})?(?:\(\d{3}\)[\s-]?|\d{3}[-. ])\d{3}[-. ]\d{4}(?:\s?x\d{2,5}\b)?(?![\w-])",
            _groups,
        ),
        (r"\+\d{1,3}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]\d{2,5}){1,5}(?![\w-])|\+\d{8,15}(?!\w)", _groups),
        (r"(?<![\w.,-])0\d{1,4}(?:[ -]\d{3,4}){1,3}(?![\w-])", _groups),
        (r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])|(?<![\w.-])\d{4}(?:[ -]\d{4}){3}(?![\w-])", _groups),
        (r"(?<![\w.-])\d{3}-\d{4}(?![\w-])|(?<=number is )\d{3} \d{4}(?![\w-])", _groups),
        (r"\b(?P<words>(?:in|for|after|within|every|took|takes|lasts?)\s)(?P<seconds>\d{1,3}(?:\.\d+)?)s\b", _seconds),
        (r"(?<![\w.,-])(?<!Porsche )911\b(?![.,]?\d|[-:/%]|\s[a-z]+s\b)", lambda m: numbers.digits(m[0])),
        (
            rf"(?i:\b(?P<words>{_CHAIN_WORDS}{_BETWEEN}))(?P<chain>\d{{3,12}}(?:[- ]\d{{4}})?)\b"
            r"(?![-/:,]?\d|\.\d|\s[a-z]+s\b)",
            _named_chain,
        ),
        (
            r"\b(?P<words>(?i:text|send|sms)\s[\w\s']{1,24}?\sto\s)(?P<chain>\d{5,6})\b(?![-/:,.]?\d|\s[a-z]+s\b)",
            _named_chain,
        ),
        (
            r"\b((?i:Boeing|Route|Highway|Interstate|Flight|Channel|Bus|Room)\s(?:[A-Z]{1,2}\s)?|(?:I|US|SR)[-\s])"
            r"([1-9]\d\d)(?:(?<=7\d7)-([1-9]00))?(?![\w,.]*\d|-)\b",
            _three_figures,
        ),
        (
            rf"{_MINUS}(?P<sign>{_SIGN}|{_CODE}|\bRs\.?)\s?(?:(?P<low>{_NUMBER})(?P<first>{_LOW_SCALE})\s?(?:-|to)\s?(?:{_SIGN})?)?"
            rf"(?P<whole>{_WHOLE})(?:\.(?P<cents>\d+))?{_SCALE}",
            _money,
        ),
        (rf"(?P<sign>{_SIGN})(?P<whole>)\.(?P<cents>\d{{2}})(?!\d)", _money),
        (
            rf"(?<![\d.,]){_MINUS}(?P<whole>{_WHOLE})(?:[.,](?P<cents>\d{{2}})(?!\d))?{_SCALE}"
            rf"\s?(?P<sign>(?:{_SIGN})(?!\s?\d)|{_CODE})",
            _money,
        ),
        (rf"(?<![\d.,])({_NUMBER})\s?(¢)", _small_money),
        (r"(?<![\w.,])(\d{1,2})(p)\b", _small_money),
        (r"(?<![\w.])(\d{1,2})'\s?(\d{1,2}(?:\s\d/\d)?)(?:\"|''|')?(?!\w)", _feet_and_inches),
        (r"(?<![\w.])(\d{1,2})\s?(?:ft\.?|feet)\s(\d{1,2}(?:\s\d/\d)?)\s?in\b\.?(?!\s[a-z]*ing\b)", _feet_and_inches),
        (r"(?<![\w.'])(\d{1,2})'()(?=\s(?:tall|long|wide|high|deep|by|x)\b)", _feet_and_inches),
        (rf"(?<![\w.])(?<!\w-)(\d+\.\d+|\d)[eE]\+?(-?\d{{1,3}})\b(?!-){_AFTER_POWER}", _scientific),
        (rf"(?<![\w.])({_NUMBER})\s?[x×]\s?10({_EXPONENT}){_AFTER_POWER}", _scientific),
        (rf"(?<![\w.])(10)({_EXPONENT}){_AFTER_POWER}", _power_of_ten),
        (
            rf"(?<![\w.,/^]){_MINUS}(?:(?P<low>{_NUMBER})\s?(?P<first>{_UNIT})?\s?(?P<between>-|to|x|×|by)\s?)?(?P<value>{_VALUE})"
            rf"(?:\s(?P<scale>hundred|thousand|million|billion|trillion|lakh|crore)(?=\s))?(?P<joint>[\s-]?)(?P<unit>{_UNIT})"
            rf"(?:/(?P<per>{_PER}))?(?![\w^])(?P<dot>\.(?!\w))?(?!'\w)",
            _quantity,
        ),
        (
            rf"(?<![\w.,/])({_VALUE})([\s-]?)in\b(?:\.(?=\s|$)|(?=\s(?:tall|long|wide|high|deep|thick|by|x)\b|\s?[x×]))",
            _inches,
        ),
        (rf"({_EXPONENT})", lambda m: _power(m[1])),
        (r"(?<![\d/.])(\d{1,6})[\s-](\d{1,2}/\d{1,3})(?![\d/])", _mixed),
        (r"(?<![\w/.,])(\d{1,3}\.\d+)/(\d{1,3})(?![\w/])", lambda m: f"{number(m[1])} out of {number(m[2])}"),
        (r"(?<![\d/.,])(\d{1,4})/(\d{1,4})(?:th|rd|nd|ths|rds)?(?![\d/])", _fraction),
        (
            r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{1,15})(?:(?i:st|nd|rd|th))\b",
            lambda m: numbers.ordinal(numbers.parse(m[1])),
        ),
        (r"(?<![\w.,'])10{1,3}s(?=\sof\b)", lambda m: {"10s": "tens", "100s": "hundreds"}.get(m[0], "thousands")),
        (r"(?<![\w.,'])'?(\d{1,15})'?s\b", _decade),
        (r"(?<![\w.,'])'(\d\d)\b(?!')", lambda m: year(m[1])),
        (r"(?<![\w.])\d+(?:\.\d+){2,}(?!\w)", _version),
        (rf"(?<![\w.,-])(?P<low>{_NUMBER})(?:-|\s-\s)(?P<high>{_NUMBER})(?![\w-])", _range),
        (r"(?<![\w.:])(\d{1,15}):(\d{1,15})(?![\w:])", lambda m: f"{number(m[1])} to {number(m[2])}"),
        (rf"(?<![\w.]){_NUMBER}(?:\s?[x×]\s?{_NUMBER}){{1,3}}(?!\w)", _product),
        (rf"(?<![\w.])({_NUMBER})[xX](?=\s[a-z]|[,.]?$)", _multiple),
        (r"(?<![\w.])(\d+)([MB])(?=\s(?:people|[a-z]+s)\b)", _scaled),
        (r"(?<![\w.])(\d+\.\d+(?=[MB])|\d+(?:\.\d+)?(?=[bm]n))(M|B|bn|mn)\b", _scaled),
        (rf"{_MINUS}(?P<value>{_NUMBER})", _plain),
    )
)
_PER_WORDS = re.compile(rf"/\s?({_PER})\b")


def read_per(text: str) -> str:
    """Replace the slash before a unit of time, weight or length by "per": "$5/hour", "60 miles/h"."""
    return _PER_WORDS.sub(lambda m: f" per {PER[m[1]]}", text)
