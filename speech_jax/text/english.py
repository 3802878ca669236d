"""English text expanded as it is read aloud: "Dr. Smith paid $2" becomes "Doctor Smith paid two dollars".

Unlike normalize.py, which reduces text to bare words for comparison, this keeps capitals and punctuation, which a voice
needs. Readings are American. The result has only letters, spaces and ! ' ( ) , . : ; ? -, and phonemes in braces
unchanged; expanding it again changes nothing.

Limits: there is no parser, so "1500" (a year or a number) or "St." are decided by the adjacent words alone, and a Roman
numeral after a name that is not a monarch's is read as a plain number.
"""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.english_figures import SENTENCE, number, read_figures, read_per
from speech_jax.text.english_tables import (
    BEFORE_FIGURES,
    CURRENCIES,
    DAYS,
    DOUBLED,
    GREEK,
    LAST_WORDS,
    MONARCHS,
    MONTH_OF,
    NUMBERED,
    SHORT,
    SIGNS,
    SPELLED,
    TITLES,
    WORDS,
)
from speech_jax.text.fold import Change, Folded, fold
from speech_jax.text.symbols import ARPABET

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
PUNCTUATION = frozenset(" !'(),.:;?-")
# Characters that `expand` can read. All others are folded into these first, or reported.
READABLE = LETTERS | PUNCTUATION | frozenset('0123456789/"<>~*_') | frozenset(SIGNS) | frozenset(GREEK)
READABLE |= frozenset("".join(CURRENCIES)) | {"µ"}
_INLINE = re.compile(r"\{([A-Z0-2\s]+)\}")
_PHONES = frozenset(ARPABET)
_HOLD = "\ue000"  # stands for phonemes in braces while the text around them is read


def expand(text: str) -> str:
    """Return `text` as it is read aloud, without the characters that cannot be read (`read_english` names them)."""
    return read_english(text).text


def read_english(text: str) -> Folded:
    """Expand `text`, with lists of replaced and unknown characters by their positions in it.

    Symbols in braces that are not phonemes count as unknown, too.
    """
    parts: list[str] = []
    inline: list[str] = []
    replaced: list[Change] = []
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


def _expand(text: str) -> str:
    """Expand until nothing changes: in "5Lt. Gray", "Lt." is recognized only after the 5 has become a word."""
    for _ in range(5):
        before, text = text, _read_once(text)
        if text == before:
            break
    return text


def _read_once(text: str) -> str:
    """Apply all readers once to text in `READABLE` characters; their order matters."""
    for pattern, reader in _WORD_READERS:
        text = pattern.sub(reader, text)
    text = read_per(read_figures(text))
    for pattern, reader in _SIGN_READERS:
        text = pattern.sub(reader, text)
    text = "".join(f" {_SIGN_WORDS[c]} " if c in _SIGN_WORDS else c for c in text)
    text = _ROMAN.sub(_roman, text)
    return _tidy(_read_capitals(text))


_SIGN_WORDS = SIGNS | GREEK | {"µ": "micro", '"': " ", "*": " ", "_": " ", "/": "slash", "~": " ", "<": " ", ">": " "}


def _tidy(text: str) -> str:
    """Clean up spaces, hyphens and commas."""
    text = re.sub(r"(?<=[A-Za-z])-(?=\s)|(?<=\s)-(?=[A-Za-z\ue000])", " ", text)  # left over from "mid-1990s"
    text = re.sub(r"(?:(?<=\s)|^)-+(?=\s|$)|--+", ", ", text)  # a dash
    text = re.sub(r"[\s,]*,[\s,]*", ", ", text)
    text = re.sub(r"\s+(?=[!),.:;?])", "", text)
    text = re.sub(r"(?<=\()\s+", "", text)
    text = re.sub(r"(?<=[!.:;?(]),", "", text)
    return " ".join(text.split()).removeprefix(", ") if text.strip(" ,") else ""


# ---- Web addresses


def _spell_address(text: str) -> str:
    """Spell out the parts of a web address."""
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text):
        if part in _ADDRESS:
            words.append(_ADDRESS[part])
        elif part.isdigit():
            words.append(number(part) if len(part) <= 4 and part[0] != "0" else numbers.digits(part))
        elif len(part) <= 2 or part.lower() in ("www", "html", "php", "pdf", "faq"):
            words.append(" ".join(part.upper()))
        else:
            words.append(part.lower())
    return " ".join(words)


