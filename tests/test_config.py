"""Configs are plain data: to text and back without loss, nothing unknown in silence, a golden text for each file."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Literal

import pytest

from speech_jax.config import EvalConfig, TrainConfig, load_config_file, parse_config
from speech_jax.core.config_dict import from_dict, new_field, to_dict, to_text
from speech_jax.core.config_files import config_names
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.runs.resolve import check_settings
from speech_jax.training.config import CheckpointConfig, GuardConfig, TrainerConfig

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Other:
    rate: float = 0.25


@dataclasses.dataclass(frozen=True)
class Grown:
    rate: float = 0.5
    later: float = new_field(0.0)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    part: Inner | Other = Inner()
    parts: tuple[Inner, ...] = ()
    limits: tuple[float, float] = (0.0, 1.0)
    note: str | None = None


@pytest.mark.parametrize("file", CONFIGS)
def test_golden_text(file, monkeypatch):
    """A change of a config, or of a default that it relies on, shows here as a diff of text.

    If the change is meant, write the text anew: python tests/test_config.py
    """
    monkeypatch.chdir(ROOT)
    config = load_config_file(file)
    assert to_text(config) == golden(file).read_text()
    assert from_dict(TrainConfig, to_dict(config)) == config


def golden(file: str) -> Path:
    return ROOT / "tests" / "golden" / (file.removeprefix("configs/").removesuffix(".py").replace("/", "_") + ".json")


def test_a_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_config_file(str(ROOT / "configs/quickstart/finetune.py"))
    for name in ("quickstart/finetune", "quickstart/finetune.py", "configs/quickstart/finetune.py"):
        assert load_config_file(name) == shipped
    assert [f"configs/{name}.py" for name in config_names()] == CONFIGS
    for name in config_names():
        load_config_file(name)  # needs no file of the working folder

    own = tmp_path / "configs" / "quickstart" / "finetune.py"
    own.parent.mkdir(parents=True)
    own.write_text(
        "import dataclasses\nfrom speech_jax.config import load_config_file\n"
        "config = dataclasses.replace(load_config_file('quickstart/pretrain'), seed=5)\n"
    )
    assert load_config_file("quickstart/finetune").seed == 5  # the working folder comes first
    with pytest.raises(UserError, match="--config: found no file 'quickstart/pretrian', .*'quickstart/pretrain'"):
        load_config_file("quickstart/pretrian")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "found no --config, expected --config FILE or NAME"),
        ("--out-dir x", "found no --config in --out-dir x, expected --config FILE or NAME"),
        ("--config= --out-dir x", "found no --config in --out-dir x, expected --config FILE or NAME"),
        ("--out-dir x --config", "--config: found no value, expected FILE or NAME"),
    ],
)
def test_a_command_without_a_config_asks_for_one(words, message):
    with pytest.raises(UserError, match=f"^{message}; `--help` lists the names$"):
        parse_config(words.split())


def test_flags_add_recordings_and_evaluation_sets(capsys):
    flags = ["--config", "quickstart/pretrain", "--pre.sources.0.path", "p", "--trainer.guards.0.metric", "A/wer"]
    flags += ["--evaluate.2.name", "C", "--evaluate.2.data.sources.0.path", "c", "--data.sources.1.path", "b"]
    config = parse_config(flags)
    assert [s.path for s in config.data.sources] == ["runs/quickstart/data/A/train.jsonl", "b"]
    assert config.pre == dataclasses.replace(config.data, sources=(SourceConfig(path="p"),))  # same batches
    assert config.evaluate[2] == EvalConfig("C", dataclasses.replace(config.data, sources=(SourceConfig(path="c"),)))
    assert config.trainer.guards == (GuardConfig("A/wer"),)
    assert parse_config(["--config", "quickstart/finetune", "--pre", "None"]).pre is None
    with pytest.raises(UserError, match=r"^found no --evaluate\.2\.name, expected one"):
        parse_config(flags[:6] + flags[8:])


def test_round_trip_keeps_the_member_of_a_union():
    for part in (Inner(kind="b"), Other(rate=2.0)):
        config = Outer("x", part, parts=(Inner(), Inner(3.0)), note="y")
        assert from_dict(Outer, to_dict(config)) == config


def test_an_added_field_is_written_only_where_it_says_something():
    assert to_dict(Grown()) == {"type": "Grown", "rate": 0.5}
    assert to_dict(Grown(later=1.0)) == {"type": "Grown", "rate": 0.5, "later": 1.0}
    for config in (Grown(), Grown(later=1.0)):
        assert from_dict(Grown, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "x"}, "config: unknown field 'nam', expected one of name, part"),
        ({"part": {"type": "Inner", "kind": "c"}}, "config.part.kind: found 'c', expected one of 'a', 'b'"),
        ({"parts": [{"rate": "fast"}]}, r"config.parts\[0\].rate: found 'fast', expected a float"),
        ({"limits": [1.0]}, "config.limits: found 1 values, expected 2"),
        ({"parts": 3}, "config.parts: found 3, expected a list"),
        ({"type": "Inner"}, "config: found a Inner, expected a Outer"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(change, message):
    with pytest.raises(UserError, match=message):
        from_dict(Outer, {"name": "x"} | change)


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="name"):
        from_dict(Outer, {})


if __name__ == "__main__":
    for name in CONFIGS:
        golden(name).parent.mkdir(exist_ok=True)
        golden(name).write_text(to_text(load_config_file(name)))


def test_a_config_can_import_what_lies_next_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_config.py").write_text("STEPS = 7\n")
    (tmp_path / "mine.py").write_text(
        "from beside_the_config import STEPS\nfrom speech_jax.config import TrainConfig\n"
        "from speech_jax.data.config import DataConfig\nfrom speech_jax.training.config import TrainerConfig\n"
        "config = TrainConfig(out_dir='x', data=DataConfig(), trainer=TrainerConfig(steps=STEPS))\n"
    )
    assert load_config_file(str(tmp_path / "mine.py")).trainer.steps == 7


@pytest.mark.parametrize("name", ["trainer.checkpoint.metric", "trainer.guards.0.metric"])
def test_a_metric_of_no_evaluation_set_is_found_before_any_data_is_read(name):
    guards = (GuardConfig("B/wer", 0.1),) if "guards" in name else ()
    checkpoint = CheckpointConfig(metric=None if guards else "B/wer")
    config = TrainConfig(
        out_dir="x", data=DataConfig(), evaluate=(EvalConfig("A", DataConfig()),),
        trainer=TrainerConfig(guards=guards, checkpoint=checkpoint),
    )  # fmt: skip
    with pytest.raises(UserError, match=rf"{re.escape(name)}: found 'B/wer', expected a metric of one of the sets A"):
        check_settings(config)
