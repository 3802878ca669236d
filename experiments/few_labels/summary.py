"""The tables and the figure: `python -m experiments.few_labels.summary RESULTS`, of the folders START_seed_N in it.

The interval of the difference is a bootstrap over the recordings, with the errors of all seeds together: it is about
other recordings of that voice, for these seeds.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.forgetting.summary import spread
from speech_jax.evaluation.wer import ErrorCounts, cer_counts, wer_counts

NOTHING, DRAWS = "scratch", 10_000


def read(folder: Path) -> tuple[dict, list[tuple[int, dict]]]:
    """(the report on the test part, (step, metrics) of each evaluation on the dev part)."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = [(row["step"], row["metrics"]) for row in rows if row["kind"] == "eval"]
    return json.loads((folder / "report.json").read_text(encoding="utf-8")), dev


def difference(found: list[dict], nothing: list[dict], counts: Callable[[str, str], ErrorCounts]) -> str:
    """How many points of the error rate `found` is better than `nothing` and the 95 % interval, by seeds' means."""

    def errors(reports: list[dict]) -> np.ndarray:
        each = [{u["id"]: counts(u["reference"], u["hypothesis"]).errors for u in r["utterances"]} for r in reports]
        return np.array([np.mean([own[name] for own in each]) for name in sorted(each[0])])

    units = {u["id"]: counts(u["reference"], u["hypothesis"]).reference for u in nothing[0]["utterances"]}
    count = np.array([units[name] for name in sorted(units)])
    gain = errors(nothing) - errors(found)
    picked = np.random.default_rng(0).integers(len(gain), size=(DRAWS, len(gain)))
    drawn = gain[picked].sum(1) / count[picked].sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{100 * gain.sum() / count.sum():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main(results: str) -> None:
    starts: dict[str, list] = {}
    for path in sorted(Path(results).glob("*_seed_*/report.json")):
        starts.setdefault(re.sub(r"_seed_\d+$", "", path.parent.name), []).append(read(path.parent))
    order = sorted(starts, key=lambda name: name != NOTHING)
    print("| start | seeds | WER % | CER % | better than from nothing, points of WER (95 %) | of CER |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in order:
        reports = [report for report, _ in starts[name]]
        cells = [spread([100 * report["all"][kind] for report in reports]) for kind in ("wer", "cer")]
        nothing = [report for report, _ in starts[NOTHING]]
        cells += ["", ""] if name == NOTHING else [difference(reports, nothing, c) for c in (wer_counts, cer_counts)]
        print(f"| {name} | {len(reports)} | {' | '.join(cells)} |")
    steps = [step for step, _ in starts[NOTHING][0][1]]
    print("\n| CER % on the dev part at step | " + " | ".join(map(str, steps)) + " |\n|---|" + "---:|" * len(steps))
    _, axes = plt.subplots(figsize=(6, 4))
    for color, name in enumerate(order):
        letters = np.array([[100 * metrics["asterisk/cer"] for _, metrics in dev] for _, dev in starts[name]])
        print(f"| {name} | " + " | ".join(spread(list(column), "{:.1f}".format) for column in letters.T) + " |")
        for row in letters:
            axes.plot(steps, row, color=f"C{color}", alpha=0.35)
        axes.plot(steps, letters.mean(0), "o-", color=f"C{color}", label="from nothing" if name == NOTHING else name)
    axes.set(xlabel="steps of fine-tuning on 14 minutes", ylabel="letters wrong on the dev part, %", xticks=steps)
    axes.grid(alpha=0.3)
    axes.legend()
    plt.savefig(Path(results) / "letters.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main(*sys.argv[1:])
