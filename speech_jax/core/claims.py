"""Refusal of settings that nothing uses: each is named before the first step, with what makes it idle.

A config dataclass may have a method `idle(self) -> dict[str, str]`: the name of each field that has no effect given the
other fields, and the reason, in which {name} stands for a field's flag and value: "with {kind}". Names may have dots
("model.num_mels"), and numbers for entries of tuples ("evaluate.0.data.seed"). A field that is idle must be at its
default. Fields that are always used are not mentioned.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from speech_jax.core.errors import UserError


def check_claims(config: Any, name: str = "") -> None:
    """Check that no setting in a tree of config dataclasses is given in vain.

    Args:
        config: a config, or a tuple of them.
        name: its flag, "" for the whole run.

    Raises:
        UserError: for the first idle field that differs from its default.

    Example:
        >>> from speech_jax.core.claims import check_claims
        >>> from speech_jax.core.errors import UserError
        >>> from speech_jax.objectives.config import AlphaConfig
        >>> try:
        ...     check_claims(AlphaConfig(start=0.3, steps=500), "alpha")
        ... except UserError as error:
        ...     print(error)
        alpha.steps: found 500, which nothing uses with alpha.kind 'constant', expected its default, 1000
    """
    if isinstance(config, tuple):
        for number, item in enumerate(config):
            check_claims(item, join(name, number))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    refuse_idle(config, getattr(config, "idle", dict)(), name)
    for field in dataclasses.fields(config):
        check_claims(getattr(config, field.name), join(name, field.name))


def refuse_idle(config: Any, idle: Mapping[str, str], name: str = "") -> None:
    """Raise UserError for the first field of `idle`, as the method of that name returns it, that is not its default."""
    for path, reason in idle.items():
        parent, _, field = path.rpartition(".")
        given = _given(value_at(config, parent), field, join(name, path))
        if given is not None:
            reason = re.sub(r"{([\w.]+)}", lambda match: _described(config, match[1], name), reason)
            flag, value, default = given
            raise UserError(f"{flag}: found {value!r}, which nothing uses {reason}, expected its default, {default!r}")


def without_idle(config: Any, idle: Mapping[str, str] | None = None) -> Any:
    """Return a tree of configs with every idle field at its default: the part of it that has an effect.

    Args:
        config: a config, or a tuple of them.
        idle: further idle fields of the config, by dotted name.
    """
    if isinstance(config, tuple):
        return tuple(without_idle(item) for item in config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    for path in (*getattr(config, "idle", dict)(), *(idle or ())):
        parent, _, name = path.rpartition(".")
        owner = value_at(config, parent)
        default = default_of(next(field for field in dataclasses.fields(owner) if field.name == name))
        config = _with_value(config, path, default)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: without_idle(value) for name, value in values.items()})


def not_used_by(field: str, kind: str, uses: Mapping[str, str]) -> dict[str, str]:
    """Return the names in `uses` as idle, decided by `field`, unless `kind`, its value, is among their kinds.

    Args:
        field: name of the field with the kind.
        kind: its value.
        uses: field name -> the kinds that use it, separated by spaces.
    """
    return {name: f"with {{{field}}}" for name, kinds in uses.items() if kind not in kinds.split()}


def value_at(config: Any, path: str) -> Any:
    """Return the value of a field by its dotted name; "" is the config itself."""
    for part in path.split(".") if path else ():
        config = config[int(part)] if part.isdecimal() else getattr(config, part)
    return config


def join(name: str, part: str | int) -> str:
    """Return the dotted name of a part of `name`."""
    return f"{name}.{part}" if name and part != "" else f"{name}{part}"


def default_of(field: dataclasses.Field) -> Any:
    """Return a field's default; `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _with_value(config: Any, path: str, value: Any) -> Any:
    """Return the config, or tuple of configs, with another value of the field of a dotted name."""
    first, _, rest = path.partition(".")
    if rest:
        value = _with_value(value_at(config, first), rest, value)
    if isinstance(config, tuple):
        return (*config[: int(first)], value, *config[int(first) + 1 :])
    return dataclasses.replace(config, **{first: value})


def _given(owner: Any, name: str, path: str) -> tuple[str, Any, Any] | None:
    """Return (name, value, default) of a field not at its default: of a nested config, of its first such field."""
    value = getattr(owner, name)
    default = default_of(next(field for field in dataclasses.fields(owner) if field.name == name))
    return _difference(value, default, path)


def _difference(value: Any, default: Any, path: str) -> tuple[str, Any, Any] | None:
    if value == default:
        return None
    if dataclasses.is_dataclass(value) and type(value) is type(default):
        pairs = ((getattr(value, f.name), getattr(default, f.name), f.name) for f in dataclasses.fields(value))
        return next(filter(None, (_difference(v, d, join(path, name)) for v, d, name in pairs)), None)
    return path, value, default


def _described(config: Any, path: str, name: str) -> str:
    """Return a field with its value for an error: alpha.kind 'constant'."""
    return f"{join(name, path)} {value_at(config, path)!r}"
