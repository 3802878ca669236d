"""Optimizers, learning rate schedules, weight decay and freezing, built from optax.

Everything, clipping too, lies inside the trainable part of an `optax.partition`: with masked transformations, weight
decay and clipping would reach frozen parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.rules import check_patterns, compile_pattern, leaf_name, match_rules, named_leaves
from speech_jax.core.types import PyTree
from speech_jax.objectives.schedules import Schedule
from speech_jax.training.config import OptimizerConfig

_LAYER = re.compile(r"(?:^|/)layers_(\d+)/")


def check_optimizer(config: OptimizerConfig, steps: int) -> None:
    """Check everything in the config that can be checked without parameters or data.

    Args:
        config: the config.
        steps: optimizer steps of the run.

    Raises:
        UserError: naming the flag, for values out of range, a schedule longer than the run, or an invalid pattern.
    """
    if config.name not in _OPTIMIZERS:
        raise UserError(f"optimizer.name: found {config.name!r}, expected one of {', '.join(_OPTIMIZERS)}")
    if config.name == "adam" and config.weight_decay:
        raise UserError(
            f"optimizer.weight_decay: found {config.weight_decay} with adam, expected 0, or adamw as optimizer.name"
        )
    _check_schedule(config, steps)
    _check_ranges(config)
    for pattern, factor in config.groups:
        if factor is not None and not 0 < factor < math.inf:
            raise UserError(
                f"optimizer.groups: found {factor} for {pattern!r}, expected a number above 0, or None, which freezes"
            )
    for pattern, hold in config.hold:
        if hold < 0:
            raise UserError(f"optimizer.hold: found {hold} steps for {pattern!r}, expected 0 or more")
    if config.hold and config.hold[-1][1] == 0:  # a 0 before others exempts parameters from them
        raise UserError(f"optimizer.hold: found 0 steps for {config.hold[-1][0]!r}, expected 1 or more")
    for name in ("groups", "hold", "no_decay", "anchor_free"):
        for rule in getattr(config, name):
            compile_pattern(rule if isinstance(rule, str) else rule[0], f"optimizer.{name}")


def _check_ranges(config: OptimizerConfig) -> None:
    """Raise UserError for a number out of its range, also one with which nothing is trained; NaN is out of each."""
    for names, low, high, expected in (
        ("anchor ewc l2 weight_decay eps end_lr", 0, math.inf, "a number of 0 or more"),
        ("b1 b2 momentum", 0, 1, "a number from 0 to below 1"),
        ("ewc_batches ewc_microbatch", 1, math.inf, "1 or more"),
    ):
        for name in names.split():
            if not low <= getattr(config, name) < high:
                raise UserError(f"optimizer.{name}: found {getattr(config, name)}, expected {expected}")
    if not 0 < config.peak_lr < math.inf:
        raise UserError(f"optimizer.peak_lr: found {config.peak_lr}, expected a number above 0")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise UserError(f"optimizer.clip_norm: found {config.clip_norm}, expected a number above 0, or None for none")
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"optimizer.layer_decay: found {config.layer_decay}, expected 0 < factor <= 1")


def _check_schedule(config: OptimizerConfig, steps: int) -> None:
    for name in ("warmup_steps", "hold_steps", "decay_steps"):
        if getattr(config, name) < 0:
            raise UserError(f"optimizer.{name}: found {getattr(config, name)}, expected 0 or more")
    if config.schedule in ("tri_stage", "cosine", "wsd") and config.warmup_steps >= steps:
        raise UserError(
            f"optimizer.warmup_steps: found {config.warmup_steps}, expected fewer than the {steps} steps of "
            f"trainer.steps: the schedule {config.schedule} has to decay after them"
        )
    if config.schedule == "steps" and (list(config.falls) != sorted(set(config.falls)) or config.fall_factor <= 0):
        values = f"falls {config.falls}, fall_factor {config.fall_factor}"
        raise UserError(f"optimizer: found {values}, expected ascending steps and a factor above 0")
    if config.schedule == "tri_stage" and config.end_lr <= 0:
        raise UserError(
            f"optimizer.end_lr: found {config.end_lr}, expected a number above 0: tri_stage decays exponentially"
        )


def learning_rate(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Make the learning rate schedule, a function of the step.

    Step 0 has the rate after the first step of the warm-up, not 0.

    Args:
        config: the schedule and its settings.
        total_steps: optimizer steps of the run.

    Returns:
        The function step -> learning rate.

    Raises:
        UserError: if a setting is out of range or the stages do not fit into `total_steps`.

    Example:
        >>> from speech_jax.training.config import OptimizerConfig
        >>> from speech_jax.training.optimizer import learning_rate
        >>> rate = learning_rate(OptimizerConfig(schedule="noam", peak_lr=1e-3, warmup_steps=100), 1000)
        >>> [round(float(rate(step)), 6) for step in (0, 49, 99, 399)]
        [1e-05, 0.0005, 0.001, 0.0005]
    """
    _check_schedule(config, total_steps)
    peak, end, warmup = config.peak_lr, config.end_lr, config.warmup_steps

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.float32) + 1.0
        warming_up = t / max(warmup, 1)
        if config.schedule == "noam":
            after = jnp.maximum(jnp.sqrt(max(warmup, 1) / t), end / peak if peak else 0.0)
        elif config.schedule == "tri_stage":
            decay = config.decay_steps or max(total_steps - warmup - config.hold_steps, 1)
            done = jnp.clip((t - warmup - config.hold_steps) / decay, 0.0, 1.0)
            after = (end / peak if peak else 1.0) ** done
        elif config.schedule == "cosine":
            done = jnp.clip((t - warmup) / (total_steps - warmup), 0.0, 1.0)
            after = _between(end, peak, 0.5 * (1 + jnp.cos(jnp.pi * done)))
        elif config.schedule == "wsd":
            decay = min(config.decay_steps or max(total_steps // 10, 1), total_steps - warmup)
            done = jnp.clip((t - (total_steps - decay)) / decay, 0.0, 1.0)
            after = _between(end, peak, 1 - done)
        elif config.schedule == "steps":
            drops = sum((jnp.asarray(t > fall, jnp.float32) for fall in config.falls), jnp.zeros(()))
            after = config.fall_factor**drops
        else:
            after = jnp.ones(())
        return peak * jnp.where(t < warmup, warming_up, after)

    return rate


def _between(end: float, peak: float, x: Array) -> Array:
    low = end / peak if peak else 0.0
    return low + (1 - low) * x


def make_optimizer(
    config: OptimizerConfig, params: PyTree, total_steps: int, fisher: PyTree | None = None
) -> optax.GradientTransformationExtraArgs:
    """Make the optimizer for these parameters. Its `update` takes the extra argument `step`.

    The run's step is the only clock: the learning rate, alpha and the randomness all follow it. Frozen parameters have
    no optimizer state, get a zero update and do not count in the clipping.

    Args:
        config: the config.
        params: the parameters, or their shapes.
        total_steps: optimizer steps of the run.
        fisher: for `config.ewc`, a tree like the parameters; `init` puts it into the state, where a resumed run has it.

    Returns:
        An optax transformation whose updates are to be added to the parameters.

    Raises:
        UserError: if `check_optimizer` refuses the config, `config.groups` do not cover every parameter, or a pattern
            matches none.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.training.config import OptimizerConfig
        >>> from speech_jax.training.optimizer import make_optimizer
        >>> params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> config = OptimizerConfig(
        ...     name="sgd", schedule="constant", peak_lr=0.5, warmup_steps=0, weight_decay=0.0, clip_norm=None,
        ...     groups=(("^encoder/", None), (".*", 1.0)),
        ... )
        >>> optimizer = make_optimizer(config, params, total_steps=100)
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params, step=jnp.int32(0))
        >>> print(updates["encoder"]["kernel"], updates["head"]["kernel"])
        [0. 0.] [-0.5 -0.5]
    """
    check_optimizer(config, total_steps)
    factors = match_rules(params, config.groups, "optimizer.groups", must_be_used=True)
    labels = jax.tree.map(lambda f: "freeze" if f is None else "train", factors, is_leaf=lambda f: f is None)
    if "train" not in jax.tree.leaves(labels):
        raise UserError("optimizer.groups: found that every parameter is frozen, expected at least one to train")
    check_reach(config, params, named_leaves(factors).keys(), total_steps)  # the frozen have None, which is no leaf
    parts = []
    if config.anchor or config.ewc:
        parts.append(pull_to_start(config.anchor, config.ewc, config.anchor_free, fisher))
    if config.hold:
        parts.append(freeze_for_steps(config.hold))
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.l2:
        parts.append(decay_weights(config.l2, config.no_decay))
    parts.append(_OPTIMIZERS[config.name](config))
    if config.weight_decay:
        parts.append(decay_weights(config.weight_decay, config.no_decay))
    parts.append(scale_by_rate(learning_rate(config, total_steps), rate_factors(config, params)))
    return optax.partition({"train": optax.chain(*parts), "freeze": optax.set_to_zero()}, labels)


def check_reach(config: OptimizerConfig, params: PyTree, trained: Collection[str], total_steps: int) -> None:
    """Check that each pattern, and each penalty, reaches a parameter. The default patterns may match none.

    Args:
        config: the config.
        params: the parameters, or their shapes.
        trained: names of the parameters that `config.groups` do not freeze.
        total_steps: optimizer steps of the run.

    Raises:
        UserError: naming the pattern or the penalty; also if `config.hold` holds all that is trained to the end.
    """
    match_rules(params, config.hold, "optimizer.hold", must_be_used=True, default=0)
    source = "optimizer.hold of what optimizer.groups train"
    held = match_rules(dict.fromkeys(trained, 0), config.hold, source, must_be_used=True, default=0)
    if config.hold and min(held.values()) >= total_steps:
        raise UserError(
            f"optimizer.hold: found every parameter held for {min(held.values())} steps or more, expected at least one "
            f"that is trained within the {total_steps} steps of trainer.steps"
        )
    depths = layer_depths(params)
    if config.layer_decay < 1 and not any(depths[name] for name in trained):
        raise UserError(
            f"optimizer.layer_decay: found {config.layer_decay}, which reaches no parameter: optimizer.groups train "
            "the head alone"
        )
    names, defaults = named_leaves(params), OptimizerConfig()
    for flags, field in ((("weight_decay", "l2"), "no_decay"), (("anchor", "ewc"), "anchor_free")):
        if not any(getattr(config, flag) for flag in flags):
            continue
        patterns = getattr(config, field)
        check_patterns(patterns, names, f"optimizer.{field}", optional=getattr(defaults, field))
        given = [flag for flag in flags if getattr(config, flag) not in (0, getattr(defaults, flag))]
        if given and all(any(re.search(pattern, name) for pattern in patterns) for name in trained):
            raise UserError(
                f"optimizer.{given[0]}: found {getattr(config, given[0])}, which reaches no parameter: "
                f"optimizer.{field} leaves out all that are trained"
            )


def trainable(config: OptimizerConfig, params: PyTree) -> PyTree:
    """Return a tree of bool like the parameters: True for those that are not frozen."""
    factors = match_rules(params, config.groups, "optimizer.groups", must_be_used=True)
    return jax.tree.map(lambda f: f is not None, factors, is_leaf=lambda f: f is None)


def rate_factors(config: OptimizerConfig, params: PyTree) -> dict[str, float]:
    """Return parameter name -> factor on the learning rate: its group's factor times its layer's.

    Raises:
        UserError: for a `layer_decay` where no parameters are called layers_<number>.
    """
    groups = named_leaves(match_rules(params, config.groups, "optimizer.groups"))
    depths = layer_depths(params)
    if config.layer_decay < 1 and not any(map(_LAYER.search, depths)):
        raise UserError("optimizer.layer_decay: found no parameters called layers_<number>, expected some")
    return {name: groups.get(name, 0.0) * config.layer_decay**depth for name, depth in depths.items()}


def layer_depths(params: PyTree) -> dict[str, int]:
    """Return parameter name -> its depth: 0 in the head, 1 in the topmost of n layers, n + 1 below the layers."""
    layers = {name: _LAYER.search(name) for name in named_leaves(params)}
    count = 1 + max((int(match[1]) for match in layers.values() if match), default=-1)

    def depth(name: str, match: re.Match | None) -> int:
        return count - int(match[1]) if match else 0 if re.search(r"(^|/)head/", name) else count + 1

    return {name: depth(name, match) for name, match in layers.items()}


class PullState(NamedTuple):
    """State of `pull_to_start`; its trees have None in place of parameters that are not pulled.

    Attributes:
        start: the parameters at the start of the run.
        fisher: the weight of each parameter; None without `ewc`.
    """

    start: PyTree
    fisher: PyTree


def pull_to_start(
    anchor: float, ewc: float, free: tuple[str, ...], fisher: PyTree | None = None
) -> optax.GradientTransformation:
    """Add (anchor + ewc · fisher) · (θ − θ₀) to the gradient (L2-SP and elastic weight consolidation).

    Args:
        anchor: the same weight for every parameter.
        ewc: factor on `fisher`.
        free: regular expressions of the parameters that are left out.
        fisher: a tree like the parameters, or None.

    Returns:
        The transformation; θ₀ are the parameters that its `init` is called with.
    """
    patterns = [re.compile(pattern) for pattern in free]

    def pulled(path: tuple[Any, ...]) -> bool:
        return not any(pattern.search(leaf_name(path)) for pattern in patterns)

    def init(params: PyTree) -> PullState:
        start = jax.tree_util.tree_map_with_path(lambda path, p: jnp.copy(p) if pulled(path) else None, params)
        if not ewc:
            return PullState(start, None)
        by_name = {} if fisher is None else named_leaves(fisher)
        weights = jax.tree_util.tree_map_with_path(
            lambda path, p: jnp.asarray(by_name.get(leaf_name(path), jnp.zeros_like(p))) if pulled(path) else None,
            params,
        )
        return PullState(start, weights)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        starts = named_leaves(state.start)
        weights = {} if state.fisher is None else named_leaves(state.fisher)

        def one(path: tuple[Any, ...], u: Array, p: Array) -> Array:
            name = leaf_name(path)
            if name not in starts:
                return u
            strength = anchor + ewc * weights[name] if name in weights else anchor
            return u + (strength * (p - starts[name])).astype(u.dtype)

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(init, update)


def penalties(config: OptimizerConfig, params: PyTree, opt_state: PyTree) -> dict[str, tuple[Array, PyTree]]:
    """Return the penalties of `pull_to_start`, to be logged.

    Args:
        config: weights of the penalties.
        params: the parameters.
        opt_state: state of `make_optimizer`.

    Returns:
        "anchor" and "ewc", those that are on -> (what it adds to the loss, its gradient as name -> array).
    """

    def is_pull(node: Any) -> bool:
        return isinstance(node, PullState)

    pull = next(filter(is_pull, jax.tree.leaves(opt_state, is_leaf=is_pull)), None)
    if pull is None:
        return {}
    leaves = named_leaves(params)
    change = {name: leaves[name] - start for name, start in named_leaves(pull.start).items()}
    pulls = {}
    if config.anchor:
        pulls["anchor"] = {name: config.anchor * delta for name, delta in change.items()}
    if config.ewc:
        weights = named_leaves(pull.fisher)
        pulls["ewc"] = {name: config.ewc * weights[name] * delta for name, delta in change.items()}
    return {name: (jnp.asarray(0.5 * optax.tree.vdot(gradient, change)), gradient) for name, gradient in pulls.items()}


def freeze_for_steps(hold: tuple[tuple[str, int], ...]) -> optax.GradientTransformationExtraArgs:
    """Set the gradient of held parameters to zero for their first steps.

    It comes first in the chain, so that held parameters do not count in the clipping, leave no trace in the optimizer's
    moments and get no weight decay (see `decay_weights`).

    Args:
        hold: (regular expression, steps); the first match wins.
    """

    def update(updates, state, params=None, **extra):
        del params
        step = extra["step"]
        first = match_rules(updates, hold, "optimizer.hold", default=0)
        return jax.tree.map(lambda u, s: jnp.where(step >= s, u, jnp.zeros_like(u)) if s else u, updates, first), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _scale_by_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _scale_by_lion(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _scale_by_sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.trace(decay=config.momentum) if config.momentum else optax.identity()


def _scale_by_rmsprop(config: OptimizerConfig) -> optax.GradientTransformation:
    scale = optax.scale_by_rms(decay=config.b2, eps=config.eps)
    return optax.chain(scale, optax.trace(decay=config.momentum)) if config.momentum else scale


_OPTIMIZERS = {
    "adamw": _scale_by_adam,
    "adam": _scale_by_adam,
    "sgd": _scale_by_sgd,
    "rmsprop": _scale_by_rmsprop,
    "lion": _scale_by_lion,
}


def decay_weights(rate: float, no_decay: tuple[str, ...]) -> optax.GradientTransformation:
    """Add rate · parameter to every update that is not zero.

    A parameter whose whole update is 0 gets no gradient from any loss term (the task's head at alpha = 1): AdamW would
    shrink it nevertheless, here it stays as it is.

    Args:
        rate: the coefficient.
        no_decay: regular expressions of the parameters that are left out.
    """
    patterns = [re.compile(pattern) for pattern in no_decay]

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        def one(path: tuple[Any, ...], u: Array, p: Array) -> Array:
            if any(pattern.search(leaf_name(path)) for pattern in patterns):
                return u
            return u + jnp.where(jnp.any(u != 0), rate, 0.0).astype(u.dtype) * p

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class RateState(NamedTuple):
    """Empty state of `scale_by_rate`: the step is an argument of `update`."""


def scale_by_rate(rate: Schedule, factors: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    """Multiply every update by -rate(step) and by its parameter's factor.

    Args:
        rate: the learning rate schedule.
        factors: parameter name -> factor.
    """

    def update(updates, state, params=None, **extra):
        del params
        now = rate(extra["step"])

        def one(path: tuple[Any, ...], u: Array) -> Array:
            return (-now * factors[leaf_name(path)]).astype(u.dtype) * u

        return jax.tree_util.tree_map_with_path(one, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: RateState(), update)
