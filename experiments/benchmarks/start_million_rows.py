"""Time and memory of a training start with a manifest of 1,000,000 rows, until the first compilation.

    python -m experiments.benchmarks.start_million_rows make FOLDER      # writes FOLDER/train.jsonl once
    python -m experiments.benchmarks.start_million_rows measure FOLDER   # first start, second start, and a bad setting

The rows have texts of 5 to 25 English words with figures among them, speakers, domains and seconds; their recordings
do not exist, and no start opens one. Every start is a new process. It ends just before the first program,
that of the initial state, would be compiled. Memory is the greatest sum of proportional set sizes (PSS) of the process
and its children, sampled every 50 ms; the greatest resident size of the process alone is printed after it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROWS = 1_000_000
CONFIG = """
from speech_jax.config import TrainConfig
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.models.conformer import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.training.loop import TrainerConfig
from speech_jax.training.optimizer import OptimizerConfig

config = TrainConfig(
    out_dir="{folder}/run",
    data=DataConfig(sources=(SourceConfig(path="{folder}/train.jsonl"),)),
    task=CTCTaskConfig(model=ConformerConfig(width=96, layers=4, heads=4)),
    optimizer=OptimizerConfig(schedule="cosine", warmup_steps={warmup}),
    trainer=TrainerConfig(steps=1000),
)
"""
# Runs in the measured process, as `python -m speech_jax.train` would.
CHILD = """
import os, resource, time
from speech_jax.training import loop
import speech_jax.train as train

plan_state = loop.make_state

def make_state(*args, **kwargs):
    plan_state(*args, **kwargs)  # shapes alone; what it returns would compile the first program
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT", time.time() - float(os.environ["BEGAN"]), resident, flush=True)
    os._exit(0)

loop.make_state = make_state
train.run_front_door(train.main)
"""


def make(folder: Path, rows: int = ROWS) -> None:
    """Write the manifest."""
    dictionary = Path(__file__).parents[2] / "speech_jax" / "text" / "assets" / "cmudict.dict.gz"
    with gzip.open(dictionary, "rt", encoding="utf-8") as file:
        words = sorted({line.split()[0].split("(")[0] for line in file if line[0].isalpha()})
    rng = random.Random(0)
    rng.shuffle(words)
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf
    drawn = iter(rng.choices(words, weights, k=rows * 26))
    figures = (
        lambda: str(rng.randrange(2, 400)),
        lambda: f"${rng.randrange(1, 90)}.{rng.randrange(10, 99)}",
        lambda: str(rng.randrange(1900, 2025)),
        lambda: f"{rng.randrange(1, 12)}:{rng.randrange(10, 59)}",
        lambda: f"{rng.randrange(21, 99)}%",
        lambda: f"{rng.randrange(4, 20)}th",
        lambda: f"{rng.randrange(1, 900)},{rng.randrange(100, 999)}",
        lambda: f"{rng.randrange(1, 9)}.{rng.randrange(1, 9)}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for index in range(rows):
            count = rng.randint(5, 25)
            text = [next(drawn) for _ in range(count)]
            if rng.random() < 0.3:
                text[rng.randrange(count)] = rng.choice(figures)()
            if count > 12:
                text[count // 2] += ","
            text[0] = text[0].capitalize()
            speaker = f"s{rng.randrange(2400):04d}"
            row = {
                "id": f"{speaker}-{index:07d}",
                "audio": f"wav/{speaker}/{speaker}-{index:07d}.flac",
                "text": " ".join(text) + ".",
                "speaker": speaker,
                "domain": rng.choice(("read", "talk", "phone")),
                "seconds": round(count * rng.uniform(0.3, 0.55) + 0.4, 3),
            }
            file.write(json.dumps(row) + "\n")


def start(folder: Path, warmup: int = 100) -> str:
    """Start a run and describe it in a line."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    config = folder / f"config_{warmup}.py"
    config.write_text(CONFIG.format(folder=folder, warmup=warmup))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, "--config", str(config)],
        env=os.environ | {"BEGAN": str(time.time()), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = [0.0]
    sampler = threading.Thread(target=_sample, args=(process, peak), daemon=True)
    began = time.time()
    sampler.start()
    output = process.communicate()[0]
    seconds = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = [line.split()[1:] for line in output.splitlines() if line.startswith("RESULT ")]
    if result:
        wall, resident = map(float, result[0])
        return f"{wall:6.1f} s; {cpu:6.1f} s of processor time; PSS {peak[0]:5.0f} MB; resident {resident:5.0f} MB"
    return f"{seconds:6.1f} s; {cpu:6.1f} s of processor time; PSS {peak[0]:5.0f} MB; {output.splitlines()[-1]}"


def _sample(process: subprocess.Popen, peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_pss, _family(process.pid))))
        time.sleep(0.05)


def _family(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return [pid, *(member for child in children for member in _family(child))]


def _pss(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def measure(folder: Path) -> None:
    """Print the figures of a first and a second start, and of one with a setting that cannot be."""
    for stale in folder.glob(".train.jsonl.*"):
        stale.unlink()
    print("first start: ", start(folder), flush=True)
    print("second start:", start(folder), flush=True)
    print("warmup_steps > steps:", start(folder, warmup=2000), flush=True)


if __name__ == "__main__":
    {"make": make, "measure": measure}[sys.argv[1]](Path(sys.argv[2]).resolve())
