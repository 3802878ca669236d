"""English text expanded as it is read aloud: "Dr. Smith paid $2" becomes "Doctor Smith paid two dollars".

`read_english` is for a voice: it keeps capitals and punctuation, and spells acronyms. `read_words` is for the labels of
a recognizer, by the same rules but with acronyms as they are. Readings are American. The result for a voice has only
letters, spaces and ! ' ( ) , . : ; ? -, and phonemes in braces unchanged; expanding it again changes nothing.

Limits: there is no parser, so "1500" (a year or a number) or "St." are decided by the adjacent words alone, and a Roman
numeral after a name that is not a monarch's is read as a plain number.
"""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.characters import group_thousands
from speech_jax.text.english_capitals import NUMERALS, is_shouted, read_capitals, read_roman
from speech_jax.text.english_context import Reader, apply, following, number, preceding, stop
from speech_jax.text.english_dates import DAY_READERS, MONTH_RANGE, MONTH_READERS
from speech_jax.text.english_figures import read_figures, read_per
from speech_jax.text.english_tables import (
    AFTER_NAMES,
    ANYWHERE,
    BEFORE_FIGURES,
    BEFORE_NUMERALS,
    BEFORE_OF,
    BEFORE_WORDS,
    CURRENCIES,
    DAYS,
    DIRECTIONS,
    ELEMENTS,
    GREEK,
    LAST_WORDS,
    MONTH_OF,
    MONTHS,
    SHORT,
    SIGNS,
    STATES,
    STREETS,
    TITLES,
)
from speech_jax.text.english_web import WEB_READERS, read_name
from speech_jax.text.fold import Change, Folded, fold
from speech_jax.text.symbols import ARPABET
from speech_jax.text.tags import blank_tags

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
PUNCTUATION = frozenset(" !'(),.:;?-")
# Characters that `expand` can read. All others are folded into these first, or reported.
READABLE = LETTERS | PUNCTUATION | frozenset('0123456789/"<>~*_^') | frozenset(SIGNS) | frozenset(GREEK)
READABLE |= frozenset("".join(CURRENCIES)) | {"µ"}
_INLINE = re.compile(r"\{([A-Z0-2\s]+)\}")
_PHONES = frozenset(ARPABET)
_HOLD = "\ue000"  # stands for phonemes in braces while the text around them is read


def expand(text: str) -> str:
    """Return `text` as it is read aloud, without the characters that cannot be read (`read_english` names them)."""
    return read_english(text).text


def read_english(text: str) -> Folded:
    """Expand `text`, with lists of replaced and unknown characters by their positions in it.

    Symbols in braces that are not phonemes count as unknown, too. Transcribers' tags count as replaced by nothing.
    """
    text, tags = blank_tags(group_thousands(text))
    parts: list[str] = []
    inline: list[str] = []
    replaced = [Change(tag.position, tag.text, "") for tag in tags]
    unknown: list[Change] = []

    def fold_part(start: int, end: int) -> None:
        folded = fold(text[start:end], READABLE)
        replaced.extend(c._replace(position=c.position + start) for c in folded.replaced)
        unknown.extend(c._replace(position=c.position + start) for c in folded.unknown)
        space = " " if text[end - 1 : end].isspace() else ""
        parts.append((" " if text[start : start + 1].isspace() else "") + folded.text + space)

    position = 0
    for match in _INLINE.finditer(text):
        fold_part(position, match.start())
        position = match.end()
        phones = list(re.finditer(r"\S+", match[1]))
        wrong = [phone for phone in phones if phone[0] not in _PHONES]
        unknown.extend(Change(match.start(1) + phone.start(), phone[0], "") for phone in wrong)
        if phones and not wrong:
            parts.append(_HOLD)
            inline.append("{" + " ".join(phone[0] for phone in phones) + "}")
        else:
            parts.append(" ")
    fold_part(position, len(text))
    words, *rest = _expand("".join(parts)).split(_HOLD)
    words += "".join(phones + after for phones, after in zip(inline, rest, strict=True))
    return Folded(words, tuple(replaced), tuple(unknown))


def read_words(text: str) -> str:
    """Replace figures, signs and abbreviations by words; acronyms, capitals and punctuation stay.

    Where `wants_reading` is False it stays as it is.
    """
    return _expand(_GREEK_ALONE.sub(lambda m: f" {GREEK[m[0]]} ", text), acronyms=False)


