"""Settings of the losses' combination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.claims import not_used_by

Method = Literal["sum", "pcgrad"]


@dataclass(frozen=True)
class AlphaConfig:
    """Weight on the pre-training loss in L = alpha * L_pre + (1 - alpha) * L_task.

    Example:
        >>> from speech_jax.objectives.config import AlphaConfig
        >>> from speech_jax.objectives.schedules import make_alpha
        >>> alpha = make_alpha(AlphaConfig(kind="linear", start=0.5, end=0.1, steps=100))
        >>> [round(float(alpha(step)), 2) for step in (0, 50, 100, 1000)]
        [0.5, 0.3, 0.1, 0.1]
    """

    kind: Literal["constant", "linear", "cosine", "recadam"] = "constant"
    """Schedule of alpha: constant, linear, half a cosine, or RecAdam's sigmoid."""
    start: float = 0.0
    """Alpha at the first step; with kind constant, at every step. In [0, 1]."""
    end: float = 0.0
    """Alpha at the end of the schedule; unused with kind constant. In [0, 1]."""
    begin: int = 0
    """linear, cosine: step at which alpha starts to change."""
    steps: int = 1000
    """linear, cosine: steps from start to end."""
    rate: float = 0.01
    """recadam: steepness of the sigmoid, per step."""
    middle: int = 500
    """recadam: step at which alpha is half way between start and end."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        uses = {"end": "linear cosine recadam", "begin": "linear cosine", "steps": "linear cosine"}
        return not_used_by("kind", self.kind, uses | {"rate": "recadam", "middle": "recadam"})
