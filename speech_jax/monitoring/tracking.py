"""Log files of a run: metrics.jsonl, TensorBoard files, and any further sinks."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.log import log
from speech_jax.core.types import Report

proto: Any = event_pb2  # its classes are created at run time, unknown to a type checker

FLUSH_SECONDS = 10.0  # events are at most this old when TensorBoard sees them; each flush waits for the disk


class Meter:
    """Accumulates (sum, count) metrics and rates between two log lines."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._sums: dict[str, list[float]] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start the rates from zero."""
        self.steps = self.real = self.padded = self.flops = self.waited = 0.0
        self._began = time.monotonic()

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        """Add metrics, name -> (sum, count)."""
        for name, (total, count) in metrics.items():
            pair = self._sums.setdefault(name, [0.0, 0.0])
            pair[0] += float(total)
            pair[1] += float(count)

    def count_step(self, real: float, padded: float, flops: float, waited: float) -> None:
        """Count one step.

        Args:
            real: units of real data, for example seconds of audio.
            padded: units with padding.
            flops: operations on one device.
            waited: seconds spent waiting for data.
        """
        self.steps += 1
        self.real += real
        self.padded += padded
        self.flops += flops
        self.waited += waited

    @property
    def sums(self) -> dict[str, list[float]]:
        """Name -> [sum, count] of the metrics since the last reset."""
        return {name: [*pair] for name, pair in self._sums.items()}

    def means(self) -> dict[str, float]:
        """Return sum / count of each metric; those with a count of 0 are left out."""
        return {name: total / count for name, (total, count) in self._sums.items() if count}

    def rates(self, unit: str, peak: float | None) -> dict[str, float]:
        """Return the rates since the last reset.

        Args:
            unit: name of the units.
            peak: peak operations per second of the device, for the utilization; None if unknown.

        Returns:
            Name -> rate; those without data are left out.
        """
        seconds = max(time.monotonic() - self._began, 1e-9)
        rates = {"steps_per_second": self.steps / seconds, "waiting_for_data": self.waited / seconds}
        if self.padded:
            rates[f"{unit}_per_second"] = self.real / seconds
            rates["padding"] = 1 - self.real / self.padded
        if self.flops:
            rates["model_flops_per_second"] = self.flops / seconds
            if peak:
                rates["utilization"] = self.flops / seconds / peak
        return rates


class Tracker:
    """Writer of metrics.jsonl and tensorboard/ in a run's folder.

    Args:
        folder: the run's folder.
        start: the step that the run starts at; lines of later steps are dropped. -1 is a new run: all are dropped.
        tensorboard: write TensorBoard files.
        enabled: False writes nothing (all processes but the first).
        sinks: further trackers; each gets every line as `write(kind, step, parts)`, and a `close()` at the end.

    Raises:
        UserError: if the files cannot be written.
    """

    def __init__(self, folder: Path, start: int, *, tensorboard: bool, enabled: bool = True, sinks: Sequence[Any] = ()):
        self._file = self._board = None
        self._folder, self._start = folder, start
        self._sinks = tuple(sinks)
        if not enabled:
            return
        path = folder / "metrics.jsonl"
        try:
            self._shown = _drop_lines_after(path, start)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
            if tensorboard:
                self._board = _Board(folder / "tensorboard", start)
        except OSError as error:
            self.close()
            raise UserError(f"{folder}: the run's logs cannot be written ({error.strerror})") from error

    def write(self, kind: str, step: int, **parts: Mapping[str, float]) -> None:
        """Write one line {"kind", "step", part: {name: number}, …}, and scalars to TensorBoard.

        Numbers that are not finite become null. A full disk is logged and does not end the run.

        Args:
            kind: "train", "eval", "start_model", "compile" or "bad_step".
            step: the step.
            **parts: metrics and rates, name -> number.
        """
        if self._file is None:
            return
        clean = {part: {n: _number(v) for n, v in values.items()} for part, values in parts.items()}
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **clean}).encode() + b"\n")
        except OSError as error:
            log.warning("%s: cannot be written (%s)", self._file.name, error.strerror)
        for sink in self._sinks:
            sink.write(kind, step, clean)
        if self._board is not None:
            again = self._shown if step == self._start else ()
            scalars = {tag: value for tag, value in flat(kind, clean).items() if tag not in again}
            self._board.show(step, (summary.scalar(tag, value) for tag, value in scalars.items()))

    def report(self, name: str, step: int, report: Report, examples: int) -> None:
        """Write an evaluation's examples, images and audio.

        They go to TensorBoard; images and audio also to evaluations/STEP/NAME_KEY.png and .wav.

        Args:
            name: the evaluation set.
            step: the step.
            report: result of the evaluation.
            examples: number of examples in the table.
        """
        if self._file is None:
            return
        images = {key: image if np.ndim(image) == 3 else _gray(image) for key, image in report.images.items()}
        try:
            for key, image in images.items():
                write_file(self._folder / _file_name(step, name, key, "png"), _png(image))
            for key, (samples, rate) in report.audio.items():
                write_file(self._folder / _file_name(step, name, key, "wav"), _wav(samples, int(rate)))
        except UserError as error:  # a full disk must not end the run
            log.warning("%s", error)
        if self._board is None:
            return
        if step == self._start and any(tag.startswith(f"eval/{name}/") for tag in self._shown):
            return
        summaries = []
        if report.examples and examples:
            summaries.append(summary.text(f"{name}/examples", _table(report.examples[:examples])))
        for key, image in images.items():
            summaries.append(summary.image(f"{name}/{key}", image, dataformats="HWC" if image.ndim == 3 else "HW"))
        for key, (samples, rate) in report.audio.items():
            if len(samples):  # an early voice may stop at once; tensorboardX takes no empty audio
                summaries.append(summary.audio(f"{name}/{key}", _clip(samples)[:, None], sample_rate=int(rate)))
        self._board.show(step, summaries)

    def close(self) -> None:
        """Close the files and the sinks."""
        for sink in self._sinks:
            sink.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


