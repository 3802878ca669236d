"""Metrics of the steps: read from the device one step late, averaged, written to the logs, shown as progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree
from speech_jax.lowering.flops import peak_flops
from speech_jax.monitoring.progress import Progress, format_log_line
from speech_jax.monitoring.tracking import Meter, Tracker

COLLAPSE_STEPS = 500
"""Steps in a row, after the warm-up, of nothing but blanks that are said once: CTC begins like that and leaves it."""

COLLAPSE_BELOW = 0.05
"""Frames with a symbol, per label, below which a recognizer counts as one that outputs only blanks; trained: 1 to 3."""


class Pending(NamedTuple):
    """A step that was dispatched to the device and whose metrics have not been read yet.

    Attributes:
        step: number of steps when it is done.
        logs: name -> (sum, count), on the device.
        finite: flags of `check_names`, on the device.
        costs: (real units, units with padding, operations on one device, seconds of waiting for data).
    """

    step: int
    logs: PyTree
    finite: jax.Array
    costs: tuple[float, float, float, float]


class StepLog:
    """Metrics of a run's steps, and the count of skipped ones.

    Args:
        progress: display on stderr.
        tracker: log files.
        steps: the run's last step, which is always logged.
        every: steps per line of the log, which has their mean.
        checks: names of the flags of `Pending.finite`.
        bad: steps skipped so far, and those of them since the last good step.
        max_bad: skipped steps in a row that end the run.
        unit_name: name of the unit in the rates, for example audio_seconds.
        epsilon: steps -> epsilon spent, for a private run; None otherwise.
        beat: called with every step whose metrics have been read.
        warmup: steps within which a recognizer may output nothing but blanks.
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
        warmup: int = 0,
    ):
        self._progress, self._tracker = progress, tracker
        self._steps, self._every, self._checks, self._max_bad = steps, every, checks, max_bad
        self._bad, self._bad_in_a_row = bad
        self._unit_name, self._epsilon, self._beat = unit_name, epsilon, beat
        self._meter = Meter()
        self._warmup, self._collapse_said = warmup, False
        self._blank_since: dict[str, int] = {}  # metric -> step of the first log line without a symbol

    @property
    def sums(self) -> dict[str, list[float]]:
        """Metrics since the last line, name -> [sum, count]: a part of the checkpoint, so that a resume has them."""
        return self._meter.sums

    def restore(self, sums: Mapping[str, tuple[float, float]]) -> None:
        """Take the metrics that a checkpoint holds of the steps since its last line."""
        self._meter.add(sums)

    def restart_clock(self) -> None:
        """Start measuring time now, so that compilation does not count."""
        self._progress.restart_clock()
        self._meter.restart_clock()

    def read(self, pending: Pending | None, saved_step: int | None) -> None:
        """Read the metrics of a step from the device, and write a log line if one is due.

        Args:
            pending: the step; None does nothing.
            saved_step: step of the last checkpoint, for the error message.

        Raises:
            UserError: after too many bad steps in a row.
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
        values = {}
        if step % self._every == 0 or step == self._steps:
            means, rates = self._measure(step)
            self._tracker.write("train", step, metrics=means, rates=rates)
            self._notice_collapse(step, means)
            self._meter.reset()
            values = format_log_line(means, rates, self._unit_name)
        elif self._progress.due():
            values = format_log_line(*self._measure(step), self._unit_name)
        self._progress.update(step, values)

    def _notice_collapse(self, step: int, means: Mapping[str, float]) -> None:
        """Say once that a recognizer has output nothing but blanks for too long, and what helps."""
        for name, value in means.items():
            if name.rpartition("/")[2] != "nonblank":
                continue
            if value >= COLLAPSE_BELOW or step <= self._warmup:
                self._blank_since.pop(name, None)
                continue
            since = self._blank_since.setdefault(name, step)
            if step - since >= COLLAPSE_STEPS and not self._collapse_said:
                self._collapse_said = True
                self._progress.say(
                    f"step {step}: almost only blanks since step {since} ({name} {value:.2g} frames per label): the "
                    "transcripts are empty. Early in a training from scratch this may pass; if it stays, these help: a "
                    "longer optimizer.warmup_steps or a lower optimizer.peak_lr, texts that belong to their "
                    "recordings, a smaller task.model.subsampling_factor, a pre-trained encoder (init_from)"
                )

    def _bad_step(
        self, step: int, logs: Mapping[str, tuple[Any, Any]], finite: np.ndarray, saved_step: int | None
    ) -> None:
        self._bad += 1
        self._bad_in_a_row += 1
        terms = [name for name, (total, _) in logs.items() if name.endswith("/loss") and not np.isfinite(total)]
        names = terms + [name for name, good in zip(self._checks, finite, strict=True) if not good]
        ellipsis = f" and {len(names) - 3} more" if len(names) > 3 else ""
        reason = f"{', '.join(names[:3])}{ellipsis} not finite"
        self._progress.say(f"step {step} skipped: {reason}")
        self._tracker.write("bad_step", step, metrics={"skipped": self._bad, "skipped_in_a_row": self._bad_in_a_row})
        if self._bad_in_a_row >= self._max_bad:
            last = f"the last checkpoint is step {saved_step}" if saved_step is not None else "there is no checkpoint"
            raise UserError(
                f"training: found {self._bad_in_a_row} bad steps in a row up to step {step} ({reason}), "
                f"expected fewer than {self._max_bad} (trainer.max_bad_steps); {last}"
            )

    def _measure(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return (means, rates) since the last line of the log."""
        means = self._meter.means() | {"skipped": float(self._bad)}
        if self._epsilon is not None:
            means["privacy/epsilon"] = self._epsilon(step)
        return means, self._meter.rates(self._unit_name, peak_flops())
