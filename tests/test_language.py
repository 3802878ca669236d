"""Docstrings and comments of speech_jax/ are in the language of design.md: no riddles for openers, US spelling."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import speech_jax

FOLDER = Path(speech_jax.__file__).parent
FILES = sorted(path for path in FOLDER.rglob("*.py"))
OPENERS = re.compile(r"\W*(What|How|Whether|Of|So)\b")
# Tables of text that is spoken or read aloud: British words are data there.
SPOKEN = ("text/english", "data/recipes/")
STEMS = (
    "recogni normali initiali reali organi optimi quanti summari minimi maximi synchroni seriali generali speciali "
    "penali locali tokeni regulari parametri visuali utili emphasi discreti memori factori lineari vectori capitali "
    "categori synthe"
)
UK = re.compile(
    rf"\b\w*(({'|'.join(STEMS.split())})(s|sis)(e|es|ed|ing|ation|ations|er|ers|able)"
    r"|(analy|cataly|paraly)s(e|ed|er|ing)"
    r"|(colou|behaviou|neighbou|favou|honou|labou|flavou|vapou|armou|harbou)r\w*"
    r"|(cent|lit|met|fib|theat|calib)re[sd]?"
    r"|(model|label|cancel|travel|signal|channel|tunnel|marshal|level|fuel)l(ed|ing)"
    r"|(licence|defence|offence|artefact|grey|whilst|amongst|programme|learnt|spelt)s?)\b",
    re.IGNORECASE,
)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring: of modules, classes, functions, and of the fields of a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text
        if isinstance(node, ast.ClassDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
                    if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                        yield after.lineno, after.value.value


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def test_british_words_are_found() -> None:
    british = "recognise normalised synthesiser centre colour behaviour neighbours quantisation initialise labelled"
    assert all(map(UK.search, british.split()))
    american = (
        "recognize normalized synthesis synthesizer center color neighbor analysis realistic emphasis raise likely"
    )
    assert not any(map(UK.search, american.split()))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(FOLDER)) for path in FILES])
def test_language(path: Path) -> None:
    texts = list(docstrings(ast.parse(path.read_text(encoding="utf-8"))))
    name = path.relative_to(FOLDER)
    riddles = [f"{name}:{line}: {text[:60]!r}" for line, text in texts if OPENERS.match(text)]
    if not str(name).startswith(SPOKEN):
        texts += comments(path)
        riddles += [f"{name}:{line}: {m[0]!r}" for line, text in texts for m in UK.finditer(text)]
    assert not riddles, "\n".join(riddles)
