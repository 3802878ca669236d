"""What a user sees while a run goes on: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Progress over the steps of a run, on stderr.

    seconds: how often a line is printed where stderr is no terminal.
    """

    def __init__(self, total: int, start: int, *, seconds: float, enabled: bool = True):
        self._total, self._start, self._seconds = total, start, seconds
        self._enabled = enabled
        self._step = start
        self._last = time.monotonic()
        self._marks = collections.deque([(self._last, start)], maxlen=20)  # the last lines, for the time left
        terminal = enabled and sys.stderr.isatty()
        self._bar = None
        if terminal:
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr)

    def restart_clock(self) -> None:
        """Forgets the time until now: compiling is no training."""
        self._last = time.monotonic()
        self._marks.clear()
        self._marks.append((self._last, self._step))
        if self._bar is not None:
            self._bar.unpause()

    def due(self) -> bool:
        """Whether it is time to show facts again: each second on a terminal, else every `seconds`."""
        seconds = 1.0 if self._bar is not None else self._seconds
        return self._enabled and time.monotonic() - self._last >= seconds

    def update(self, step: int, facts: Mapping[str, str]) -> None:
        """`step` steps are done; facts: what to show besides, such as the loss, short texts."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(step - self._step)
            if facts:
                self._last = time.monotonic()
                self._bar.set_postfix(facts, refresh=False)
        elif facts and (self.due() or step >= self._total):
            self._last = now = time.monotonic()
            then, before = self._marks[0]
            self._marks.append((now, step))
            rate = (step - before) / max(now - then, 1e-9)
            left = clock((self._total - step) / rate) if rate > 0 else "?"
            shown = " ".join(f"{name} {value}" for name, value in facts.items())
            print(f"step {step}/{self._total} | {shown} | {left} left", file=sys.stderr, flush=True)
        self._step = step

    def say(self, text: str) -> None:
        """One line of its own, that does not break the bar."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def facts_of(means: Mapping[str, float], rates: Mapping[str, float], unit_name: str) -> dict[str, str]:
    """What the progress line shows of a log line. unit_name: what is counted a second, for example audio_seconds."""
    names = {"loss": "loss", "pre loss": "pre/loss", "task loss": "task/loss"}
    losses = {shown: f"{means[name]:.4g}" for shown, name in names.items() if name in means}
    facts = {"loss": losses.pop("loss")} if "loss" in losses else {}
    facts |= {"steps/s": f"{rates['steps_per_second']:.3g}"} | losses
    if "padding" in rates:
        facts[f"{unit_name.replace('_', ' ')}/s"] = f"{rates[f'{unit_name}_per_second']:.0f}"
        facts["padding"] = f"{rates['padding']:.0%}"
    if "utilization" in rates:
        facts["MFU"] = f"{rates['utilization']:.0%}"
    if "privacy/epsilon" in means:
        facts["epsilon"] = f"{means['privacy/epsilon']:.3g}"
    if means.get("skipped"):
        facts["skipped"] = f"{means['skipped']:.0f}"
    return facts
