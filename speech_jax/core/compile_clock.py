"""Measure the time that JAX spends on compilation, so that it can be reported apart from run time."""

from __future__ import annotations

import sys
import threading
import time

import jax.monitoring

_EVENTS = "/jax/core/compile/"  # tracing, lowering and compiling, as JAX reports them at their end
_COMPILED = "/jax/core/compile/backend_compile_duration"


class _Clock:
    """Union of the reported time intervals, which may lie within each other (a jit within a jit)."""

    def __init__(self) -> None:
        self._intervals: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._registered = False
        self.programs = 0

    def start(self) -> None:
        if not self._registered:
            jax.monitoring.register_event_duration_secs_listener(self._on_event)
            self._registered = True

    def _on_event(self, event: str, duration_secs: float, **kwargs: object) -> None:  # names as in jax.monitoring
        if event.startswith(_EVENTS):
            self.programs += event == _COMPILED
            self.add(time.perf_counter() - duration_secs, time.perf_counter())

    def add(self, begin: float, end: float) -> None:
        with self._lock:
            while self._intervals and self._intervals[-1][1] > begin:
                begin = min(begin, self._intervals.pop()[0])
            self._intervals.append((begin, end))

    def seconds(self) -> float:
        with self._lock:
            return sum(end - begin for begin, end in self._intervals)


_clock = _Clock()


def compile_seconds() -> float:
    """Return the seconds spent on tracing, lowering and compiling since the first call of this function."""
    _clock.start()
    return _clock.seconds()


def compiled_programs() -> int:
    """Return the number of programs that XLA compiled since the first call of `compile_seconds`."""
    return _clock.programs


class Stopwatch:
    """Timer of synthesis, from its creation on, without compilation."""

    def __init__(self) -> None:
        self._compiled_before = compile_seconds()
        self._began = time.perf_counter()
        self._latency: float | None = None
        self._audio = 0.0

    def add_audio(self, seconds: float) -> None:
        """Record that `seconds` of audio were produced."""
        if self._latency is None and seconds:
            self._latency = self._elapsed()
        self._audio += seconds

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began - (compile_seconds() - self._compiled_before)

    def print_summary(self, recordings: int) -> None:
        """Print the real-time factor, the latency and the compile time as one line on stderr."""
        if self._audio:
            elapsed, compiled = self._elapsed(), compile_seconds() - self._compiled_before
            print(
                f"{recordings} recordings, {self._audio:.1f} s of audio in {elapsed:.1f} s: real-time factor "
                f"{elapsed / self._audio:.3f}, first sound after {self._latency:.2f} s; compilation took another "
                f"{compiled:.1f} s",
                file=sys.stderr,
            )
