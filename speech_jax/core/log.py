"""The logger of the package and its setup."""

from __future__ import annotations

import logging

from speech_jax.core.passwords import mask_passwords


def mask_record(record: logging.LogRecord) -> bool:
    """Mask the passwords in the addresses of a record: a filter that lets all pass."""
    try:
        text = record.getMessage()
    except Exception:  # a wrong format string: the handlers report it
        return True
    masked = mask_passwords(text)
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
