"""The logger of the package and its setup."""

from __future__ import annotations

import logging

from speech_jax.core.passwords import mask_passwords


def mask_record(record: logging.LogRecord) -> bool:
    """Mask the passwords in the addresses of a record: a filter for loggers and handlers that lets all pass."""
    text = record.getMessage()
    masked = mask_passwords(text)
    if masked != text:
        record.msg, record.args = masked, ()
    return True


log = logging.getLogger("speech_jax")
log.addFilter(mask_record)


def setup_logging(*, quiet: bool = False) -> None:
    """Show this package's messages and the libraries' warnings; with `quiet` (all hosts but the first), only errors."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", force=True)
    for handler in logging.getLogger().handlers:  # the libraries' records too
        handler.addFilter(mask_record)
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
