"""Draw docs/images/overview.png: `python docs/images/make_overview.py`.

Left: the two losses and their mix. Right: measured word error rates on the old and the new domain, from
experiments/forgetting/results/summary.csv. The background is white, so that it can be read on light and dark pages.
"""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "experiments/forgetting/results/summary.csv"
OLD, NEW, MODEL, GRAY = "#4477aa", "#ee6677", "#228833", "#777777"
OTHERS = {  # label -> way; of L2-SP, EWC and averaging other strengths are shown too, without a label
    "L2-SP 0.01": "l2sp_0.01",
    "EWC 1": "ewc_1e0",
    "averaging 0.75": "average_0.75",
    "LwF": "lwf",
    "LoRA": "lora",
    "adapters": "adapters",
}


def flow(axes: Axes) -> None:
    """Draw how a batch of each stream becomes one update."""
    axes.set(xlim=(-0.4, 10.3), ylim=(0.3, 5.7))
    axes.axis("off")

    def box(x: float, y: float, width: float, text: str, color: str) -> None:
        style = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color, "linewidth": 1.6}
        axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=10, bbox=style, color="#222222")

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6})

    box(0.0, 5.0, 2.0, "old recordings\n(optional: replay)", OLD)
    box(0.0, 1.0, 2.0, "new recordings", NEW)
    box(3.1, 3.0, 1.6, "pre-trained\nmodel θ", MODEL)
    arrow((2.1, 4.5), (3.1, 3.6), OLD)
    arrow((2.1, 1.4), (3.1, 2.4), NEW)
    box(5.4, 5.0, 1.3, r"$L_{pre}(\theta)$", OLD)
    box(5.4, 1.0, 1.3, r"$L_{task}(\theta)$", NEW)
    arrow((4.7, 3.6), (5.5, 4.6), OLD)
    arrow((4.7, 2.4), (5.5, 1.4), NEW)
    box(
        7.4,
        3.0,
        2.4,
        r"$L=\alpha\,L_{pre}+(1-\alpha)\,L_{task}$" + "\n" + r"optax: $\theta \leftarrow \theta - \Delta$",
        "#222222",
    )
    arrow((6.7, 4.6), (8.0, 3.7), OLD)
    arrow((6.7, 1.4), (8.0, 2.3), NEW)


def trade_off(axes: Axes) -> None:
    """Draw old against new word error rates of the ways to fine-tune."""
    with RESULTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rates = {row["way"]: [0.0, 0.0] for row in rows}
    for row in rows:
        if row["measure"] in ("queen_wer", "asterisk_wer"):
            rates[row["way"]][row["measure"] == "asterisk_wer"] = float(row["mean"])
    for name, labeled in OTHERS.items():
        points = [value for way, value in rates.items() if way.partition("_")[0] == labeled.partition("_")[0]]
        axes.plot(*zip(*points, strict=True), "o", color="#bbbbbb", ms=5)
        place = (6, -2) if name.startswith("averaging") else (5, 3)
        axes.annotate(name, rates[labeled], place, textcoords="offset points", fontsize=8, color=GRAY)
    replay = {way.removeprefix("alpha_"): value for way, value in rates.items() if way.startswith("alpha_")}
    replay = {"0": rates["plain"], **replay}
    axes.plot(*zip(*replay.values(), strict=True), "o-", color=MODEL, ms=6)
    for alpha, place in {
        "0": (-8, -14),
        "0.1": (-8, -15),
        "0.2": (-12, -15),
        "0.3": (-36, -13),
        "0.5": (7, 3),
        "0.9": (8, -2),
    }.items():
        axes.annotate(f"α = {alpha}", replay[alpha], place, textcoords="offset points", fontsize=9, color=MODEL)
    axes.plot(*rates["before"], "s", color="#222222", ms=7)
    axes.annotate("before", rates["before"], (8, -3), textcoords="offset points", fontsize=9)
    axes.set(xlim=(70, 85.5), ylim=(30, 87), xlabel="WER % on the old domain", ylabel="WER % on the new domain")
    axes.set_title("gray: six other methods, not all strengths named; mean of three seeds", fontsize=8.5, color=GRAY)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw both halves into one PNG."""
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # inches; without it the title is cut off
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    flow(left)
    trade_off(right)
    figure.savefig(HERE / "overview.png", dpi=110, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
