"""Kill a small training 50 times with SIGKILL, start it again each time, and compare it with the unbroken run.

With `--signal TERM`, `HUP` or `INT` the training may save and stop: then its last checkpoint is compared.

A moment is a number of file operations of the run in its folder, and seconds after the last of them. So the same
moments are met again on another machine, also those of a few milliseconds between two files of a checkpoint.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.tables import HERE
from speech_jax.core.command_line import parse
from speech_jax.training.layout import HostShape, read_item, read_state, saved_steps, stored_shapes

RESULTS = HERE / "restarts" / "results"
FLAGS = """--config configs/quickstart/pretrain.py --task.tokenizer.kind char --task.tokenizer.vocab-size 128
--task.model.width 16 --task.model.layers 1 --task.model.heads 2 --task.model.kernel-size 5
--task.model.subsampling-channels 8 --data.plan.rows 8 --evaluate.1 None --evaluate.0.data.plan.rows 8
--optimizer.warmup-steps 4 --trainer.steps 12 --trainer.eval-every 6 --trainer.log-every 5 --trainer.examples 2
--trainer.checkpoint.every 3 --trainer.checkpoint.keep-last 3""".split()


@dataclass(frozen=True)
class Options:
    """Kill and restart a small training, and count the restarts that end as the unbroken run does."""

    data: Path = Path("runs/quickstart/data")
    """Corpus of `python -m speech_jax.prepare synthetic`."""
    work: Path = Path("runs/restarts")
    """Folder of the runs."""
    kills: int = 50
    """Number of runs that are killed once each."""
    first: int = 15
    """Number of them that are killed inside the first save."""
    seed: int = 0
    """Seed of the moments."""
    jobs: int = 2
    """Number of runs at a time."""
    signal: Literal["KILL", "TERM", "HUP", "INT"] = "KILL"
    """Signal that is sent."""


class Moment(NamedTuple):
    """Number of file operations before the kill, and seconds after the last of them."""

    where: str
    operation: int
    seconds: float


# --- the killed process ---


def main_child(operation: int, seconds: float, folder: str, log: str, sent: int, flags: list[str]) -> None:
    """Train, and send a signal at a moment; with a log, write the time and the paths of each operation instead."""
    number, file = -1, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if log else -1

    def kill() -> None:
        os.kill(os.getpid(), sent)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.unlink"):
            return
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if reads or not any(folder in str(argument) for argument in arguments):
            return
        number += 1
        if log:
            os.write(file, (json.dumps([time.monotonic() - began, event, str(arguments)]) + "\n").encode())
        elif number == operation and seconds:
            threading.Timer(seconds, kill).start()
        elif number == operation:
            kill()

    began = time.monotonic()
    sys.addaudithook(hook)
    if operation < 0 and not log:
        threading.Timer(seconds, kill).start()
    sys.argv[1:] = flags
    runpy.run_module("speech_jax.train", run_name="__main__", alter_sys=True)


# --- the runs ---


def start(options: Options, name: str, moment: Moment | None = None, log: str = "") -> tuple[int, str]:
    """Train into a folder; return the exit code and what was printed."""
    out = options.work / name
    flags = [*FLAGS, "--out-dir", str(out)]
    for part, of in (("data", "train"), ("evaluate.0.data", "dev")):
        flags += [f"--{part}.sources.0.path", str(options.work / f"{of}.jsonl")]
    operation, seconds = (moment.operation, moment.seconds) if moment else (1 << 60, 0.0)
    child = json.dumps([operation, seconds, f"{out}/", log, signal.Signals[f"SIG{options.signal}"], flags])
    process = subprocess.run(
        [sys.executable, "-m", "experiments.restarts.run", "child", child],
        capture_output=True, text=True, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=600,
    )  # fmt: skip
    return process.returncode, process.stderr + process.stdout


def choose_moments(log: Path, options: Options) -> Iterator[Moment]:
    """Yield seeded moments: a part of them inside the first save, half at a time and half at a file operation."""
    operations = [json.loads(line) for line in log.read_text().splitlines()]
    times = [0.0, *(seconds for seconds, _, _ in operations)]  # the first is the start of the process
    first = next(i for i, (_, _, paths) in enumerate(operations) if ".orbax-checkpoint-tmp" in paths)
    last = next(i for i, (_, event, paths) in enumerate(operations) if event == "os.rename" and "sha256.json" in paths)
    random_state = random.Random(options.seed)
    for i in range(options.kills):
        inside = i < options.first
        low, high = (first, last) if inside else (-1, len(operations) - 1)
        if i % 2:
            yield Moment("first save" if inside else "operation", random_state.randint(max(low, 0), high), 0.0)
            continue
        moment = random_state.uniform(times[low + 1], times[high + 1])
        after = max(j for j, reached in enumerate(times) if reached <= moment)
        yield Moment("first save" if inside else "time", after - 1, max(moment - times[after], 1e-4))


def contents(run: Path) -> dict[str, Any]:
    """Return what a run leaves: arrays and records of all checkpoints, log lines without rates, and other files."""
    result: dict[str, Any] = {"steps": saved_steps(run / "checkpoints")}
    for step in result["steps"]:
        folder = run / "checkpoints" / str(step)
        shapes = {name: leaves for name, leaves in stored_shapes(folder).items() if name != "step"}
        like = {name: {leaf: HostShape(m.shape) for leaf, m in leaves.items()} for name, leaves in shapes.items()}
        for group, leaves in read_state(folder, like).items():
            for leaf, value in leaves.items():
                result[f"{step}/{group}/{leaf}"] = np.asarray(value).tobytes()
        result[f"{step}/data"] = read_item(folder, "data")
        result[f"{step}/assets"] = json.dumps(read_item(folder, "assets")).replace(f"/{run.name}", "/RUN")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result["metrics.jsonl"] = [
        {key: value for key, value in line.items() if key != "rates"} for line in lines if line["kind"] != "compile"
    ]
    for file in sorted((run / "evaluations").rglob("*")):
        if file.is_file():
            result[str(file.relative_to(run))] = file.read_bytes()
    result["config.json"] = (run / "config.json").read_text().replace(f"/{run.name}", "/RUN")
    return result


def try_moment(options: Options, number: int, moment: Moment, expected: dict[str, Any]) -> dict[str, Any]:
    """Kill one run at a moment, start it again until it ends, and compare it."""
    name = f"{number:02d}"
    code, text = start(options, name, moment)
    steps = saved_steps(options.work / name / "checkpoints")
    codes, fault = [code], ""
    first = text
    while (codes[-1] or "the same command resumes" in text) and len(codes) < 3:
        code, text = start(options, name)
        codes.append(code)
    if codes[-1]:
        fault = text.strip().splitlines()[-1] if text.strip() else f"exit code {codes[-1]}"
    elif "Traceback" in first:
        fault = f"a traceback: {first.strip().splitlines()[-1]}"
    else:
        found = contents(options.work / name)
        fault = ", ".join(key for key in {**expected, **found} if expected.get(key) != found.get(key))
        if options.signal != "KILL":  # the checkpoint of the step at which it stopped takes the place of another
            fault = ", ".join(key for key in fault.split(", ") if key and not re.match(r"(steps$|[0-9]/|1[01]/)", key))
    row = {
        "number": number,
        "where": moment.where,
        "operation": moment.operation,
        "seconds": f"{moment.seconds:.4f}",
        "exit code": codes[0],
        "killed": codes[0] == -signal.SIGKILL,
        "saved before": max(steps, default=0),
        "set aside": len([*(options.work / name / "checkpoints").glob("*.damaged")]),
        "difference": fault,
    }
    print(row, flush=True)
    return row


def main(argv: list[str]) -> None:
    """Run the experiment and write its table."""
    options = parse(Options, argv, prog="python -m experiments.restarts.run")
    options.work.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", 24), ("dev", 6)):
        lines = [json.loads(line) for line in (options.data / f"A/{name}.jsonl").read_text().splitlines()[:rows]]
        lines = [line | {"audio": str((options.data / "A" / line["audio"]).absolute())} for line in lines]
        (options.work / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start(options, "compiled")  # fills the cache of compiled programs
    log = options.work / "operations.jsonl"
    code, text = start(options, "unbroken", log=str(log))
    assert code == 0, text
    expected = contents(options.work / "unbroken")
    moments = [*choose_moments(log, options)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [*pool.map(lambda pair: try_moment(options, *pair, expected), enumerate(moments))]
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{options.signal.lower()}.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for where in ("first save", "operation", "time"):
        part = [row for row in rows if row["where"] == where]
        codes = dict(Counter(row["exit code"] for row in part))
        different = sum(bool(row["difference"]) for row in part)
        print(f"{where}: {len(part)} moments, exit codes {codes}, {different} that end otherwise")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        main_child(*json.loads(sys.argv[2]))
    else:
        main(sys.argv[1:])
