"""The logger of the package and its setup."""

from __future__ import annotations

import logging

log = logging.getLogger("speech_jax")


def setup_logging(*, quiet: bool = False) -> None:
    """Show this package's messages and the libraries' warnings; with `quiet` (all hosts but the first), only errors."""
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", force=True)
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
