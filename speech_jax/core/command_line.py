"""Flags of the front doors: dataclasses read by tyro, with help texts as paragraphs and errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from speech_jax.core.errors import UserError


class Range(typing.NamedTuple):
    """Bounds of a number, both included: `order: Annotated[int, Range(1, 20)] = 3`. `parse` refuses others."""

    low: float
    high: float


def parse(kind: Any, argv: Sequence[str], *, prog: str, description: str = "", **options: Any) -> Any:
    """Parse flags as a dataclass; with `--help`, print its fields and exit.

    Args:
        kind: The dataclass. Its docstring up to the example, and those of its fields, are the help.
        argv: The flags.
        prog: The command, for the help.
        description: The help's first paragraph, instead of the docstring.
        **options: Further arguments of `tyro.cli`.

    Raises:
        UserError: For flags that are unknown, lack a value or have one of another kind; for a flag of one value that is
            given twice (a list takes the values of all); and for numbers that are not finite or out of their `Range`.
    """
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and 0 < int(columns) < 40:
        os.environ["COLUMNS"] = "40"  # in a few columns, the layout of the help takes minutes and all memory
    text = join_lines(description or (inspect.getdoc(kind) or "").partition("\n\nExample:")[0])
    words = _join_lists(kind, options.get("default"), argv)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            config = tyro.cli(kind, args=words, prog=prog, description=text, registry=_flowing(), **options)
    except SystemExit as end:
        if end.code:
            raise UserError(_one_line(box.getvalue(), words)) from None
        raise
    except UserError as error:  # of a part that checks its fields, which Python users see by name
        name, colon, rest = str(error).partition(": ")
        if not colon or _hint_of(kind, options.get("default"), f"--{name}") is None:
            raise
        raise UserError(f"--{name.replace('_', '-')}: {rest}") from None
    check_numbers(config[0] if options.get("return_unknown_args") else config)
    return config


def check_numbers(config: Any) -> None:
    """Raise UserError for a number of a config that is NaN or out of its `Range`, by its flag."""
    for name, value, hint in _numbers(config):
        flag = "--" + name.replace("_", "-")
        if math.isnan(value):
            raise UserError(f"{flag}: found nan, expected a number")
        for low, high in (mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range)):
            if not low <= value <= high:
                raise UserError(f"{flag}: found {value}, expected {low:.10g} to {high:.10g}")


def join_lines(text: str) -> str:
    """Return a text whose paragraphs are one line each."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))


def field_docs(config: Any) -> dict[str, str]:
    """Return the docstring of each field of a config dataclass, as a paragraph."""
    with _flowing():
        spec = ConstructorRegistry.get_struct_spec(StructTypeInfo.make(type(config), config, False))
    assert isinstance(spec, StructConstructorSpec)
    return {field.name: _text(field) for field in spec.fields}


def _flowing() -> ConstructorRegistry:
    """Return tyro's rules for dataclasses with the lines of docstrings joined: it would keep the source's breaks."""
    registry = ConstructorRegistry()
    asking: list[StructTypeInfo] = []

    @registry.struct_rule
    def dataclass_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if any(info is other for other in asking) or not dataclasses.is_dataclass(info.type):
            return None
        asking.append(info)
        spec = ConstructorRegistry.get_struct_spec(info)  # by tyro's own rule, as this one steps aside
        asking.pop()
        if not isinstance(spec, StructConstructorSpec):
            return None
        return dataclasses.replace(
            spec, fields=tuple(dataclasses.replace(f, helptext=functools.partial(_text, f)) for f in spec.fields)
        )

    return registry


def _text(field: StructFieldSpec) -> str:
    text = field.helptext() if isinstance(field.helptext, Callable) else field.helptext
    return join_lines(text or "")


def _join_lists(kind: Any, default: Any, argv: Sequence[str]) -> list[str]:
    """Return the flags, with the values of a list that is given several times at its first place."""
    groups: list[list[str]] = [[]]  # each flag with its values; first what comes before all flags
    by_name: dict[str, list[str]] = {}
    words = list(argv)
    while words and words[0] != "--":
        word = words.pop(0)
        if not word.startswith("--"):
            groups[-1].append(word)
            continue
        flag, equals, value = word.partition("=")
        name, hint = flag.replace("_", "-"), _hint_of(kind, default, flag)
        if hint is None and (positive := re.sub(r"^--(.*\.)?no-", r"--\1", name)) != name:
            name, hint = positive, _hint_of(kind, default, positive)
        if equals and _without_marks(hint) is bool:
            raise UserError(f"{flag}: found {value!r}, expected no value; the opposite is {_opposite(flag)}")
        if hint is None or name not in by_name:  # a flag that is unknown here is left to those that know it
            groups.append([word])
            if hint is not None:
                by_name[name] = groups[-1]
            continue
        if not _is_list(hint):
            raise UserError(f"{name}: found it twice, expected it once")
        group = by_name[name]
        group[:1] = group[0].split("=", 1)
        group += [value] if equals else []
        while words and not words[0].startswith("--"):
            group.append(words.pop(0))
    for field in dataclasses.fields(kind):
        name = "--" + field.name.replace("_", "-")
        required = field.default is field.default_factory  # both MISSING
        if required and by_name.get(name, ["x"])[-1] in ("", f"--{field.name}=", f"{name}="):
            raise UserError(f"{name}: found '', expected a value that is not empty")  # a path would be this folder
    return [word for group in groups for word in group] + words


