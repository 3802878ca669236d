"""Compare the native WaveNet step of several checkouts in alternating rounds, on a machine whose speed varies.

    python experiments/benchmarks/wavenet_native_turns.py CHECKOUT CHECKOUT … [--rounds 15] [--rows "24x128 int8 2" …]

A row is a preset of wavenet_native.py, the kind of weights and the cores that share the one stream. Each checkout
(with its library built: `pip install -e CLONE`) has a process of its own, which waits between its turns.
Printed are samples a second, median and range of the rounds, and the ratio to the first checkout's turn of the same
round, median and quartiles.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np

ROWS = ["24x128 int8 1", "24x128 int8 2", "24x128 float32 2", "20x64/128 int8 1", "20x64/128 int8 2",
        "20x64/128 float32 1", "20x64/128 float32 2"]  # fmt: skip
TURNS = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from experiments.benchmarks.wavenet_native import random_net
try:
    from speech_jax.kernels.wavenet import native
except ImportError:  # a checkout from before the rooms moved
    from speech_jax.decoding import wavenet_native as native
assert native.__file__.startswith(sys.argv[1])
preset, dtype, cores = sys.argv[2:]
packed = native.pack(*random_net(preset), dtype, cores=int(cores))
frames = max(1, int(0.12 * 5e10 / packed.weight_bytes / 256))  # about a tenth of a second
rng = np.random.default_rng(1)
cond = rng.standard_normal((1, frames, packed.layers, packed.gate)).astype(np.float32)
noise = rng.standard_normal((1, frames * 256, 1)).astype(np.float32)
state = native.start(packed, 1)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    native.sample(packed, state, cond, 256, noise)
    print(frames * 256 / (time.perf_counter() - began), flush=True)
"""


def measure(row: str, checkouts: list[str], rounds: int) -> np.ndarray:
    """Samples a second [rounds, checkouts]."""
    processes = [
        subprocess.Popen([sys.executable, "-c", TURNS, checkout, *row.split()], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for checkout in checkouts
    ]  # fmt: skip
    try:
        for process in processes:
            if process.stdout.readline().strip() != "ready":
                sys.exit(f"{row}: the process of {checkouts[processes.index(process)]} did not start")
        found = []
        for _ in range(rounds + 1):  # the first warms up
            found.append([])
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
                found[-1].append(float(process.stdout.readline()))
        return np.array(found[1:])
    finally:
        for process in processes:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    flags = parser.parse_args()
    print("preset    weights   cores  samples/s: median (range)            of the first's: median (quartiles)")
    for row in flags.rows:
        found = measure(row, flags.checkouts, flags.rounds)
        for number, speeds in enumerate(found.T):
            ratio = np.quantile(speeds / found[:, 0], (0.5, 0.25, 0.75))
            preset, dtype, cores = row.split()
            print(
                f"{preset:9s} {dtype:8s} {cores:>6s}  {number + 1}: {np.median(speeds):8,.0f} "
                f"({speeds.min():,.0f}–{speeds.max():,.0f})".ljust(64)
                + "{:.2f} ({:.2f}–{:.2f})".format(*ratio),
                flush=True,
            )


if __name__ == "__main__":
    main()
