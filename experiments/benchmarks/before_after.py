"""Time of the trainer's step against another checkout of this repository.

    python -m experiments.benchmarks.before_after --other CHECKOUT

The trainer's own programs for Conformer-CTC small, batches of 8 × 10 s. One process for each checkout; they take turns
within each round, so that whatever else the machine does hits both. Prints the ratio and its spread, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = """
import sys, time
from experiments.benchmarks.finetuning_cost import *
from speech_jax.core.memory import keep_freed_memory
from speech_jax.tasks.ctc import CTCTaskConfig
keep_freed_memory()
tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz '"], TokenizerConfig())
step = Step("plain", ctc_task(CTCTaskConfig(model=small()), tokenizer), OptimizerConfig(warmup_steps=10))
print("ready", step.programs.flops, flush=True)
for _ in sys.stdin:  # one step a line
    print(step.seconds(), flush=True)
"""


def start(checkout: Path) -> subprocess.Popen:
    """Return a process that compiles the step of a checkout, and takes one step for every line it gets."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    for line in worker.stdout:
        print(f"{checkout.name}: {line.strip()}", flush=True)
        if line.startswith("ready"):
            return worker
    sys.exit(f"{checkout}: ended before its first step")


def take_step(worker: subprocess.Popen) -> float:
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    workers = {"this": start(Path.cwd()), "other": start(args.other.resolve())}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(-2, args.rounds):
        names = list(workers) if number % 2 else list(workers)[::-1]  # neither is always the first
        seconds = {name: take_step(workers[name]) for name in names}
        pair = '   '.join(f'{name} {seconds[name]:.2f} s' for name in workers)
        ratio = f"{pair}   ratio {seconds['this'] / seconds['other']:.3f}"
        print(f"round {number}: {ratio}{'   (warm-up)' if number < 0 else ''}", flush=True)
        if number >= 0:
            for name in workers:
                times[name].append(seconds[name])
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    ratios = sorted(a / b for a, b in zip(times["this"], times["other"], strict=True))
    quarter = len(ratios) // 4
    print(json.dumps({
        "ratio": round(statistics.median(ratios), 4),
        "middle_half": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        "fastest": {name: round(min(seconds), 4) for name, seconds in times.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
