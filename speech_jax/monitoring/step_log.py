"""What is said of the steps: read from the device one step late, averaged, written to the logs, shown on the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree
from speech_jax.lowering.flops import peak_flops
from speech_jax.monitoring.progress import Progress, facts_of
from speech_jax.monitoring.tracking import Meter, Tracker


class Pending(NamedTuple):
    """A step that was sent to the device and whose outcome has not been looked at yet."""

    step: int
    logs: PyTree
    finite: jax.Array
    costs: tuple[float, float, float, float]


class StepLog:
    """The metrics of a run's steps, and the count of those that were skipped.

    steps:    the run's last step; a line is logged there too
    every:    steps that one line of the log is the mean of
    checks:   what `Pending.finite` tells of, one name each
    bad:      (steps skipped so far, of those the last in a row); so many of them in a row as `max_bad` end the run
    epsilon:  what so many steps of a private run have spent
    beat:     called for every step whose outcome has been read
    """

    def __init__(
        self,
        progress: Progress,
        tracker: Tracker,
        *,
        steps: int,
        every: int,
        checks: Sequence[str],
        bad: tuple[int, int],
        max_bad: int,
        unit_name: str,
        epsilon: Callable[[int], float] | None,
        beat: Callable[[int], None] | None = None,
    ):
        self._progress, self._tracker = progress, tracker
        self._steps, self._every, self._checks, self._max_bad = steps, every, checks, max_bad
        self._bad, self._bad_in_a_row = bad
        self._unit_name, self._epsilon, self._beat = unit_name, epsilon, beat
        self._meter = Meter()

    def restart_clock(self) -> None:
        """Forgets the time until now: compiling is no training."""
        self._progress.restart_clock()
        self._meter.reset()

    def read(self, pending: Pending | None, saved_step: int | None) -> None:
        """Takes the metrics of a step from the device, and logs when it is time.

        Raises UserError after too many bad steps in a row; saved_step: the checkpoint that is kept then.
        """
        if pending is None:
            return
        step = pending.step
        logs, finite = jax.device_get((pending.logs, pending.finite))
        if self._beat is not None:
            self._beat(step)
        self._meter.count_step(*pending.costs)
        if finite.all():
            self._bad_in_a_row = 0
            self._meter.add(logs)
        else:
            self._bad_step(step, logs, finite, saved_step)
        facts = {}
        if step % self._every == 0 or step == self._steps:
            means, rates = self._measure(step)
            self._tracker.write("train", step, metrics=means, rates=rates)
            self._meter.reset()
            facts = facts_of(means, rates, self._unit_name)
        elif self._progress.due():
            facts = facts_of(*self._measure(step), self._unit_name)
        self._progress.update(step, facts)

    def _bad_step(
        self, step: int, logs: Mapping[str, tuple[Any, Any]], finite: np.ndarray, saved_step: int | None
    ) -> None:
        self._bad += 1
        self._bad_in_a_row += 1
        terms = [name for name, (total, _) in logs.items() if name.endswith("/loss") and not np.isfinite(total)]
        named = terms + [name for name, good in zip(self._checks, finite, strict=True) if not good]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        what = f"{', '.join(named[:3])}{more} not finite"
        self._progress.say(f"step {step} skipped: {what}")
        self._tracker.write("bad_step", step, metrics={"skipped": self._bad, "skipped_in_a_row": self._bad_in_a_row})
        if self._bad_in_a_row >= self._max_bad:
            kept = f"step {saved_step} is kept" if saved_step is not None else "none was saved before"
            raise UserError(
                f"training: found {self._bad_in_a_row} bad steps in a row up to step {step} ({what}), "
                f"expected fewer than {self._max_bad}; of the checkpoints {kept}"
            )

    def _measure(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """(means, rates) since the last line of the log."""
        means = self._meter.means() | {"skipped": float(self._bad)}
        if self._epsilon is not None:
            means["privacy/epsilon"] = self._epsilon(step)
        return means, self._meter.rates(self._unit_name, peak_flops())