def _expand(text: str, *, acronyms: bool = True) -> str:
    """Expand until nothing changes: in "5Lt. Gray", "Lt." is recognized only after the 5 has become a word."""
    shouted = is_shouted(text)
    for _ in range(5):
        before, text = text, _read_once(text, _SIGN_WORDS if acronyms else _LABEL_SIGN_WORDS)
        if acronyms:
            text = read_capitals(text, shouted=shouted)
        text = _tidy(text)
        if text == before or not (acronyms or wants_reading(text)):
            break
    return text


def _read_once(text: str, signs: dict[str, str]) -> str:
    """Apply all readers once; their order matters."""
    text = apply(_FIGURE_SIGNS, text)
    for pattern, reader in _WORD_READERS:
        text = pattern.sub(reader, text)
    text = read_per(read_figures(text))
    text = apply(_SIGN_READERS, text)
    text = "".join(f" {signs[c]} " if c in signs else c for c in text)
    return read_roman(text)


_SIGN_WORDS = SIGNS | GREEK | {"µ": "micro", "/": "slash"} | dict.fromkeys('"*_~<>^', "")
# In labels "and/or" is two words, and Greek text stays.
_LABEL_SIGN_WORDS = {sign: word for sign, word in _SIGN_WORDS.items() if sign not in GREEK} | {"/": ""}
_GREEK_ALONE = re.compile(rf"(?<![^\W\d_])[{''.join(GREEK)}](?![^\W\d_])")


def _tidy(text: str) -> str:
    """Clean up spaces, hyphens and commas."""
    text = re.sub(r"(?<=[A-Za-z])-(?=\s)|(?<=\s)-(?=[A-Za-z\ue000])", " ", text)  # left over from "mid-1990s"
    text = re.sub(r"(?:(?<=\s)|^)-+(?=\s|$)|--+", ", ", text)  # a dash
    text = re.sub(r"[\s,]*,[\s,]*", ", ", text)
    text = re.sub(r"\s+(?=[!),.:;?])", "", text)
    text = re.sub(r"(?<=\()\s+", "", text)
    text = re.sub(r"(?<=[!.:;?(]),", "", text)
    return " ".join(text.split()).removeprefix(", ") if text.strip(" ,") else ""


# ---- Abbreviations


def _title(match: re.Match) -> str:
    return TITLES[match[0].rstrip(".").capitalize()]


def _short(match: re.Match) -> str:
    abbreviation = match[1]
    word = SHORT.get(abbreviation) or _like(SHORT[abbreviation.lower()], abbreviation)
    return word + stop(match, abbreviation in LAST_WORDS)


def _like(word: str, written: str) -> str:
    """Return the word with a capital if the abbreviation has one."""
    return word.capitalize() if written[0].isupper() else word


def _doctor_or_drive(match: re.Match) -> str:
    return _by_context(match, "Doctor", "Drive")


def _saint_or_street(match: re.Match) -> str:
    return _by_context(match, "Saint", "Street")


_NAME_BEFORE = re.compile(r"(?:[A-Z][A-Za-z']+|\d(?:st|nd|rd|th))\s$")
_SENTENCE_BEGINS = re.compile(
    r"\s(?:The|This|That|These|Those|There|It|He|She|We|They|You|I|My|His|Her|Our|Their|Its|If|In|On|At|As|And|But|So|When|"
    r"Where|What|Who|Why|How|Is|Was|Are|Please|Then|Now|After|Before|For|To|Let)\b(?!\.)"
)  # no saint has such a name, but a doctor may
_NUMBER_BEFORE = re.compile(r"\d+(?:\s?[A-Z]\.?)?(?:\s(?:[A-Z][a-z]+|\d+(?:st|nd|rd|th)))*\s$")
_NUMBER_BEFORE_LOWER = re.compile(r"\d+(?:\s[a-z]+)?\s$")


def _by_context(match: re.Match, before_name: str, after_name: str) -> str:
    """Return the title if a capital follows, the part of an address if a name or number precedes and none follows."""
    before, after = preceding(match), following(match)
    if match[0][0].islower():  # "st. louis", "12 main st."
        return after_name + stop(match) if _NUMBER_BEFORE_LOWER.search(before) else before_name
    named = _NAME_BEFORE.search(before) is not None
    ends = named and (_NUMBER_BEFORE.search(before) or before_name == "Saint" and _SENTENCE_BEGINS.match(after))
    if re.match(r"\s[A-Z]", after) and not ends:
        return before_name
    if not named:
        return before_name if before_name == "Doctor" else after_name
    return after_name + stop(match)


