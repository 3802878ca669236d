"""Lists of (regex, value) over parameter names, for frozen parameters, learning rates and sharding.

A name is the path of a leaf joined by "/", for example "encoder/layer_0/attention/query/kernel". The first pattern
that matches anywhere in the name (`re.search`) applies. A list must cover every leaf.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from speech_jax.core.errors import UserError, nearest
from speech_jax.core.types import PyTree

REFUSED = object()  # instead of the default value of `match_rules`


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


def match_rules(
    tree: PyTree, rules: Sequence[tuple[str, Any]], source: str, *, must_be_used: bool = False, default: Any = REFUSED
) -> PyTree:
    """Replace each leaf by the value of the first rule whose pattern matches its name.

    Args:
        tree: pytree of parameters.
        rules: pairs of a regular expression and a value.
        source: name of the list in error messages, for example "optimizer.groups".
        must_be_used: refuse a rule that applies to no leaf: a misspelled freeze, or one behind a rule that takes
            everything, would freeze nothing. A last rule for the rest may find nothing left by several others.
        default: value of leaves without a rule; by default they are refused.

    Returns:
        A tree of the same structure, with the values.

    Raises:
        UserError: a leaf without a rule, an unused rule, or a pattern that is not a regular expression.
    """
    patterns = [compile_pattern(pattern, source) for pattern, _ in rules]
    names = list(named_leaves(tree))
    winners = {name: next((i for i, p in enumerate(patterns) if p.search(name)), None) for name in names}
    if must_be_used and names:
        _check_used(patterns, winners, source)

    def value_of(path: tuple[Any, ...], _: Any) -> Any:
        name = leaf_name(path)
        winner = winners[name]
        if winner is None and default is REFUSED:
            raise UserError(f"{source}: found no rule for {name!r}, expected the list to cover every parameter")
        return default if winner is None else rules[winner][1]

    return jax.tree_util.tree_map_with_path(value_of, tree)


def _check_used(patterns: Sequence[re.Pattern], winners: Mapping[str, int | None], source: str) -> None:
    used = set(winners.values())
    for number, pattern in enumerate(patterns):
        if number in used:
            continue
        taken = {winner for name, winner in winners.items() if winner is not None and pattern.search(name)}
        if not taken:
            raise unmatched(pattern.pattern, winners, source)
        is_rest = number == len(patterns) - 1 and all(pattern.search(name) for name in winners)
        if not (is_rest and len(taken) > 1):
            earlier = ", ".join(repr(patterns[i].pattern) for i in sorted(taken))
            raise UserError(
                f"{source}: found {pattern.pattern!r} after {earlier}, which leaves it no parameter, expected it "
                "before: the first match wins"
            )


def compile_pattern(pattern: str, source: str) -> re.Pattern:
    """Return a compiled pattern. Raises UserError, naming the list `source`, if it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{source}: found {pattern!r}, expected a regular expression ({error})") from error


def check_patterns(
    patterns: Sequence[str], names: Iterable[str], source: str, *, optional: Sequence[str] = (), distinct: bool = False
) -> None:
    """Check that each pattern matches a name.

    Args:
        patterns: regular expressions.
        names: names of parameters.
        source: name of the list in error messages, for example "optimizer.no_decay".
        optional: patterns that may match nothing: the defaults.
        distinct: refuse a pattern all of whose names the earlier ones match.

    Raises:
        UserError: for the first pattern without effect, with the nearest spelling.
    """
    names = list(names)
    earlier: set[str] = set()
    for pattern in patterns:
        search = compile_pattern(pattern, source).search
        matched = {name for name in names if search(name)}
        if not matched and pattern not in optional:
            raise unmatched(pattern, names, source)
        if distinct and matched and matched <= earlier:
            raise UserError(f"{source}: found {pattern!r}, which adds nothing to the patterns before it")
        earlier |= matched


def unmatched(pattern: str, names: Iterable[str], source: str) -> UserError:
    """Return the error for a pattern that matches none of the names, with the nearest spelling that does."""
    names = list(names)
    hint = f"; they look like {names[0]!r}" if names else ""
    parts = {part for name in names for part in re.findall(r"[A-Za-z_]+", name)}
    corrected = re.sub(
        r"(?<!\\)[A-Za-z_]{3,}",
        lambda match: match[0] if match[0] in parts else nearest(match[0], parts) or match[0],
        pattern,
    )
    if corrected != pattern and any(re.search(corrected, name) for name in names):
        hint = f"; did you mean {corrected!r}?"
    return UserError(f"{source}: found {pattern!r}, which fits no parameter{hint}")
