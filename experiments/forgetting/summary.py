"""Table and plot of the ways to fine-tune: `python -m experiments.forgetting.summary [--runs runs/forgetting]`.

A row is one way, mean and (least–greatest) over its seeds: word error rates on both test parts, the share of the
parameters that were free to move, how far they moved (the length of the change against the length of the start's
parameters), and the minutes of training steps. With --runs, the start checkpoint is runs/real_speech/pretrain_longer.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from experiments.tables import Row, aggregate, markdown, pick, publish, read_json, read_lines, span
from speech_jax.evaluation.pareto import Point, plot_pareto

START = "runs/real_speech/pretrain_longer"
OLD, NEW = "queen", "asterisk"
FAMILIES = {"alpha": "replay", "annealed": "replay", "average": "averaging", "l2sp": "L2-SP", "ewc": "EWC",
            "lwf": "LwF", "lora": "LoRA"}  # fmt: skip
DECIMALS = {f"{OLD}_wer": 2, f"{NEW}_wer": 2, "trained": 1, "moved": 1, "minutes": 1}


def rates(folder: Path) -> dict[str, float]:
    """Return the word error rates in % of a report's sets."""
    sets = read_json(folder / "report.json")["set"]
    return {f"{name.split('/')[0]}_wer": 100 * value["wer"] for name, value in sets.items()}


def minutes(run: Path) -> float:
    """Return the minutes of a run's training steps, without compiling and evaluating."""
    seconds, last = 0.0, 0
    for row in read_lines(run / "metrics.jsonl"):
        if row["kind"] == "train":
            seconds += (row["step"] - last) / row["rates"]["steps_per_second"]
            last = row["step"]
    return seconds / 60


def movement(run: Path, start: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the share of the parameters that were trained and the relative length of the network's change, in %."""
    from speech_jax.config import config_from_assets
    from speech_jax.core.rules import named_leaves
    from speech_jax.finetuning.adapters import plain_params
    from speech_jax.training.checkpoint import find_checkpoint, read_assets, read_params
    from speech_jax.training.state import num_params

    folder = find_checkpoint(run, "last")
    params, _ = read_params(folder)
    adapter = config_from_assets(read_assets(folder)).adapter
    leaves = named_leaves(plain_params(params, adapter))
    change = sum(float(np.sum((leaves[n] - a) ** 2)) for n, a in start.items())
    moved = (change / sum(float(np.sum(a**2)) for a in start.values())) ** 0.5
    trained = 1.0
    if adapter.kind != "none":
        head = num_params({n: a for n, a in leaves.items() if n.startswith("head/")})
        trained = (num_params(params["adapter"]) + head) / num_params(leaves)
    return {"trained": 100 * trained, "moved": 100 * moved}


def collect(runs: Path) -> list[Row]:
    """Aggregate the reports and checkpoints of `run.sh` over the seeds of each way."""
    from speech_jax.core.rules import named_leaves
    from speech_jax.training.checkpoint import find_checkpoint, read_params

    reports = runs / "reports"
    start = named_leaves(read_params(find_checkpoint(START, "last"))[0])
    ways = {"before": [rates(reports / "before")]}
    for folder in sorted(path for path in reports.iterdir() if any(path.glob("seed_*/report.json"))):
        for seed in sorted(path.parent for path in folder.glob("seed_*/report.json")):
            values, run = rates(seed), runs / folder.name / seed.name
            if (run / "metrics.jsonl").exists():
                values |= {"minutes": minutes(run)} | ({} if folder.name == "scratch" else movement(run, start))
            ways.setdefault(folder.name, []).append(values)
    rows = []
    for way, seeds in ways.items():
        for measure in DECIMALS:
            values = [seed[measure] for seed in seeds if measure in seed]
            if values:
                bounds = {"mean": statistics.mean(values), "least": min(values), "greatest": max(values)}
                rows.append({"way": way, "seeds": len(seeds), "measure": measure, **bounds})
    return rows


def main() -> None:
    """Make the table and the plot."""
    rows = aggregate("forgetting", __doc__, "runs/forgetting", collect)
    lines, points = [], []
    for way in dict.fromkeys(str(row["way"]) for row in rows):
        found = {row["measure"]: row for row in pick(rows, way=way)}
        family = FAMILIES.get(way.split("_")[0], way)
        old, new = (found[f"{part}_wer"]["mean"] / 100 for part in (OLD, NEW))
        if family != "scratch":  # so far off that the others could not be told apart
            points.append(Point(way, family, old, new))
        single = way == "before"
        cells = ["" if single else f"{found[f'{OLD}_wer']['seeds']:.0f}"]
        for measure, decimals in DECIMALS.items():
            row, form = found.get(measure), f"{{:.{decimals}f}}".format
            if row is None:
                cells.append("")
            elif single or measure == "trained":
                cells.append(form(row["mean"]))
            else:
                cells.append(span(row["mean"], row["least"], row["greatest"], form=form))
        lines.append([way, *cells])
    header = ["way", "seeds", f"{OLD} WER %", f"{NEW} WER %", "trained %", "moved %", "minutes"]
    before = points[0].old
    plot = plot_pareto(points, old=OLD, new=NEW, before=before)
    publish("forgetting", [markdown(header, lines)], {"forgetting.png": plot})


if __name__ == "__main__":
    main()
