"""The table and the figure: `python -m experiments.forgetting.summary RESULTS RUNS START`.

Every row is one way to fine-tune, mean and (least–greatest) over its seeds: word error rates on both test parts, the
share of the parameters that were free to move, how far they moved (the length of the change against the length of the
start's parameters), and the minutes of training steps.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from speech_jax.config import config_from_assets
from speech_jax.core.files import write
from speech_jax.core.rules import named_leaves
from speech_jax.evaluation.pareto import Point, draw
from speech_jax.finetuning.adapters import joined
from speech_jax.training.checkpoint import find_checkpoint, read_assets, read_params
from speech_jax.training.state import num_params

OLD, NEW = "queen", "asterisk"
FAMILIES = {"alpha": "replay", "annealed": "replay", "average": "averaging", "l2sp": "L2-SP", "ewc": "EWC",
            "lwf": "LwF", "lora": "LoRA"}  # fmt: skip


def rates(folder: Path) -> tuple[float, float]:
    """(old, new) word error rate, as shares."""
    sets = json.loads((folder / "report.json").read_text(encoding="utf-8"))["set"]
    found = {name.split("/")[0]: value["wer"] for name, value in sets.items()}
    return found[OLD], found[NEW]


def minutes(folder: Path) -> float:
    """Of the training steps, without compiling and evaluating."""
    seconds, last = 0.0, 0
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "train":
            seconds += (row["step"] - last) / row["rates"]["steps_per_second"]
            last = row["step"]
    return seconds / 60


def movement(run: Path, start: dict[str, np.ndarray]) -> tuple[float, float]:
    """(share of the parameters that were trained, relative length of the change of the network's)."""
    folder = find_checkpoint(run, "last")
    params, _ = read_params(folder)
    adapter = config_from_assets(read_assets(folder)).adapter
    leaves = named_leaves(joined(params, adapter))
    change = sum(float(np.sum((leaves[n] - a) ** 2)) for n, a in start.items())
    size = sum(float(np.sum(a**2)) for a in start.values())
    if adapter.kind == "none":
        return 1.0, (change / size) ** 0.5
    head = num_params({n: a for n, a in leaves.items() if n.startswith("head/")})
    return (num_params(params["adapter"]) + head) / num_params(leaves), (change / size) ** 0.5


def spread(values: Sequence[float], form: Callable[[float], str] = "{:.2f}".format) -> str:
    mean = form(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({form(min(values))}–{form(max(values))})"


def main(results: str, runs: str, start: str) -> None:
    before = named_leaves(read_params(find_checkpoint(start, "last"))[0])
    old, new = rates(Path(results) / "before")
    print(f"| way | seeds | {OLD} WER % | {NEW} WER % | trained % | moved % | minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(f"| before | | {100 * old:.2f} | {100 * new:.2f} | | | |")
    points = [Point("before", "before", old, new)]
    for folder in sorted(path for path in Path(results).iterdir() if any(path.glob("seed_*/report.json"))):
        seeds = sorted(path for path in folder.glob("seed_*") if (path / "report.json").exists())
        found = [rates(seed) for seed in seeds]
        family = FAMILIES.get(folder.name.split("_")[0], folder.name)
        if family != "scratch":  # it lies so far off that nothing else could be told apart
            points.append(Point(folder.name, family, *(statistics.mean(side) for side in zip(*found, strict=True))))
        moves = [movement(Path(runs) / folder.name / s.name, before) for s in seeds if (s / "metrics.jsonl").exists()]
        times = [minutes(seed) for seed in seeds if (seed / "metrics.jsonl").exists()]
        cells = [spread([100 * rate[side] for rate in found]) for side in (0, 1)]
        if moves and family != "scratch":
            cells += [f"{100 * moves[0][0]:.1f}", spread([100 * m[1] for m in moves], "{:.1f}".format)]
        else:
            cells += ["", ""]
        cells.append(spread(times, "{:.1f}".format) if times else "")
        print(f"| {folder.name} | {len(seeds)} | {' | '.join(cells)} |")
    write(Path(results) / "forgetting.png", draw(points, old=OLD, new=NEW, before=old))


if __name__ == "__main__":
    main(*sys.argv[1:])
