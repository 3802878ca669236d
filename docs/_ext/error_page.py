"""Page of all error messages, read from the source: the text of every `UserError(…)`, by room, with its place."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from api_pages import room_title
from markdown_text import cell, code
from modules import ROOT, Module, find_public
from repository_links import repository_url

INTRODUCTION = """# All error messages

Every message in the source, by room; the parts in braces are filled in. [Error messages](../errors.md) has the most
frequent ones with their remedies.
"""


class Message(NamedTuple):
    """An error message of the source.

    Attributes:
        text: Its text, with what is filled in as {name}, or {…} for longer expressions.
        line: Line number of the `UserError`.
    """

    text: str
    line: int


def messages(source: str) -> Iterator[Message]:
    """Yield the messages of a module's source, those whose text is known there.

    Example:
        >>> list(messages('raise UserError(f"{path}: found {len(rows) - 1 + offset} rows")'))
        [Message(text='{path}: found {…} rows', line=1)]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError" and node.args:
            text = _text(node.args[0])
            if re.search("[a-z]", re.sub(r"\{[^}]*\}", "", text)):  # others pass a message on
                yield Message(text, node.lineno)


def _text(node: ast.expr) -> str:
    """Return the text of a string expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    written = ast.unparse(inner)
    return f"{{{written}}}" if isinstance(inner, ast.Name | ast.Attribute) and len(written) <= 30 else "{…}"


def pages() -> dict[str, str]:
    """Return {file below reference/generated/: text}."""
    modules = find_public()
    lines = [INTRODUCTION]
    for room in sorted({module.room for module in modules}):
        rows = [row for module in modules if module.room == room for row in _rows(module)]
        if rows:
            lines += [f"## {room_title(room)}", "", "| message | where |", "|---|---|", *rows, ""]
    return {"errors.md": "\n".join(lines)}


def _rows(module: Module) -> list[str]:
    source, url = module.path.read_text(encoding="utf-8"), repository_url(module.path)
    place = module.path.relative_to(ROOT / "speech_jax").as_posix()
    found = sorted(messages(source), key=lambda message: message.line)
    return [f"| {code(text)} | [{cell(place)}:{line}]({url}#L{line}) |" for text, line in found]
