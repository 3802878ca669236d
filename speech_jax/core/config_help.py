"""Help of a config: an overview of its groups, and the flags of one group or of all."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from speech_jax.core.claims import value_at
from speech_jax.core.command_line import field_docs, parse
from speech_jax.core.config_flags import with_examples
from speech_jax.core.errors import UserError, did_you_mean


def overview(config: Any, common: Mapping[str, str], notes: Mapping[str, str], names: Iterable[str]) -> str:
    """Return the most used flags with their values, the groups of flags, and the names of config files.

    Args:
        config: The config whose values are the defaults.
        common: The most used flags, such as "optimizer.peak-lr", and their help.
        notes: Groups that `print_group` has notes of.
        names: Names of config files, such as "quickstart/pretrain".
    """
    flags = []
    for flag, text in common.items():
        value = _value(config, flag.replace("-", "_"))
        flags.append((f"--{flag}", f"{text} [{value}]" if value else text))
    docs, filled = field_docs(config), with_examples(config)
    groups = [(k, _first_sentence(text)) for k, text in docs.items() if k in notes or _is_group(getattr(filled, k))]
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return "\n\n".join([
        "Flags that are changed most, with their defaults in brackets:\n" + _table(flags),
        "Groups of flags; `--help GROUP` lists those of one, `--help all` those of all:\n" + _table(groups),
        "Configs; `--config NAME --help` shows the defaults of one:\n"
        + "\n".join(_wrap("  " + " ".join(files), "  ") for files in folders.values()),
    ])  # fmt: skip


def print_group(config: Any, group: str, notes: Mapping[str, str], prog: str) -> None:
    """Print the flags of a group and exit.

    Args:
        config: The config whose values are the defaults.
        group: A dotted name such as "task.model", or "all".
        notes: Group -> what is said of it instead of its flags.
        prog: The command.

    Raises:
        UserError: If there is no such group.
    """
    config = with_examples(config)
    if group == "all":
        for name, text in notes.items():
            print(_wrap(f"{name}: {text}"))
        given = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in notes]
    elif group in notes:
        print(_wrap(f"{group}: {notes[group]}"))
        raise SystemExit(0)
    else:
        name = group.lstrip("-").replace("-", "_")
        try:
            given = [(name, value_at(config, name))]
        except (AttributeError, IndexError, TypeError, ValueError):
            given = []
        if not given or not _is_group(given[0][1]):
            fields = dataclasses.fields(config)
            names = [f.name for f in fields if f.name in notes or _is_group(getattr(config, f.name))]
            near = did_you_mean(group, names)
            raise UserError(f"--help: found {group!r}, expected all or one of {', '.join(names)}{near}") from None
    docs, fields = field_docs(config), []
    for number, (name, value) in enumerate(given):
        hint = Annotated[_type(value), tyro.conf.arg(name=name, help=docs.get(name))]
        fields.append((f"group{number}", hint, dataclasses.field(default=value)))
    shown = dataclasses.make_dataclass("Flags", fields, frozen=True)
    about = "An index one past the last of a list adds an element: --data.sources.1.path FILE."
    parse(shown, ["--help"], prog=prog, description=about, config=(tyro.conf.AvoidSubcommands,))


def _is_group(value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return any(dataclasses.is_dataclass(item) and not isinstance(item, type) for item in items)


def _type(value: Any) -> Any:
    return tuple[tuple(map(type, value))] if _is_group(value) and isinstance(value, tuple) else type(value)


def _value(config: Any, name: str) -> str:
    try:
        value = value_at(config, name)
    except (AttributeError, IndexError):  # in an empty list, or in a part that is None
        return ""
    return "" if value is None else str(value)


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 4
    return "\n".join(_wrap(f"  {name}".ljust(width) + text, " " * width) for name, text in rows)


def _wrap(text: str, indent: str = "") -> str:
    columns = min(shutil.get_terminal_size().columns, 120)
    return textwrap.fill(text, columns, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
