"""Decode damaged recordings of every format, and count those that are wrong without a word.

    python -m experiments.damaged_audio.run [--files 2400] [--seed 0] [--show]

A file is silently wrong if it decodes without an error or a finding although a decoder reads another length from its
header, or although bytes were cut off or added to a format whose container states a length.
"""

from __future__ import annotations

import argparse
import io
import resource
import signal as signals
import time
from collections import Counter
from pathlib import Path

import numpy as np

from experiments.damaged_audio.formats import STATES_NO_LENGTH, intact
from experiments.tables import markdown, to_csv
from speech_jax.audio.io import decode
from speech_jax.core.errors import UserError
from tests.support.sounds import mutate

STATED = {"mov", "matroska", "asf", "flac", "tta", "wv", "caf", "aiff"}  # ffmpeg reads their length, it does not guess
MUTATIONS = ("truncate", "flip", "header", "swap", "join", "insert", "zeros")
SLACK = 0.15  # seconds
LIMIT = 60  # seconds for one file; a longer one is a hang


def stated_lengths(data: bytes) -> list[float]:
    """Return the lengths that other readers take from the header, in seconds."""
    import av
    import soundfile

    lengths = []
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format != "MP3" and file.frames < 1 << 62:  # of MP3 it is an estimate
                lengths.append(file.frames / file.samplerate)
    except Exception:
        pass
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            stream = container.streams.audio[0]
            named = set(container.format.name.split(",")) & {
                "mov",
                "matroska",
                "asf",
                "flac",
                "tta",
                "wv",
                "caf",
                "aiff",
            }
            if named and stream.duration:
                lengths.append(float(stream.duration * stream.time_base))
            elif named and container.duration:
                lengths.append(container.duration / 1e6)
    except Exception:
        pass
    return lengths


def outcome(data: bytes, ending: str, kind: str, whole: float, size: int) -> tuple[str, str]:
    """Return (what became of a file, details)."""
    try:
        recording = decode(io.BytesIO(data), 16_000, name=f"x.{ending}")
    except UserError as error:
        text = str(error)
        return ("error" if "\n" not in text and len(text) < 400 else "traceback"), text
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if recording.findings:
        return "named", "; ".join(finding.text for finding in recording.findings)
    seconds = len(recording.samples) / 16_000
    lengths = stated_lengths(data)
    if any(abs(seconds - length) > SLACK for length in lengths):
        return "silent", f"{seconds:.3f} s decoded, stated {lengths}"
    if kind in ("truncate", "join") and ending not in STATES_NO_LENGTH and seconds < whole - SLACK:
        return "silent", f"{seconds:.3f} s decoded, {whole:.3f} s before"
    added = len(data) / size - 1
    if kind == "join" and added > 0.25 and seconds < whole * (2 if added == 1 else 1.1) - SLACK:
        return "silent", f"{seconds:.3f} s decoded of {1 + added:.2f} recordings of {whole:.3f} s"
    return "kept", f"{seconds:.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "summary.csv"))
    config = parser.parse_args()
    files = intact()
    endings = list(files)
    whole = {}
    for ending, data in files.items():
        recording = decode(io.BytesIO(data), 16_000, name=ending)
        whole[ending] = len(recording.samples) / 16_000
        if recording.findings or abs(whole[ending] - 2) > 0.1:
            print("intact", ending, whole[ending], recording.findings)
    rng = np.random.default_rng(config.seed)
    counts = {kind: Counter() for kind in MUTATIONS}
    slowest = 0.0

    def late(*_):
        raise TimeoutError("hang")

    signals.signal(signals.SIGALRM, late)
    for number in range(config.files):
        ending, kind = endings[number % len(endings)], MUTATIONS[number // len(endings) % len(MUTATIONS)]
        data = mutate(files[ending], kind, rng)
        begun = time.perf_counter()
        signals.alarm(LIMIT)
        what, details = outcome(data, ending, kind, whole[ending], len(files[ending]))
        signals.alarm(0)
        taken = time.perf_counter() - begun
        slowest = max(slowest, taken)
        what = "hang" if taken > LIMIT or "TimeoutError" in details else what
        counts[kind][what] += 1
        if what in ("silent", "traceback", "hang"):
            if config.show:
                print(what, ending, kind, number, details)
    outcomes = ("error", "named", "kept", "silent", "traceback", "hang")
    counts["all"] = sum(counts.values(), Counter())
    rows = [
        {"damage": kind, "files": count.total()} | {name: count[name] for name in outcomes}
        for kind, count in counts.items()
    ]
    out = Path(config.out)
    out.write_text(to_csv(rows), encoding="utf-8")
    table = markdown(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows])
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(endings)} formats; slowest file {slowest:.2f} s; peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
