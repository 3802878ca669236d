"""Type the first commands of docs/tutorials/own_recordings.md, word by word, and time each.

python experiments/first_day/run.py --recordings my_recordings --folder first_day --name asterisk

The folder must be new. Two things differ from what a reader does: the repository is cloned from this checkout, and the
recording that is transcribed is one that there is. A measurement of the test parts follows, which is not timed.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorials/own_recordings.md"
MEASURE = (
    "python -m speech_jax.evaluate --checkpoint runs/my_data --out reports "
    "--manifest data/new/test.jsonl data/synthetic/A/test.jsonl"
)


def commands(page: Path) -> list[str]:
    """Return the commands of the page's first shell block."""
    block = re.search(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    return [line for line in block[1].replace("\\\n", " ").splitlines() if line.strip()]


def processor_seconds() -> float:
    """Return what the commands so far have used of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run the commands, and write times.csv into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the recordings are, for the table")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=False)
    (folder / "my_recordings").symlink_to(arguments.recordings.resolve())
    recording = next(path.name for path in sorted(arguments.recordings.glob("*.mp3")))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.resolve() / "xla")  # as empty as a new user's
    # Each command has a shell of its own, so that what `activate` does must hold here.
    os.environ["PATH"] = f"{folder.resolve() / 'speech_jax/.venv/bin'}:{os.environ['PATH']}"
    rows = []
    for command in commands(PAGE):
        words = re.sub(r"https://\S+", f"{ROOT} speech_jax", command)
        words = re.sub(r"my_recordings/\S+", f"my_recordings/{recording}", words)
        print(f"$ {words}", flush=True)
        begun, used = time.time(), processor_seconds()
        subprocess.run(["bash", "-c", words], cwd=folder, check=True)
        rows.append((arguments.name, " ".join(command.split()[:4]), time.time() - begun))
        print(f"# {rows[-1][2]:.0f} s, {processor_seconds() - used:.0f} s of processor time", flush=True)
        rows[-1] = (*rows[-1], processor_seconds() - used)
    rows.append((arguments.name, "all", *(sum(row[column] for row in rows) for column in (2, 3))))
    with open(folder / "times.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("recordings", "command", "seconds", "processor seconds"))
        table.writerows((name, command, round(wall), round(processor)) for name, command, wall, processor in rows)
    subprocess.run(MEASURE, shell=True, cwd=folder, check=True)


if __name__ == "__main__":
    main()