def _dotted(match: re.Match) -> str:
    """Spell letters with dots: "U.S.A." -> "U S A"."""
    return " ".join(match[0].replace(".", "").upper()) + stop(match, before_capital=False)


def _spelled_and(match: re.Match) -> str:
    """Spell "AT&T" and "R&D"."""
    return " and ".join(" ".join(part) for part in match[1].split("&")) + ("'s" if match[2] else "")


def _after_name(match: re.Match) -> str:
    return match[1] + AFTER_NAMES[match[2]]


def _direction(match: re.Match) -> str:
    return match[1] + DIRECTIONS[match[2]] + stop(match)


def _formula(match: re.Match) -> str:
    """Spell "H2SO4", "NaCl", "Ca^2+" and "H1N1"."""
    signs = {"-": "minus", "+": "plus"}
    parts: list[str] = re.findall(r"\d+|[^^]", match[0].upper())
    return " ".join(number(part) if part.isdigit() else signs.get(part, part) for part in parts)


def _before_figures(match: re.Match) -> str:
    return _like((BEFORE_FIGURES | BEFORE_NUMERALS)[match[1].lower()], match[1]) + " "


def _state(match: re.Match) -> str:
    code = match["zip"]
    figures = ", ".join(numbers.digits(group) for group in code.split("-")) if code else ""
    return f"{match['before']}{STATES.get(match['state'], 'D C')} {figures}".rstrip()


