"""Bar chart of error rates, and the names of sets and systems in plots."""

from __future__ import annotations

import functools
import io
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence

from speech_jax.evaluation.wer import ErrorCounts

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
_LETTERS_PER_INCH = 13  # of the smaller font sizes


def bar_chart(
    systems: Sequence[str],
    groups: Sequence[str],
    rates: Mapping[tuple[str, str], tuple[ErrorCounts, tuple[float, float] | None]],
    kind: str = "set",
) -> bytes:
    """Return a PNG with one group of bars per group of utterances and one bar per system; the legend is below.

    Args:
        systems: names of the systems.
        groups: names of the groups.
        rates: (system, group) -> (word errors, interval of their rate or None); missing ones stay empty.
        kind: what a group is, for names that cannot be drawn: see `plot_names`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    group_width = max(1.2, 0.34 * len(systems))
    width = min(100.0, max(6.0, 1.2 + group_width * len(groups)))
    labels = [wrap_name(name, 72) for name in plot_names(systems, "system")]
    figure = Figure(figsize=(width, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bar = 0.8 / len(systems)
    top = 0.0
    for index in range(len(systems)):
        style = {"color": _COLORS[index % len(_COLORS)], "hatch": _HATCHES[index // len(_COLORS) % len(_HATCHES)]}
        axes.bar(0, 0, 0, edgecolor="white", label=labels[index], **style)  # the legend's entry, also without a bar
        for position, group in enumerate(groups):
            if (systems[index], group) not in rates:
                continue
            total, interval = rates[systems[index], group]
            x = position + (index - (len(systems) - 1) / 2) * bar
            rate = 100 * total.rate if total.reference else 0.0
            low, high = (100 * bound for bound in interval) if interval else (rate, rate)
            if total.reference:
                axes.bar(x, rate, 0.92 * bar, edgecolor="white", **style)
            if interval:
                spread = [[max(0.0, rate - low)], [max(0.0, high - rate)]]
                axes.errorbar(x, rate, spread, color="#333333", capsize=2, lw=1)
            axes.annotate(f"{rate:.1f}" if total.reference else "–", (x, high), ha="center", va="bottom", fontsize=8,
                          xytext=(0, 2), textcoords="offset points")  # fmt: skip
            top = max(top, high)
    letters = int(_LETTERS_PER_INCH * (width - 1.2) / max(1, len(groups)))
    ticks = [wrap_name(name, max(8, letters)) for name in plot_names(groups, kind)]
    axes.set_xticks(range(len(groups)), ticks, fontsize=9)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 1.12 * top or 1.0)
    axes.set_ylabel("WER, %")
    axes.set_title("Word error rate")
    axes.spines[["top", "right"]].set_visible(False)
    put_legend_below(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def put_legend_below(figure) -> None:
    """Add a legend below the axes, in as many columns as fit, and make the figure taller by its height."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    letters = 6 + max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), int(_LETTERS_PER_INCH * figure.get_figwidth()) // letters))
    lines = sum(sorted((label.count("\n") + 1 for label in labels), reverse=True)[::columns])
    figure.set_figheight(figure.get_figheight() + 0.19 * lines)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def plot_names(names: Sequence[str], kind: str) -> list[str]:
    """Return names as matplotlib can draw them: "set 2" for one that it cannot; `plot_key` says which.

    Those are names with right-to-left letters, which matplotlib would draw unjoined and in reversed order, and with
    characters that its font lacks.

    Args:
        names: names of sets, systems or the like.
        kind: what they are: "set", "system".
    """
    return [
        name if _can_be_drawn(name) else f"{kind or 'name'} {number}" for number, name in enumerate(names, start=1)
    ]


def plot_key(names: Sequence[str], kind: str) -> list[str]:
    """Return a line such as "set 2 is …" for each name that `plot_names` replaces."""
    return [f"{label} is {name}" for name, label in zip(names, plot_names(names, kind), strict=True) if label != name]


def wrap_name(name: str, letters: int) -> str:
    """Return a name for matplotlib, in at most three lines of so many letters; `$` begins no formula."""
    lines = textwrap.wrap(name.strip() or "(none)", letters, max_lines=3, placeholder=" …") or ["(none)"]
    text = "\n".join(lines).replace("$", r"\$")
    return "\u200b" + text if text.startswith("_") else text  # matplotlib leaves a label with "_" out of the legend


def _can_be_drawn(text: str) -> bool:
    if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text):
        return False
    return text.isascii() or all(ord(character) in _drawn_characters() for character in text)


@functools.cache
def _drawn_characters() -> frozenset[int]:
    """Return the code points of matplotlib's default font."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
