"""Bar chart of error rates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

_COLORS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
)  # Paul Tol's color-blind-safe palette
_HATCHES = (None, "//", "..")  # of the second and third round of colors


def bar_chart(
    systems: Sequence[str],
    groups: Sequence[str],
    rates: Mapping[tuple[str, str], tuple[float, float, float]],
    *,
    title: str = "Word error rate",
) -> bytes:
    """Return a PNG with one group of bars per group of utterances and one bar per system.

    Args:
        systems: names of the systems.
        groups: names of the groups.
        rates: (system, group) -> (rate, lower bound, upper bound), as fractions; missing ones stay empty.
        title: title of the chart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 1.5 + 1.1 * len(groups) * max(2, len(systems)) / 2), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(systems)
    for index, system in enumerate(systems):
        for position, group in enumerate(groups):
            if (system, group) not in rates:
                continue
            rate, low, high = (100 * value for value in rates[system, group])
            x = position + (index - (len(systems) - 1) / 2) * width
            label = system if (system, group) == _first_bar(system, groups, rates) else None
            color, hatch = _COLORS[index % len(_COLORS)], _HATCHES[index // len(_COLORS) % len(_HATCHES)]
            axes.bar(x, rate, 0.92 * width, color=color, hatch=hatch, edgecolor="white", label=label)
            axes.errorbar(x, rate, [[max(0.0, rate - low)], [max(0.0, high - rate)]], color="#333333", capsize=2, lw=1)
            axes.annotate(f"{rate:.1f}", (x, high), ha="center", va="bottom", fontsize=8, xytext=(0, 2),
                          textcoords="offset points")  # fmt: skip
    axes.set_xticks(range(len(groups)), [_label(group) for group in groups])
    axes.set_ylabel("WER, %")
    axes.set_title(_label(title))
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, [_label(label) for label in labels], frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _first_bar(system: str, groups: Sequence[str], rates: Mapping) -> tuple[str, str] | None:
    return next(((system, group) for group in groups if (system, group) in rates), None)


def _label(text: str) -> str:
    """Escape a name for matplotlib: `$` starts a formula, a leading `_` hides it from the legend."""
    return text.replace("$", r"\$").lstrip("_") or "(none)"
