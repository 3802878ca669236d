"""Tables and plot: `python -m experiments.long_recordings.summary [--runs runs/long_recordings]`."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_json

CONDITIONS = {"clean": "no noise added", "noise-60": "noise at −60 dB", "noise-40": "noise at −40 dB", "mp3": "MP3"}
SEGMENTS = ("none", "energy", "vad")


def collect(runs: Path) -> list[Row]:
    """Aggregate the reports of run.sh."""
    rows: list[Row] = []
    for path in sorted((runs / "reports").glob("*/*/report.json")):
        for name, values in read_json(path)["set"].items():
            kind, gap, condition = re.fullmatch(r"(clips|joined)(?:_([\d.]+))?_(.+)", name).groups()
            rows.append(
                {
                    "recordings": path.parent.parent.name, "segment": path.parent.name, "kind": kind, "gap": gap or "",
                    "condition": condition, "wer": 100 * values["wer"], "words": values["words"],
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Make the tables and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("long_recordings", __doc__, "runs/long_recordings", collect)
    names = list(dict.fromkeys(str(row["recordings"]) for row in rows))
    gaps = sorted({float(row["gap"]) for row in rows if row["gap"] != ""})
    tables = []
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, names, strict=True):
        lines = []
        for condition, label in CONDITIONS.items():
            clip = pick(rows, recordings=name, kind="clips", condition=condition)[0]["wer"]
            for segment in SEGMENTS:
                found = pick(rows, recordings=name, kind="joined", condition=condition, segment=segment)
                wer = {float(row["gap"]): row["wer"] for row in found}
                if wer:
                    cells = [f"{wer[gap]:.1f} ({wer[gap] - clip:+.1f})" for gap in gaps]
                    lines.append([label, f"{clip:.1f}", segment, *cells])
        tables.append(markdown([name, "clip by clip", "--segment", *(f"gap of {gap:g} s" for gap in gaps)], lines))
        width = 0.8 / len(SEGMENTS)
        for number, segment in enumerate(SEGMENTS):
            joined = [pick(rows, recordings=name, kind="joined", segment=segment, gap=gap) for gap in gaps]
            if all(joined):
                places = [place + (number - 1) * width for place in range(len(gaps))]
                means = [sum(row["wer"] for row in group) / len(group) for group in joined]
                axes.bar(places, means, width, label=f"--segment {segment}")
        clips = pick(rows, recordings=name, kind="clips", segment="energy")
        axes.axhline(sum(row["wer"] for row in clips) / len(clips), color="black", label="clip by clip")
        axes.set(title=name, xlabel="pause between the clips, s", xticks=range(len(gaps)), xticklabels=gaps)
        axes.grid(alpha=0.3, axis="y")
    panels[0].set(ylabel="WER, mean of four conditions, %")
    panels[-1].legend(*max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[0])))
    publish("long_recordings", tables, {"joined.png": png(figure)})


if __name__ == "__main__":
    main()
