"""Tables and plot over the seeds: `python -m experiments.real_speech.summary [--runs runs/real_speech]`."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_json, spread
from speech_jax.evaluation.report import paired_bootstrap
from speech_jax.evaluation.wer import ErrorCounts

PARTS, DECODINGS = ("queen", "asterisk"), {"greedy": "best path", "lm": "LM"}
MODELS = {"pretrain": "after the first part of the pre-training", "pretrain_longer": "before fine-tuning"}
PEERS = ("pocketsphinx", "whisper-tiny.en")


def utterance_errors(report: dict, part: str) -> dict[str, ErrorCounts]:
    """Return the errors of each utterance of a test part."""
    rows = [row for row in report["utterances"] if row["set"].split("/")[0] == part]
    return {r["id"]: ErrorCounts(substitutions=r["errors"], reference=r["words"], utterances=1) for r in rows}


def collect(runs: Path) -> list[Row]:
    """Aggregate the reports that `run.sh` left in `reports/`."""
    folders = sorted(path for path in (runs / "reports").iterdir() if (path / "report.json").exists())
    rows: list[Row] = []
    for folder in folders:
        run, lm = re.fullmatch(r"(.*?)(_lm)?", folder.name).groups()
        model, _, seed = run.partition("_seed_")
        report = read_json(folder / "report.json")
        first = read_json(runs / "reports" / f"pretrain{lm or ''}" / "report.json")
        for name, found in report["set"].items():
            part = name.split("/")[0]
            errors = found["substitutions"] + found["deletions"] + found["insertions"]
            before, after = utterance_errors(first, part), utterance_errors(report, part)
            same = [key for key in before if key in after]
            share = paired_bootstrap([before[key] for key in same], [after[key] for key in same])
            low, high = found["wer_interval"]
            rows.append({"model": model, "seed": seed, "decoding": "lm" if lm else "greedy", "part": part,
                         "errors": errors, "words": found["words"], "low": 100 * low, "high": 100 * high,
                         "fewer_than_pretrain": "" if model == "pretrain" else 100 * share})  # fmt: skip
    return rows


def label(model: str) -> str:
    """Return the name of a model in the tables."""
    alpha = re.fullmatch(r"alpha_(.+)", model)
    return f"α = {float(alpha[1]):g}" if alpha else MODELS.get(model, model)


def main() -> None:
    """Make the tables and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("real_speech", __doc__, "runs/real_speech", collect)
    for row in rows:
        row["wer"] = 100 * row["errors"] / row["words"]
    found = dict.fromkeys(str(row["model"]) for row in rows)
    peers = [peer for peer in PEERS if peer in found]
    models = [*MODELS, *sorted(model for model in found if model.startswith("alpha_")), *peers]
    lines, single = [], []
    for model in models:
        seeds = sorted({row["seed"] for row in pick(rows, model=model)}, key=str)
        several = len(seeds) > 1
        cells = []
        for decoding in DECODINGS:
            for part in PARTS:
                same = pick(rows, model=model, decoding=decoding, part=part)
                cells.append(spread([row["wer"] for row in same]) if same else "")
        lines.append([label(model) + (f", {len(seeds)} seeds" if several else ""), *cells])
        for seed in seeds:
            cells = []
            for decoding in DECODINGS:
                for part in PARTS:
                    for row in pick(rows, model=model, decoding=decoding, part=part, seed=seed):
                        share = row["fewer_than_pretrain"]
                        interval = f"{row['wer']:.2f} ({row['low']:.1f}–{row['high']:.1f})"
                        cells.append(interval + ("" if share == "" else f", {share:.1f}"))
            cells += [""] * (2 * len(PARTS) - len(cells))
            single.append([label(model) + (f", seed {seed:.0f}" if several else ""), *cells])
    columns = [f"{part.title()}, {shown}" for shown in DECODINGS.values() for part in PARTS]
    tables = [
        markdown(["WER %", *columns], lines),
        markdown(["WER % (95 %), and % of draws with fewer errors than the first row", *columns], single),
    ]

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, part in zip(figure.subplots(1, 2, sharey=True), PARTS, strict=True):
        for number, (decoding, shown) in enumerate(DECODINGS.items()):
            for place, model in enumerate(models):
                same = [row["wer"] for row in pick(rows, model=model, decoding=decoding, part=part)]
                if same:
                    x = [place + 0.4 * number - 0.2] * len(same)
                    axes.bar(x[0], sum(same) / len(same), 0.38, color=f"C{number}", alpha=0.5,
                             label=shown if not place else None)  # fmt: skip
                    axes.plot(x, same, ".", color="0.2", ms=4)
        ticks = ["first part", "before"] + [label(model) for model in models[2:]]
        axes.set_xticks(range(len(models)), ticks, rotation=30, ha="right")
        axes.set(title=f"{part.title()}, test part", ylabel="WER, %")
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    publish("real_speech", tables, {"compare.png": png(figure)})


if __name__ == "__main__":
    main()
