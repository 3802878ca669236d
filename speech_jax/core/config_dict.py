"""Conversion of frozen dataclasses to plain dictionaries and back, so that a checkpoint can store its config as JSON.

Every dataclass becomes a dictionary with its class name under "type", which also selects the member of a union.
Nothing is dropped silently: an unknown field or a value of the wrong type is a UserError that names the field's path.
Only fields added to a config later (`new_field`) are omitted while at their default, so that older files and their
fingerprints stay valid.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.core.passwords import mask_address


def new_field(default: Any) -> Any:
    """Return a dataclass field for a config that older checkpoints hold; `to_dict` omits it while it is `default`."""
    return dataclasses.field(default=default, metadata={_ADDED: True})


_ADDED = "added"


def to_dict(config: Any) -> Any:
    """Convert a dataclass (nested, with tuples) to dictionaries, lists and scalars that JSON can represent.

    Raises:
        TypeError: a field has a value of another type.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = [(f, getattr(config, f.name)) for f in dataclasses.fields(config)]
        fields = {f.name: to_dict(v) for f, v in values if not (f.metadata.get(_ADDED) and v == f.default)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"config: found a {type(config).__name__}, {config!r}, expected a dataclass, tuple or scalar")


def to_saved_dict(config: Any) -> Any:
    """Return `to_dict(config)` for files and checkpoints: with the passwords in addresses masked."""
    return to_dict(mask_config(config))


def mask_config(config: Any) -> Any:
    """Return a config (a dataclass, tuple or scalar) with the passwords in addresses masked; itself if it has none."""
    if isinstance(config, str):
        masked = mask_address(config)
        return config if masked == config else masked
    if isinstance(config, tuple):
        items = tuple(map(mask_config, config))
        return config if all(a is b for a, b in zip(items, config, strict=True)) else items
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changed = {name: new for name, value in values.items() if (new := mask_config(value)) is not value}
    return dataclasses.replace(config, **changed) if changed else config


def to_text(config: Any) -> str:
    """Format `to_saved_dict(config)` as indented JSON, one field per line, so that changes show as a diff."""
    return json.dumps(to_saved_dict(config), indent=2) + "\n"


def differences(first: Any, second: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return the settings in which two configs differ.

    Passwords in addresses do not count, as a config that was saved has lost them.

    Args:
        first: a config: a dataclass, tuple or scalar.
        second: another.
        name: the flag of both, such as "task.model"; "" for the whole run.

    Returns:
        (flag, value in `first`, value in `second`) of each setting that differs, in the order of the fields. Of configs
        of two classes the names of the classes; of tuples of one length only the first item that differs.

    Example:
        >>> from speech_jax.core.config_dict import differences
        >>> from speech_jax.models.config import ConformerConfig
        >>> differences(ConformerConfig(width=144), ConformerConfig(width=256), "task.model")
        [('task.model.width', 144, 256)]
    """
    if isinstance(first, str) and isinstance(second, str):
        first, second = mask_address(first), mask_address(second)
    if first == second:
        return []
    if dataclasses.is_dataclass(first) and type(first) is type(second):
        pairs = ((getattr(first, f.name), getattr(second, f.name), f.name) for f in dataclasses.fields(first))
        return [item for a, b, field in pairs for item in differences(a, b, f"{name}.{field}" if name else field)]
    if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        each = (differences(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(first, second, strict=True)))
        return next(filter(None, each), [])
    first, second = (type(c).__name__ if dataclasses.is_dataclass(c) else c for c in (first, second))
    return [(name, first, second)]


def describe_value(value: Any) -> str:
    """Format a setting for a message; of long tuples only the length."""
    return f"{len(value)} values" if isinstance(value, tuple) and len(value) > 4 else repr(value)


def describe_differences(differing: Sequence[tuple[str, Any, Any]]) -> str:
    """Format the result of `differences`: "task.model.width: 144 and 256; task.audio.hop: 160 and 200"."""
    return "; ".join(f"{name}: {describe_value(a)} and {describe_value(b)}" for name, a, b in differing)


def from_dict(hint: Any, value: Any, path: str = "config") -> Any:
    """Invert `to_dict`.

    Args:
        hint: type of the result: a dataclass, union, tuple, Literal or scalar.
        value: result of `to_dict`, or what JSON made of it.
        path: name of the value in error messages.

    Raises:
        UserError: an unknown field, or a value of the wrong type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _from_union(arguments, value, path)
    if origin is typing.Annotated:
        return from_dict(arguments[0], value, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{path}: found {value!r}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _from_sequence(arguments, value, path)
    if dataclasses.is_dataclass(hint):
        return _from_fields(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1023:
        return float(value)
    if hint is Any:
        return value
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        raise UserError(f"{path}: found {value!r}, expected the fields of a {getattr(hint, '__name__', hint)}")
    if hint is float and value != value:
        raise UserError(f"{path}: found {value!r}, expected a number")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{path}: found {value!r}, expected a {getattr(hint, '__name__', hint)}")
    return value


def _from_union(arguments, value, path):
    if value is None and types.NoneType in arguments:
        return None
    members = [a for a in arguments if a is not types.NoneType]
    if isinstance(value, dict):
        classes = list(dict.fromkeys(c for member in members for c in _classes(member)))
        for member in classes:
            if member.__name__ == value.get("type"):
                return from_dict(member, value, path)
        if "type" in value and classes:
            names = ", ".join(member.__name__ for member in classes)
            raise UserError(
                f"{path}: found {value['type']}, expected one of {names}; a class of your own must be imported in the "
                "config file"
            )
    errors = []
    for member in members:
        try:
            return from_dict(member, value, path)
        except UserError as error:
            errors.append(error)
    raise errors[-1]


def _classes(member: Any) -> list[Any]:
    """Return the dataclasses that a member of a union stands for: itself, or the loaded subclasses of a protocol."""
    if dataclasses.is_dataclass(member):
        return [member]
    return [c for c in getattr(member, "__subclasses__", list)() if dataclasses.is_dataclass(c)]


def _from_sequence(arguments, value, path):
    if not isinstance(value, list | tuple):
        raise UserError(f"{path}: found {value!r}, expected a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(from_dict(arguments[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if len(arguments) != len(value):
        raise UserError(f"{path}: found {len(value)} values, expected {len(arguments)}")
    return tuple(from_dict(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _from_fields(hint, value, path):
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {value!r}, expected the fields of {hint.__name__}")
    if value.get("type", hint.__name__) != hint.__name__:
        raise UserError(f"{path}: found a {value['type']}, expected a {hint.__name__}")
    hints = typing.get_type_hints(hint, include_extras=True)
    names = [f.name for f in dataclasses.fields(hint)]
    unknown = sorted(set(value) - set(names) - {"type"})
    if unknown:
        raise UserError(f"{path}: unknown field {unknown[0]!r}, expected one of {', '.join(names)}")
    fields = {name: from_dict(hints[name], v, f"{path}.{name}") for name, v in value.items() if name != "type"}
    try:
        return hint(**fields)
    except TypeError as error:  # a field without a default is missing
        raise UserError(f"{path}: {error}") from error
