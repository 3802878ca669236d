"""`--help` of a config: an overview on two screens, one group, or all; paragraphs flow."""

import dataclasses
import re

import pytest

from speech_jax.config import COMMON, TrainConfig, parse_config
from speech_jax.core.command_line import join_lines, parse
from speech_jax.core.errors import UserError
from speech_jax.finetuning.config import StartConfig


@pytest.fixture
def shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def text(*flags: str) -> str:
        with pytest.raises(SystemExit) as end:
            parse_config(flags)
        assert end.value.code == 0
        return capsys.readouterr().out

    return text


def test_the_overview_needs_no_config_and_takes_the_values_of_one(shown):
    text = shown("--help")
    assert text.startswith("usage: python -m speech_jax.train ") and len(text.splitlines()) <= 60
    for name in (*(f"--{flag}" for flag in COMMON), "\n  optimizer ", "\n  task ", "quickstart/finetune", "my_data"):
        assert name in text
    assert "[runs/quickstart/finetuned]" in shown("-h", "--config", "quickstart/finetune")


def test_a_group_lists_its_flags_and_no_others(shown):
    text = shown("--help", "optimizer")
    assert "--optimizer.peak-lr FLOAT" in text and "--data." not in text.partition("options")[2]
    assert "--task.model.width INT" in shown("--config", "quickstart/pretrain", "--help", "task.model")
    assert "--trainer.guards.0.metric STR" in shown("--help", "trainer.guards")  # there are none by default
    assert "--pre." not in shown("--help", "pre").replace("--pre.sources.0.path", "")  # the flags of data
    assert "--config NAME --help task" in shown("--help", "task")
    with pytest.raises(UserError, match="--help: found 'optimiser', expected all or one of data, .*'optimizer'"):
        parse_config(["--help", "optimiser"])


def test_all_flags_are_listed_once(shown):
    text = shown("--config", "quickstart/finetune", "--help", "all").partition("\n\n")[2]
    flags = re.findall(r"^[│ ]+(--[a-z][a-z0-9.-]*)", text, re.MULTILINE)
    assert len(flags) == len(set(flags)) > 80
    assert {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(TrainConfig) if f.type == "str"} <= set(flags)


def test_the_lines_of_a_docstring_are_joined(capsys, monkeypatch):
    assert join_lines("One\n  line.\n\nAnother\n(line).") == "One line.\n\nAnother (line)."
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        parse(StartConfig, ["--help"], prog="program")
    text = capsys.readouterr().out
    assert "the head keeps the weights of tokens that both have, new tokens are initialized. (default: keep)" in text


def test_a_terminal_of_one_column_is_given_forty(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    with pytest.raises(SystemExit):
        parse(StartConfig, ["--help"], prog="program")
    assert max(map(len, capsys.readouterr().out.splitlines())) >= 30
