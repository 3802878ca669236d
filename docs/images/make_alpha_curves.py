"""Draw docs/images/alpha_curves.png: `python docs/images/make_alpha_curves.py`.

Losses on the dev parts of the old and the new domain by step, for each α that is finished in
experiments/ablations/results/summary.csv: the mean of the seeds and, as a band, the least and the greatest.
"""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "experiments/ablations/results/summary.csv"
ALPHAS = ("0", "0.1", "0.3", "0.6")
COLORS = dict(zip(ALPHAS, ("#ee6677", "#ccbb44", "#228833", "#4477aa"), strict=True))


def read() -> tuple[dict[str, float], dict[tuple[str, str], dict[int, list[float]]]]:
    """Return the start model's losses, and (α, measure) -> step -> losses of the seeds."""
    before, curves = {}, {}
    with RESULTS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key, value = (row["setting"], row["measure"]), float(row["value"])
            if row["study"] == "before":
                before[row["measure"]] = value
            elif row["study"] == "α" and row["setting"] in ALPHAS and row["measure"].endswith("loss"):
                curves.setdefault(key, {}).setdefault(int(row["step"]), []).append(value)
    return before, curves


def draw(axes: Axes, measure: str, title: str) -> None:
    """Draw the curves of one domain."""
    before, curves = read()
    for alpha in ALPHAS:
        if (alpha, measure) not in curves:
            continue
        points = {0: [before[measure]], **curves[alpha, measure]}
        least, greatest = ([bound(values) for values in points.values()] for bound in (min, max))
        means = [sum(values) / len(values) for values in points.values()]
        axes.plot(list(points), means, "o-", ms=3, color=COLORS[alpha], label=f"α = {alpha}")
        axes.fill_between(list(points), least, greatest, color=COLORS[alpha], alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel="step of fine-tuning", ylabel="CTC loss per label, dev part", yscale="log")
    axes.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw both domains side by side."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, "A/loss", "old domain: forgotten with α = 0")
    draw(right, "B/loss", "new domain: learned with every α")
    right.legend(frameon=False)
    figure.savefig(HERE / "alpha_curves.png", dpi=110, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
