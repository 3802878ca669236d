"""How long JAX has spent on making programs, so that what a program then takes can be told apart from it."""

from __future__ import annotations

import sys
import threading
import time

import jax.monitoring

_EVENTS = "/jax/core/compile/"  # tracing, lowering and compiling, as JAX reports them at their end
_COMPILED = "/jax/core/compile/backend_compile_duration"


class _Clock:
    """The union of the stretches of time that were reported: they lie within each other (a jit within a jit)."""

    def __init__(self) -> None:
        self._stretches: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._listens = False
        self.programs = 0

    def start(self) -> None:
        if not self._listens:
            jax.monitoring.register_event_duration_secs_listener(self._hear)
            self._listens = True

    def _hear(self, event: str, seconds: float, **_: object) -> None:
        if event.startswith(_EVENTS):
            self.programs += event == _COMPILED
            self.add(time.perf_counter() - seconds, time.perf_counter())

    def add(self, begin: float, end: float) -> None:
        with self._lock:
            while self._stretches and self._stretches[-1][1] > begin:
                begin = min(begin, self._stretches.pop()[0])
            self._stretches.append((begin, end))

    def seconds(self) -> float:
        with self._lock:
            return sum(end - begin for begin, end in self._stretches)


_clock = _Clock()


def compile_seconds() -> float:
    """Seconds spent on tracing, lowering and compiling since the first call, which begins to count."""
    _clock.start()
    return _clock.seconds()


def compiled_programs() -> int:
    """Programs that XLA compiled since `compile_seconds` was first called."""
    return _clock.programs


class Stopwatch:
    """How long making sound takes, compiling apart."""

    def __init__(self) -> None:
        self._compiled = compile_seconds()
        self._began = time.perf_counter()
        self._first: float | None = None
        self._audio = 0.0

    def add_audio(self, seconds: float) -> None:
        """So many seconds of sound are there."""
        if self._first is None and seconds:
            self._first = self._taken()
        self._audio += seconds

    def _taken(self) -> float:
        return time.perf_counter() - self._began - (compile_seconds() - self._compiled)

    def print_summary(self, recordings: int) -> None:
        """One line on stderr."""
        if self._audio:
            taken, compiled = self._taken(), compile_seconds() - self._compiled
            print(
                f"{recordings} recordings, {self._audio:.1f} s of audio in {taken:.1f} s: real-time factor "
                f"{taken / self._audio:.3f}, first sound after {self._first:.2f} s; compiling took "
                f"{compiled:.1f} s more",
                file=sys.stderr,
            )
