"""The table and the figure: `python -m experiments.real_voice.summary RESULTS` prints Markdown, writes voices.png.

For every model and each of its voices, on the held-out sentences of that speaker: the alignment's scores, MCD and what
recognizers hear; and how many of the 100 hard sentences failed, by reason.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

NAMES = {"joe": "first part", "joe_longer": "before fine-tuning"}
MEASURES = (("mcd", "MCD with DTW, dB"), ("wer", "WER, our recognizer, %"))


def rows_of(path: Path) -> list[dict]:
    """The lines of a report of `synthesize`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def label(name: str) -> str:
    """What a model is called in the table."""
    weight = re.fullmatch(r"alpha_(.+)", name)
    return f"α = {float(weight[1]):g}" if weight else NAMES.get(name, name)


def mean(report: dict, measure: str) -> str:
    """A measure's mean with its interval, or nothing where it was not measured."""
    found = report.get("all", {}).get(measure)
    return "" if not found else f"{found['mean']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def whisper(folder: Path) -> str:
    """Whisper's word error rate in %."""
    path = folder / "whisper" / "report.json"
    if not path.exists():
        return ""
    (found,) = json.loads(path.read_text(encoding="utf-8"))["set"].values()
    return f"{100 * found['wer']:.1f}"


def main(folder: str) -> None:
    results = Path(folder)
    models = [
        name for name in ("joe_longer", *sorted(p.name for p in results.glob("alpha_*"))) if (results / name).is_dir()
    ]
    print("| model | voice | pieces | focus | coverage | failed alignments | " + " | ".join(
        shown for _, shown in MEASURES) + " | WER, whisper tiny.en, % |")  # fmt: skip
    print("|---|---|" + "---:|" * (5 + len(MEASURES)))
    focus: dict[tuple[str, str], list[float]] = {}
    for name in models:
        for voice in ("joe", "asterisk"):
            part = results / name / voice
            if not (part / "alignments.jsonl").exists():
                continue
            rows = rows_of(part / "alignments.jsonl")
            focus[label(name), voice] = [row["focus"] for row in rows]
            report = part / "report.json"
            found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
            cells = [f"{np.mean([row[key] for row in rows]):.2f}" for key in ("focus", "coverage")]
            cells += [f"{sum(bool(row['failure']) for row in rows)}", *(mean(found, key) for key, _ in MEASURES)]
            print(f"| {label(name)} | {voice} | {len(rows)} | {' | '.join(cells)} | {whisper(part)} |")
    for voice in ("joe", "asterisk"):
        heard = whisper(results / "recordings" / voice)
        if heard:
            print(f"| recordings | {voice} | | | | | | | {heard} |")
    print("\n| hard sentences | pieces | failed | could not be spoken | why |\n|---|---:|---:|---:|---|")
    for name in models:
        part = results / name / "hard"
        if not (part / "alignments.jsonl").exists():
            continue
        rows = rows_of(part / "alignments.jsonl")
        failed = [row["failure"] for row in rows if row["failure"]]
        short = (re.sub(r"\d+%", "…", reason) for line in failed for reason in line.split(", "))
        why = Counter(re.sub(r"\d+ | \(.*?\)", "", reason) for reason in short)
        refused = len(re.findall(r"^error: text \d+:", (part / "log.txt").read_text(encoding="utf-8"), re.MULTILINE))
        reasons = ", ".join(f"{reason}: {count}" for reason, count in why.most_common())
        print(f"| {label(name)} | {len(rows)} | {len(failed)} | {refused} | {reasons} |")
    draw(focus, results)


def draw(focus: dict[tuple[str, str], list[float]], results: Path) -> None:
    """The focus rate of every sentence, model by model, and the course of the trainings' free speech."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if focus:
        left.boxplot(list(focus.values()), tick_labels=[f"{model}\n{voice}" for model, voice in focus])
    left.axhline(0.6, color="#888888", ls="--", lw=0.8)
    left.set(ylabel="focus rate, held-out sentences", ylim=(0, 1))
    for path in sorted((results / "logs").glob("*.jsonl")):
        lines = [row for row in rows_of(path) if row["kind"] == "eval"]
        for key in sorted({key for row in lines for key in row["metrics"] if key.endswith("/free_focus")}):
            points = [(row["step"], row["metrics"][key]) for row in lines if row["metrics"].get(key) is not None]
            right.plot(*zip(*points, strict=True), marker=".", label=f"{label(path.stem)}, {key.split('/')[0]}")
    right.set(xlabel="step", ylabel="focus rate, spoken freely in training", ylim=(0, 1))
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=8)
    figure.savefig(results / "voices.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
