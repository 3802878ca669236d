"""Lists of (regex, value) over parameter names: the one way to say what is frozen, how fast a leaf learns and where
it lies.

A name is the path of a leaf joined by "/", for example "encoder/layer_0/attention/query/kernel". The first pattern
that is found anywhere in the name (`re.search`) wins. A list must cover every leaf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree


def leaf_name(path: tuple[Any, ...]) -> str:
    """A jax key path as text: dict keys, attribute names and indices joined by "/"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """name -> leaf, in the tree's own order."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nest_leaves(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `named_leaves` for a tree of dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def match_rules(tree: PyTree, rules: Sequence[tuple[str, Any]], what: str, *, must_be_used: bool = False) -> PyTree:
    """The tree with each leaf replaced by the value of the first rule whose pattern is found in its name.

    what: how the list is called in messages, for example "optimizer.groups".
    must_be_used: also refuse a pattern that is found in no name at all: a misspelled freeze would freeze nothing.
    Raises UserError for a leaf without a rule, or a pattern that is no regular expression.
    """
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise UserError(f"{what}: found {pattern!r}, expected a regular expression ({error})") from error
    names = list(named_leaves(tree))
    if must_be_used:
        for pattern, _ in compiled:
            if names and not any(pattern.search(name) for name in names):
                example = names[0]
                raise UserError(
                    f"{what}: found {pattern.pattern!r}, which fits no parameter; they look like {example!r}"
                )

    def value_of(path: tuple[Any, ...], _: Any) -> Any:
        name = leaf_name(path)
        for pattern, value in compiled:
            if pattern.search(name):
                return value
        raise UserError(f"{what}: found no rule for {name!r}, expected the list to cover every parameter")

    return jax.tree_util.tree_map_with_path(value_of, tree)
