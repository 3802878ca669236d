"""Settings of inference, apart from the code, so that a front door's --help loads no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.errors import UserError

EngineName = Literal["auto", "scan", "fold", "native", "pallas"]


@dataclass(frozen=True)
class WindowConfig:
    """Windows in which a recognizer reads recordings."""

    core_seconds: float = 20.0
    """Seconds of each window that are kept; the rest is context."""
    context_seconds: float = 4.0
    """Seconds of context before and after. Recordings up to core + 2 · context are recognized in one pass."""
    batch_seconds: float = 0.0
    """Seconds of audio per batch, for windows of longer recordings; 0 takes one window on a CPU and about 240 s on an
    accelerator."""

    def __post_init__(self):
        for name, value in (("core_seconds", self.core_seconds - 0.1), ("context_seconds", self.context_seconds)):
            if not 0 <= value <= 3600:
                least = "0.1" if name == "core_seconds" else "0"
                raise UserError(f"windows.{name}: found {getattr(self, name)}, expected {least} to 3600")
