"""Graceful stop on SIGTERM and SIGINT, and a lock that keeps a second run out of a folder."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError


class StopRequested(Exception):
    """Raised inside an evaluation or compilation to leave it early."""


class StopSignal:
    """A context in which SIGTERM and SIGINT only set a flag. A second SIGINT interrupts at once.

    With several processes JAX's preemption service picks the step at which all stop; it handles SIGTERM only.
    """

    def __init__(self) -> None:
        self._requested: str | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGTERM, signal.SIGINT]
            self._old = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = signal.Signals(number).name
        os.write(sys.stderr.fileno(), f"\n{self._requested}: finishing the step, then saving\n".encode())

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
