"""Normalization of written text to spoken words, the same for training and for scoring.

For English, figures, money, times and signs become words by the rules that a voice reads by (english.py), and letters
lose their accents. Other languages are only lower-cased by their own rules, brought to one Unicode form and stripped of
punctuation. Their digits stay, since reading them needs a grammar; the tokenizer then reports the line.

In every language format characters (joiners, soft hyphens, direction marks) and transcribers' tags (tags.py) go.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable

from speech_jax.core.errors import UserError
from speech_jax.text.characters import FRACTIONS, PLAIN_LETTERS, SUPERSCRIPTS, compose, group_thousands, lower
from speech_jax.text.tags import blank_tags

LIGHT = (
    "none",
    *(
        "ab af ak am ar as ast ay az ba bas be bem bg bho bm bn bo br bs ca ceb ckb cnh crh cs csb cv cy da de dsb dv "
        "dyu ee el eo es et eu ext fa ff fi fil fo fon fr frp fur fy ga gag gd gl gn gsw gu ha haw he hi hr hsb ht hu "
        "hy ia id ie ig ilo io is it iu ja jv ka kab kam kea kk kl km kmr kn ko ks ku kv kw ky la lb lg li lij lmo ln "
        "lo lt luo lv mai mdf mg mhr mi mk ml mn mnw mr mrj ms mt my myv nan nap nb nds ne new nl nn no nso nv ny oc "
        "om or os pa pam pap pl ps pt qu quy rm rn ro ru rw sa sah sat sc scn sd se sg shi si sk skr sl sm sn so sq "
        "sr ss st su sv sw szl ta te tg th ti tig tk tl tn to tok tr ts tt tw ty ug uk umb ur uz vec vi vo vro wa war "
        "wo xh yi yo yue zgh zh zu zza"
    ).split(),
)  # codes of ISO 639


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
        >>> normalize("Işık, [laughter] İstanbul", "tr")
        'ışık istanbul'
    """
    check_language(language)
    text = blank_tags(text)[0]
    if text.isascii() and language not in _OWN_SPELLING:  # most of a large set; nothing to compose or to fold
        text = text.replace("`", "'")
        if language != "en":
            return _ascii_words_only(lower(text, language))
        return _half_of_day(_ascii_words_only(_read(text).lower()))
    if language == "en":
        return _english(text)
    text = lower(compose(text), language)
    return _words_only(_OWN_SPELLING[language](text) if language in _OWN_SPELLING else text)


def normalize_for_scoring(text: str, language: str = "en") -> str:
    """Normalize text in which an error is counted: as `normalize`, without signs inside words that many writers omit.

    These are the middle dot of Catalan l·l, and the geresh and gershayim of Hebrew.
    """
    return normalize(text, language).translate(_OMITTED)


def earlier_spelling(text: str, letters: Container[str]) -> str:
    """Spell normalized text as `normalize` did in version 0.1.0, for those letters that a tokenizer lacks.

    A checkpoint of that time has for Thai am two characters, and a space for the middle dot of l·l.
    """
    return "".join(c if c in letters else _EARLIER.get(c, c) for c in text)


_OMITTED = str.maketrans("", "", "·״׳")
_EARLIER = {"·": " ", "״": " ", "׳": " ", "ș": "ş", "ț": "ţ", "ʻ": "'", "\u0e33": "\u0e4d\u0e32"}
_EARLIER |= {"\u06cc": "\u064a", "\u06a9": "\u0643"}
_EARLIER |= {c: unicodedata.normalize("NFKC", c) for c in ("\u0eb3", "\u0edc", "\u0edd", "\u0587")}
_EARLIER |= {c: unicodedata.normalize("NFKC", c) for c in map(chr, range(0x3131, 0x318F))}


def check_language(language: str) -> None:
    """Raise UserError if `normalize` does not support the language."""
    if language != "en" and language not in LIGHT:
        raise UserError(f"language: found {language!r}, {expected_language(language)}")


def expected_language(language: str) -> str:
    """Return the end of a message about a language that is not supported."""
    primary = re.split("[-_]", language.lower())[0]
    hint = f" ({primary!r}?)" if primary != language and primary in ("en", *LIGHT) else ""
    return (
        f"expected a code such as en, de or tr{hint}, of those in docs/guides/languages.md, or 'none', which only "
        "removes capitals and punctuation"
    )


# ---- English

MOST_FOREIGN = 0.005  # share of a text's characters that English does not have, in words such as café


def foreign_letters(texts: Iterable[str]) -> str:
    """Describe the letters of texts that English does not have; empty where they are few, as in "café"."""
    letters: Counter[str] = Counter()
    size = 0
    for text in texts:
        size += len(text)
        if not text.isascii():
            letters.update(c for c in compose(text).lower() if c.isalpha() and not c.isascii())
    if letters.total() < max(3, MOST_FOREIGN * size):
        return ""
    shown = ", ".join(f"{letter!r} {count}" for letter, count in letters.most_common(_SHOWN))
    rest = f" and {len(letters) - _SHOWN} more" if len(letters) > _SHOWN else ""
    share = letters.total() / size
    return f"{letters.total()} letters of the texts ({share:.1%} of the characters: {shown}{rest}) are not English"


