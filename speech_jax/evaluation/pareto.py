"""Gain on a new domain against loss on the old one: a table and a plot of many models with their Pareto front."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from speech_jax.evaluation.plots import plot_key, plot_names, put_legend_below, wrap_name
from speech_jax.evaluation.report import escape_markdown, markdown_table, percent

MAX_LETTERS = 24  # of a name beside a point


RATES = {"wer": "word error rate", "cer": "character error rate", "per": "phoneme error rate"}  # shown in %


class Point(NamedTuple):
    """Figures of one model, of which smaller ones are better.

    Attributes:
        name: model; runs of one name (seeds) are averaged in the table.
        method: group of models, one color in the plot.
        old: metric on the old domain; error rates as fractions.
        new: metric on the new domain; error rates as fractions.
    """

    name: str
    method: str
    old: float
    new: float


class Summary(NamedTuple):
    """Runs of one model with several seeds.

    Attributes:
        mean: the means of its figures.
        runs: the runs.
        old_std: standard deviation of the runs on the old domain (with n - 1); None for one run.
        new_std: the same on the new domain.
    """

    mean: Point
    runs: tuple[Point, ...]
    old_std: float | None
    new_std: float | None


def summarize(points: Sequence[Point]) -> list[Summary]:
    """Return the summary of each model, in the order of their first points.

    Example:
        >>> from speech_jax.evaluation.pareto import Point, summarize
        >>> [summary] = summarize([Point("alpha=0.1", "alpha", old, 0.3) for old in (0.1, 0.2)])
        >>> round(summary.mean.old, 2), round(summary.old_std, 3), len(summary.runs)
        (0.15, 0.071, 2)
    """
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        grouped.setdefault((point.method, point.name), []).append(point)
    summaries = []
    for (method, name), runs in grouped.items():
        old, new = [p.old for p in runs], [p.new for p in runs]
        deviations = (statistics.stdev(old), statistics.stdev(new)) if len(runs) > 1 else (None, None)
        mean = Point(name, method, statistics.mean(old), statistics.mean(new))
        summaries.append(Summary(mean, tuple(runs), *deviations))
    return summaries


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point dominates, sorted by the old domain's error rate."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.old, p.new)):
        if not best or point.new < best[-1].new or (point.old, point.new) == (best[-1].old, best[-1].new):
            best.append(point)
    return best


def pareto_table(points: Sequence[Point], *, old: str = "old", new: str = "new") -> str:
    """Return a Markdown table: per model mean ± standard deviation (minimum–maximum) of its runs.

    A * marks the front of the means.

    Args:
        points: the models.
        old: metric of the old domain, as SET/METRIC; a SET alone stands for its word error rate.
        new: metric of the new domain.
    """
    summaries = summarize(points)
    best = set(pareto_front([summary.mean for summary in summaries]))
    rows = []
    for summary in summaries:
        mean, runs = summary.mean, summary.runs
        rows.append(
            (
                escape_markdown(mean.method),
                escape_markdown(mean.name),
                str(len(runs)),
                _spread([p.old for p in runs], summary.old_std, old),
                _spread([p.new for p in runs], summary.new_std, new),
                "*" if mean in best else "",
            )
        )
    heads = (f"{escape_markdown(name)} {metric.upper()} %" if metric in RATES else escape_markdown(f"{name}/{metric}")
             for name, metric in map(_split_metric, (old, new)))  # fmt: skip
    header = ("method", "model", "runs", *heads, "front")
    key = plot_key(_methods(points), "method") + plot_key(_models(points), "model") + plot_key(_sets(old, new), "set")
    return "\n".join([markdown_table(header, rows), *(f"\nIn the plot, {escape_markdown(line)}." for line in key)])


def _methods(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.method for point in points))


def _models(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.name for point in points))


def _name_points(axes, points: Sequence[Point], labels: Mapping[str, str]) -> None:
    """Write the names beside the points; numbers, with the names in the legend, where names are long or overlap."""
    texts = []
    for point in points:
        label = wrap_name(labels[point.name], MAX_LETTERS)
        texts.append(axes.annotate(label, (point.old, point.new), (4, 4), textcoords="offset points", fontsize=7))
    axes.figure.draw_without_rendering()  # sets the places
    boxes = [text.get_window_extent() for text in texts]
    long = any(len(labels[point.name]) > MAX_LETTERS for point in points)
    if long or any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2)):
        for number, (text, point) in enumerate(zip(texts, points, strict=True), start=1):
            text.set_text(str(number))
            axes.plot([], [], " ", label=f"{number}: {wrap_name(labels[point.name], 72)}")


def _spread(values: Sequence[float], deviation: float | None, metric: str) -> str:
    def show(value: float) -> str:
        return percent(value) if _factor(metric) == 100 else f"{value:.4g}"

    mean = show(statistics.mean(values))
    return mean if deviation is None else f"{mean} ± {show(deviation)} ({show(min(values))}–{show(max(values))})"


def _split_metric(text: str) -> tuple[str, str]:
    """Return set and metric of "SET/METRIC"; a SET alone stands for its word error rate."""
    name, _, metric = text.rpartition("/")
    return (name, metric) if name else (text, "wer")


def _sets(old: str, new: str) -> list[str]:
    return [_split_metric(text)[0] for text in (old, new)]


def _factor(text: str) -> float:
    """Return the factor from a metric's value to what is shown: 100 for error rates, which are shown in %."""
    return 100 if _split_metric(text)[1] in RATES else 1


