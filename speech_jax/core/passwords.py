"""Masking of passwords and tokens in addresses, wherever text leaves the program."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote

MASK = "***"

# scheme://user:password@host, or scheme:/… as pathlib writes it. A quoted password ends at its quote, another one at
# white space; numbers up to a slash are a port.
_SCHEME_AND_USER = r"([A-Za-z][A-Za-z0-9+.-]{1,30}:/{1,2})([^\s/:\"'<>\[]*)"
_PASSWORD = r"(?::(?!\d{1,5}[/?#])((?:(?!:/)%s)*))?@"
_ADDRESSES = [
    re.compile(r"(?<=\")" + _SCHEME_AND_USER + _PASSWORD % r"[^\"\n]"),
    re.compile(r"(?<=')" + _SCHEME_AND_USER + _PASSWORD % r"[^'\n]"),
    re.compile(_SCHEME_AND_USER + _PASSWORD % r"[^\s\"'<>]"),
]
_QUOTED_ADDRESS = re.compile(r"(?i)(%3A%2F%2F[^\s/:@%]*%3A)((?:(?!%3A%2F%2F)[^\s\"'<>&])*)(?=%40)")  # URL-encoded
_IN_QUERY = re.compile(
    r"(?i)([?&](?:[\w.-]{0,40}(?:password|passwd|pwd|token|secret|key|signature|credential)[\w.-]{0,40}|pass|sig)=)"
    r"([^&#\s\"'<>]+)"
)
_IN_DSN = re.compile(r"(?i)((?:(?<![\w?&.-])passw(?:or)?d|;\s*pwd)\s*=\s*)('[^']*'|[^\s&,;)]+)")
_IN_QUOTED_DSN = re.compile(r"(?i)(%3B(?:password|pwd)%3D)([^%&\s\"']+)")
_WEB = re.compile(r"(?i)(?:.*\+)?(?:https?|wss?):/{1,2}")


def mask_passwords(text: str, address: str = "") -> str:
    """Replace the passwords and tokens in the addresses of a text by "***".

    Masked are the password of scheme://user:password@host, a token in the place of the user of a web address, the
    values of ?password=…, ?token=… and their like, and "password=…" as databases write it. Everything else stays.

    Args:
        text: any text.
        address: an address whose password is masked wherever it is in the text, as errors of a library may hold it.

    Returns:
        The text without them. Masking it again changes nothing.

    Example:
        >>> from speech_jax.core.passwords import mask_passwords
        >>> mask_passwords("cannot reach postgresql://me:hunter2@127.0.0.1/db")
        'cannot reach postgresql://me:***@127.0.0.1/db'
    """
    for secret in _secrets(address):
        for form in {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), unquote(secret)}:
            text = text.replace(form, MASK)
    if "=" in text:
        text = _IN_DSN.sub(_mask_value, _IN_QUERY.sub(_mask_value, text))
    if "%3D" in text:
        text = _IN_QUOTED_DSN.sub(_mask_value, text)
    if "%40" in text:
        text = _QUOTED_ADDRESS.sub(_mask_value, text)
    if ":/" in text and "@" in text:
        for pattern in _ADDRESSES:
            text = pattern.sub(_mask_user_part, text)
    return text


def mask_address(value: str) -> str:
    """Mask the passwords of a text that may be one address as a whole, in which a password may hold any character."""
    return mask_passwords(f'"{value}"')[1:-1] if '"' not in value else mask_passwords(value)


def is_masked(address: str) -> bool:
    """Return True if the address has lost its password to `mask_passwords`, so that nothing can be reached with it."""
    return any(secret == MASK for secret in _secrets(address, shortest=1))


def _mask_value(match: re.Match) -> str:
    return match[1] + MASK


def _mask_user_part(match: re.Match) -> str:
    scheme, user, password = match.groups()
    if password is not None and password not in ("", "x-oauth-basic"):
        return f"{scheme}{user}:{MASK}@"
    user = MASK if user and _WEB.fullmatch(scheme) else user  # a token in the place of the user
    return f"{scheme}{user}@" if password is None else f"{scheme}{user}:{password}@"


def _secrets(address: str, shortest: int = 4) -> list[str]:
    """Return the passwords and tokens of an address; those of few letters only hide words of the text."""
    found = [match[2] for pattern in (_IN_QUERY, _IN_DSN, _IN_QUOTED_DSN) for match in pattern.finditer(address)]
    for match in _ADDRESSES[0].finditer(f'"{address}"'):
        scheme, user, password = match.groups()
        found += [password or (user if _WEB.fullmatch(scheme) else "")]
    return [secret for secret in found if len(secret) >= shortest]
