"""Guards against forgetting, and early stopping: which checkpoint may be the best, and when a run should end.

`rank` decides which checkpoint is the best: when old ones are deleted, when a run resumes, and when one is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.training.config import CheckpointConfig, GuardConfig


def within_limits(metrics: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Return True if every guarded metric was measured and does not exceed its limit; NaN exceeds it."""
    return all(metrics.get(name, math.nan) <= limit for name, limit in limits.items())


def score(value: float | None, mode: str | None) -> float | None:
    """Return a metric's value as a number of which the smallest is the best; None if there is none or it is not finite.

    Args:
        value: the metric.
        mode: "max" if larger values are better.
    """
    if value is None or not math.isfinite(value):
        return None
    return -value if mode == "max" else value


def is_guarded(record: Mapping[str, Any]) -> bool:
    """Return True if the run that saved this record had guards."""
    guards = record.get("guards") or {}
    configured = guards.get("ranked_by", [{}])[-1]  # at step 0 there may be no limits yet
    return bool(record.get("limits", guards.get("before")) or configured)


def is_within(record: Mapping[str, Any], newest: Mapping[str, Any]) -> bool:
    """Return True if an evaluated checkpoint is within the guards of the run's newest record."""
    if "limits" not in newest:  # saved by an earlier version
        return record.get("within_guards", True)
    return within_limits(record["metrics"], newest["limits"])


def rank(records: Mapping[int, Mapping[str, Any]], by: Mapping[str, Any] | None = None) -> list[int]:
    """Return the steps that may be called the best, the best first.

    They are ranked by the metric and mode of `by` among those within its guards' limits; with guards alone the newest
    within them is the best. Checkpoints that were not evaluated are left out.

    Args:
        records: step -> what was saved with its checkpoint: metrics, metric and mode of the ranking, guards' limits.
        by: the record that decides how; None: the newest.

    Returns:
        Steps; empty if there is nothing to rank by, or none may be the best.
    """
    if not records:
        return []
    by = records[max(records)] if by is None else by
    metric, mode = by.get("best_metric"), by.get("best_mode")
    if metric is None and not is_guarded(by):
        return []
    scores: dict[int, float] = {}
    for step, record in records.items():
        if record.get("metrics") and is_within(record, by):
            value = -step if metric is None else score(record["metrics"].get(metric), mode)
            if value is not None:
                scores[step] = value
    return sorted(scores, key=lambda step: (scores[step], step))


class Verdict(NamedTuple):
    """Outcome of an evaluation.

    Attributes:
        within: all guards hold.
        best: its checkpoint is the best of the run so far.
        reasons: why the run should end, one line each.
    """

    within: bool
    best: bool
    reasons: tuple[str, ...] = ()