def _axis_label(text: str, name: str) -> str:
    """Return the label of the axis of a metric, with the set's name as it is drawn."""
    metric = _split_metric(text)[1]
    return f"{RATES[metric]} on {name}, %" if metric in RATES else f"{metric} on {name}"


def plot_pareto(
    points: Sequence[Point],
    *,
    old: str = "old",
    new: str = "new",
    before: float | None = None,
    intermediate: Sequence[Point] = (),
) -> bytes:
    """Return a PNG with a point per model, a color per method and the Pareto front as a line, all named in the legend.

    A model of several runs is drawn at their mean, with bars of one standard deviation and the runs as dots.

    Args:
        points: the models.
        old: metric of the old domain, as SET/METRIC; a SET alone stands for its word error rate.
        new: metric of the new domain.
        before: figure on the old domain before fine-tuning, drawn as a line; None for no line.
        intermediate: earlier checkpoints, drawn as small dots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    points, intermediate = (
        [p._replace(old=_factor(old) * p.old, new=_factor(new) * p.new) for p in group]
        for group in (points, intermediate)
    )
    summaries = summarize(points)
    front = pareto_front([summary.mean for summary in summaries])
    methods = _methods(points)
    for index, (method, name) in enumerate(zip(methods, plot_names(methods, "method"), strict=True)):
        group = [summary for summary in summaries if summary.mean.method == method]
        marker, color = "os^Dv"[index // 10 % 5], f"C{index % 10}"
        x, y = [s.mean.old for s in group], [s.mean.new for s in group]
        axes.scatter(x, y, label=wrap_name(name, 72), s=28, marker=marker, color=color)
        for summary in group:
            if summary.old_std is None or summary.new_std is None:
                continue
            mean, runs = summary.mean, summary.runs
            axes.errorbar(mean.old, mean.new, summary.new_std, summary.old_std, fmt="none", ecolor=color, elinewidth=1)
            axes.scatter([p.old for p in runs], [p.new for p in runs], s=6, marker=marker, color=color, alpha=0.5)
    if any(summary.old_std is not None for summary in summaries):
        axes.scatter([], [], s=6, color="0.4", label="single runs; bars: one standard deviation")
    if intermediate:
        x, y = [p.old for p in intermediate], [p.new for p in intermediate]
        axes.scatter(x, y, color="0.75", s=6, zorder=0, label="earlier evaluations")
    if len(front) > 1:
        x, y = [p.old for p in front], [p.new for p in front]
        axes.step(x, y, where="post", color="0.75", zorder=0, label="Pareto front")
    if before is not None:
        axes.axvline(_factor(old) * before, color="0.6", linestyle=":", label="before")
    x, y = (wrap_name(name, 40) for name in plot_names(_sets(old, new), "set"))
    axes.set_xlabel(_axis_label(old, x))
    axes.set_ylabel(_axis_label(new, y))
    axes.grid(alpha=0.3)
    _name_points(axes, front, dict(zip(_models(points), plot_names(_models(points), "model"), strict=True)))
    put_legend_below(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
