"""Masking of passwords and tokens in addresses, wherever text leaves the program.

`mask_address` is for a value that may be one address as a whole, `mask_passwords` for any text: it first finds where
each address ends. Both use the same rule for what is secret in an address.
"""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote

MASK = "***"

_WEB = {"http", "https", "ws", "wss"}
_FILES = set(
    "abfs abfss az dbfs file ftp ftps gcs git gs hdfs hf mlflow-artifacts oss s3 s3a s3n scp sftp ssh viewfs wasb "
    "wasbs webhdfs".split()
)
# In these a user without a password is a name; elsewhere it is a token, as in databricks://TOKEN@host.
_NAMED_USERS = _FILES | set(
    "amqp amqps clickhouse cockroachdb mariadb mongodb mssql mysql oracle postgres postgresql redis rediss redshift "
    "snowflake sqlite trino".split()
)

# At least two letters, as C:/ is a drive; one slash, as pathlib writes it.
_SCHEME = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9+.-]{1,60}:/{1,2}")
_SCHEME_OF_ALL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:@]*)(?::\d{0,5})?")
_USER_AND_HOST = re.compile(r"[^:@]*@" + _HOST.pattern)
_HOST_AND_QUERY = re.compile(r"(?:\[[^\]]*\]|[^/?#@:\[]|:\d{1,5}(?=[,/?]))*(?:/[^/?#@:]*)?\?[\w.-]+=")
_CLOSING_QUOTE = {q: re.compile(rf"[^\n]*?(?=(?<!\\){q}(?:[\s,;.)\]}}>]|:\s|$))") for q in "\"'"}
_NO_SPACE = re.compile(r"\S*")
_SPACED = re.compile(  # a space in the password, or in the user of a database
    r"[^\s/?#@:]*:(?!\d{1,5}(?!\w))[^\s@][^@\n]{0,99}@\S*|(?P<user>[^\s/?#@:]*(?: [^\s/?#@:]+){1,3}:[^\s@]+@\S*)"
)

# A value in braces or quotes, one with spaces up to ";", or one word; "&" is a part of it unless a name follows.
_VALUE = (
    r"(\{(?:[^}\n]|\}\})*\}|'(?:[^'\\\n]|\\+[^\\\n]|'')*'|\"(?:[^\"\\\n]|\\+[^\\\n])*\"|[^\s;'\"{][^;=&'\"\n]*(?=;)"
    r"|(?:[^\s&,;)\"'<>]|&(?![\w.-]+=)|[,)\"'<>](?=\w))+)"
)
_SETTINGS = [
    re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|digest|token)\s+)([^\s\"',;]+)"),
    re.compile(
        r"(?i)([?&#](?:[\w.-]{0,40}(?:token|secret|key|signature|credential|authorization|bearer|jwt)[\w.-]{0,40}"
        r"|(?:[\w.-]{0,40}[_.-])?auth|pass|sig)=)((?:[^&#\s\"'<>]|&(?![\w.-]+=)|[\"'](?=\w))+)"
    ),
    re.compile(  # but the shell's PWD=/folder
        r"(?i)(?<![\w.-])([\w.-]{0,40}(?:pass(?:word|wd|phrase)|(?<!old)pwd(?!=/[^\s;]*(?:\s|$)))\s*=\s*)" + _VALUE
    ),
    re.compile(r"(?<![A-Za-z0-9_?&])([A-Z][A-Z0-9_]*(?:TOKEN|SECRET|_KEY)=)" + _VALUE),  # environment
]
_ENCODED_WORD = re.compile(r"(?:(?!:/)[^\s\"'<>&=?#])+")


