"""The one logger of the program and its format."""

from __future__ import annotations

import logging

log = logging.getLogger("speech_jax")


def setup_logging(*, quiet: bool = False) -> None:
    """Our own messages, and warnings of the libraries; errors alone where another process says the rest."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", force=True)
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