def _opposite(flag: str) -> str:
    """Return the flag that turns off what a flag without a value turns on, or the other way round."""
    *parents, name = flag.removeprefix("--").split(".")
    return "--" + ".".join([*parents, name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"])


def _hint_of(kind: Any, value: Any, flag: str) -> Any:
    """Return the declared type of the field of a flag, or None if there is none."""
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        kind = type(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else _plain(kind)
        if isinstance(value, tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
            kind = type(value)
            continue
        if not dataclasses.is_dataclass(kind):
            return None
        hints = typing.get_type_hints(kind, include_extras=True)
        for hint in list(hints.values()):  # fields of a part without a name of its own are flags of the whole
            if any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ())):
                hints = typing.get_type_hints(_plain(hint), include_extras=True) | hints
        if name not in hints:
            return None
        kind, value = hints[name], getattr(kind if value is None else value, name, None)
    return kind


def _plain(hint: Any) -> Any:
    """Return a type without its annotations, and without None."""
    hint = _without_marks(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        return _plain(members[0]) if len(members) == 1 else hint
    return hint


def _without_marks(hint: Any) -> Any:
    """Return a type without its annotations."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return hint


def _is_list(hint: Any) -> bool:
    hint = _plain(hint)
    origin = typing.get_origin(hint)
    return origin in (list, dict) or (origin is tuple and typing.get_args(hint)[1:] == (Ellipsis,))


def _numbers(config: Any, prefix: str = "", hint: Any = None) -> Iterator[tuple[str, float, Any]]:
    """Yield the flag, the value and the declared type of each number of a config."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = typing.get_type_hints(type(config), include_extras=True)
        for field in dataclasses.fields(config):
            name = f"{prefix}.{field.name}" if prefix else field.name
            yield from _numbers(getattr(config, field.name), name, hints[field.name])
    elif isinstance(config, tuple | list):
        for number, item in enumerate(config):
            is_part = dataclasses.is_dataclass(item)
            yield from _numbers(item, f"{prefix}.{number}" if is_part else prefix, hint)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        yield prefix, config, hint


def _one_line(box: str, words: Sequence[str]) -> str:
    """Return the content of tyro's box of an error as one line, in the form of the other errors."""
    lines = [re.sub("^[-─]{4,}$", "─", line.strip("│╭╮╰╯ ")) for line in box.splitlines()[1:]]
    text = " ".join(" ".join(lines).split()).strip("─ ")  # without the title
    text = re.split(r" ─+ (?:Argument helptext|For full helptext)", text)[0]
    if missing := re.match(r"Missing from .*?: (--\S+|\S+)", text):
        unknown = re.search(r"Unrecognized options: (.*)", text)
        if not unknown:
            return f"found no {missing[1] if missing[1].startswith('-') else 'argument'}, expected one; see --help"
        text = unknown[0]
    if unknown := re.match(r"Unrecognized options: ?(.*?)(?: ─+ (.*))?$", text):
        first = next((word for word in words if word.partition("=")[0] in re.split(", | ", unknown[1])), unknown[1])
        near = re.search(r"--[\w.-]+", unknown[2] or "")
        hint = f"; did you mean {near[0]}?" if near and near[0] != first.partition("=")[0] else ""
        before = words[words.index(first) - 1] if first in words[1:] else ""
        if before.startswith("--") and "=" not in before and not first.startswith("-"):
            return f"{before}: found {first!r} after it, expected no value"
        kind = "an unknown flag" if first.startswith("-") else "a value that belongs to no flag"
        first = first.partition("=")[0] if first.startswith("-") else first
        return f"{first or repr(first)}: found {kind}, expected one that --help lists{hint}"
    if empty := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{empty[1].split('/')[-1]}: found no value, expected one"
    if choice := re.match(r"invalid choice (.*) for argument '(.*?)'. Expected one of \((.*?),?\) ?\.", text):
        choices = ", ".join(sorted(choice[3].split(", ")))  # of a union, in another order each time
        return f"{choice[2]}: found {choice[1]}, expected one of {choices}"
    if error := re.match(r"Error parsing (\S+): (.*)", text):
        value = re.search(r"(?:invalid literal for int\(\)|could not convert string to float).*: ('.*')$", error[2])
        kind = "an integer" if "int()" in error[2] else "a number"
        return f"{error[1]}: found {value[1]}, expected {kind}" if value else f"{error[1]}: {error[2]}"
    return text