_SHOWN = 8  # letters
_POWERS = str.maketrans(SUPERSCRIPTS | {c: f" {part}" for c, part in FRACTIONS.items()} | {"\u2013": "-"})
_MICRO = re.compile(r"μ(?=[gmslL]\b)")
_NUMBER_ENDS = "one two three four five six seven eight nine ten eleven twelve teen ty clock".split()
_HALF_OF_DAY = re.compile(
    r"\b([ap])m\b(?:" + "|".join(rf"(?<={end} [ap]m)" for end in _NUMBER_ENDS) + r")(?! i\b)"
)  # begins at the short word: fast


def _english(text: str) -> str:
    """Return normalized English text with characters beyond ASCII."""
    text = _fold(compose(group_thousands(text).translate(_POWERS)))
    text = re.sub(r"\d", lambda m: str(int(m[0])), text)  # other scripts' digits
    text = _read(_MICRO.sub("µ", text)).replace("µ", "μ")
    return _half_of_day(_words_only(lower(text).replace("l·l", "ll")))


def _read(text: str) -> str:
    """Return English text with figures, signs and abbreviations as words."""
    from speech_jax.text.english import read_words, wants_reading  # slow to import: it compiles many patterns

    return read_words(text) if wants_reading(text) else text


def _half_of_day(text: str) -> str:
    """Write "five pm" as "five p m", which "5 p.m." gives."""
    return _HALF_OF_DAY.sub(r"\1 m", text) if " pm" in text or " am" in text else text


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
    """Keep letters, their marks, digits, and apostrophes between letters; all else becomes a space.

    The middle dot of Catalan l·l stays, and the geresh and gershayim of Hebrew.
    """
    if _HEBREW.search(text):
        text = _hebrew(text)
    text = text.translate(_KEPT)
    for pattern in _OUT_OF_PLACE:
        text = pattern.sub(" ", text)
    if "σ" in text or "ς" in text:  # ς at the end of a word
        text = re.sub(r"(?<=[^\W\d_])σ(?![\w'])", "ς", re.sub(r"ς(?=[\w'])", "σ", text))
    return " ".join(text.split())


def _ascii_words_only(text: str) -> str:
    """`_words_only` of lower-case ASCII."""
    text = text.translate(_ASCII_KEPT)
    return " ".join((_LOOSE_APOSTROPHE.sub(" ", text) if "'" in text else text).split())


class _Kept(dict):
    """A table for `str.translate`: letters, marks, figures and apostrophes stay, all else becomes a space."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        self[code] = code if character in "'·׳״" or unicodedata.category(character)[0] in "LMN" else ord(" ")
        return self[code]


_KEPT = _Kept()
_ASCII_KEPT = "".join(chr(_KEPT[code]) for code in range(128))
_OUT_OF_PLACE = tuple(
    re.compile(pattern) for pattern in (r"(?<![^\W\d_])'|'(?![^\W\d_])", "(?<!l)·|·(?!l)", "(?<![א-ת])[׳״]|״(?![א-ת])")
)
_LOOSE_APOSTROPHE = re.compile(r"(?<![a-z])'|'(?![a-z])")


# ---- Other languages


_HEBREW = re.compile("[א-ת]['\"\u201c\u201d]")
_HEBREW_QUOTE = re.compile(r"(?<![\w'])'([א-ת]+)'(?!\w)")


def _hebrew(text: str) -> str:
    """Write the signs of Hebrew that are typed as quotation marks: geresh in צ'ק, gershayim in צה"ל."""
    text = re.sub('(?<=[א-ת])["\u201c\u201d](?=[א-ת])', "״", _HEBREW_QUOTE.sub(r"\1", text))
    return re.sub("(?<=[א-ת])'", "׳", text)


def _catalan(text: str) -> str:
    return re.sub("(?<=l)[.\u2022\u2027\u2219\u22c5](?=l)", "·", text)


def _uzbek(text: str) -> str:
    """Write the letters oʻ and gʻ with their own sign."""
    return re.sub("(?<=[og])['\u02bb]", "\u02bb", text)


_CEDILLAS = str.maketrans("şţ", "șț")  # which old keyboards have for letters with a comma
_ARABIC_LETTERS = str.maketrans("\u064a\u0649\u0643", "\u06cc\u06cc\u06a9")
_OWN_SPELLING = {
    "ro": lambda text: text.translate(_CEDILLAS),
    "fa": lambda text: text.translate(_ARABIC_LETTERS),
    "ckb": lambda text: text.translate(_ARABIC_LETTERS),
    "ur": lambda text: text.translate(_ARABIC_LETTERS),
    "ca": _catalan,
    "uz": _uzbek,
}
