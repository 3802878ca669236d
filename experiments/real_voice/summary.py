"""Tables and plot of the voices: `python -m experiments.real_voice.summary [--runs runs/real_voice]`.

For every model and each of its voices, on the held-out sentences of that speaker: the alignment's scores, MCD and the
error rates of two recognizers; and how many of the 100 hard sentences failed, by reason.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_json, read_lines, span

NAMES = {"joe": "first part", "joe_longer": "before fine-tuning"}
VOICES = ("joe", "asterisk")
MEASURES = {"mcd": "MCD with DTW, dB", "wer": "WER, our recognizer, %"}
QUARTILES = {"focus_least": 0, "focus_q1": 25, "focus_median": 50, "focus_q3": 75, "focus_greatest": 100}


def label(name: str) -> str:
    """Return the name of a model in the tables."""
    weight = re.fullmatch(r"alpha_(.+)", name)
    return f"α = {float(weight[1]):g}" if weight else NAMES.get(name, name)


def failure_reasons(failures: list[str]) -> Counter:
    """Count the reasons why pieces failed, without the positions and texts in them."""
    reasons = (re.sub(r"\d+%", "…", reason) for line in failures for reason in line.split(", "))
    return Counter(re.sub(r"\d+ | \(.*?\)", "", reason) for reason in reasons)


def collect(runs: Path) -> list[Row]:
    """Aggregate what `run.sh` left in `reports/` and the logs of the trainings."""
    reports, rows = runs / "reports", []

    def add(model: str, part: str, measure: str, value: float, step: int | str = "") -> None:
        rows.append({"model": model, "part": part, "measure": measure, "step": step, "value": value})

    models = [
        name for name in ("joe_longer", *sorted(p.name for p in reports.glob("alpha_*"))) if (reports / name).is_dir()
    ]
    for name in (*models, "recordings"):
        for voice in VOICES:
            folder = reports / name / voice
            if (folder / "alignments.jsonl").exists():
                pieces = read_lines(folder / "alignments.jsonl")
                add(name, voice, "pieces", len(pieces))
                for key in ("focus", "coverage"):
                    add(name, voice, key, float(np.mean([piece[key] for piece in pieces])))
                add(name, voice, "failed", sum(bool(piece["failure"]) for piece in pieces))
                for key, percent in QUARTILES.items():
                    add(name, voice, key, float(np.percentile([piece["focus"] for piece in pieces], percent)))
            if (folder / "report.json").exists():
                means = read_json(folder / "report.json").get("all", {})
                for measure in MEASURES:
                    if measure in means:
                        for key, bound in {"mean": "", "low": "_low", "high": "_high"}.items():
                            add(name, voice, measure + bound, means[measure][key])
            if (folder / "whisper/report.json").exists():
                (words,) = read_json(folder / "whisper/report.json")["set"].values()
                add(name, voice, "whisper_wer", 100 * words["wer"])
        hard = reports / name / "hard"
        if (hard / "alignments.jsonl").exists():
            pieces = read_lines(hard / "alignments.jsonl")
            failures = [piece["failure"] for piece in pieces if piece["failure"]]
            log = (hard / "log.txt").read_text(encoding="utf-8")
            add(name, "hard", "pieces", len(pieces))
            add(name, "hard", "failed", len(failures))
            add(name, "hard", "refused", len(re.findall(r"^error: text \d+:", log, re.MULTILINE)))
            for reason, count in failure_reasons(failures).most_common():
                add(name, "hard", f"reason: {reason}", count)
    for name in sorted(["joe", *models]):
        if (runs / name / "metrics.jsonl").exists():
            for row in read_lines(runs / name / "metrics.jsonl"):
                for key, value in sorted(row["metrics"].items()):
                    if row["kind"] == "eval" and key.endswith("/free_focus") and value is not None:
                        add(name, key.split("/")[0], "free_focus", value, row["step"])
    return rows


def main() -> None:
    """Make the tables and the plot."""
    rows = aggregate("real_voice", __doc__, "runs/real_voice", collect)
    parts: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["step"] == "":
            parts.setdefault((str(row["model"]), str(row["part"])), {})[str(row["measure"])] = float(row["value"])
    spoken, hard = [], []
    for (model, part), m in parts.items():
        whisper = f"{m['whisper_wer']:.1f}" if "whisper_wer" in m else ""
        if part == "hard":
            prefix = "reason: "
            reasons = ", ".join(f"{k.removeprefix(prefix)}: {v:.0f}" for k, v in m.items() if k.startswith(prefix))
            hard.append([label(model), *(f"{m[key]:.0f}" for key in ("pieces", "failed", "refused")), reasons])
        elif model == "recordings":
            spoken.append([model, part, *[""] * (4 + len(MEASURES)), whisper])
        else:
            cells = [f"{m['pieces']:.0f}", f"{m['focus']:.2f}", f"{m['coverage']:.2f}", f"{m['failed']:.0f}"]
            cells += [span(m[k], m[f"{k}_low"], m[f"{k}_high"]) if k in m else "" for k in MEASURES]
            spoken.append([label(model), part, *cells, whisper])
    header = ["model", "voice", "pieces", "focus", "coverage", "failed alignments", *MEASURES.values()]
    tables = [
        markdown([*header, "WER, whisper tiny.en, %"], spoken, left=2),
        markdown(["hard sentences", "pieces", "failed", "refused", "why"], hard),
    ]
    publish("real_voice", tables, {"voices.png": draw(parts, rows)})


def draw(parts: dict[tuple[str, str], dict[str, float]], rows: list[Row]) -> bytes:
    """Draw the focus rates of the sentences (quartiles, least, greatest) and of free synthesis during training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    keys = ("whislo", "q1", "med", "q3", "whishi")
    left.bxp(
        [
            {"label": f"{label(model)}\n{part}", **dict(zip(keys, (m[q] for q in QUARTILES), strict=True))}
            for (model, part), m in parts.items()
            if "focus_median" in m
        ],
        showfliers=False,
    )
    left.axhline(0.6, color="#888888", ls="--", lw=0.8)
    left.set(ylabel="focus rate, held-out sentences", ylim=(0, 1.02))
    curves = pick(rows, measure="free_focus")
    for model, part in dict.fromkeys((str(row["model"]), str(row["part"])) for row in curves):
        points = [(row["step"], row["value"]) for row in pick(curves, model=model, part=part)]
        right.plot(*zip(*points, strict=True), marker=".", label=f"{label(model)}, {part}")
    right.set(xlabel="step", ylabel="focus rate, free synthesis during training", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return png(figure)


if __name__ == "__main__":
    main()
