"""Pages of docs/results/, generated from the experiments' cards: `python -m experiments.pages`.

Each folder with results has a `card.toml` with one table for each result, all with the same keys (`Card`). A date is
the one that the results name, else that of the last named commit or, without one, of the commit that added the numbers.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from experiments.tables import HERE, markdown
from speech_jax.core.files import write_file

DOCS = HERE.parent / "docs" / "results"
IMAGE = re.compile(r"!\[([^\]]*)\]\((results/[^)]*)\)")


@dataclass(frozen=True)
class Card:
    """One result of an experiment.

    Attributes:
        folder: The experiment's folder.
        name: Name of the result; the folder's name where it has one result.
        question: The question, one sentence.
        answer: The answer, with its limits.
        numbers: What was measured -> the number as its source writes it.
        command: Command that makes the numbers, run from the root of the repository.
        commits: Commits of the code that made them; empty where they were not recorded.
        date: Date, as YYYY-MM-DD.
        hardware: Machine.
    """

    folder: Path
    name: str
    question: str
    answer: str
    numbers: dict[str, str]
    command: str
    commits: list[str]
    date: str
    hardware: str

    @property
    def source(self) -> Path:
        """File that holds the numbers: a benchmark's output or the experiment's README."""
        output = self.folder / f"{self.name}.txt"
        return output if output.exists() else self.folder / "README.md"


def read_cards() -> list[Card]:
    """Return the cards of all experiments, by folder; a folder's in their order."""
    cards = []
    for path in sorted(HERE.glob("*/card.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        cards += [Card(path.parent, name, **values) for name, values in tables.items()]
    return cards


def pages() -> dict[str, str]:
    """Return the generated pages: file name in docs/results/ -> Markdown."""
    cards = read_cards()
    experiments = [card for card in cards if (card.folder / "README.md").exists()]
    benchmarks = [card for card in cards if card not in experiments]
    result = {"index.md": index(experiments)}
    for folder in dict.fromkeys(card.folder for card in experiments):
        result[f"{folder.name}.md"] = experiment(folder, [card for card in experiments if card.folder == folder])
    return result | {"benchmarks.md": benchmark_page(benchmarks)}


def index(cards: list[Card]) -> str:
    """Return the page with all experiments."""
    return (
        "# Results\n\n"
        "Each experiment has a question, an answer with its numbers, and the commands to repeat it.\n\n"
        + "\n\n".join(entry(card, f"{card.folder.name}.md") for card in cards)
        + "\n\n## Speed and memory\n\n[Benchmarks](benchmarks.md).\n"
    )


def benchmark_page(cards: list[Card]) -> str:
    """Return the page with the benchmarks."""
    return (
        "# Benchmarks\n\n"
        "One script and one text file with its output for each of them, in "
        f"[experiments/benchmarks/]({link(HERE / 'benchmarks')}/).\n\n"
        + "\n\n".join(entry(card, link(card.source)) for card in cards)
        + "\n"
    )


def entry(card: Card, target: str) -> str:
    """Return a card as a section whose heading leads to the target: an experiment's page, or a benchmark's output."""
    numbers = " · ".join(f"{name}: **{value}**" for name, value in card.numbers.items())
    parts = [f"## [{card.name}]({target})", f"*{card.question}* {card.answer}", numbers]
    return "\n\n".join([*parts, command(card), made(card)])


def command(card: Card) -> str:
    """Return the command of a result as a block, a long one with a flag per line."""
    text = card.command
    if len(text) > 60:
        text = text.replace(" --", " \\\n    --")
    return f"```sh\n{text}\n```"


def made(card: Card) -> str:
    """Return the commits, the date and the machine of a result."""
    known = f"Commit{'s' * (len(card.commits) > 1)} {', '.join(card.commits)}"
    return f"{known if card.commits else 'Commit not recorded'}; {card.date}; {card.hardware}."


def experiment(folder: Path, cards: list[Card]) -> str:
    """Return the page of an experiment: its cards, the plot of its README and its tables of numbers."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    parts = [readme.splitlines()[0]]
    for card in cards:
        parts += [f"**Question.** {card.question}", f"**Answer.** {card.answer}"]
        rows = [[name, value] for name, value in card.numbers.items()]
        parts.append(markdown(["measure", "number"], rows).rstrip())
        parts.append(command(card))
        parts.append(made(card))
    parts += [f"![{text}]({link(folder / path)})" for text, path in IMAGE.findall(readme)]
    parts.append(f"Data, method, limits and failed attempts: [experiments/{folder.name}/]({link(folder)}/).")
    summary = folder / "results" / "summary.md"
    if summary.exists():
        parts.append(f"## All numbers\n\n{summary.read_text(encoding='utf-8').rstrip()}")
    return "\n\n".join(parts) + "\n"


def link(path: Path) -> str:
    """Return a path relative to docs/results/."""
    return Path(os.path.relpath(path, DOCS)).as_posix()


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        write_file(DOCS / name, text)


if __name__ == "__main__":
    main()
