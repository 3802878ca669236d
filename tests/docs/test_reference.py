"""The pages of the reference that are generated from the code (docs/_ext/), without a build of the site."""

import dataclasses
import io
import re
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

import pytest

import speech_jax
from speech_jax.config import TrainConfig
from speech_jax.data.recipes import RECIPES

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

pytest.importorskip("sphinx", reason="the extra docs")

import api_pages  # noqa: E402
import config_page  # noqa: E402
import docstrings  # noqa: E402
import error_page  # noqa: E402
import flags_pages  # noqa: E402
import repository_links  # noqa: E402
from markdown_text import cell, code  # noqa: E402
from modules import find_public  # noqa: E402


@pytest.fixture(scope="module")
def parsers() -> dict[str, flags_pages.Parser]:
    return flags_pages.door_parsers()


def help_of(words: list[str]) -> set[str]:
    """Flags in what a front door prints."""
    door, *flags = words
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        import_module(f"speech_jax.{door}").main(flags)
    lines = re.findall(r"^[│| ] (?: )?(-.*)", text.getvalue(), re.MULTILINE)  # in boxes, whose frames may be spaces
    names = [name for line in lines for name in re.findall(r"(?:^|, )(--[a-z][\w.-]*)", line)]
    return set(names) - {"--help"}


@pytest.mark.parametrize(
    "name", [*(d for d in flags_pages.DOORS if d != "prepare"), *(f"prepare {recipe}" for recipe in (*RECIPES, "fix"))]
)
def test_the_flags_are_those_of_help(name: str, parsers: dict[str, flags_pages.Parser]) -> None:
    words = [*name.split(), "--help", *(["all"] if name == "train" else [])]
    listed = {flag for row in parsers[name].flags for flag in row.names if flag.startswith("--")}
    assert listed == help_of(words) and listed


def test_every_flag_has_a_description(parsers: dict[str, flags_pages.Parser]) -> None:
    assert [flag.names for parser in parsers.values() for flag in parser.flags if not flag.help.strip()] == []


def test_the_tasks_have_the_flags_of_their_class(parsers: dict[str, flags_pages.Parser]) -> None:
    for kind in flags_pages.task_classes():
        names = {name for flag in parsers[f"train {kind.__name__}"].flags for name in flag.names}
        fields = [field.name for field in dataclasses.fields(kind)]
        assert all(any(name.startswith(f"--task.{field.replace('_', '-')}") for name in names) for field in fields)


def test_every_config_field_has_a_row() -> None:
    """With an anchor; a field without a docstring is an error."""
    text = config_page.pages()["config.md"]
    for kind in config_page.reachable():
        for field in dataclasses.fields(kind):
            assert f"{{#{kind.__name__}-{field.name}".lower().replace("_", "-") in text
    assert "{#optimizerconfig-peak-lr " in text


def test_configs_are_reached_through_unions_and_lists() -> None:
    paths = config_page.reachable()
    names = {kind.__name__: places for kind, places in paths.items()}
    assert names["TrainConfig"] == [""]
    assert "pre" in names["DataConfig"] and "evaluate.0.data" in names["DataConfig"]
    assert {"WaveNetConfig", "GuardConfig", "PrivacyConfig"} <= names.keys()
    assert next(iter(paths)) is TrainConfig


def test_the_topics_have_the_public_names() -> None:
    text = api_pages.topics_page()  # an error if they differ from speech_jax.__all__
    assert all(f"[{name}](api/{name}.rst)" in text for name in speech_jax.__all__)


def test_every_public_name_of_a_module_has_an_entry() -> None:
    pages = api_pages.pages()
    for module in find_public():
        for name in module.names:
            folder = "api" if module.place(name) == f"speech_jax.{name}" else "modules"
            page = pages[f"api/{name}.rst" if folder == "api" else f"modules/{module.name}.rst"]
            assert f":: {module.place(name)}\n" in page


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('raise UserError("plain")', "plain"),
        (
            'raise UserError(f"{path}:{line}: found {len(x) + 1}, expected " f"{a.b!r}")',
            "{path}:{line}: found {…}, expected {a.b}",
        ),
        ('error = UserError("one " + f"{two}")', "one {two}"),
    ],
)
def test_messages_are_read_from_the_source(source: str, text: str) -> None:
    assert [message.text for message in error_page.messages(source)] == [text]


def test_what_only_passes_an_error_on_is_no_message() -> None:
    assert list(error_page.messages("raise UserError(str(error))\nraise UserError(damage)")) == []


def test_the_frequent_messages_are_in_the_source() -> None:
    """Up to what is filled in."""
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8").partition("## The most frequent")[2]
    shown = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert len(shown) == 15
    source = [m.text for module in find_public() for m in error_page.messages(module.path.read_text(encoding="utf-8"))]
    parts = [[part for part in re.split(r"\{[^}]*\}", text) if len(part.strip()) > 8] for text in source]
    for message in shown:
        plain = message.replace("'", "`")
        known = any(
            words and all(word.split("; ")[0].strip() in (message + plain) for word in words) for words in parts
        )
        assert known, message


def test_links_that_leave_docs_lead_to_the_repository(tmp_path: Path) -> None:
    resolve, url = repository_links.resolve, repository_links.REPOSITORY
    assert resolve("../../tpu_scripts/", "guides/monitoring") == f"{url}/tree/main/tpu_scripts"
    assert resolve("../Makefile", "install") == f"{url}/blob/main/Makefile"
    assert resolve("data.md", "guides/evaluation") is None
    assert resolve("../docs/guides/data.md", "notebooks/01_x") == "guides/data"
    with pytest.raises(FileNotFoundError):
        resolve("../../no_such_folder/", "guides/data")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Return `x` * 2 for x_ and |y|."], ["Return ``x`` \\* 2 for x\\_ and \\|y\\|."]),
        (["All `Bucket`s of a `make_plan()`."], None),
        (["Text:", "", "    a * b", "    c", "", "*"], ["Text:", "", "::", "", "    a * b", "    c", "", "\\*"]),
        (["Args:", "    x: the `a", "        b` value.", "", "Example:", "    >>> f(*x)", "    1"],
         ["Args:", "    x: the ``a", "        b`` value.", "", "Example:", "    >>> f(*x)", "    1"]),
    ],
)  # fmt: skip
def test_docstrings_become_restructured_text(lines: list[str], expected: list[str] | None) -> None:
    if expected is None:  # names of ours are links
        (line,) = docstrings.to_rst(lines)
        assert ":py:obj:`Bucket <speech_jax.Bucket>`\\ s" in line and "<speech_jax.data.plan.make_plan>`" in line
    else:
        assert docstrings.to_rst(lines) == expected


def test_annotations_are_shown_as_written() -> None:
    from speech_jax.objectives.ctc import ctc_loss

    arguments, result = docstrings.process_signature(None, "function", "ctc_loss", ctc_loss, None, "", "")
    assert arguments.startswith("(logits: Float[Array, 'batch time vocab'], mask: Bool[Array, 'batch time']")
    assert result == "tuple[Float[Array, 'batch'], Bool[Array, 'batch']]"


def test_text_for_tables() -> None:
    assert cell("a | b_c\n`d_e`") == "a \\| b\\_c `d_e`"
    assert (code("{a,b}|c"), code(""), code("x `y`")) == ("`{a,b}\\|c`", "", "`` x `y` ``")
