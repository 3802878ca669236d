"""Progress display of a run: a bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections.abc import Mapping

from tqdm import tqdm

from speech_jax.core.passwords import mask_passwords


class Progress:
    """Progress over the steps of a run, on stderr.

    Args:
        total: steps of the whole run.
        start: steps done before a resume.
        seconds: time between lines where stderr is not a terminal.
        enabled: False prints nothing (all processes but the first).
    """

    def __init__(self, total: int, start: int, *, seconds: float, enabled: bool = True):
        self._total, self._start, self._seconds = total, start, seconds
        self._enabled = enabled
        self._step = start
        self._last = time.monotonic()
        self._marks = collections.deque([(self._last, start)], maxlen=20)  # (time, step) of the last lines
        terminal = enabled and sys.stderr.isatty()
        self._bar = None
        if terminal:
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr)

    def restart_clock(self) -> None:
        """Start measuring time now, so that compilation does not count."""
        self._last = time.monotonic()
        self._marks.clear()
        self._marks.append((self._last, self._step))
        if self._bar is not None:
            self._bar.unpause()

    def exclude(self, seconds: float) -> None:
        """Leave out the last seconds from the estimate of the time that is left."""
        self._marks = collections.deque(((when + seconds, step) for when, step in self._marks), self._marks.maxlen)
        if self._bar is not None:
            self._bar.unpause()

    def due(self) -> bool:
        """Return True if it is time to show values again: each second on a terminal, else every `seconds`."""
        seconds = 1.0 if self._bar is not None else self._seconds
        return self._enabled and time.monotonic() - self._last >= seconds

    def update(self, step: int, values: Mapping[str, str]) -> None:
        """Show progress.

        Args:
            step: steps that are done.
            values: name -> short text to show, such as the loss; may be empty.
        """
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(step - self._step)
            if values:
                self._last = time.monotonic()
                self._bar.set_postfix(values, refresh=False)
        elif values and (self.due() or step >= self._total):
            self._last = now = time.monotonic()
            mark_time, mark_step = self._marks[0]
            self._marks.append((now, step))
            rate = (step - mark_step) / max(now - mark_time, 1e-9)
            left = clock((self._total - step) / rate) if rate > 0 else "?"
            text = " ".join(f"{name} {value}" for name, value in values.items())
            print(f"step {step}/{self._total} | {text} | {left} left", file=sys.stderr, flush=True)
        self._step = step

    def say(self, text: str) -> None:
        """Print one line without breaking the bar, and without the passwords in its addresses."""
        if not self._enabled:
            return
        text = mask_passwords(text)
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


class Stages:
    """Elapsed time of work without steps to count, such as a compilation, on stderr.

    On a terminal it is one line that changes each second; otherwise a line when a stage begins, and one per minute. Use
    it as a context manager.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage, self._began = "", time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Stages:
        """Start showing the time."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the line."""
        self._ended.set()
        self._thread.join()
        self._write("")

    def begin(self, stage: str) -> None:
        """Name what is done from now on."""
        with self._lock:
            self._stage, self._began = stage, time.monotonic()
            self._write(stage if self._terminal else f"{stage} …\n")

    def say(self, text: str) -> None:
        """Print one line about what is done, without passwords."""
        with self._lock:
            self._write(f"{mask_passwords(text)}\n")

    def _repeat(self) -> None:
        while not self._ended.wait(1 if self._terminal else 60):
            with self._lock:
                line = f"{self._stage}: {clock(round(time.monotonic() - self._began))}"
                self._write(line if self._terminal else f"{line} so far\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else text)
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def format_log_line(means: Mapping[str, float], rates: Mapping[str, float], unit_name: str) -> dict[str, str]:
    """Format the values of a log line that the progress line shows.

    Args:
        means: metric -> mean.
        rates: from `Meter.rates`.
        unit_name: name of the unit in `rates`, for example audio_seconds.

    Returns:
        Name -> short text, in the order in which they are shown.
    """
    names = {"loss": "loss", "pre loss": "pre/loss", "task loss": "task/loss"}
    losses = {title: f"{means[name]:.4g}" for title, name in names.items() if name in means}
    values = {"loss": losses.pop("loss")} if "loss" in losses else {}
    values |= {"steps/s": f"{rates['steps_per_second']:.3g}"} | losses
    if "padding" in rates:
        values[f"{unit_name.replace('_', ' ')}/s"] = f"{rates[f'{unit_name}_per_second']:.0f}"
        values["padding"] = f"{rates['padding']:.0%}"
    if "utilization" in rates:
        values["MFU"] = f"{rates['utilization']:.0%}"
    if "privacy/epsilon" in means:
        values["epsilon"] = f"{means['privacy/epsilon']:.3g}"
    if means.get("skipped"):
        values["skipped"] = f"{means['skipped']:.0f}"
    return values