class Guards:
    """Guards and early stopping of one run.

    Args:
        configs: the guards.
        best: metric and mode by which checkpoints are ranked.
        patience: evaluations in a row without improvement of that metric after which the run ends; 0: never.

    Raises:
        UserError: for a negative limit or patience, two guards of one metric, or patience without a metric.
    """

    def __init__(self, configs: tuple[GuardConfig, ...], best: CheckpointConfig, patience: int):
        for config in configs:
            if config.within < 0 or config.patience < 0:
                values = f"within {config.within}, patience {config.patience}"
                raise UserError(f"trainer.guards: found {values} for {config.metric!r}, expected 0 or more")
            if sum(other.metric == config.metric for other in configs) > 1:
                raise UserError(f"trainer.guards: found several for {config.metric!r}, expected one per metric")
        if patience and best.metric is None:
            raise UserError(
                f"trainer.patience: found {patience} without checkpoint.metric, "
                "expected trainer.checkpoint.metric to be set"
            )
        self._configs, self._metric, self._mode, self._patience = configs, best.metric, best.mode, patience
        self._keep_best = best.keep_best
        self._references: dict[str, float] = {}  # of the start model; also of guards that a later start left out
        self._evals_broken = {config.metric: 0 for config in configs}  # in a row
        self._best: float | None = None
        self._evals_since_best = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """Metrics of the guards that have not been measured on the start model."""
        return tuple(config.metric for config in self._configs if config.metric not in self._references)

    @property
    def limits(self) -> dict[str, float]:
        """Largest allowed value of each guarded metric: its reference and `within` of that more."""
        withins = {config.metric: config.within for config in self._configs if config.metric in self._references}
        return {name: (ref := self._references[name]) + within * abs(ref) for name, within in withins.items()}

    def set_references(self, metrics: Mapping[str, float]) -> None:
        """Keep the start model's metrics as the reference of the guards that have none.

        Raises UserError if one is missing or is not finite.
        """
        for name in self.missing:
            value = _metric_of(metrics, name)
            if not math.isfinite(value):
                raise UserError(f"trainer.guards: found {name} {value} of the start model, expected a finite number")
            self._references[name] = float(value)

    def update(self, metrics: Mapping[str, float]) -> Verdict:
        """Compare the metrics of an evaluation with the limits and with the best so far.

        Args:
            metrics: "<evaluation set>/<metric>" -> value.

        Raises:
            UserError: if the metric of a guard is missing.
        """
        limits, reasons = self.limits, []
        for config in self._configs:
            value, limit = _metric_of(metrics, config.metric), limits[config.metric]
            count = 0 if value <= limit else self._evals_broken[config.metric] + 1
            self._evals_broken[config.metric] = count
            if config.patience and count >= config.patience:
                reasons.append(
                    f"{config.metric} {value:.4g} exceeds its limit {limit:.4g} for {count} evaluations in a row"
                )
        within = within_limits(metrics, limits)
        best = within and bool(self._configs)  # with guards alone the newest within them is the best
        if self._metric is not None:
            value = score(metrics.get(self._metric), self._mode)
            best = within and value is not None and (self._best is None or value < self._best)
            self._best = value if best else self._best
            self._evals_since_best = 0 if best else self._evals_since_best + 1
            if self._patience and self._evals_since_best >= self._patience:
                reasons.append(f"{self._metric} did not improve for {self._evals_since_best} evaluations")
        return Verdict(within, best, tuple(reasons))

    @property
    def record(self) -> dict[str, Any]:
        """The state as JSON, which is saved with every checkpoint."""
        return {
            "before": self._references,
            "beyond": self._evals_broken,
            "best": self._best,
            "without": self._evals_since_best,
            "ranked_by": self._ranked_by,
        }

    @property
    def _ranked_by(self) -> list[Any]:
        """Settings that decide what is the best; patience is not continued across a change of them."""
        return [self._metric, self._mode, {config.metric: config.within for config in self._configs}]

    def restore(self, record: Mapping[str, Any]) -> bool:
        """Continue from a checkpoint's `record`; an empty one (of an older version) starts from the beginning.

        The best so far is set by `set_best`; only without kept ones (`keep_best` 0) is it that of the record.

        Returns:
            False if the checkpoint was ranked by other settings; the counts for patience then start again.
        """
        self._references = dict(record.get("before", {}))
        same = record.get("ranked_by", self._ranked_by) == self._ranked_by
        if same:
            counts = record.get("beyond", {})
            self._evals_broken |= {name: n for name, n in counts.items() if name in self._evals_broken}
            self._evals_since_best = int(record.get("without", 0))
            self._best = None if self._keep_best else record.get("best")
        return same

    def set_best(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of the best checkpoint that is kept as those of the best so far; empty if there is none."""
        if self._best is None and self._metric is not None:
            self._best = score(metrics.get(self._metric), self._mode)


def _metric_of(metrics: Mapping[str, float], name: str) -> float:
    if name not in metrics:
        raise UserError(f"trainer.guards: found {name!r}, expected one of {', '.join(sorted(metrics))}")
    return metrics[name]
