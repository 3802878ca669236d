"""External trackers, a profiler trace of some steps, and a watchdog that reports a run that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from speech_jax.core.errors import UserError
from speech_jax.monitoring.config import WatchConfig
from speech_jax.monitoring.sinks import MLflowSink, WandbSink


def make_sinks(config: WatchConfig, folder: Path) -> list:
    """Return the external trackers that the config names, for the run in `folder`."""
    sinks: list = [MLflowSink(config.mlflow, folder)] if config.mlflow else []
    if config.wandb:
        sinks.append(WandbSink(config.wandb, folder))
    return sinks


class Profile:
    """A trace of some steps by JAX's profiler.

    Args:
        steps: "FIRST:LAST" traces the steps after FIRST up to LAST; "" traces none.
        folder: where the trace is written.
        enabled: False never traces (all processes but the first).

    Raises:
        UserError: if `steps` has another form.
    """

    def __init__(self, steps: str, folder: Path, *, enabled: bool = True):
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", steps)
        if steps and not (match and int(match[1]) < int(match[2])):
            raise UserError(f"trainer.watch.profile: found {steps!r}, expected two steps such as 10:20")
        self._first, self._last = (int(match[1]), int(match[2])) if match and enabled else (-1, -1)
        self._folder, self._running = folder, False

    def changes_at(self, step: int) -> bool:
        """Return True if the trace starts or stops after `step` finished steps."""
        return step == self._first or (self._running and step >= self._last)

    def start_or_stop(self, step: int) -> str:
        """Start or stop the trace, and return a line for the log. The device must have finished its steps."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
            return f"tracing steps {self._first + 1} to {self._last}"
        self.close()
        return f"traced up to step {step}: {self._folder}"

    def step(self, number: int) -> AbstractContextManager:
        """Mark a step in the trace, while one is running."""
        if not self._running:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def close(self) -> None:
        """Stop a trace that is still running, so that a run that ends within it still has one."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class Watchdog:
    """Reports a step that takes longer than `seconds`, once, with the stacks of all threads on stderr.

    So it does with the phases before the first step, such as compiling.

    Args:
        seconds: time limit of a step, or of a phase; 0 never reports.
        stalled: called once for each that is reported.
        process: index of this process, for the report; None while it is unknown.

    Raises:
        UserError: for a negative or infinite limit.
    """

    def __init__(self, seconds: float, stalled: Callable[[], None] | None = None, *, process: int | None = 0):
        if not 0 <= seconds < 1e9:
            raise UserError(f"trainer.watch.stalled_after: found {seconds}, expected a number of seconds, or 0")
        self._seconds, self._stalled = seconds, stalled
        self._of = "" if process is None else f" of process {process}"
        self._phase: tuple[str, float] | None = None  # name and start time of what runs now
        self._reported: tuple[str, float] | None = None
        self._closed = threading.Event()
        self._thread = None
        if seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def begin(self, phase: str) -> None:
        """Time a phase of the start, such as "compiling", up to the next phase or step."""
        self._end()
        self._phase = (phase, time.monotonic())

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Time a step: its batch, its dispatch, and reading the step before."""
        self.begin(f"step {number}")
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        phase, self._phase = self._phase, None
        if phase is not None and self._reported == phase:
            _print(f"{phase[0]} is done after {time.monotonic() - phase[1]:.0f} s")

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            phase = self._phase  # read once: the main thread may reset it
            if phase is None or phase == self._reported or time.monotonic() - phase[1] < self._seconds:
                continue
            self._reported = phase
            seconds = time.monotonic() - phase[1]
            # JAX is not asked for anything here: it may be what hangs.
            _print(f"{phase[0]}{self._of} is not done after {seconds:.0f} s; still running, at:")
            faulthandler.dump_traceback(file=2, all_threads=True)
            if self._stalled is not None:
                self._stalled()

    def close(self) -> None:
        """Stop watching."""
        self._end()
        self._closed.set()
        if self._thread is not None:
            self._thread.join()


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
