"""Lists of (regex, value) over parameter names, for frozen parameters, learning rates and sharding.

A name is the path of a leaf joined by "/", for example "encoder/layer_0/attention/query/kernel". The first pattern
that matches anywhere in the name (`re.search`) applies. A list must cover every leaf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return a JAX key path as text: dict keys, attribute names and indices joined by "/"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return a dict from name to leaf, in the tree's order."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nest_leaves(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `named_leaves` for a tree of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def match_rules(tree: PyTree, rules: Sequence[tuple[str, Any]], source: str, *, must_be_used: bool = False) -> PyTree:
    """Replace each leaf by the value of the first rule whose pattern matches its name.

    Args:
        tree: pytree of parameters.
        rules: pairs of a regular expression and a value.
        source: name of the list in error messages, for example "optimizer.groups".
        must_be_used: refuse a pattern that matches no name: a misspelled freeze would freeze nothing.

    Returns:
        A tree of the same structure, with the values.

    Raises:
        UserError: a leaf without a rule, an unused pattern, or a pattern that is not a regular expression.
    """
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise UserError(f"{source}: found {pattern!r}, expected a regular expression ({error})") from error
    names = list(named_leaves(tree))
    if must_be_used:
        for pattern, _ in compiled:
            if names and not any(pattern.search(name) for name in names):
                example = names[0]
                raise UserError(
                    f"{source}: found {pattern.pattern!r}, which fits no parameter; they look like {example!r}"
                )

    def value_of(path: tuple[Any, ...], _: Any) -> Any:
        name = leaf_name(path)
        for pattern, value in compiled:
            if pattern.search(name):
                return value
        raise UserError(f"{source}: found no rule for {name!r}, expected the list to cover every parameter")

    return jax.tree_util.tree_map_with_path(value_of, tree)
