"""When a fine-tuned model may count as the best, and when there is no use in going on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.training.checkpoint import CheckpointConfig


@dataclass(frozen=True)
class GuardConfig:
    """An old domain that must not get worse: its metric is measured before the first step, and again and again."""

    metric: str
    """What is watched, "<evaluation set>/<metric>", for example "old/wer"; smaller is better."""
    within: float = 0.02
    """How much worse than before the first step it may be, relatively: 0.02 is 2 %."""
    patience: int = 0
    """So many evaluations in a row beyond that end the run; 0 never does."""


class Guards:
    """The guards of one run. What they know is in `record`, which is saved with every checkpoint."""

    def __init__(self, configs: tuple[GuardConfig, ...], best: CheckpointConfig, patience: int):
        for config in configs:
            if config.within < 0 or config.patience < 0:
                found = f"within {config.within}, patience {config.patience}"
                raise UserError(f"trainer.guards: found {found} for {config.metric!r}, expected 0 or more")
        if patience and best.metric is None:
            raise UserError("trainer.patience: found it without checkpoint.metric, expected one that can improve")
        self._configs, self._metric, self._mode, self._patience = configs, best.metric, best.mode, patience
        self._before: dict[str, float] = {}
        self._beyond = {config.metric: 0 for config in configs}
        self._best: float | None = None
        self._without = 0

    @property
    def needs_start(self) -> bool:
        """Whether the model must be evaluated before the first step."""
        return bool(self._configs) and not self._before

    def look(self, metrics: Mapping[str, float]) -> tuple[bool, list[str]]:
        """(whether all guards hold, why the run should end: nothing, or a line each). The first look is the
        reference."""
        for config in self._configs:
            if config.metric not in metrics:
                known = ", ".join(sorted(metrics))
                raise UserError(f"trainer.guards: found {config.metric!r}, expected one of {known}")
        if self.needs_start:
            self._before = {config.metric: float(metrics[config.metric]) for config in self._configs}
            return True, []
        reasons, good = [], True
        for config in self._configs:
            limit = self._before[config.metric] * (1 + config.within)
            held = metrics[config.metric] <= limit
            good &= bool(held)
            self._beyond[config.metric] = 0 if held else self._beyond[config.metric] + 1
            if config.patience and self._beyond[config.metric] >= config.patience:
                reasons.append(
                    f"{config.metric} {metrics[config.metric]:.4g} is beyond {limit:.4g} "
                    f"for the {self._beyond[config.metric]}. evaluation in a row"
                )
        reasons += self._stalled(metrics, good)
        return good, reasons

    def _stalled(self, metrics: Mapping[str, float], good: bool) -> list[str]:
        value = metrics.get(self._metric) if self._metric else None
        if value is None:
            return []
        value = -value if self._mode == "max" else value
        if good and math.isfinite(value) and (self._best is None or value < self._best):
            self._best, self._without = value, 0
            return []
        self._without += 1
        if not self._patience or self._without < self._patience:
            return []
        return [f"{self._metric} did not improve for {self._without} evaluations"]

    @property
    def record(self) -> dict[str, Any]:
        """JSON to go on from."""
        return {"before": self._before, "beyond": self._beyond, "best": self._best, "without": self._without}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's record; one without any (an older run) begins anew."""
        self._before = dict(record.get("before", {}))
        self._beyond |= {name: n for name, n in record.get("beyond", {}).items() if name in self._beyond}
        self._best, self._without = record.get("best"), int(record.get("without", 0))
        if set(self._before) != {config.metric for config in self._configs}:
            self._before = {}
