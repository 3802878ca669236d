"""The logger of the package and its setup."""

from __future__ import annotations

import logging
import re

from speech_jax.core.passwords import mask_passwords

# C0 and C1, line and paragraph separators, marks that turn the direction of writing, and halves of characters
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, *, lines: bool = True) -> str:
    r"""Escape the characters that a terminal would obey instead of showing them.

    Args:
        text: any text.
        lines: keep line breaks and tabs.

    Example:
        >>> from speech_jax.core.log import escape_controls
        >>> escape_controls("\x1b[31mred")
        '\\x1b[31mred'
    """

    def escape(match: re.Match) -> str:
        return match[0] if lines and match[0] in "\n\t" else repr(match[0])[1:-1]

    return _CONTROLS.sub(escape, text)


def mask_record(record: logging.LogRecord) -> bool:
    """Mask the passwords in the addresses of a record and escape its controls: a filter that lets all pass."""
    try:
        text = record.getMessage()
    except Exception:  # a wrong format string: the handlers report it
        return True
    masked = escape_controls(mask_passwords(text))
    if masked != text:
        record.msg, record.args = masked, ()
    return True


class MaskingFormatter(logging.Formatter):
    """Formatter that masks the passwords in addresses, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the masked text of a record."""
        return mask_passwords(super().format(record))


log = logging.getLogger("speech_jax")
log.addFilter(mask_record)


def setup_logging(*, quiet: bool = False) -> None:
    """Show this package's messages and the libraries' warnings; with `quiet` (all hosts but the first), only errors."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", force=True)
    for handler in logging.getLogger().handlers:  # the libraries' records too
        handler.setFormatter(MaskingFormatter("%(message)s"))
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
