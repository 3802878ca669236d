"""Public classes and functions of speech_jax, read from the source without importing it."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import speech_jax

ROOT = Path(speech_jax.__file__).resolve().parents[1]


class Module(NamedTuple):
    """A module of the package.

    Attributes:
        name: Dotted name.
        path: Its file.
        summary: First line of its docstring.
        names: Its public classes and functions, in their order.
        classes: Those of them that are classes.
    """

    name: str
    path: Path
    summary: str
    names: tuple[str, ...]
    classes: frozenset[str]

    @property
    def room(self) -> str:
        """Folder below speech_jax/; "" for the front doors."""
        parts = self.path.relative_to(ROOT / "speech_jax").parts
        return parts[0] if len(parts) > 1 else ""

    def place(self, name: str) -> str:
        """Return the dotted name under which the reference describes a class or function."""
        is_public = speech_jax._MODULES.get(name) == self.name
        return f"speech_jax.{name}" if is_public else f"{self.name}.{name}"


@cache
def find_public() -> tuple[Module, ...]:
    """Return the modules of the package in the order of their names."""
    modules = []
    for path in sorted((ROOT / "speech_jax").rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        names = [node.name for node in tree.body if isinstance(node, definitions) and not node.name.startswith("_")]
        summary = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
        classes = frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef))
        modules.append(Module(name, path, summary, tuple(dict.fromkeys(names)), classes))
    return tuple(modules)
