"""Web addresses, e-mail addresses and file names read aloud: "www.example.com" is "W W W dot example dot com"."""

from __future__ import annotations

import re

from speech_jax.text import numbers
from speech_jax.text.english_context import Reader, number
from speech_jax.text.english_tables import WORDS

_SIGNS = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", ":": "colon", "+": "plus", "~": "tilde",
    "?": "question mark", "=": "equals", "&": "and", "%": "percent", "#": "hash", "\\": "backslash",
}  # fmt: skip
_DOMAIN = (
    "com|org|net|edu|gov|mil|int|biz|info|dev|app|ai|io|co|me|tv|us|uk|de|fr|ca|eu|au|nz|jp|cn|ru|in|it|es|nl|ch|at|se|"
    "br|mx|ly|gg|xyz|tech|online|store"
)
_FILE = (
    "txt|pdf|docx?|xlsx?|pptx?|jpe?g|png|gif|svg|bmp|html?|css|csv|tsv|json|xml|yaml|yml|zip|tar|gz|rar|exe|dll|bat|msi|"
    "iso|apk|py|js|ts|cpp|java|log|ini|cfg|md|tex|mp3|mp4|wav|flac|ogg|avi|mov|mkv|ipynb|sh|sql"
)
_SPELLED = frozenset("www html htm php pdf faq exe ini sql aac apk iso avi usr".split())


def _spell(text: str) -> str:
    """Spell out the parts of an address."""
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text):
        if part in _SIGNS:
            words.append(_SIGNS[part])
        elif part.isdigit():
            words.append(number(part) if len(part) <= 4 and part[0] != "0" else numbers.digits(part))
        elif _is_spelled(part, after_dot=words[-1:] == ["dot"]):
            words.append(" ".join(part.upper()))
        else:
            words.append(part.lower())
    return " ".join(words)


def read_name(text: str) -> str:
    """Read a name written as one word: "100DaysOfCode" is "one hundred Days Of Code"."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+|_", text)
    return " ".join("underscore" if p == "_" else numbers.decimal(p) if p.isdigit() else p for p in parts)


def _is_spelled(part: str, *, after_dot: bool) -> bool:
    if not part.isascii():
        return False
    if len(part) <= 2:
        return after_dot or part.upper() not in WORDS
    return part.lower() in _SPELLED or not re.search("[aeiouy]", part.lower())


def _address(match: re.Match) -> str:
    """Read an address without its scheme; punctuation at its end belongs to the sentence."""
    address = match["address"].rstrip(".,;:!?)'")
    rest = match["address"][len(address) :]
    return f"{_spell(address.rstrip('/'))}{rest}"


_NOT_SPACE = r"[^\s()\"<>]"
WEB_READERS: tuple[tuple[str, Reader], ...] = (
    (r"(?<![\w.+-])(?P<address>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\.?)", _address),
    (rf"(?i:\b(?:https?|ftp)://)(?P<address>{_NOT_SPACE}+)", _address),
    (rf"(?<![\w@.])(?P<address>(?i:www\.){_NOT_SPACE}+)", _address),
    (
        rf"(?<![\w@.-])(?P<address>[A-Za-z\d-]{{1,63}}(?:\.[A-Za-z\d-]{{2,63}}){{0,3}}\.(?:{_DOMAIN})\b(?![.-]?\w)"
        rf"(?::\d+)?(?:[/?]{_NOT_SPACE}*)?)",
        _address,
    ),
    (rf"(?<![\w@.-])(?P<address>[A-Za-z_][\w-]{{0,63}}(?:\.[\w-]{{1,63}}){{0,3}}\.(?i:{_FILE})\b)(?![.@]\w)", _address),
    (r"(?<!\w)(?P<address>~?(?:/[a-z][\w.-]{1,63}){2,9}/?)(?!\w)", _address),
    (r"(?<!\w)(?P<address>[A-Z]:\\[\w.\\-]*)", _address),
    (r"\b(?P<address>localhost:\d+)", _address),
)
