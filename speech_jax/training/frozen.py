"""Which parameters and batch statistics are frozen, and from which step the others are trained.

A batch norm is frozen if all its parameters are. It then computes as in evaluation, by its running statistics, which
stay as they are: with the batch's statistics the output of a frozen encoder would depend on the other utterances of
the batch, and differ from what is evaluated. Dropout and augmentation stay on: they regularize the parts that are
trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from speech_jax.core.rules import leaf_name, match_rules, named_leaves
from speech_jax.core.types import OWN, TEACHER, PyTree
from speech_jax.models.layers import HELD
from speech_jax.training.config import OptimizerConfig

NEVER = -1  # instead of the step from which something is trained


def first_steps(config: OptimizerConfig, params: PyTree) -> dict[str, int]:
    """Return parameter name -> the step from which it is trained, or NEVER where it is frozen.

    Args:
        config: `groups` freeze for good, `hold` for the first steps.
        params: the parameters, or their shapes.
    """
    factors = named_leaves(match_rules(params, config.groups, "optimizer.groups"))  # None is no leaf
    held = named_leaves(match_rules(params, (*config.hold, ("", 0)), "optimizer.hold"))
    return {name: first if name in factors else NEVER for name, first in held.items()}


def count_params(config: OptimizerConfig, params: PyTree) -> str:
    """Return how many parameters are trained, held for their first steps, frozen and adapted, for the log."""
    sizes = dict.fromkeys(("trained", "held at first", "frozen", "of these adapted"), 0)
    count = {name: math.prod(leaf.shape) for name, leaf in named_leaves(params).items()}
    for name, first in first_steps(config, params).items():
        sizes["frozen" if first == NEVER else "held at first" if first else "trained"] += count[name]
        if f"adapter/{name.removeprefix('base/')}/a" in count:
            sizes["of these adapted"] += count[name]
    parts = ", ".join(f"{size:,} {kind}" for kind, size in sizes.items() if size or kind in ("trained", "frozen"))
    return f"{sum(count.values()):,} parameters ({parts})"


def moving_state(config: OptimizerConfig, params: PyTree, model_state: PyTree) -> PyTree:
    """Return a tree of int like the model state: the step from which each statistic is updated, or NEVER.

    Statistics follow the parameters of their own module, which lie below "base/" where there are adapters. Where the
    module has none, the first rule that matches the statistic's name applies. A teacher's never move.

    Args:
        config: the optimizer's config.
        params: the parameters, or their shapes.
        model_state: the model state, or its shapes.
    """
    modules: dict[str, list[int]] = {}
    for name, first in first_steps(config, params).items():
        modules.setdefault(name.rpartition("/")[0], []).append(first)

    def by_name(*names: str) -> int:
        def first_match(rules: tuple[tuple[str, Any], ...]) -> Any:
            return next(value for pattern, value in rules if any(re.search(pattern, name) for name in names))

        return NEVER if first_match((*config.groups, ("", 1.0))) is None else first_match((*config.hold, ("", 0)))

    def first_step(path: tuple[Any, ...], _: Any) -> int:
        names = leaf_name(path).removeprefix(f"{OWN}/").split("/")
        if names[0] == TEACHER:
            return NEVER
        module = "/".join(names[1:-1])  # of "batch_stats/encoder/…/norm/mean"
        steps = modules.get(module) or modules.get(f"base/{module}")
        if steps is None:
            return by_name("/".join(names), "/".join(names[1:]))
        return min((step for step in steps if step != NEVER), default=NEVER)

    return jax.tree_util.tree_map_with_path(first_step, model_state)


def hold_statistics(model_state: PyTree, first: PyTree | None, step: Int[Array, ""]) -> PyTree:
    """Mark the batch norms that compute as in evaluation at this step.

    Args:
        model_state: the model state.
        first: from `moving_state`; None holds none.
        step: the optimizer step.

    Returns:
        The model state with a flag beside each mean and var, or as it is where nothing is ever held.
    """
    steps: list[int] = []
    _map_norms(lambda norm: steps.append(norm["mean"]), {} if first is None else first)
    if not any(steps):
        return model_state

    def mark(norm: Mapping[str, Any], first: Mapping[str, int]) -> dict[str, Any]:
        return {**norm, HELD: jnp.asarray(True) if first["mean"] == NEVER else step < first["mean"]}

    return _map_norms(mark, model_state, first)


def release_statistics(model_state: PyTree) -> PyTree:
    """Return the model state without the flags of `hold_statistics`."""
    return _map_norms(lambda norm: {name: leaf for name, leaf in norm.items() if name != HELD}, model_state)


def _map_norms(function: Callable, state: PyTree, *others: PyTree) -> PyTree:
    """Apply a function to the statistics of each batch norm but a teacher's, and of as many other trees."""
    if not isinstance(state, Mapping):
        return state
    if {"mean", "var"} <= set(state):
        return function(state, *others)
    return {
        name: part if name == TEACHER else _map_norms(function, part, *(other[name] for other in others))
        for name, part in state.items()
    }
