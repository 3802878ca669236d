"""Every flag of every front door, given twice and with numbers that cannot be meant: one line, or both values."""

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from speech_jax.config import TrainConfig, load_config_file
from speech_jax.core import command_line
from speech_jax.core.command_line import check_numbers
from speech_jax.core.errors import UserError
from speech_jax.prepare import RECIPES
from speech_jax.runs.claims import check_run
from speech_jax.runs.resolve import check_settings

ODD = ("nan", "-1", "1e9", "", "inf", "-inf", "1e400", "٣", "0x10", "--")
DOORS = ("average", "compile", "convert", "evaluate", "lm", "sweep", "synthesize", "transcribe")


class Parsed(BaseException):
    """Ends a front door when its flags are parsed."""


def parse_only(door: str, words: list[str], seen: list[Any]) -> None:
    """Run a front door until its flags are parsed; put the kind and the config into `seen`."""
    name, *first = door.split()
    module = importlib.import_module(f"speech_jax.{name}")

    def parse(kind: type, argv: list[str], **options: Any) -> Any:
        seen.append(kind)
        result = command_line.parse(kind, argv, **options)
        seen.append(result[0] if isinstance(result, tuple) else result)
        raise Parsed

    with mock.patch.object(module, "parse", parse), contextlib.suppress(Parsed):
        module.main([*first, *words])


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every field of a config that is no config itself."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield from leaves(value[0], f"{name}.0.")
        else:
            yield name, value


def changed(config: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    if isinstance(config, tuple):
        return (changed(config[0], rest, value), *config[1:]) if rest else (value, *config[1:])
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def flags_of(kind: type) -> list[str]:
    with mock.patch.object(kind, "__post_init__", lambda self: None, create=True):
        required = [f for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
        config = kind(**{f.name: "x" for f in required})
    flat = {f.name for f in dataclasses.fields(kind) if "name=''" in str(f.type)}
    names = [name.partition(".")[2] if name.partition(".")[0] in flat else name for name, _ in leaves(config)]
    return ["--" + name.replace("_", "-") for name in names]


@pytest.mark.parametrize("door", [*DOORS, *(f"prepare {name}" for name in (*RECIPES, "fix"))])
def test_flags_of_a_door(door: str) -> None:
    seen: list[Any] = []
    with contextlib.suppress(UserError):
        parse_only(door, [], seen)
    (kind,) = {item for item in seen if isinstance(item, type)}
    flags, twice = flags_of(kind), 0
    assert len(flags) >= 3
    for flag in flags:
        for value in ODD:
            try:
                parse_only(door, [f"{flag}={value}"], [])
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 400, (flag, value)
        try:
            parse_only(door, [flag, "1", flag, "2"], [])
        except UserError as error:
            twice += f"{flag}: found it twice" in str(error)
    assert twice >= 3


def numbers() -> Iterator[tuple[str, TrainConfig]]:
    for name in ("quickstart/pretrain", "quickstart/finetune", "tutorials/voice", "tutorials/wavenet"):
        yield name, load_config_file(name)


@pytest.mark.parametrize(("name", "config"), [*numbers()], ids=[name for name, _ in numbers()])
def test_numbers_of_a_training(name: str, config: TrainConfig) -> None:
    """NaN is refused in every field; other numbers pass or end in one line, and never in another error."""
    count = 0
    for field, value in leaves(config):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        count += 1
        odd = (-1, 10**9, 0, *((math.nan, math.inf) if isinstance(value, float) else ()))
        for new in odd:
            refused = None
            try:
                other = changed(config, field, new)
                check_numbers(other)
                check_run(other)
                check_settings(other)
            except UserError as error:
                refused = str(error)
                assert "\n" not in refused and len(refused) < 500
            assert refused or not (isinstance(new, float) and math.isnan(new)), field
    assert count > 50


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("quickstart/pretrain", "task.model.dropout", (-1.0, 1.0, 1e9)),
        ("quickstart/pretrain", "task.model.layers", (10**9,)),
        ("quickstart/pretrain", "task.audio.pre_emphasis", (-1.0, 2.0)),
        ("quickstart/pretrain", "mesh.fsdp", (-2, 10**9)),
        ("quickstart/pretrain", "hosts.timeout", (-1, 0)),
        ("quickstart/pretrain", "trainer.progress_seconds", (-1.0,)),
        ("quickstart/pretrain", "trainer.watch.metrics_port", (-1, 10**9)),
        ("tutorials/voice", "task.guided_sigma", (-1.0, 0.0)),
        ("tutorials/voice", "task.model.conv_dropout", (-1.0, 1.0)),
        ("tutorials/voice", "task.model.attention_rnn", (-1, 0, 10**9)),
        ("tutorials/wavenet", "task.model.residual", (-1, 0)),
    ],
)
def test_numbers_that_would_train_in_silence_are_out_of_range(name: str, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(UserError, match=f"^--{field.replace('_', '-')}: found {value}, expected "):
            check_numbers(changed(load_config_file(name), field, value))
