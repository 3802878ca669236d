"""Flags that reach beyond a config's default values: they lengthen or empty a list, or fill an optional part.

With `guards: tuple[GuardConfig, ...] = ()`, `--guards.0.metric old/wer` adds the first guard, and an index one past the
end always adds another. With `pre: DataConfig | None = None`, `--pre.sources.0.path X` makes `pre`. `--guards None`
empties a list, `--guards.0 None` drops its first element, and `--pre None` turns a part off.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from speech_jax.core.errors import UserError


def extend(config: Any, argv: Sequence[str], like: Mapping[type, Any] | None = None) -> tuple[Any, list[str]]:
    """Give a config the list elements and optional parts that flags name.

    Args:
        config: A config dataclass.
        argv: The flags, in order.
        like: Class -> the value that a new part of this class begins with. Others begin with their defaults; a field
            without a default must then be given by flag.

    Returns:
        The config, and the flags that remain for tyro: all but those whose value is None and that are done here.

    Raises:
        UserError: For an index that leaves a gap, and for a flag of a part before the flag that drops or moves it.
    """
    rest: list[str] = []
    seen: list[tuple[str, list[str]]] = []  # flags and their paths
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            path = flag.removeprefix("--").replace("-", "_").split(".")
            for name in path:  # a second spelling of an element, as 00 or in Arabic digits, would pass unnoticed
                if name.isdecimal() and name != str(int(name)):
                    raise UserError(f"{flag}: found the index {name!r}, expected {int(name)}")
            given = value if equals else "".join(words[:1])
            emptied = _emptied(config, path) if given == "None" else None
            if emptied is not None:
                if early := [other for other, names in seen if _is_under(names, path)]:
                    raise UserError(f"{early[0]}: found it before {flag} None, expected it after, where indices count")
                config, words = emptied, words[0 if equals else 1 :]
                continue
            config = _grown(config, type(config), path, flag, like or {})
            seen.append((flag, path))
        rest.append(word)
    return config, rest


def with_examples(config: Any) -> Any:
    """Return a config whose empty lists have an element, and whose empty parts are there, as flags could make them."""
    changed = {}
    for name, hint in _hints(config).items():
        value, kinds = getattr(config, name), [m for m in _members(hint) if dataclasses.is_dataclass(m)]
        if value == () and _element(hint) is not None:
            changed[name] = (with_examples(_new(_element(hint), {})),)
        elif value is None and len(kinds) == 1:
            changed[name] = with_examples(_new(kinds[0], {}))
        elif _is_config(value):
            changed[name] = with_examples(value)
    return dataclasses.replace(config, **changed)


def _is_under(path: Sequence[str], dropped: Sequence[str]) -> bool:
    """Return True if `path` lies in what is dropped, or in an element of a list that moves up then."""
    *parent, last = dropped
    if list(path[: len(parent)]) != parent or len(path) <= len(parent):
        return False
    name = path[len(parent)]
    return name == last or (name.isdecimal() and last.isdecimal() and int(name) > int(last))


def _grown(value: Any, hint: Any, path: Sequence[str], flag: str, like: Mapping[type, Any]) -> Any:
    """Return `value`, declared as `hint`, with what the rest of a flag's path names."""
    if not path:
        return value
    if value is None:
        members = [m for m in _members(hint) if dataclasses.is_dataclass(m)]
        if len(members) != 1:
            return value  # tyro names the flag that there is not
        value = _new(members[0], like)
    name, *rest = path
    if _is_config(value):
        hints = _hints(value)
        if name not in hints:
            return value
        old = getattr(value, name)
        new = _grown(old, hints[name], rest, flag, like)
        return value if new is old else dataclasses.replace(value, **{name: new})
    element = _element(hint)
    if element is None or not name.isdecimal():
        return value
    index = int(name)
    if index > len(value):
        raise UserError(f"{flag}: found index {index}, expected at most {len(value)}, the next one")
    items = [*value, _new(element, like)] if index == len(value) else list(value)
    items[index] = _grown(items[index], element, rest, flag, like)
    return tuple(items)


def _emptied(value: Any, path: Sequence[str]) -> Any | None:
    """Return `value` without the optional part, list or element of a list at `path`; None if the path names none."""
    name, *rest = path
    if isinstance(value, tuple):
        index = int(name) if name.isdecimal() else len(value)
        if index >= len(value) or not _is_config(value[index]):
            return None
        new = _emptied(value[index], rest) if rest else value[index]
        return None if new is None else (*value[:index], *([new] if rest else []), *value[index + 1 :])
    if not _is_config(value) or name not in _hints(value):
        return None
    hint = _hints(value)[name]
    if rest:
        new = _emptied(getattr(value, name), rest)
        return None if new is None else dataclasses.replace(value, **{name: new})
    if _element(hint) is not None:
        return dataclasses.replace(value, **{name: ()})
    optional = types.NoneType in _members(hint) and any(map(dataclasses.is_dataclass, _members(hint)))
    return dataclasses.replace(value, **{name: None}) if optional else None  # tyro reads numbers and texts


def _new(kind: Any, like: Mapping[type, Any]) -> Any:
    if kind in like:
        return like[kind]
    hints, required = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            hint = hints[field.name]
            required[field.name] = _new(hint, like) if dataclasses.is_dataclass(hint) else tyro.MISSING
    return kind(**required)


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _hints(value: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(type(value))
    return {field.name: hints[field.name] for field in dataclasses.fields(value)}


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _element(hint: Any) -> Any:
    """Return the dataclass of which `hint` is a tuple of any length, or None."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments[1:] == (Ellipsis,) and dataclasses.is_dataclass(arguments[0]):
        return arguments[0]
    return None
