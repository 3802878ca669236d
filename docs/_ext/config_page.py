"""Page of the config fields: a section per dataclass that a TrainConfig can hold, with an anchor per field."""

import dataclasses
import inspect
import re
import typing
from typing import Any

from markdown_text import cell, code
from sphinx.pycode import ModuleAnalyzer

from speech_jax.config import TrainConfig

INTRODUCTION = """# Config fields

A config file defines `config = TrainConfig(…)`. Each field is also a flag of `train`: `optimizer.peak_lr` is
`--optimizer.peak-lr`. A path with a number is an element of a list, such as `data.sources.0.path`.
"""


def reachable() -> dict[type, list[str]]:
    """Return {dataclass: paths of the fields that hold one}, in the order of TrainConfig's fields."""
    places: dict[type, list[str]] = {}

    def visit(kind: type, path: str) -> None:
        known = kind in places
        places.setdefault(kind, []).append(path)
        if known:
            return
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            for inner, index in _dataclasses_in(hints[field.name]):
                visit(inner, ".".join(filter(None, (path, field.name, index))))

    visit(TrainConfig, "")
    return places


def _dataclasses_in(hint: Any) -> list[tuple[type, str]]:
    """Return the dataclasses of a type, each with "0" if it is the element of a tuple, else ""."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [(hint, "")]
    index = "0" if typing.get_origin(hint) is tuple else ""
    return [(kind, inner or index) for part in typing.get_args(hint) for kind, inner in _dataclasses_in(part)]


def pages() -> dict[str, str]:
    """Return {file below reference/generated/: text}."""
    places = reachable()
    sections = [section(kind, paths, set(places)) for kind, paths in places.items()]
    return {"config.md": "\n".join([INTRODUCTION, *sections])}


def section(kind: type, paths: list[str], kinds: set[type]) -> str:
    """Return the section of a dataclass.

    Raises:
        ValueError: If a field has no docstring.
    """
    lines = [f"## {kind.__name__}", "", cell((inspect.getdoc(kind) or "").partition("\n\nExample:")[0]), ""]
    named = [f"`{path}`" for path in paths if path]
    if named:
        lines += [f"As {', '.join(named)}.", ""]
    docs = field_docs(kind)
    lines += ["| field | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if not docs.get(field.name):
            raise ValueError(f"{kind.__module__}.{kind.__name__}.{field.name}: expected a docstring below the field")
        anchor = f"{kind.__name__}-{field.name}".lower().replace("_", "-")
        name = f"[`{field.name}`]{{#{anchor} .name}}"
        lines.append(f"| {name} | {_type(str(field.type), kinds)} | {_default(field)} | {cell(docs[field.name])} |")
    return "\n".join([*lines, ""])


def field_docs(kind: type) -> dict[str, str]:
    """Return {field: its docstring}, those of the classes it inherits from included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
            docs |= {name: " ".join(lines).strip() for (owner, name), lines in found.items() if owner == base.__name__}
    return docs


def _type(text: str, kinds: set[type]) -> str:
    """Return a type as code, with links to the sections of the dataclasses in it."""
    names = "|".join(kind.__name__ for kind in kinds)
    parts = re.split(rf"\b({names})\b", text)
    parts[::2] = [code(part) for part in parts[::2]]
    parts[1::2] = [f"[{name}](#{name.lower()})" for name in parts[1::2]]
    return " ".join(filter(None, parts))


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "required"
    else:
        value = field.default
    return code(f"{type(value).__name__}(…)" if dataclasses.is_dataclass(value) else repr(value))
