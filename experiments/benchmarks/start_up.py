"""Processor time of every front door's `--help`: `python -m experiments.benchmarks.start_up`

Against `python -c "import jax, tyro"` in the same rounds: processes take turns, and each figure is the least of its
rounds, user and system time together. Also `import speech_jax` alone, in wall time above a bare interpreter's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from speech_jax.__main__ import DOORS


def cost(*command: str) -> tuple[float, float]:
    """Return (processor seconds, wall seconds) of a Python process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def main() -> None:
    """Print a row per command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    commands = {
        "python -c 'import jax, tyro'": ("-c", "import jax, tyro"),
        "python -c pass": ("-c", "pass"),
        "python -c 'import speech_jax'": ("-c", "import speech_jax"),
        "python -m speech_jax": ("-m", "speech_jax"),
        **{f"python -m speech_jax.{door} --help": ("-m", f"speech_jax.{door}", "--help") for door in DOORS},
    }
    costs = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            costs[name].append(cost(*command))
    base = min(processor for processor, _ in costs["python -c 'import jax, tyro'"])
    print(f"{'command':38} processor s   ratio   wall s")
    for name, pairs in costs.items():
        processor, wall = (min(column) for column in zip(*pairs, strict=True))
        print(f"{name:38} {processor:11.3f} {processor / base:7.2f} {wall:8.3f}")


if __name__ == "__main__":
    main()
