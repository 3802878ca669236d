"""Cards of experiments/ and the pages of docs/results/ that are generated from them."""

import subprocess
from pathlib import Path

import pytest

from experiments.pages import DOCS, Card, pages, read_cards
from tests.test_documents import ROOT, committed

CARDS = read_cards()
by_card = pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])


def test_every_folder_with_results_has_cards() -> None:
    results = {path for path in committed("experiments") if path.suffix == ".txt" or path.name == "README.md"}
    results = {path for path in results if path.parent.parent.name == "experiments"}
    folders = {path.parent for path in results}
    assert {card.folder for card in CARDS} >= folders
    outputs = {path.stem for path in results if path.suffix == ".txt"} - {"hard_sentences"}
    assert {card.name for card in CARDS} >= outputs


@by_card
def test_a_card_is_complete(card: Card) -> None:
    assert all((card.question.endswith("?"), card.answer.endswith("."), card.command, card.hardware, card.numbers))
    year, month, day = card.date.split("-")
    assert len(year) == 4 and len(month) == len(day) == 2


@by_card
def test_numbers_and_commits_are_in_the_source(card: Card) -> None:
    text = card.source.read_text(encoding="utf-8")
    missing = [value for value in [*card.numbers.values(), *card.commits] if value not in text]
    assert missing == [], card.source


@by_card
def test_commits_exist(card: Card) -> None:
    git = ["git", "-C", str(ROOT)]
    if not (ROOT / ".git").exists():
        pytest.skip("no Git history")
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=True)
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone has no history")
    for commit in card.commits:
        assert subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"]).returncode == 0, commit


@by_card
def test_scripts_of_the_command_exist(card: Card) -> None:
    for word in card.command.split():
        if word.startswith("experiments/"):
            assert (ROOT / word).exists(), word
        elif word.startswith("experiments."):
            assert (ROOT / Path(*word.split("."))).with_suffix(".py").exists(), word


def test_pages_are_current() -> None:
    """`python -m experiments.pages` writes them."""
    expected = pages()
    assert {path.name for path in DOCS.glob("*.md")} == set(expected)
    for name, text in expected.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, name
