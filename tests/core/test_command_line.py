"""Flags of the front doors: repeated ones, numbers out of range, errors in one line."""

import dataclasses
import math
from typing import Annotated, Literal

import pytest
import tyro

from speech_jax.core.command_line import Range, check_numbers, parse
from speech_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...] = (1,)
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a program."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    text: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)
    order: Annotated[int, Range(1, 20)] = 3
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    unset: float | None = None
    part: Part = Part()
    flat: Annotated[Part, tyro.conf.arg(name="")] = Part()
    parts: tuple[Part, ...] = (Part(),)


WithoutInputs = dataclasses.make_dataclass("Few", [(f.name, f.type, f) for f in dataclasses.fields(Flags)[1:]])


def flags(*words: str) -> Flags:
    return parse(Flags, words, prog="program")


def test_a_list_takes_the_values_of_all_its_places() -> None:
    parsed = flags(
        "x", "--text", "a", "--order", "2", "--text=b", "--part.sizes", "4", "--text", "c", "d", "--part.sizes=5"
    )
    assert (parsed.inputs, parsed.text, parsed.order) == (("x",), ("a", "b", "c", "d"), 2)
    assert parsed.part.sizes == (4, 5)
    assert flags("--sizes", "4", "--sizes", "5").flat.sizes == (4, 5)
    assert flags("--parts.0.sizes", "4", "--parts.0.sizes", "5").parts[0].sizes == (4, 5)
    assert flags("--text", "a", "--", "--text", "b").inputs[-2:] == ("--text", "b")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("--order 1 --order 1", "--order"),
        ("--order=1 --order 2", "--order"),
        ("--fast --no-fast", "--fast"),
        ("--pair 1 2 --pair 3 4", "--pair"),
        ("--unset 1 --unset None", "--unset"),
        ("--part.rate 1 --part.rate 2", "--part.rate"),
        ("--parts.0.rate 1 --parts.0.rate 2", "--parts.0.rate"),
    ],
)
def test_one_value_given_twice_is_refused(words: str, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: found it twice, expected it once$"):
        flags(*words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ordre 3", "--ordre: found an unknown flag, expected one that --help lists; did you mean --order?"),
        ("--unknown=3", "--unknown: found an unknown flag, expected one that --help lists"),
        ("--unknown 3", "--unknown: found an unknown flag, expected one that --help lists"),
        ("--order", "--order: found no value, expected one"),
        ("--order x", "--order: found 'x', expected an integer"),
        ("--order 0", "--order: found 0, expected 1 to 20"),
        ("--part.rate x", "--part.rate: found 'x', expected a number"),
        ("--part.rate nan", "--part.rate: found nan, expected a number"),
        ("--unset nan", "--unset: found nan, expected a number"),
        ("--kind c", "--kind: found 'c', expected one of 'a', 'b'"),
        ("--order 3 stray", "stray: found a value that belongs to no flag, expected one that --help lists"),
        ("--fast stray", "--fast: found 'stray' after it, expected no value"),
        ("--fast=x", "--fast: found 'x', expected no value; the opposite is --no-fast"),
        ("--no-fast=", "--no-fast: found '', expected no value; the opposite is --fast"),
    ],
)
def test_errors_are_one_line(words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError) as error:
        parse(WithoutInputs, words.split(), prog="p")
    assert str(error.value) == message
    assert capsys.readouterr() == ("", "")


def test_an_empty_value_that_belongs_to_no_flag_is_named() -> None:
    with pytest.raises(UserError, match="^'': found a value that belongs to no flag, expected one that --help lists$"):
        parse(WithoutInputs, ["--order", "3", ""], prog="p")


def test_what_a_part_refuses_is_named_by_its_flag() -> None:
    @dataclasses.dataclass(frozen=True)
    class Checked:
        top_width: int = 1

        def __post_init__(self) -> None:
            if self.top_width < 0:
                raise UserError(f"beam.top_width: found {self.top_width}, expected 0 or more")

    kind = dataclasses.make_dataclass("Kind", [("beam", Checked, dataclasses.field(default_factory=Checked))])
    with pytest.raises(UserError, match="^--beam.top-width: found -1, expected 0 or more$"):
        parse(kind, ["--beam.top-width", "-1"], prog="program")


def test_flags_of_another_parser_may_stand_beside_those_of_this_one() -> None:
    kind = dataclasses.make_dataclass("Kind", [("seeds", Annotated[int, Range(1, 9)], 1)])
    config, rest = parse(kind, ["--seeds", "2", "--steps", "3"], prog="p", return_unknown_args=True)
    assert (config.seeds, rest) == (2, ["--steps", "3"])
    with pytest.raises(UserError, match="^--seeds: found 0, expected 1 to 9$"):
        parse(kind, ["--seeds", "0", "--steps", "3"], prog="p", return_unknown_args=True)


def test_what_is_required_is_named() -> None:
    kind = dataclasses.make_dataclass("Kind", [("out_dir", str)])
    with pytest.raises(UserError, match="^found no --out-dir, expected one; see --help$"):
        parse(kind, [], prog="program")
    for words in (["--out-dir", ""], ["--out_dir="]):
        with pytest.raises(UserError, match="^--out-dir: found '', expected a value that is not empty$"):
            parse(kind, words, prog="program")


def test_numbers_in_lists_are_checked() -> None:
    kind = dataclasses.make_dataclass("Kind", [("ratio", Annotated[tuple[float, ...], Range(0, 1)], (0.5,))])
    check_numbers(kind((0.0, 1.0)))
    for ratio in (math.nan, -0.1, math.inf):
        with pytest.raises(UserError, match="^--ratio: found"):
            check_numbers(kind((0.5, ratio)))