_ADDRESS = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", ":": "colon", "+": "plus", "~": "tilde",
    "?": "question mark", "=": "equals", "&": "and", "%": "percent", "#": "hash",
}  # fmt: skip
_DOMAIN = r"(?:com|org|net|edu|gov|io|info|dev|app|ai|uk|de|fr|ca|eu)"


def _url(match: re.Match) -> str:
    address = match["address"].rstrip(".,;:!?)'")
    rest = match["address"][len(address) :]
    return f" {_spell_address(address.rstrip('/'))}{rest} "


# ---- Abbreviations


def _rest(match: re.Match) -> str:
    """Return the text after the match, up to the longest context that any reader uses."""
    return match.string[match.end() : match.end() + 40]


def _ends(match: re.Match, before_capital: bool) -> str:
    """Return "." if the full stop of an abbreviation also ends the sentence, else ""."""
    rest = _rest(match)
    ends = not rest.strip() or (before_capital and re.match(SENTENCE, rest) is not None)
    return "." if ends and match[0].endswith(".") else ""


def _short(match: re.Match) -> str:
    abbreviation = match[1]
    word = SHORT.get(abbreviation) or SHORT[abbreviation[0].lower() + abbreviation[1:]].capitalize()
    return word + _ends(match, abbreviation in LAST_WORDS)


def _doctor_or_drive(match: re.Match) -> str:
    return _by_context(match, "Doctor", "Drive")


def _saint_or_street(match: re.Match) -> str:
    return _by_context(match, "Saint", "Street")


def _by_context(match: re.Match, before_name: str, after_name: str) -> str:
    """Return the title if a capital follows, the part of an address if a name or number precedes and none follows."""
    before, after = match.string[max(0, match.start() - 30) : match.start()], _rest(match)
    named = re.search(r"(?:[A-Z][a-z']+|\d(?:st|nd|rd|th))\s$", before) is not None
    if re.match(r"\s[A-Z]", after) and not (named and re.search(r"\d+(?:\s[A-Z]\.?)?(?:\s[A-Z][a-z]+)*\s$", before)):
        return before_name
    if not named:
        return before_name if before_name == "Doctor" else after_name
    return after_name + _ends(match, True)


def _dotted(match: re.Match) -> str:
    """Spell letters with dots: "U.S.A." -> "U S A"."""
    letters = " ".join(match[0].replace(".", "").upper())
    return letters + _ends(match, False)


_SHORT = "|".join(re.escape(s) for s in sorted({*SHORT, *(s.capitalize() for s in SHORT)}, key=len, reverse=True))
_WORD_READERS = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (
            r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
            lambda m: f" {_spell_address(m[0].rstrip('.-'))}{'.' if m[0].endswith('.') else ''} ",
        ),
        (r"\bhttps?://(?P<address>[^\s()\"<>]+)", _url),
        (r"(?<![\w@.])(?P<address>www\.[^\s()\"<>]+)", _url),
        (
            r"(?<![\w@.-])(?P<address>[A-Za-z\d-]{2,63}(?:\.[A-Za-z\d-]{2,63}){0,3}"
            rf"\.{_DOMAIN}\b(?:/[^\s()\"<>]*)?)",
            _url,
        ),
        (rf"\b({'|'.join(TITLES)})\b\.(?=\s?[A-Z])|\b(Mr|Mrs|Ms)\b\.?", lambda m: TITLES[m[1] or m[2]]),
        (r"\b[A-Z]{1,3}(?:&[A-Z]{1,3})+\b", lambda m: " and ".join(" ".join(part) for part in m[0].split("&"))),
        (r"\bDr\b\.?", _doctor_or_drive),
        (r"\bSt\b(?:\.|(?=\s[A-Z]))", _saint_or_street),
        (r"\bvs\b(?!\.)", lambda m: "versus"),
        (r"\bPh\.?D\b\.?", lambda m: "P H D" + _ends(m, False)),
        (rf"(?<![\w.])({_SHORT})(?![A-Za-z])", _short),
        (rf"\b({'|'.join(BEFORE_FIGURES)})\.\s?(?=\d)", lambda m: f"{BEFORE_FIGURES[m[1]]} "),
        (rf"\b({'|'.join(DAYS)})\.(?=,?\s|$)", lambda m: DAYS[m[1]] + _ends(m, True)),
        (r"\b(?!May)([A-Z][a-z]{2,3})\.(?=,?\s[A-Za-z]|$)", lambda m: _month(m)),
        (r"(?<![\w.])(?:[A-Za-z]\.){2,}(?!\w)", lambda m: m[0] if m[0].lower() in ("a.m.", "p.m.") else _dotted(m)),
        (r"(?<![\w.])(?<![A-Z] )([A-Z])\.(?=\s[A-Z][a-z.]|\d)", lambda m: m[1]),  # not the stop after "F B I."
    )
)  # fmt: skip


