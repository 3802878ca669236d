"""Watching a run from outside: a metrics endpoint, a trace of some steps, a word when a step stalls, other trackers."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import jax

from speech_jax.core.errors import UserError
from speech_jax.monitoring.sinks import MLflowSink, WandbSink


@dataclass(frozen=True)
class WatchConfig:
    """How a run can be watched. The first process does it, and all of them name a step that stalls."""

    metrics_port: int = 0
    """Port at which Prometheus finds the run's metrics, for example 9100; 0 serves none."""
    metrics_host: str = "127.0.0.1"
    """Address to serve them on; 0.0.0.0 lets other machines in, and there is no password."""
    profile: str = ""
    """Steps to write an XProf trace of into profile/ of the run's folder: "10:20" is after step 10 to step 20."""
    stalled_after: float = 900.0
    """Seconds after which a step that is not done is named, with all threads' stacks; the run goes on. 0: never."""
    mlflow: str = ""
    """An MLflow store to log to as well, for example sqlite:///mlflow.db; wants `pip install mlflow`."""
    wandb: str = ""
    """A Weights & Biases project to log to as well, offline in the run's folder; wants `pip install wandb`."""


def make_sinks(config: WatchConfig, folder: Path) -> list:
    """The trackers that the config asks for."""
    sinks: list = [MLflowSink(config.mlflow, folder)] if config.mlflow else []
    if config.wandb:
        sinks.append(WandbSink(config.wandb, folder))
    return sinks


class Profile:
    """A trace of the steps after `first` up to `last`, written by JAX's profiler.

    steps: "10:20", or nothing. Raises UserError for anything else.
    """

    def __init__(self, steps: str, folder: Path, *, enabled: bool = True):
        found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", steps)
        if steps and not (found and int(found[1]) < int(found[2])):
            raise UserError(f"trainer.watch.profile: found {steps!r}, expected two steps such as 10:20")
        self._first, self._last = (int(found[1]), int(found[2])) if found and enabled else (-1, -1)
        self._folder, self._running = folder, False

    def turns(self, step: int) -> bool:
        """Whether the trace begins or ends when so many steps are done."""
        return step == self._first or (self._running and step >= self._last)

    def turn(self, step: int) -> str:
        """Begins or ends the trace; returns what to say. The device is to be through with its steps."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
            return f"tracing steps {self._first + 1} to {self._last}"
        self.close()
        return f"traced up to step {step}: {self._folder}"

    def step(self, number: int) -> AbstractContextManager:
        """Marks a step in the trace, while there is one."""
        if not self._running:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def close(self) -> None:
        """A run that ends within the trace still has one."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class Watchdog:
    """Names a step that takes longer than `seconds`, once, with the stacks of all threads on stderr. 0 never does.

    stalled: called for each such step.
    """

    def __init__(self, seconds: float, stalled: Callable[[], None] | None = None):
        if not 0 <= seconds < 1e9:
            raise UserError(f"trainer.watch.stalled_after: found {seconds}, expected seconds, or 0")
        self._seconds, self._stalled = seconds, stalled
        self._step: tuple[int, float] | None = None  # its number, when it began
        self._named = 0
        self._closed = threading.Event()
        self._thread = None
        if seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A step that is to be done in time: its batch, its work, and reading the step before."""
        began = time.monotonic()
        self._step = (number, began)
        try:
            yield
        finally:
            self._step = None
            if self._named == number:
                _say(f"step {number} is done after {time.monotonic() - began:.0f} s")

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            step = self._step  # one read: the other thread may take it away
            if step is None or step[0] == self._named or time.monotonic() - step[1] < self._seconds:
                continue
            self._named = step[0]
            passed = time.monotonic() - step[1]
            _say(f"step {step[0]} of process {jax.process_index()} is not done after {passed:.0f} s; it goes on, at:")
            faulthandler.dump_traceback(file=2, all_threads=True)
            if self._stalled is not None:
                self._stalled()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
