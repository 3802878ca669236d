"""Docstrings as they are written here, Google sections in text with `code`, for autodoc, which reads reStructuredText.

Before napoleon takes the sections apart, what reStructuredText would take for markup is escaped, `code` becomes a
literal or a link to the class or function of that name, and an indented block is shown as it is, as Markdown does.
Signatures show the annotations of the source, shapes included, instead of what they evaluate to.
"""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Mapping, Sequence

from docutils import nodes
from modules import find_public
from sphinx import addnodes

SECTIONS = ("Args:", "Attributes:", "Example:", "Raises:", "Returns:", "Yields:")
COLON = "\ue000"  # hides a colon from napoleon, which takes "words: text" for a type where it expects one
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def unique_names() -> dict[str, str]:
    """Return {name: its place in the reference} of the classes and functions whose name no other has."""
    places: dict[str, list[str]] = {}
    for module in find_public():
        for name in module.names:
            places.setdefault(name, []).append(module.place(name))
    return {name: found[0] for name, found in places.items() if len(found) == 1}


NAMES = unique_names()


def to_rst(lines: Sequence[str]) -> list[str]:
    """Return the lines of a docstring, Google style with Markdown, as lines that napoleon and docutils read.

    Example:
        >>> to_rst(["Return `x` * 2."])
        ['Return ``x`` \\\\* 2.']
    """
    output: list[str] = []
    text: list[str] = []  # lines of the paragraph that is being read

    def flush() -> None:
        output.extend(_inline("\n".join(text)).split("\n") if text else [])
        text.clear()

    literal = example = False
    base = 0  # indentation of the paragraph before
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            flush()
            example = False
            output.append(line)
            continue
        after_blank = bool(output) and not output[-1].strip() and not text
        literal = literal and indent > base
        example = not literal and (example or line.lstrip().startswith(">>> "))
        if literal or example or line.strip() in SECTIONS:
            flush()
            output.append(line)
            base = base if literal else indent
            continue
        if after_blank and indent > base:
            output.extend([" " * base + "::", "", line])
            literal = True
            continue
        if not text:
            base = indent
        text.append(line)
    flush()
    return output


def _inline(text: str) -> str:
    """Escape the text of a paragraph, and mark its code up."""
    parts, last = [], 0
    for match in CODE.finditer(text):
        parts.append(_escape(text[last : match.start()]))
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        glue_before = "\\ " if before and (before.isalnum() or before in "_/=") else ""
        glue_after = "\\ " if after and (after.isalnum() or after in "_=") else ""
        parts.append(glue_before + _code(match[2]) + glue_after)
        last = match.end()
    return "".join([*parts, _escape(text[last:])])


def _escape(text: str) -> str:
    """Escape markup, and the colon of words such as FILE:LINE, which docutils would take for a link."""
    return re.sub(r"([\\*|`]|_(?!\w)|(?<=\w):(?=[^\s/:]))", r"\\\1", text)


def _code(code: str) -> str:
    """Mark code up: a link if it names a class, or a function with its parentheses, and a literal otherwise."""
    name = code.removesuffix("()").rpartition(".")[2]
    if name in NAMES and (code.endswith("()") or name[:1].isupper()):
        return f":py:obj:`{code} <{NAMES[name]}>`"
    return f"``{code}``"


def process_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Convert a docstring before napoleon does, which comes later in the order of priorities."""
    text = to_rst(lines)
    first = [0] if what in ("attribute", "property") else []
    first += [number + 1 for number, line in enumerate(text[:-1]) if line.strip() in ("Returns:", "Yields:")]
    for number in first:
        text[number] = text[number].replace(":", COLON)
    lines[:] = text


def restore_colons(app, what, name, obj, options, lines: list[str]) -> None:
    """Undo after napoleon what `process_docstring` has done to colons."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def process_signature(app, what, name, obj, options, signature, return_annotation):
    """Return (arguments, result) with the annotations as the source has them, and short defaults."""
    if not callable(obj) or (isinstance(obj, type) and issubclass(obj, Exception)):
        return None
    try:
        parameters = list(inspect.signature(obj).parameters.values())
    except (TypeError, ValueError):  # a class written in C
        return None
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    if isinstance(obj, type):  # the fields of a dataclass are described below it
        if dataclasses.is_dataclass(obj):
            return "", None
        parameters = [p for p in parameters if p.name not in ("parent", "name")]  # of every Flax module
    known = vars(sys.modules[obj.__module__])
    shown = inspect.Signature([_as_written(p, known) for p in parameters])
    result = inspect.Signature.empty if isinstance(obj, type) else inspect.signature(obj).return_annotation
    return str(shown), None if result is inspect.Signature.empty else _annotation(result, known)


def _as_written(parameter: inspect.Parameter, known: Mapping[str, object]) -> inspect.Parameter:
    """Return a parameter whose annotation and default are shown as they stand in the source, or shorter."""
    default, annotation = parameter.default, parameter.annotation
    if annotation is not parameter.empty:
        annotation = _Text(_annotation(annotation, known))
    return parameter.replace(
        annotation=annotation, default=default if default is parameter.empty else _Text(_default(default))
    )


def _annotation(annotation: object, known: Mapping[str, object]) -> str:
    """Return an annotation as text, with the full names of our classes, which Sphinx shows short and makes links of."""

    class Qualify(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            value = known.get(node.id)
            module = getattr(value, "__module__", "") if isinstance(value, type) else ""
            places = {m.name: m.place(node.id) for m in find_public() if node.id in m.names}
            place = places.get(module) or NAMES.get(node.id)
            return ast.parse(f"~{place}", mode="eval").body if place else node

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant(node.value.strip()) if isinstance(node.value, str) and node.value.strip() else node

    annotation = getattr(annotation, "__forward_arg__", annotation)  # of a field of a NamedTuple
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return ast.unparse(Qualify().visit(ast.parse(text, mode="eval")))


def _default(value: object) -> str:
    """Return the default of a parameter as text that fits into a signature."""
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value) if len(repr(value)) <= 60 and "<" not in repr(value) else "..."


class _Text(str):
    """Text that a signature shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def resolve_name(app, env, node: addnodes.pending_xref, contnode):
    """Leave the names of other packages, of private classes and of type aliases as text."""
    target = node["reftarget"]
    own = target.startswith("speech_jax.") and not target.rpartition(".")[2].startswith("_")
    return contnode if node.get("refdomain") == "py" and not own else None


def leave_out_tyro(app, domain: str, objtype: str, content) -> None:
    """Show the type alone of a field that carries settings of its flag."""
    for node in content.parent.findall(addnodes.desc_annotation):
        texts = [node.astext(), *(reference["reftarget"] for reference in node.findall(addnodes.pending_xref))]
        match = re.search(r"Annotated\[(.+?), (Positional|~?tyro\S+)", "\n".join(texts))
        if match:
            node.clear()
            node += nodes.Text(f": {re.sub(r'~?speech_jax[.][a-z_.]+', '', match[1])}")


def skip_member(app, what, name, obj, skip, options):
    """Leave out fields of NamedTuples, which their docstrings describe, and functions that are a field's default."""
    elsewhere = what == "class" and callable(obj) and not str(getattr(obj, "__module__", "")).startswith("speech_jax")
    return True if elsewhere or type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Register the hooks."""
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("object-description-transform", leave_out_tyro)
    app.connect("missing-reference", resolve_name)
    return {"parallel_read_safe": True, "version": "1"}