def _alternatives(table: dict[str, str]) -> str:
    """Return a pattern of the abbreviations of a table, also with a capital letter."""
    names = {*table, *(name.capitalize() for name in table if len(name) > 1)}
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_TITLES = "|".join(sorted({*TITLES, *(title.upper() for title in TITLES)}, key=len, reverse=True))
_STATE = "|".join(STATES)
_CERTAIN_STATE = "|".join(state for state in STATES if state not in ("OK", "HI", "OH", "IN", "ME"))
_DIRECTION = "|".join(sorted(DIRECTIONS, key=len, reverse=True))
_STREET = rf"(?:{STREETS}|St|Ave|Blvd|Rd|Dr|Ln|Ct|Pl|Sq|Hwy|Pkwy)\b"
_WORD_READERS: tuple[tuple[re.Pattern, Reader], ...] = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (rf"\b(?:{_TITLES})\.(?=\s?[A-Z]|\sof\s)", _title),
        (rf"(?<!\d)(?<!\d\s)\b(?i:{'|'.join(ANYWHERE)})\.(?=\s)|\b(?:(?i:mrs?)|Ms)\b\.?", _title),
        (r"\b([A-Z]{1,3}(?:&[A-Z]{1,3})+)('?s)?\b", _spelled_and),
        (r"\b(?i:dr)\b\.?", _doctor_or_drive),
        (r"(?<=[a-z]\s)St\b(?=,?\s[a-z]|[,;)]|$)", lambda m: "Street"),
        (r"\b(?:St\b(?:\.|(?=\s[A-Z]))|(?:st|ST)\.)", _saint_or_street),
        (r"\bMt\b(?=\s[A-Z])", lambda m: "Mount"),
        (r"\b(?i:vs)\b(?!\.)", lambda m: "versus"),
        (r"\b(?i:jr)\b(?!\.)", lambda m: _like("junior", m[0])),
        (r"\bPh\.?D('?s)?\b\.?", lambda m: ("P H D's" if m[1] else "P H D") + stop(m, before_capital=False)),
        (rf"\b({_alternatives(BEFORE_FIGURES)})\.\s?(?=\d)", _before_figures),
        (r"\b(no)\.(?=\s(?:is|was)\b)", lambda m: "number"),
        (r"\b(Apt|Hwy|Rte|Ste|Bldg)(?=\s#?\d)", lambda m: SHORT[f"{m[1]}."]),
        (r"\bA-Z\b", lambda m: "A to Z"),
        (r"\b(?:(?i:ww)|WW[ -])(?:(1|I|i)|2|II|ii)\b", lambda m: f"World War {'one' if m[1] else 'two'}"),
        (rf"\b({_alternatives(BEFORE_NUMERALS)})\.\s?(?=\(?\d|(?!I\s[a-z])[IVXL]+\b)", _before_figures),
        (rf"\b(?=[A-Z])({_alternatives(BEFORE_NUMERALS)})\.\s(?=(?!I\b)[A-Z]\b(?!\.))", _before_figures),
        (rf"\b({_alternatives(BEFORE_OF)})\.(?=\sof\b)", lambda m: _like(BEFORE_OF[m[1].lower()], m[1])),
        (
            rf"(?<!\d)(?<!\d[\s-])\b({_alternatives(BEFORE_WORDS)})\.(?=\s[a-z])",
            lambda m: _like(BEFORE_WORDS[m[1].lower()], m[1]),
        ),
        (rf"(?<![\w.])({_alternatives(SHORT)})(?![A-Za-z])", _short),
        (rf"((?:\b[A-Z][\w&']*|\dst|\dnd|\drd|\dth),?\s)({'|'.join(AFTER_NAMES)})\b(?!\.)", _after_name),
        (rf"\b({_STREET}\.?,?\s)({_DIRECTION})\b\.?(?!\s?&|\s[A-Z]\b)", _direction),
        (
            rf"(\d\s)({_DIRECTION})\b\.?(?=\s(?:[A-Z][a-z]+|\d+[a-z]{{2}})\s{_STREET})",
            lambda m: m[1] + DIRECTIONS[m[2]],
        ),
        (rf"(\b(?:I|US|SR|[Rr]oute|[Hh]ighway|[Ii]nterstate)[-\s]\d{{1,3}}\s)({_DIRECTION})\b\.?", _direction),
        (r"(?<=\dst |\dnd |\drd |\dth )[Ff]l\b\.?", lambda m: "floor" + stop(m)),
        (r"(?P<before>\b[A-Z]?[a-z]+,?\s)(?P<state>D\.?C\.?),?\s(?P<zip>\d{5}(?:-\d{4})?)\b", _state),
        (rf"(?P<before>\b[A-Z]?[a-z]+,?\s)(?P<state>{_STATE}),?\s(?P<zip>\d{{5}}(?:-\d{{4}})?)\b", _state),
        (
            rf"(?P<before>\b[A-Z][a-z]+,\s)(?P<state>{_CERTAIN_STATE})\b(?P<zip>)"
            r"(?=[.,;!?)]|\s*$|\s(?:and|is|was|on|has|to|for|in)\b)",
            _state,
        ),
        *DAY_READERS,
        *MONTH_READERS,
        (r"(?<![\w.])(?![aApP]\.[mM]\.)(?:[A-Za-z]\.){2,}(?!\w)", _dotted),
        (r"(?<![\w.])(?<![A-Z] )([A-Z])\.(?=\s[A-Z][a-z.]|\d)", lambda m: m[1]),  # not the stop after "F B I."
    )
)


# ---- Signs

_GRADED = re.compile(r"\b(?:type|group|blood|grade|grades|got|a|an|is|are|and|or|from|to)\s$", re.IGNORECASE)


def _minus(match: re.Match) -> str | None:
    """Read the hyphen of "3 y - 2" in an equation."""
    equation = re.search(r"=[^.?!]{0,20}$", preceding(match)) or re.match(r"[^.?!]{0,20}=", following(match))
    return "minus" if equation else None


def _grade(match: re.Match) -> str | None:
    """Read the hyphen of "Type O-" and "a B-"."""
    return f"{match[1]} minus" if _GRADED.search(preceding(match)) else None


