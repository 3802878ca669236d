"""The watchdog and the metrics endpoint of a run, from its beginning to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from speech_jax.monitoring.config import WatchConfig
from speech_jax.monitoring.prometheus import Endpoint
from speech_jax.monitoring.watchdog import Watchdog


class Watch:
    """Watchdog of a process and, on process 0, the metrics endpoint, from before anything is read.

    A run is always in a phase until its first step: `begin` ends the one before.

    Args:
        config: the settings.
        steps: steps of the whole run.

    Attributes:
        endpoint: the metrics endpoint; None without one.

    Raises:
        UserError: if the port cannot be opened, or for an impossible time limit.
    """

    def __init__(self, config: WatchConfig, steps: int):
        self.endpoint: Endpoint | None = None
        self._watchdog = Watchdog(config.stalled_after, self._stalled, process=jax.process_index())
        if config.metrics_port and jax.process_index() == 0:
            try:
                self.endpoint = Endpoint(config.metrics_host, config.metrics_port, steps)
            except BaseException:
                self._watchdog.close()
                raise

    def begin(self, phase: str) -> None:
        """Begin a phase of the start, such as "compiling"."""
        self._watchdog.begin(phase)
        if self.endpoint is not None:
            self.endpoint.begin(phase)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Time a step: its batch, its dispatch, and reading the step before."""
        if self.endpoint is not None:
            self.endpoint.begin(f"step {number}")
        with self._watchdog.step(number):
            yield

    def _stalled(self) -> None:
        if self.endpoint is not None:
            self.endpoint.stalled()

    def close(self) -> None:
        """Stop watching."""
        self._watchdog.close()
        if self.endpoint is not None:
            self.endpoint.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