def _month(match: re.Match) -> str:
    names = {name[:3]: name for name in MONTH_OF if len(name) > 4} | {"Sept": "September"}
    return names[match[1]] + _ends(match, True) if match[1] in names else match[0]


# ---- Signs


_SIGN_READERS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\b([ap])\.\s?m\.", lambda m: f" {m[1].upper()} M "),
        (r"#(?=\s?(?:zero|one|two|three|fou?r|fi[vf]|six|seven|eigh|nine|ten\b|eleven|twe|thir))", " number "),
        (r"#(?=[A-Za-z])", " hashtag "),
        (r"(?:(?<=\s)|^)\*(?=\s|$)", " star "),
        (r"~(?=\s*[a-z])", " about "),
        (r"<\s*=", " is at most "),
        (r">\s*=", " is at least "),
        (r"\s<\s", " is less than "),
        (r"\s>\s", " is greater than "),
        (r"(?<=[A-Za-z])/(?=[A-Za-z])", " slash "),
    )
)  # fmt: skip


# ---- Roman numerals

_ROMAN = re.compile(r"\b([A-Z][a-z]+)(\s)(?=[IVX])(X{0,3}(?:IX|IV|V?I{0,3}))\b(?!'[a-rt-z]|-?[A-Za-z]|\.[A-Z])")
_AFTER_KING = re.compile(r"'s|\s(?:of|was|is|and|ruled|reigned|died|became|had)\b|\s?[),.;?!]|\s*$")


def _roman(match: re.Match) -> str:
    name, numeral = match[1], match[3]
    value = sum({"I": 1, "V": 5, "X": 10}[c] for c in numeral) - 2 * ("IV" in numeral or "IX" in numeral)
    rest = _rest(match)
    if re.match(r"\s[A-Z]\b", rest):  # spelled letters
        return match[0]
    if name in MONARCHS:
        if len(numeral) > 1 or _AFTER_KING.match(rest):
            return f"{name} the {numbers.ordinal(value)}"
    elif name in NUMBERED or (len(numeral) > 1 and numeral not in ("IV", "XX", "XXX")):
        return f"{name} {numbers.cardinal(value)}"
    return match[0]


# ---- Capitals

_CAPITALS = re.compile(r"\b([A-Z]{2,})('?s)?\b")
_LONG_WORD = re.compile(r"[A-Za-z]{2,}")


def _read_capitals(text: str) -> str:
    """Expand words in capitals: acronyms are spelled ("F B I") or words ("nasa"); shouted text is ordinary words."""
    words = _LONG_WORD.findall(text)
    shouted = sum(word.isupper() for word in words)
    shouting = shouted >= 3 and shouted > 0.6 * len(words)

    def read(match: re.Match) -> str:
        word, ending = match[1], match[2] or ""
        if word in DOUBLED:
            return DOUBLED[word] + ("'s" if ending else "")
        if _is_spelled(word, shouting):
            return " ".join(word) + ("'s" if ending else "")
        return word.lower() + ending

    return _CAPITALS.sub(read, text)


def _is_spelled(word: str, shouting: bool) -> bool:
    if word in SPELLED or not any(c in "AEIOUY" for c in word):
        return True
    return len(word) <= 3 and word not in WORDS and not shouting