class _Board:
    """TensorBoard's event file, written directly.

    The SummaryWriter of tensorboardX writes from a thread, which dies at the first error (a full disk); then its queue
    fills up, and the run hangs.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, which begin with their number: their time may be that of another
        # machine, or the second of the file before.
        earlier = len(list(folder.glob("*tfevents*")))
        self._writer = EventsWriter(str(folder / (f"events.resume{earlier:04d}" if earlier else "events")))
        self._flushed = -math.inf
        # A session's START hides what was written of its step and later ones. TensorBoard ignores the first START of a
        # folder, and earlier versions wrote none at the beginning, so there are two.
        started = proto.SessionLog(status=proto.SessionLog.START)
        for _ in range(2):
            self._writer.write_event(proto.Event(step=start + 1, wall_time=time.time(), session_log=started))

    def show(self, step: int, summaries: Iterable[Any]) -> None:
        if self._writer is None:
            return
        try:
            for value in summaries:
                self._writer.write_event(proto.Event(step=step, wall_time=time.time(), summary=value))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("TensorBoard's file cannot be written any more (%s); the run continues", error.strerror)
        self._writer = None


def flat(kind: str, parts: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return the numbers of a line by TensorBoard's names, such as train/loss and rates/padding, without nulls."""
    return {
        f"{kind if part == 'metrics' else part}/{name}": value
        for part, values in parts.items()
        for name, value in values.items()
        if value is not None
    }


def _drop_lines_after(path: Path, start: int) -> set[str]:
    """Drop the lines of steps after `start`, and a last line that is incomplete; atomically.

    Returns TensorBoard's names of the numbers in the lines of `start`, which are not shown again.
    """
    if not path.exists():
        return set()
    kept, shown = [], set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if row["step"] == start:
                shown |= flat(row.pop("kind"), {part: row[part] for part in row.keys() - {"step"}}).keys()
            if row["step"] <= start:
                kept.append(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)
    return shown


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _file_name(step: int, name: str, key: str, extension: str) -> str:
    return f"evaluations/{step}/{name.replace('/', '_')}_{key.replace('/', '_')}.{extension}"


def _clip(samples: Any) -> np.ndarray:
    return np.clip(np.nan_to_num(np.asarray(samples, np.float32)), -1, 1)


def _wav(samples: Any, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, _clip(samples), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _gray(image: Any) -> np.ndarray:
    """Scale a float array [height, width] to 8-bit gray, from the smallest to the largest value."""
    image = np.nan_to_num(np.asarray(image, np.float32))
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-9) * 255).astype(np.uint8)


def _table(rows: list[dict]) -> str:
    """Format rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")).replace("|", "\\|").replace("\n", " ") for name in names] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
