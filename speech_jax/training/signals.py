"""Graceful stop on a signal or a closed output, and a lock that keeps a second run out of a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError


class StopRequested(Exception):
    """Raised inside an evaluation or compilation to leave it early."""


class StopSignal:
    """A context where SIGTERM, SIGINT, SIGHUP and a closed stderr only set a flag. A second SIGINT interrupts at once.

    A SIGHUP that is ignored, as under nohup, stays ignored. With several processes JAX's preemption service picks the
    step at which all stop; it handles SIGTERM only, and gets one for the others.
    """

    def __init__(self) -> None:
        self._requested: str | None = None
        self._old: dict[int, Any] = {}
        self._stderr: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGINT, *([] if jax.process_count() > 1 else [signal.SIGTERM])]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signals.append(signal.SIGHUP)
            self._old = {number: signal.signal(number, self._handle) for number in signals}
            self._stderr, sys.stderr = sys.stderr, _WatchedStream(sys.stderr, self._output_closed)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self._stderr is not None:
            sys.stderr = self._stderr

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._request(signal.Signals(number).name)
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(sys.stderr.fileno(), f"\n{self._requested}: finishing the step, then saving\n".encode())

    def _output_closed(self) -> None:
        """Stop as by a signal: the reader of `2>&1 | head` has ended. What is written from now on is lost."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stderr.fileno())
        os.close(null)
        self._request("stderr was closed")

    def _request(self, reason: str) -> None:
        self._requested = reason
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Return True if the run should stop after this step; the same on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested is not None

    def check(self) -> None:
        """Raise StopRequested if a signal came; called where work can be abandoned."""
        if jax.process_count() == 1 and self._requested is not None:
            raise StopRequested

    def watch(self, items: Iterable) -> Iterator:
        """Yield the items, with a `check` before each."""
        for item in items:
            self.check()
            yield item


class _WatchedStream:
    """A stream that calls a function where a write fails, instead of raising."""

    def __init__(self, stream: Any, on_failure: Callable[[], None]):
        self._stream, self._on_failure = stream, on_failure

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._on_failure()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._on_failure()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RunLock:
    """Lock on a run's folder. The system releases it when the process ends, even after kill -9.

    Raises:
        UserError: if another run holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}), expected a folder for the run") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise UserError(
                f"{folder}: found another run in this folder (process {holder}), expected one at a time"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Release the folder; the file is empty again, as it was before."""
        self._file.truncate(0)
        self._file.close()
