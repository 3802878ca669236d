"""Pages of the flags of each front door, read from the parsers that tyro makes of its dataclasses.

Each door is called with `--help` and gets as far as `tyro.cli`, whose arguments are kept: the pages hold what the door
accepts, without a second list of doors and dataclasses.
"""

import argparse
import contextlib
import importlib
import io
import re
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import tyro
from markdown_text import cell, code

from speech_jax.__main__ import DOORS, summary
from speech_jax.config import NOTES, TrainConfig
from speech_jax.core.config_help import print_group
from speech_jax.core.types import TaskConfig
from speech_jax.data.config import DataConfig
from speech_jax.data.recipes import RECIPES


class Flag(NamedTuple):
    """A flag, or a positional argument.

    Attributes:
        names: Its spellings, such as ("--verify", "--no-verify"); the name in capitals for a positional argument.
        values: Type or choices, such as "INT" or "{best,last}"; "" for a switch.
        default: Its default as it is typed, "required", or "".
        help: Its description.
        group: The dotted name in front of the flags of its dataclass; "" for those of the door itself.
    """

    names: tuple[str, ...]
    values: str
    default: str
    help: str
    group: str


class _Captured(BaseException):
    """Ends a front door at its call of `tyro.cli`."""


class Parser(NamedTuple):
    """A front door's description and its flags."""

    description: str
    flags: list[Flag]


def capture(call: Callable[[], object]) -> Parser:
    """Return what the `tyro.cli` accepts that a call reaches."""
    given: list[tuple[Any, dict]] = []

    def cli(kind: Any, **options: Any) -> None:
        given.append((kind, options))
        raise _Captured

    with mock.patch.object(tyro, "cli", cli), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.suppress(_Captured):
            call()
    ((kind, options),) = given
    known = ("prog", "description", "default", "config", "registry")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro has no other public way to the parser
        parser = tyro.extras.get_parser(kind, **{key: options[key] for key in known if key in options})
    return Parser(str(parser.description or "").partition("\n\nExample:")[0], list(_flags(parser)))


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:
        if action.dest == "help":
            continue
        names = tuple(action.option_strings) or (action.dest.upper(),)
        match = re.fullmatch(r"(.*?)\s*\((?:default: (.*)|(required))\)", str(action.help), re.DOTALL)
        text, default = (match[1], match[3] or match[2]) if match else (str(action.help), "")
        metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
        group = action.container.title.removesuffix("options").strip()
        yield Flag(names, metavar, default, text, "" if group == "positional arguments" else group)


def door_parsers() -> dict[str, Parser]:
    """Return {door: what it accepts}; prepare's recipes are "prepare folder", the tasks of train "train CLASS"."""
    parsers: dict[str, Parser] = {}
    for door in DOORS:
        main = importlib.import_module(f"speech_jax.{door}").main
        if door == "prepare":
            parsers |= {f"prepare {name}": capture(partial(main, [name, "--help"])) for name in (*RECIPES, "fix")}
        elif door == "train":
            parsers[door] = capture(partial(main, ["--help", "all"]))
            parsers |= {f"train {kind.__name__}": capture(partial(_task_help, kind)) for kind in task_classes()}
        else:
            parsers[door] = capture(partial(main, ["--help"]))
    return parsers


def task_classes() -> list[type]:
    """Return the classes that `TrainConfig.task` can be."""
    union = typing.get_args(typing.get_type_hints(TrainConfig)["task"])
    return [kind for kind in union if kind not in (type(None), TaskConfig)]


def _task_help(kind: type) -> None:
    print_group(TrainConfig(out_dir="", data=DataConfig(), task=kind()), "task", {}, "")


TRAIN = """`python -m speech_jax.train --help` shows the flags that are changed most, `--help GROUP` those of one group
and `--help all` those of all. Each flag is a field of the config, described in [config fields](../config.md); its
default is the value in the config file of `--config`, and the one below where the file does not set it.
"""


def pages() -> dict[str, str]:
    """Return {file below reference/generated/: text}."""
    parsers = door_parsers()
    index = [
        "# Flags",
        "",
        "With `--debug`, which all front doors have, an error shows its traceback.",
        "",
        "| front door | |",
        "|---|---|",
    ]
    index += [f"| [{door}](flags/{door}.md) | {cell(summary(door))} |" for door in DOORS]
    index += ["", "```{toctree}", ":hidden:", "", *(f"flags/{door}" for door in DOORS), "```", ""]
    return {"flags.md": "\n".join(index)} | {f"flags/{door}.md": door_page(door, parsers) for door in DOORS}


def door_page(door: str, parsers: dict[str, Parser]) -> str:
    """Return the page of a door."""
    help_line = f"`python -m speech_jax.{door} --help` shows these flags."
    if door == "prepare":
        help_line = "`python -m speech_jax.prepare RECIPE --help` shows the flags of one recipe."
    lines = [f"# {door}", "", cell(summary(door)), "", TRAIN if door == "train" else help_line, ""]
    for name in (name for name in parsers if name.split()[0] == door):
        part = name.partition(" ")[2]
        if door == "prepare":
            lines += [f"## {part}", ""]
        elif part:
            lines += [f"## Task {part}", ""]
        lines += [] if door == "train" else [f"{cell(parsers[name].description)}", ""]
        lines += tables(parsers[name].flags, "###" if part else "##")
        if name == "train":
            lines += [line for group, text in NOTES.items() for line in (f"## {group}", "", cell(text), "")]
    return "\n".join(lines)


def tables(flags: Sequence[Flag], heading: str) -> list[str]:
    """Return a table per group of flags, below a heading where the group has a name."""
    lines: list[str] = []
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += [f"{heading} {cell(group)}", ""] if group else []
        lines += ["| flag | value | default | |", "|---|---|---|---|"]
        for flag in flags:
            if flag.group == group:
                names = " ".join(f"{code(name)}{{.name}}" for name in flag.names)
                default = flag.default if flag.default == "required" else code(flag.default)
                lines.append(f"| {names} | {code(flag.values)} | {default} | {cell(flag.help)} |")
        lines.append("")
    return lines
