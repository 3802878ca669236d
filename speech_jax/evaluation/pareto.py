"""What was gained on the new domain against what was lost on the old: a table and a plot of many models."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from speech_jax.evaluation.report import percent, plain, text_table


class Point(NamedTuple):
    """One model: word error rates (shares, not %) on the old and the new domain. `method` groups its seeds and
    settings."""

    name: str
    method: str
    old: float
    new: float


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is at least as good in both and better in one. By old error rate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.old, p.new)):
        if not best or point.new < best[-1].new:
            best.append(point)
    return best


def pareto_table(points: Sequence[Point], *, old: str = "old", new: str = "new") -> str:
    """Markdown: a row a name, its seeds together as mean and (least–greatest); * on the front of the means."""
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        grouped.setdefault((point.method, point.name), []).append(point)
    means = [
        Point(name, method, statistics.mean(p.old for p in same), statistics.mean(p.new for p in same))
        for (method, name), same in grouped.items()
    ]
    best = set(front(means))
    rows = []
    for mean, same in zip(means, grouped.values(), strict=True):
        cells = [_spread([getattr(p, side) for p in same]) for side in ("old", "new")]
        rows.append((plain(mean.method), plain(mean.name), str(len(same)), *cells, "*" if mean in best else ""))
    header = ("method", "model", "runs", f"{plain(old)} WER %", f"{plain(new)} WER %", "front")
    return text_table(header, rows)


def _spread(values: Sequence[float]) -> str:
    mean = percent(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({percent(min(values))}–{percent(max(values))})"


def draw(
    points: Sequence[Point],
    *,
    old: str = "old",
    new: str = "new",
    before: float | None = None,
    on_the_way: Sequence[Point] = (),
) -> bytes:
    """A PNG: every model as a point, methods by color, the front as a line.

    before: the old domain's error rate before fine-tuning, as a line. on_the_way: earlier checkpoints, as dots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    line = front(points)
    axes.step([100 * p.old for p in line], [100 * p.new for p in line], where="post", color="0.8", zorder=0)
    axes.scatter([100 * p.old for p in on_the_way], [100 * p.new for p in on_the_way], color="0.8", s=6, zorder=0)
    for method in dict.fromkeys(p.method for p in points):
        own = [p for p in points if p.method == method]
        axes.scatter([100 * p.old for p in own], [100 * p.new for p in own], label=method, s=28)
    for point in line:
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
