"""The documentation's code: fenced blocks and commands in running text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BUILT = ("docs/reference/generated", "docs/notebooks")  # by `make docs` and `make notebooks`, from what is tested
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if not page.relative_to(ROOT).as_posix().startswith(BUILT)),
    ROOT / "tpu_scripts/README.md",
]
SHELL = ("sh", "bash", "shell", "console")
_FENCE = re.compile(r"^(?P<ticks>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)[ \t]*$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        line: line of the page at which its text begins.
        language: the word after the backticks.
        text: the text between the fences.
    """

    line: int
    language: str
    text: str


def name_of(page: Path) -> str:
    """Return a page's path from the root, as the tables of the tests have it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text[: m.start("text")].count("\n") + 1, m["language"].strip(), m["text"]) for m in _FENCE.finditer(text)
    ]


def inline(page: Path) -> list[str]:
    """Return the code in running text and tables."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
