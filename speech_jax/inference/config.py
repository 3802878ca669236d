"""Settings of inference, apart from the code, so that a front door's --help loads no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.errors import UserError

EngineName = Literal["auto", "scan", "fold", "native", "pallas"]
SegmentBy = Literal["none", "energy", "vad"]


@dataclass(frozen=True)
class WindowConfig:
    """Windows in which a recognizer reads recordings."""

    core_seconds: float = 20.0
    """Seconds of each window that are kept; the rest is context."""
    context_seconds: float = 4.0
    """Seconds of context before and after. Recordings up to core + 2 · context are recognized in one pass."""
    segment_seconds: float = 0.0
    """With `segment`: a stretch of speech that is longer than this many seconds is cut at its short pauses too. 0 takes
    the length of the recordings in training, at most 8 s; 8 s where the checkpoint does not name it."""
    batch_seconds: float = 0.0
    """Seconds of audio per batch, for windows of longer recordings; 0 takes one window on a CPU and about 240 s on an
    accelerator."""

    def __post_init__(self):
        limits = {"core_seconds": 0.1, "context_seconds": 0, "segment_seconds": 1, "batch_seconds": 0}
        for name, least in limits.items():
            most = 36_000 if name == "batch_seconds" else 3600
            if name == "segment_seconds" and self.segment_seconds == 0:
                continue
            if not least <= getattr(self, name) <= most:
                raise UserError(f"windows.{name}: found {getattr(self, name)}, expected {least} to {most}")
