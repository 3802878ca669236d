"""Convert hostile and damaged checkpoints, each in a process of its own, and measure what it costs.

    python -m experiments.hostile_files.run [--mutations 2500] [--seed 0] [--show]

The hostile ones are those of tests/support/hostile.py. The damaged ones are mutations of the small checkpoints in
tests/interop/golden: of NeMo's and PyTorch's files, and of one file in a folder of transformers.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.tables import HERE, markdown, to_csv
from speech_jax import convert
from speech_jax.core.command_line import parse
from speech_jax.core.errors import run_front_door
from tests.support.hostile import GOLDEN, write_all
from tests.support.sounds import mutate

KINDS = ("truncate", "flip", "header", "swap", "join", "insert", "zeros")
LONGEST, MOST = 60.0, 2048.0  # seconds, MiB
LIMIT = 90  # seconds until a process is killed


@dataclass(frozen=True)
class Options:
    """Convert hostile and damaged checkpoints."""

    mutations: int = 2500
    """Number of damaged checkpoints."""
    seed: int = 0
    """Seed of the damage."""
    show: bool = False
    """Print every file that is wrong."""


class Cost(NamedTuple):
    """Outcome of one conversion, its seconds, its greatest memory in MiB, and what it printed."""

    outcome: str
    seconds: float
    memory: float
    text: str


def load_readers() -> None:
    """Import all that a conversion imports, once for all children."""
    for name in ("imported", "nemo", "parakeet", "tacotron2", "torchaudio", "wav2vec2", "wavenet"):
        importlib.import_module(f"speech_jax.interop.{name}")


def measure(path: Path, out: Path) -> Cost:
    """Convert one checkpoint in a child process."""
    with tempfile.TemporaryFile() as printed:
        begun = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            signal.alarm(LIMIT)
            sys.argv = ["convert", str(path), "--out", str(out)]
            code = 99
            try:
                run_front_door(convert.main)
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status, usage = os.wait4(pid, 0)
        seconds, memory = time.perf_counter() - begun, usage.ru_maxrss / 1024
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if code == 0 and not lines:
        outcome = "converted"
    elif code == 2 and len(lines) == 1 and "Traceback" not in text and len(lines[0]) < 900:
        outcome = "one line"
    else:
        outcome = "wrong"
    if seconds > LONGEST or memory > MOST:
        outcome = "wrong"
    shutil.rmtree(out, ignore_errors=True)
    return Cost(outcome, seconds, memory, text)


def damaged(folder: Path, number: int, rng: np.random.Generator) -> Path:
    """Write one damaged checkpoint; return what is to be converted."""
    originals = sorted(path for path in GOLDEN.iterdir() if path.is_dir() or path.suffix in (".nemo", ".pt"))
    original, kind = originals[number % len(originals)], KINDS[number // len(originals) % len(KINDS)]
    copy = folder / original.name
    if original.is_dir():
        shutil.copytree(original, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        target = files[int(rng.integers(len(files)))]
    else:
        shutil.copyfile(original, copy)
        target = copy
    target.write_bytes(mutate(target.read_bytes(), kind, rng))
    return copy


def main() -> None:
    """Run all, and write the table."""
    options = parse(Options, sys.argv[1:], prog="python -m experiments.hostile_files.run")
    rng = np.random.default_rng(options.seed)
    load_readers()
    costs: dict[str, list[Cost]] = {"hostile": [], "damaged": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "hostile").mkdir()
        write_all(folder / "hostile")

        def note(group: str, path: Path) -> None:
            cost = measure(path, folder / "out")
            costs[group].append(cost)
            if options.show and cost.outcome == "wrong":
                print(f"{path.name}: {cost.seconds:.1f} s, {cost.memory:.0f} MiB: {cost.text[-400:]}", flush=True)

        for path in sorted((folder / "hostile").iterdir()):
            note("hostile", path)
        for number in range(options.mutations):
            (folder / "damaged").mkdir()
            note("damaged", damaged(folder / "damaged", number, rng))
            shutil.rmtree(folder / "damaged")
    rows = []
    for group, found in costs.items():
        counts = Counter(cost.outcome for cost in found)
        rows.append(
            {"files": group, "number": len(found)}
            | {outcome: counts[outcome] for outcome in ("one line", "converted", "wrong")}
            | {"seconds": f"{max(cost.seconds for cost in found):.1f}"}
            | {"MiB": f"{max(cost.memory for cost in found):.0f}"}
        )
    out = HERE / "hostile_files/results/summary.csv"
    out.parent.mkdir(exist_ok=True)
    out.write_text(to_csv(rows), encoding="utf-8")
    table = markdown(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows])
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)
    print(f"memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
