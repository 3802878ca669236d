"""Tables and plot: `python -m experiments.few_labels.summary [--runs runs/few_labels]`.

The interval of the difference is a bootstrap over the recordings, with the errors of all seeds together: it is about
other recordings of that voice, for these seeds.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_json, read_lines, spread
from speech_jax.evaluation.wer import cer_counts, wer_counts

BASELINE, DRAWS = "scratch", 10_000
COUNTS = {"wer": wer_counts, "cer": cer_counts}


def difference(reports: list[dict], baseline: list[dict], measure: str) -> tuple[float, float, float]:
    """Return by how many points the error rate is below the baseline's, and the 95 % interval, by seeds' means."""
    counts = COUNTS[measure]

    def errors(reports: list[dict]) -> np.ndarray:
        """Return the errors of each recording, averaged over the seeds."""
        seeds = [{u["id"]: counts(u["reference"], u["hypothesis"]).errors for u in r["utterances"]} for r in reports]
        return np.array([np.mean([seed[name] for seed in seeds]) for name in sorted(seeds[0])])

    units = {u["id"]: counts(u["reference"], u["hypothesis"]).reference for u in baseline[0]["utterances"]}
    size = np.array([units[name] for name in sorted(units)])
    gain = errors(baseline) - errors(reports)
    drawn = np.random.default_rng(0).integers(len(gain), size=(DRAWS, len(gain)))
    low, high = np.percentile(gain[drawn].sum(1) / size[drawn].sum(1), [2.5, 97.5])
    return 100 * gain.sum() / size.sum(), 100 * float(low), 100 * float(high)


def collect(runs: Path) -> list[Row]:
    """Aggregate the reports on the test part and the evaluations on the dev part."""
    rows: list[Row] = []

    def add(start: str, seed: str, part: str, step: int | str, measure: str, value: float) -> None:
        rows.append({"start": start, "seed": seed, "part": part, "step": step, "measure": measure, "value": value})

    reports: dict[str, list[dict]] = {}
    for path in sorted((runs / "reports").glob("*_seed_*/report.json")):
        start, seed = re.fullmatch(r"(.+)_seed_(\d+)", path.parent.name).groups()
        report = read_json(path)
        reports.setdefault(start, []).append(report)
        for measure in COUNTS:
            add(start, seed, "test", "", measure, 100 * report["all"][measure])
        for row in read_lines(runs / path.parent.name / "metrics.jsonl"):
            if row["kind"] == "eval":
                add(start, seed, "dev", row["step"], "cer", 100 * row["metrics"]["asterisk/cer"])
    for start in set(reports) - {BASELINE}:
        for measure in COUNTS:
            values = difference(reports[start], reports[BASELINE], measure)
            for bound, value in zip(("gain", "gain_low", "gain_high"), values, strict=True):
                add(start, "", "test", "", f"{measure}_{bound}", value)
    return rows


def main() -> None:
    """Make the tables and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("few_labels", __doc__, "runs/few_labels", collect)
    starts = sorted(dict.fromkeys(str(row["start"]) for row in rows), key=lambda name: name != BASELINE)
    value = {(row["start"], row["measure"]): float(row["value"]) for row in rows if "gain" in str(row["measure"])}
    one = "{:.1f}".format
    lines = []
    for start in starts:
        rates = [[row["value"] for row in pick(rows, start=start, part="test", measure=m)] for m in COUNTS]
        gains = [[value.get((start, f"{m}_{bound}")) for bound in ("gain", "gain_low", "gain_high")] for m in COUNTS]
        shown = ["" if g[0] is None else f"{one(g[0])} ({one(g[1])} to {one(g[2])})" for g in gains]
        lines.append([start, str(len(rates[0])), *map(spread, rates), *shown])
    header = ["start", "seeds", "WER %", "CER %", "better than from nothing, points of WER (95 %)", "of CER"]
    tables = [markdown(header, lines)]

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines, steps = [], sorted({row["step"] for row in pick(rows, part="dev")})
    for color, start in enumerate(starts):
        letters = np.array([[r["value"] for r in pick(rows, part="dev", start=start, step=step)] for step in steps])
        lines.append([start, *(spread(list(column), one) for column in letters)])
        axes.plot(steps, letters, color=f"C{color}", alpha=0.35)
        label = "random initialization" if start == BASELINE else start
        axes.plot(steps, letters.mean(1), "o-", color=f"C{color}", label=label)
    tables.append(markdown(["CER % on the dev part at step", *(f"{step:.0f}" for step in steps)], lines))
    axes.set(xlabel="steps of fine-tuning on 14 minutes", ylabel="CER on the dev part, %", xticks=steps)
    axes.grid(alpha=0.3)
    axes.legend()
    publish("few_labels", tables, {"letters.png": png(figure)})


if __name__ == "__main__":
    main()