# Before the figures become words.
_FIGURE_SIGNS: tuple[tuple[re.Pattern, Reader], ...] = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (r"<\s?=", lambda m: "less than or equal to"),
        (r">\s?=", lambda m: "greater than or equal to"),
        (r"(?<=\s)<(?=\s|-?[\d.])|(?<=[\d)])<(?=\d)|^<(?=\s?-?\d)", lambda m: "less than"),
        (r"(?<=\s)>(?=\s|-?[\d.])|(?<=[\d)])>(?=\d)|^>(?=\s?-?\d)", lambda m: "greater than"),
        *WEB_READERS,
        (r"(?<!\w)@(\w*_\w*)", lambda m: "at " + read_name(m[1])),
        (r"(?<![\w&])#(?=\d*[A-Za-z]{3})(\w+)", lambda m: "hashtag " + read_name(m[1])),
        (r"#\s?(?=\d)", lambda m: "number"),
        (r"\b(?:[A-Z]{1,2}\d{1,2}){2,}[A-Z]?\b", _formula),
        (rf"\b(?=[A-Z\d]*[A-Z][a-z])(?!NaN\b)(?:(?:{ELEMENTS}|[BCFHIKNOPS])\d{{0,2}}){{2,}}(?!\w)", _formula),
        (rf"\b(?:{ELEMENTS})(?:\^?\d)?(?:\+|\^-)(?!\w)", _formula),  # Na+, Ca²⁺, Cl⁻
        (r"\b(?:CO|NO|SO|PO|CH|NH)\d\b", _formula),
        (r"\^-(?![\d^])", lambda m: "minus"),
        (r"\b[vV]\.?(?=\d+\.\d)", lambda m: "version"),
        (r"(?<=\d)\s?\*\s?(?=\d)", lambda m: "times"),
        (r"-{1,2}>|=>", lambda m: "to"),
        (r"(?<!\w)T-(?=\d+\s?(?:s|sec|seconds?|min|minutes?|h|hours?|days?)\b)", lambda m: "T minus"),
        (r"(?<=[\w)])\s-(?=\s(?:[\d(]|[a-z]\b))", _minus),
        (r"(?<=\s)(A|B|AB|O|C|D|F)-(?=[,.;:!?)]|\s|$)(?!\s(?:and|or)\s\w+-\w)", _grade),
        (r"(?<=\s)-(?=[b-z]\b)", lambda m: "dash"),  # ls -l
    )
)
_SIGN_READERS: tuple[tuple[re.Pattern, Reader], ...] = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (r"\b([ap])\.\s?m\.", lambda m: f"{m[1].upper()} M"),
        (r"\b([A-G])#", lambda m: f"{m[1]} sharp"),
        (r"#(?=[A-Za-z])", lambda m: "hashtag"),
        (r"(?:(?<=\s)|^)\*(?=[\s.,;:!?)]|$)", lambda m: "star"),
        (r"~(?=\s*[a-z])", lambda m: "about"),
        (r"(?<!\w)\.(?=[A-Z]{3})", lambda m: "dot"),
    )
)  # fmt: skip


# ---- Text that needs no reading

_WITH_STOP = {*TITLES, *BEFORE_FIGURES, *BEFORE_NUMERALS, *BEFORE_OF, *BEFORE_WORDS, *DAYS, *MONTH_OF, "Dr", "St"}
_WITH_STOP |= {name.removesuffix(".") for name in SHORT if name.endswith(".") and "." not in name[:-1]}
_WANTED_STOP = re.compile(
    r"\.(?:(?<=\w\.)(?=\w)|(?i:" + "|".join(rf"(?<=\b{name}\.)" for name in sorted(_WITH_STOP)) + "))"
)  # begins at the full stop: fast
_SIGN = re.escape("".join({*SIGNS, *GREEK, *"".join(CURRENCIES), *"*<>"} - LETTERS))
_WANTED_SIGN = re.compile(rf"[\d{_SIGN}]")
_WANTED_RANGE = re.compile(MONTH_RANGE)
_WORD = re.compile(r"\w+")
_WANTED_WORDS = frozenset(
    {*AFTER_NAMES, *DAYS, *MONTH_OF, "Ms", "Mt", "St", "PhD", "PhDs", "w", "c", "War", "WAR", "WW"}.difference(MONTHS)
    | {case(word) for word in ("v", "x", "wwi", "wwii", *NUMERALS) for case in (str.lower, str.upper)}
    | {case(word) for word in ("mr", "mrs", "dr", "jr", "vs") for case in (str.lower, str.upper, str.capitalize)}
    | {word.capitalize() for word in NUMERALS}
)


def wants_reading(text: str) -> bool:
    """Return False for text that `read_words` would not change; much faster than reading it."""
    if _WANTED_SIGN.search(text) or ("." in text and _WANTED_STOP.search(text)):
        return True
    if "-" in text and _WANTED_RANGE.search(text):
        return True
    return not _WANTED_WORDS.isdisjoint(_WORD.findall(text)) or "MM" in text or "MCM" in text
