"""Read JSON and YAML that others wrote: only regular files, of bounded size and depth, with finite numbers."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError

_MAX_BYTES = 16 << 20  # the values of a document take up to 30 times its size in memory
_MAX_VALUES = 1 << 20  # of a YAML document, with those behind aliases
_MAX_DEPTH = 64
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # that the shell has opened for this process, as for <(…)
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


def check_file(path: str | Path, expected: str) -> None:
    """Check that a path is a regular file: others may have no end, or block until somebody writes.

    Args:
        path: the path.
        expected: description of the content, for the message.

    Raises:
        UserError: it is a folder, a device, a named pipe or a socket, or there is nothing. The empty device and the
            streams of this process (`/dev/stdin`, `/dev/fd/3`) pass.
    """
    if str(path) == os.devnull or str(path).startswith(_STREAMS):
        return
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}, expected {expected}") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "a device")
        raise UserError(f"{path}: found {kind}, expected {expected}")


def read_document(path: Path, expected: str, limit: int = _MAX_BYTES) -> bytes:
    """Read a whole regular file. Raise UserError for a missing one, or for more than `limit` bytes."""
    check_file(path, expected)
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected {expected}") from error
    if len(data) > limit:
        raise UserError(f"{path}: found more than {limit} bytes, expected {expected}")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError if the file holds none, or NaN or infinity."""
    return parse_json(read_document(path, "a JSON file"), str(path))


def parse_json(data: bytes, source: str, *, finite: bool = True) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        data: its text in UTF-8.
        source: path of the file, for messages.
        finite: NaN and infinity are errors.

    Raises:
        UserError: it is no JSON object, is nested too deeply, or has a number that is not finite.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite) if finite else json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{source}: found no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{source}: found JSON of type {type(value).__name__}, expected an object")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _no_constant(text[:40])


def parse_yaml(data: bytes, source: str) -> dict[str, Any]:
    """Return a YAML mapping; tags of Python objects are errors.

    Args:
        data: its text.
        source: path of the file, for messages.

    Raises:
        UserError: it is no mapping, is nested too deeply, or is too large with all aliases replaced.
    """
    import yaml  # only .nemo files need it

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        pass

    # As Hydra and NeMo read it: 1e-05 is a number, which YAML 1.1 takes for a text.
    number = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        _check_events(yaml, data, Loader)
        value = yaml.load(data, Loader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError, MemoryError) as error:
        raise UserError(f"{source}: found no YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(value, dict):
        raise UserError(f"{source}: found YAML of type {type(value).__name__}, expected a mapping")
    return value


def _check_events(yaml: Any, data: bytes, loader: Any) -> None:
    """Count the values of a YAML document with those behind aliases, before any is built."""
    sizes: dict[str, int] = {}  # of the anchors whose value is complete
    open_values: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(data, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, 1))
        elif isinstance(event, yaml.AliasEvent | yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, size = event.anchor if isinstance(event, yaml.ScalarEvent) else None, 1
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_values.pop()
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in sizes:
                    raise ValueError(f"the alias {event.anchor!r} of a value that is not complete")
                size = sizes[event.anchor]
            if anchor is not None:
                sizes[anchor] = size
            outer, count = open_values.pop()
            open_values.append((outer, count + size))
        if open_values[-1][1] > _MAX_VALUES or len(open_values) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_VALUES} values, or {_MAX_DEPTH} levels")
