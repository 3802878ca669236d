"""Time of `transcribe` on ordinary recordings against another checkout of this repository.

    python -m experiments.benchmarks.transcribe_before_after --other CHECKOUT --checkpoint RUN RECORDING ...

One process of `python -m speech_jax.transcribe` for each checkout and round, start to end, taking turns, with a warm
compilation cache. The transcripts have to be equal. Prints the ratios of wall time and of processor time (user and
system, of all threads) with their spread, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def transcribe(checkout: Path, checkpoint: Path, recordings: list[Path], cache: str) -> tuple[float, float, str]:
    """Return (seconds, seconds of the processor, transcripts)."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
    paths = [str(path.resolve()) for path in recordings]
    command = [sys.executable, "-m", "speech_jax.transcribe", "--checkpoint", str(checkpoint.resolve()), *paths]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a recognizer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("recordings", type=Path, nargs="+")
    args = parser.parse_args()
    checkouts = {"this": Path.cwd(), "other": args.other.resolve()}
    ratios: dict[str, list[float]] = {"wall": [], "processor": []}
    with tempfile.TemporaryDirectory() as cache:
        for number in range(-1, args.rounds):
            names = list(checkouts) if number % 2 else list(checkouts)[::-1]  # neither is always the first
            found = {name: transcribe(checkouts[name], args.checkpoint, args.recordings, cache) for name in names}
            this, other = found["this"], found["other"]
            if this[2] != other[2]:
                print("the transcripts differ")
            for place, kind in enumerate(ratios):
                if number >= 0:
                    ratios[kind].append(this[place] / other[place])
            pairs = f"wall {this[0]:.2f} and {other[0]:.2f} s, processor {this[1]:.2f} and {other[1]:.2f} s"
            print(f"round {number}: {pairs}{'   (warm-up)' if number < 0 else ''}", flush=True)
    result: dict[str, object] = {}
    for kind, values in ratios.items():
        result[kind] = round(statistics.median(values), 3)
        result[f"{kind}, all"] = [round(value, 3) for value in sorted(values)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
