"""Guards against forgetting, and early stopping: which checkpoint may be the best, and when a run should end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.training.config import CheckpointConfig, GuardConfig


class Guards:
    """Guards and early stopping of one run.

    Args:
        configs: the guards.
        best: metric and mode by which checkpoints are ranked.
        patience: evaluations in a row without improvement of that metric after which the run ends; 0: never.

    Raises:
        UserError: for a negative limit or patience, or patience without a metric.
    """

    def __init__(self, configs: tuple[GuardConfig, ...], best: CheckpointConfig, patience: int):
        for config in configs:
            if config.within < 0 or config.patience < 0:
                values = f"within {config.within}, patience {config.patience}"
                raise UserError(f"trainer.guards: found {values} for {config.metric!r}, expected 0 or more")
        if patience and best.metric is None:
            raise UserError(
                f"trainer.patience: found {patience} without checkpoint.metric, "
                "expected trainer.checkpoint.metric to be set"
            )
        self._configs, self._metric, self._mode, self._patience = configs, best.metric, best.mode, patience
        self._references: dict[str, float] = {}  # values before the first step
        self._evals_broken = {config.metric: 0 for config in configs}  # in a row
        self._best: float | None = None
        self._evals_since_best = 0

    @property
    def needs_start(self) -> bool:
        """True if the model must be evaluated before the first step, as the reference of the guards."""
        return bool(self._configs) and not self._references

    def update(self, metrics: Mapping[str, float]) -> tuple[bool, list[str]]:
        """Compare the metrics of an evaluation with the limits; the first call sets the reference values.

        Args:
            metrics: "<evaluation set>/<metric>" -> value.

        Returns:
            True if all guards hold, and the reasons for which the run should end, one line each.

        Raises:
            UserError: if the metric of a guard is missing.
        """
        for config in self._configs:
            if config.metric not in metrics:
                names = ", ".join(sorted(metrics))
                raise UserError(f"trainer.guards: found {config.metric!r}, expected one of {names}")
        if self.needs_start:
            self._references = {config.metric: float(metrics[config.metric]) for config in self._configs}
            return True, []
        reasons, all_hold = [], True
        for config in self._configs:
            limit = self._references[config.metric] * (1 + config.within)
            holds = bool(metrics[config.metric] <= limit)
            all_hold &= holds
            count = 0 if holds else self._evals_broken[config.metric] + 1
            self._evals_broken[config.metric] = count
            if config.patience and count >= config.patience:
                value = metrics[config.metric]
                reasons.append(
                    f"{config.metric} {value:.4g} exceeds its limit {limit:.4g} for {count} evaluations in a row"
                )
        reasons += self._no_improvement(metrics, all_hold)
        return all_hold, reasons

    def _no_improvement(self, metrics: Mapping[str, float], all_hold: bool) -> list[str]:
        value = metrics.get(self._metric) if self._metric else None
        if value is None:
            return []
        value = -value if self._mode == "max" else value
        if all_hold and math.isfinite(value) and (self._best is None or value < self._best):
            self._best, self._evals_since_best = value, 0
            return []
        self._evals_since_best += 1
        if not self._patience or self._evals_since_best < self._patience:
            return []
        return [f"{self._metric} did not improve for {self._evals_since_best} evaluations"]

    @property
    def record(self) -> dict[str, Any]:
        """The state as JSON, which is saved with every checkpoint."""
        return {
            "before": self._references,
            "beyond": self._evals_broken,
            "best": self._best,
            "without": self._evals_since_best,
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's `record`; an empty one (of an older version) starts from the beginning."""
        self._references = dict(record.get("before", {}))
        counts = record.get("beyond", {})
        self._evals_broken |= {name: n for name, n in counts.items() if name in self._evals_broken}
        self._best, self._evals_since_best = record.get("best"), int(record.get("without", 0))
        if set(self._references) != {config.metric for config in self._configs}:
            self._references = {}
