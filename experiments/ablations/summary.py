"""Table and plot of the ablations: `python -m experiments.ablations.summary [--runs runs/ablations]`.

A row of the table is one setting, mean and (least–greatest) over its seeds, at the last step on the dev parts: nothing
was chosen on them. A setting is left out until all of its seeds are finished. With --runs, the start model is
runs/quickstart/pretrained. docs/images/make_alpha_curves.py draws the losses by step from the same numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.tables import Row, aggregate, markdown, pick, png, publish, read_lines, spread

START = Path("runs/quickstart/pretrained")
SEEDS, STEPS = 3, 150
MEASURES = ("A/wer", "B/wer", "A/loss", "B/loss")
SETTINGS = {  # folder of the runs -> study, setting
    "alpha/constant/alpha=0": ("α", "0"),
    "alpha/constant/alpha=0.1": ("α", "0.1"),
    "alpha/constant/alpha=0.3": ("α", "0.3"),
    "alpha/constant/alpha=0.6": ("α", "0.6"),
    "alpha/linear_down/all": ("α", "linear 0.6 → 0"),
    "alpha/sigmoid_down/all": ("α", "sigmoid 0.6 → 0"),
    "alpha/linear_up/all": ("α", "linear 0 → 0.6"),
    "layers/subsampling_frozen/all": ("frozen (α = 0)", "subsampling"),
    "layers/lower_half_frozen/all": ("frozen (α = 0)", "subsampling and layers 0–1"),
    "layers/upper_half_frozen/all": ("frozen (α = 0)", "layers 2–3"),
    "layers/all_but_head_frozen/all": ("frozen (α = 0)", "all but the head"),
    "layers/all_but_norms_frozen/all": ("frozen (α = 0)", "all but the norms"),
    "rows/pre.plan.rows=4": ("old rows (α = 0.3)", "4"),
    "rows/pre.plan.rows=8": ("old rows (α = 0.3)", "8"),
    "adapters/alpha_0/adapter.rank=2": ("LoRA (α = 0)", "rank 2"),
    "adapters/alpha_0/adapter.rank=8": ("LoRA (α = 0)", "rank 8"),
    "adapters/alpha_0/adapter.rank=32": ("LoRA (α = 0)", "rank 32"),
    "adapters/alpha_0.3/adapter.rank=2": ("LoRA (α = 0.3)", "rank 2"),
    "adapters/alpha_0.3/adapter.rank=8": ("LoRA (α = 0.3)", "rank 8"),
    "adapters/alpha_0.3/adapter.rank=32": ("LoRA (α = 0.3)", "rank 32"),
}


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    """Return step -> metrics of the evaluations of a run."""
    path = run / "metrics.jsonl"
    lines = read_lines(path) if path.exists() else []
    return {line["step"]: line["metrics"] for line in lines if line["kind"] == "eval"}


def trained(run: Path) -> float:
    """Return the share of the network's parameters that are trained, in %; adapters count as parameters."""
    from speech_jax.config import config_from_assets
    from speech_jax.core.rules import named_leaves
    from speech_jax.training.checkpoint import find_checkpoint, read_assets, read_params
    from speech_jax.training.state import num_params

    folder = find_checkpoint(run, "last")
    params, _ = read_params(folder)
    config = config_from_assets(read_assets(folder))
    if config.adapter.kind != "none":
        network = {name: leaf for name, leaf in named_leaves(params).items() if not name.startswith("adapter/")}
        free = [leaf for name, leaf in network.items() if re.search(r"(^|/)head/", name)]
        return 100 * (num_params(params["adapter"]) + num_params(free)) / num_params(network)
    network = named_leaves(params)

    def factor(name: str) -> float | None:
        return next(factor for pattern, factor in config.optimizer.groups if re.search(pattern, name))

    return 100 * num_params([leaf for name, leaf in network.items() if factor(name)]) / num_params(network)


def collect(runs: Path) -> list[Row]:
    """Return the evaluations of every finished setting, and those of the start model as step 0."""
    rows: list[Row] = []

    def add(study: str, setting: str, seed: int | str, step: int, metrics: dict[str, float]) -> None:
        for measure in MEASURES:
            if measure in metrics:
                value = 100 * metrics[measure] if measure.endswith("wer") else metrics[measure]
                rows.append(
                    {"study": study, "setting": setting, "seed": seed, "step": step, "measure": measure, "value": value}
                )

    before = evaluations(START)
    add("before", "", "", 0, before[max(before)])
    for folder, (study, setting) in SETTINGS.items():
        seeds = [runs / folder / f"seed_{seed}" for seed in range(SEEDS)]
        if not all(STEPS in evaluations(seed) for seed in seeds):
            continue
        for seed, run in enumerate(seeds):
            for step, metrics in evaluations(run).items():
                add(study, setting, seed, step, metrics)
        row: Row = {"study": study, "setting": setting, "seed": "", "step": STEPS, "measure": "trained"}
        rows.append(row | {"value": trained(seeds[0])})
    return rows


def main() -> None:
    """Make the table and the plot."""
    from matplotlib.figure import Figure

    rows = aggregate("ablations", __doc__, "runs/ablations", collect)
    last = pick(rows, step=STEPS)
    keys = list(dict.fromkeys((row["study"], row["setting"]) for row in last))
    before = {str(row["measure"]): float(row["value"]) for row in pick(rows, study="before")}

    def values(key: tuple, measure: str) -> list[float]:
        return [float(row["value"]) for row in pick(last, study=key[0], setting=key[1], measure=measure)]

    one = "{:.1f}".format
    lines = [["before", "", one(before["A/wer"]), one(before["B/wer"]), ""]]
    for key in keys:
        wer = [spread(values(key, measure), form=one) for measure in ("A/wer", "B/wer")]
        lines.append([str(key[0]), _text(key[1]), *wer, one(values(key, "trained")[0])])
    table = markdown(["study", "setting", "old WER % (A)", "new WER % (B)", "trained %"], lines, left=2)

    figure = Figure(figsize=(8, 1.2 + 0.27 * len(keys)), layout="constrained")
    places = range(len(keys))
    studies = list(dict.fromkeys(key[0] for key in keys))
    axes_pair = figure.subplots(1, 2, sharey=True)
    for axes, measure, title in zip(axes_pair, ("A/wer", "B/wer"), ("old domain, A", "new domain, B"), strict=True):
        for place, key in zip(places, keys, strict=True):
            color, seeds = f"C{studies.index(key[0])}", values(key, measure)
            axes.plot(seeds, [place] * len(seeds), "-o", ms=4, lw=1, color=color)
        axes.axvline(before[measure], color="0.6", linestyle=":")
        axes.set(title=title, xlabel="word error rate %")
        axes.set_xlim(left=0)
        axes.grid(axis="x", alpha=0.3)
    axes_pair[0].set_yticks(places, [f"{key[0]}: {_text(key[1])}" for key in keys])
    axes_pair[0].invert_yaxis()
    figure.suptitle("each dot one seed; dotted: before fine-tuning", fontsize=9)
    publish("ablations", [table], {"ablations.png": png(figure)})


def _text(setting: str | float) -> str:
    return f"{setting:g}" if isinstance(setting, float) else setting


if __name__ == "__main__":
    main()
