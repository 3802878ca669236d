"""Effect of keeping freed memory on a CPU: `python -m experiments.benchmarks.allocator`

The gradient of the recognizer in configs/real_speech/pretrain.py (16 × 3.28 s), in processes with and without
`speech_jax.core.memory.keep_freed_memory`, which take turns; prints each round's ratio, and the time the kernel took.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

ROWS, SAMPLES, LABELS, STEPS = 16, 52_480, 40, 10


def measure(keep: bool) -> dict[str, float]:
    """Seconds a step, and seconds of the kernel's work in it."""
    if keep:
        from speech_jax.core.memory import keep_freed_memory

        assert keep_freed_memory()
    import jax
    import numpy as np

    from speech_jax.config import load_config_file
    from speech_jax.tasks.ctc_task import ctc_task
    from speech_jax.text.tokenizer import BLANK, Tokenizer

    config = load_config_file("configs/real_speech/pretrain.py").task
    task = ctc_task(config, Tokenizer("char", (BLANK, *"abcdefghijklmnopqrstuvwxyz '")))
    rng = np.random.default_rng(0)
    batch = {
        "audio": (0.1 * rng.normal(size=(ROWS, SAMPLES))).astype(np.float32),
        "audio_lengths": np.full(ROWS, SAMPLES, np.int32),
        "labels": rng.integers(1, 28, (ROWS, LABELS)).astype(np.int32),
        "label_lengths": np.full(ROWS, LABELS, np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
    }
    params, model_state = jax.jit(task.model.init)(jax.random.key(0), batch)
    loss = jax.jit(jax.grad(lambda p, b, k: task.objective(p, model_state, b, k, 0).value))
    for _ in range(3):
        jax.block_until_ready(loss(params, batch, jax.random.key(1)))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
    for step in range(STEPS):
        jax.block_until_ready(loss(params, batch, jax.random.key(step)))
    took = time.perf_counter() - began
    kernel = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before
    return {"seconds": took / STEPS, "kernel": kernel / STEPS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--measure", choices=("keep", "leave"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure == "keep")))
        return
    ratios = []
    for number in range(options.rounds):
        found = {}
        for how in ("leave", "keep"):
            command = [sys.executable, "-m", "experiments.benchmarks.allocator", "--measure", how]
            found[how] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ratios.append(found["keep"]["seconds"] / found["leave"]["seconds"])
        shown = ", ".join(
            f"{how} {1e3 * f['seconds']:.0f} ms (kernel {1e3 * f['kernel']:.0f} ms)" for how, f in found.items()
        )
        print(f"round {number + 1}: {shown}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