def mask_passwords(text: str, address: str = "") -> str:
    """Replace the passwords and tokens in the addresses of a text by "***".

    Masked are the password of scheme://user:password@host, a token in the place of the user, the values of
    ?password=…, ?token=… and their like, "password=…" as databases write it, variables such as PGPASSWORD=… and
    "Authorization: Bearer …". Everything else stays.

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
        if len(secret) < 4:  # it only hides words of the text
            continue
        for form in {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), unquote(secret)}:
            text = text.replace(form, MASK)
    return _mask_text(text, [])


def mask_address(value: str) -> str:
    """Mask the passwords of a value that may be one address as a whole, in which a password may hold any character.

    Of an address without a clear end of its password only the scheme is left.
    """
    return _mask_whole(value, [])


def is_masked(address: str) -> bool:
    """Return True if the address has lost its password to `mask_passwords`, so that nothing can be reached with it."""
    return MASK in _secrets(address)


def _secrets(address: str) -> list[str]:
    secrets: list[str] = []
    _mask_whole(address, secrets)
    return [secret for secret in secrets if secret]


def _mask_whole(value: str, secrets: list[str]) -> str:
    """Mask a value that may be one address; what is masked is appended to `secrets`."""
    if scheme := _SCHEME_OF_ALL.match(value):
        return _mask_settings(scheme[0] + _mask_credentials(scheme[0], value[scheme.end() :], secrets), secrets)
    return _mask_text(value, secrets)


def _mask_text(text: str, secrets: list[str]) -> str:
    """Mask all addresses of a text; what is masked is appended to `secrets`."""
    parts, position = [], 0
    while scheme := _SCHEME.search(text, position):
        end = _end_of_address(text, scheme)
        parts += [text[position : scheme.end()], _mask_credentials(scheme[0], text[scheme.end() : end], secrets)]
        position = end
    return _mask_settings("".join([*parts, text[position:]]), secrets)


def _end_of_address(text: str, scheme: re.Match) -> int:
    """Return where an address ends: at its closing quote, else at white space or the next address."""
    start = scheme.end()
    closing_quote = _CLOSING_QUOTE.get(text[scheme.start() - 1 : scheme.start()])
    if quoted := closing_quote and closing_quote.match(text, start):
        return quoted.end()
    word = _NO_SPACE.match(text, start)
    end = word.end() if word else start
    following = _SCHEME.search(text, start, end)
    end = following.start() if following else end
    spaced = _SPACED.match(text, start)
    if spaced and "@" not in text[start:end]:
        database = scheme[0].endswith("://") and not _kinds(scheme[0]) & (_WEB | _FILES)
        end = spaced.end() if database or not spaced["user"] else end
    return end


def _kinds(scheme: str) -> set[str]:
    """Return the parts of a scheme: postgresql and psycopg2, or git and https."""
    return set(re.split(r"[+:.]", scheme.lower().rstrip(":/")))


def _mask_credentials(scheme: str, rest: str, secrets: list[str]) -> str:
    """Mask what is secret before the host in `rest`, the part of an address after its scheme."""
    if rest == MASK:
        secrets.append(MASK)
    if "@" not in rest or rest.startswith("/"):
        return rest
    kinds, short = _kinds(scheme), not scheme.endswith("://")
    named = bool(kinds & _NAMED_USERS) or short and not kinds & _WEB
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if short or kinds & (_WEB | _FILES):  # these have paths, in which "@" is a character like others
        if _HOST.fullmatch(authority):
            doubtful = re.match(r"[^?#:]*:([^?#@]*)@", rest[len(authority) :])  # a user with "/", or such a path
            return _hide(doubtful[1] or MASK, secrets) if doubtful and kinds & _WEB and not short else rest
        if _USER_AND_HOST.fullmatch(authority):
            return _mask_token(rest, authority, named, secrets)
    elif _HOST_AND_QUERY.match(rest):
        return rest
    credentials, _, host = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    if not colon:
        return _mask_token(rest, authority, named, secrets)
    if password in ("", "x-oauth-basic"):  # the token is in the place of the user
        return rest if named else f"{_hide(user, secrets)}:{password}@{host}"
    if "@" in user and not named:
        return f"{_hide(credentials, secrets)}@{host}"
    return f"{user}:{_hide(password, secrets)}@{host}"


def _mask_token(rest: str, authority: str, named: bool, secrets: list[str]) -> str:
    """Mask what is before the host, unless it is the name of a user."""
    end = (authority if "@" in authority else rest).rindex("@")
    return rest if named else _hide(rest[:end], secrets) + rest[end:]


def _hide(secret: str, secrets: list[str]) -> str:
    secrets.append(secret)
    return MASK if secret else ""


def _mask_settings(text: str, secrets: list[str]) -> str:
    """Mask the values of settings such as password=…, also in URL-encoded words."""
    for pattern in _SETTINGS:
        text = pattern.sub(lambda match: match[1] + _hide(match[2], secrets), text)
    return _ENCODED_WORD.sub(lambda match: _mask_encoded(match[0], secrets), text) if "%3" in text else text


def _mask_encoded(word: str, secrets: list[str]) -> str:
    """Mask a URL-encoded address or list of settings."""
    if not re.search("(?i)%3[AD]", word):
        return word
    text = unquote(re.sub("%20", "+", word))
    masked = _mask_text(text, secrets)
    return word if masked == text else quote(masked, safe=word.replace("%", "") + "*+")
