"""Draw docs/images/architecture.png and data_flow.png: `python docs/images/make_diagrams.py`.

The rooms and their order are those of the contract "Imports go down only" in pyproject.toml, and what a room holds is
the first line of its docstring. The background is white, so that the pictures can be read on light and dark pages.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXT, ARROW = "#222222", "#777777"
BLUE, RED, GREEN, GRAY = "#4477aa", "#ee6677", "#228833", "#999999"


def layers() -> list[list[str]]:
    """Return the layers from the top, each with the rooms that exist; the front doors are one row."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    rows = [[name.strip(" \n()") for name in layer.split("|")] for layer in contract["layers"]]
    package = ROOT / "speech_jax"
    rows = [[name for name in row if (package / name).is_dir() or (package / f"{name}.py").exists()] for row in rows]
    return [row for row in rows if row and row != ["__main__"]]


def caption(room: str) -> str:
    """Return what a room holds: its docstring's first line, up to the first period or semicolon."""
    path = ROOT / "speech_jax" / room / "__init__.py"
    file = path if path.exists() else path.parent.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"[.;]( |$)", docstring.splitlines()[0])[0].replace("`", "")


def box(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """Draw a white box with a colored edge; (x, y) is its lower left corner."""
    style = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor="white",
        edgecolor=color,
        linewidth=1.4,
    )
    axes.add_patch(style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = ARROW) -> None:
    """Draw an arrow."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    )


def architecture() -> Figure:
    """Return the rooms, a row for each layer, and the direction of imports."""
    rows = layers()
    figure = Figure(figsize=(9.6, 0.78 * len(rows) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12), ylim=(-0.1, len(rows) + 0.05))
    axes.axis("off")
    left, right = 1.0, 11.85
    for number, rooms in enumerate(rows):
        y, color = len(rows) - 1 - number + 0.1, (BLUE, GREEN)[number % 2]
        if number == 0:
            box(axes, left, y, right - left, 0.8, RED)
            axes.text(left + 0.15, y + 0.54, "front doors", weight="bold", va="center", fontsize=10, color=TEXT)
            axes.text(left + 0.15, y + 0.24, "   ".join(rooms), va="center", fontsize=9, color=TEXT)
            continue
        width = (right - left + 0.15) / len(rooms)
        for place, room in enumerate(rooms):
            x = left + place * width
            box(axes, x, y, width - 0.15, 0.8, color)
            name = f"{room}/" if (ROOT / "speech_jax" / room).is_dir() else f"{room}.py"
            axes.text(x + 0.12, y + 0.65, name, weight="bold", va="center", fontsize=9.5, color=TEXT)
            lines = textwrap.wrap(caption(room), int(13.4 * (width - 0.25)))
            axes.text(x + 0.12, y + 0.49, "\n".join(lines[:3]), va="top", fontsize=7.6, color=TEXT, linespacing=1.05)
            assert len(lines) <= 3, f"{room}: the docstring's first line is too long for its box"
    arrow(axes, (0.62, len(rows) - 0.1), (0.62, 0.1))
    axes.text(
        0.3, len(rows) / 2, "imports go down only", rotation=90, ha="center", va="center", fontsize=10, color=TEXT
    )
    return figure


STAGES = (
    ("recordings\nand texts", "", GRAY),
    ("manifest", "data/", BLUE),
    ("plan", "data/", BLUE),
    ("batches", "data/", BLUE),
    ("train step", "training/, tasks/", RED),
    ("checkpoint", "artifacts/", GREEN),
    ("inference", "inference/", GREEN),
    ("text, audio,\nreport", "front doors", GRAY),
)
NOTES = (
    "WAV, FLAC, OGG,\nMP3, shards",
    "one JSON line\nan utterance",
    "utterances of each\nbatch, from the seed",
    "NumPy arrays,\npadded, with masks",
    "features, augmentation,\nnetwork, losses: one\ncompiled function",
    "config, parameters,\ntokenizer, place\nin the data",
    "recognizer, voice,\nvocoder",
    "transcribe, synthesize,\nevaluate",
)


def data_flow() -> Figure:
    """Return the way from recordings to results, in two rows."""
    figure = Figure(figsize=(9.6, 4.1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12), ylim=(0, 5.1))
    axes.axis("off")
    for number, ((name, room, color), note) in enumerate(zip(STAGES, NOTES, strict=True)):
        x, y = 0.35 + 2.95 * (number % 4), 3.75 - 2.55 * (number // 4)
        box(axes, x, y, 2.1, 1.0, color)
        middle = y + (0.62 if room else 0.5)
        axes.text(x + 1.05, middle, name, ha="center", va="center", fontsize=11, weight="bold", color=TEXT)
        axes.text(x + 1.05, y + 0.2, room, ha="center", va="center", fontsize=8.5, color=TEXT)
        axes.text(x + 1.05, y - 0.12, note, ha="center", va="top", fontsize=8.5, color=TEXT)
        if number % 4 < 3:
            arrow(axes, (x + 2.15, y + 0.5), (x + 2.9, y + 0.5))
    corner = 2.65  # between the two rows
    axes.plot([11.3, 11.75, 11.75, 0.12, 0.12], [4.25, 4.25, corner, corner, 1.7], color=ARROW, lw=1.6)
    arrow(axes, (0.12, 1.7), (0.33, 1.7))
    return figure


def main() -> None:
    """Draw both pictures."""
    for name, figure in (("architecture", architecture()), ("data_flow", data_flow())):
        figure.savefig(HERE / f"{name}.png", dpi=115, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
