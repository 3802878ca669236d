"""Gain on a new domain against loss on the old one: a table and a plot of many models with their Pareto front."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from speech_jax.evaluation.report import escape_markdown, markdown_table, percent


class Point(NamedTuple):
    """Word error rates of one model.

    Attributes:
        name: model; runs of one name (seeds) are averaged in the table.
        method: group of models, one color in the plot.
        old: WER on the old domain, as a fraction.
        new: WER on the new domain, as a fraction.
    """

    name: str
    method: str
    old: float
    new: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point dominates, sorted by the old domain's error rate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.old, p.new)):
        if not best or point.new < best[-1].new:
            best.append(point)
    return best


def pareto_table(points: Sequence[Point], *, old: str = "old", new: str = "new") -> str:
    """Return a Markdown table: per name the mean over runs and (minimum–maximum); * marks the front of the means.

    Args:
        points: the models.
        old: name of the old domain.
        new: name of the new domain.
    """
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        grouped.setdefault((point.method, point.name), []).append(point)
    means = [
        Point(name, method, statistics.mean(p.old for p in runs), statistics.mean(p.new for p in runs))
        for (method, name), runs in grouped.items()
    ]
    best = set(pareto_front(means))
    rows = []
    for mean, runs in zip(means, grouped.values(), strict=True):
        cells = [_spread([getattr(p, side) for p in runs]) for side in ("old", "new")]
        rows.append(
            (
                escape_markdown(mean.method),
                escape_markdown(mean.name),
                str(len(runs)),
                *cells,
                "*" if mean in best else "",
            )
        )
    header = ("method", "model", "runs", f"{escape_markdown(old)} WER %", f"{escape_markdown(new)} WER %", "front")
    return markdown_table(header, rows)


def _spread(values: Sequence[float]) -> str:
    mean = percent(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({percent(min(values))}–{percent(max(values))})"


def plot_pareto(
    points: Sequence[Point],
    *,
    old: str = "old",
    new: str = "new",
    before: float | None = None,
    intermediate: Sequence[Point] = (),
) -> bytes:
    """Return a PNG with a point per model, a color per method and the Pareto front as a line.

    Args:
        points: the models.
        old: name of the old domain.
        new: name of the new domain.
        before: WER on the old domain before fine-tuning, drawn as a line; None for no line.
        intermediate: earlier checkpoints, drawn as small dots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    front = pareto_front(points)
    axes.step([100 * p.old for p in front], [100 * p.new for p in front], where="post", color="0.8", zorder=0)
    axes.scatter([100 * p.old for p in intermediate], [100 * p.new for p in intermediate], color="0.8", s=6, zorder=0)
    for method in dict.fromkeys(p.method for p in points):
        group = [p for p in points if p.method == method]
        axes.scatter([100 * p.old for p in group], [100 * p.new for p in group], label=method, s=28)
    for point in front:
        axes.annotate(point.name, (100 * point.old, 100 * point.new), (4, 4), textcoords="offset points", fontsize=7)
    if before is not None:
        axes.axvline(100 * before, color="0.6", linestyle=":", label="before")
    axes.set_xlabel(f"word error rate on {old}, %")
    axes.set_ylabel(f"word error rate on {new}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
