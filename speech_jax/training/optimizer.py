"""Optimizers, learning rate schedules, weight decay and freezing, put together from optax's parts.

Freezing has traps (masked transformations, decay and clipping that reach frozen leaves); the form that has none is
`optax.partition` with everything, clipping too, inside the trainable part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.core.rules import leaf_name, match_rules, named_leaves
from speech_jax.core.types import PyTree

NEVER = -1  # instead of the step from which something moves
_LAYER = re.compile(r"(?:^|/)layers_(\d+)/")


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the parameters, how fast, and which of them."""

    name: Literal["adamw", "adam", "sgd", "rmsprop", "lion"] = "adamw"
    """The rule: Adam with decoupled weight decay, Adam, SGD with momentum, RMSProp, or Lion."""
    schedule: Literal["noam", "tri_stage", "cosine", "wsd", "constant", "steps"] = "noam"
    """The learning rate's way after its linear warm-up: noam falls with 1/sqrt(step); tri_stage holds, then decays
    exponentially to end_lr; cosine falls along half a cosine; wsd holds, then falls linearly over the last decay_steps;
    constant stays; steps is multiplied by fall_factor at each step of `falls`."""
    peak_lr: float = 1e-3
    """The highest learning rate, at the end of the warm-up. NeMo's Noam factor f with width d and warm-up w has
    f / sqrt(d * w)."""
    end_lr: float = 1e-6
    """The lowest learning rate: where the schedule ends, and the floor of noam."""
    warmup_steps: int = 1000
    """Steps from 0 to peak_lr."""
    hold_steps: int = 0
    """Steps at peak_lr after the warm-up (tri_stage only)."""
    decay_steps: int = 0
    """Steps of the final fall (wsd and tri_stage); 0 means all that is left of the run for tri_stage, a tenth of the
    run for wsd."""
    falls: tuple[int, ...] = new_field(())
    """Steps at which the learning rate falls (steps only)."""
    fall_factor: float = new_field(0.1)
    """What it is multiplied by there."""
    b1: float = 0.9
    """Decay of the first moment (adam, adamw, lion)."""
    b2: float = 0.98
    """Decay of the second moment (adam, adamw, lion, rmsprop)."""
    eps: float = 1e-9
    """Added to the root of the second moment (adam, adamw, rmsprop)."""
    momentum: float = 0.9
    """Momentum (sgd, rmsprop)."""
    weight_decay: float = 1e-3
    """Decoupled weight decay, times the learning rate. Plain adam takes none."""
    l2: float = new_field(0.0)
    """So much times the parameter is added to the gradient, after the clipping and before the rule: the weight decay of
    PyTorch's Adam, the L2 regularization of the Tacotron papers. Not to those that `no_decay` names."""
    no_decay: tuple[str, ...] = (r"(^|/)(bias|scale|[a-z_]*_bias)$", r"(?i)norm")
    """Patterns of the parameters without weight decay and L2: biases and norms."""
    clip_norm: float | None = 1.0
    """The gradient of all trainable parameters together is scaled down to this norm; none turns it off."""
    groups: tuple[tuple[str, float | None], ...] = ((".*", 1.0),)
    """(pattern, factor on the learning rate), the first match wins; none freezes, batch statistics of
    that name too. Must cover every parameter."""
    hold: tuple[tuple[str, int], ...] = ()
    """(pattern, steps): parameters, and batch statistics of that name, that stand still for so many steps; the first
    match wins. ("^encoder/", 500) warms up the head alone; several patterns unfreeze gradually."""
    anchor: float = 0.0
    """L2-SP (Li et al. 2018): so much times the distance from where the run started is added to the gradient, the
    quadratic anchor/2 · |θ − θ₀|² to the loss. The head is left free (`anchor_free`)."""
    ewc: float = 0.0
    """Elastic weight consolidation (Kirkpatrick et al. 2017): the same, each parameter weighted by its Fisher
    information on the old domain, which is scaled to a mean of 1."""
    ewc_batches: int = 50
    """Batches of the old domain (`pre`) from which the Fisher information is estimated, before the first step."""
    anchor_free: tuple[str, ...] = (r"^head/",)
    """Patterns of the parameters that neither of the two holds."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it: the head has 1, the topmost of n layers
    (`layers_<n-1>`) this, what lies below the layers this to the power of n + 1."""


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step: step 0 already takes the first step of the warm-up.

    Raises UserError if the stages do not fit into `total_steps`.
    """
    peak, end, warmup = config.peak_lr, config.end_lr, config.warmup_steps
    if peak < 0 or warmup < 0 or config.hold_steps < 0 or config.decay_steps < 0:
        raise UserError("optimizer: found a negative peak_lr, warmup_steps, hold_steps or decay_steps, expected none")
    if config.schedule in ("tri_stage", "cosine", "wsd") and warmup + config.hold_steps >= total_steps:
        raise UserError(
            f"optimizer.warmup_steps: found {warmup} (and hold_steps {config.hold_steps}) of {total_steps} steps, "
            f"expected fewer: the schedule {config.schedule} has to come down again"
        )
    if config.schedule == "steps" and (list(config.falls) != sorted(set(config.falls)) or config.fall_factor <= 0):
        found = f"falls {config.falls}, fall_factor {config.fall_factor}"
        raise UserError(f"optimizer: found {found}, expected ascending steps and a factor above 0")
    if config.schedule == "tri_stage" and end <= 0:
        raise UserError(f"optimizer.end_lr: found {end}, expected a number > 0: tri_stage decays exponentially")

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.float32) + 1.0
        rise = t / max(warmup, 1)
        if config.schedule == "noam":
            after = jnp.maximum(jnp.sqrt(max(warmup, 1) / t), end / peak if peak else 0.0)
        elif config.schedule == "tri_stage":
            decay = config.decay_steps or (total_steps - warmup - config.hold_steps)
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
            fallen = sum((jnp.asarray(t > fall, jnp.float32) for fall in config.falls), jnp.zeros(()))
            after = config.fall_factor**fallen
        else:
            after = jnp.ones(())
        return peak * jnp.where(t < warmup, rise, after)

    return rate


def _between(end: float, peak: float, x: Array) -> Array:
    low = end / peak if peak else 0.0
    return low + (1 - low) * x


def make_optimizer(
    config: OptimizerConfig, params: PyTree, total_steps: int, fisher: PyTree | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer for these parameters (or their shapes). Its `update` takes the extra argument `step`.

    fisher: for config.ewc, a tree like the parameters; `init` puts it into the state, from where a resumed run has it.

    One clock, the run's step, drives the learning rate; alpha and the randomness follow the same one. Frozen leaves
    keep no optimizer state, get a zero update, and do not count in the clipping.
    Raises UserError for groups that leave out a parameter or name none.
    """
    if config.name == "adam" and config.weight_decay:
        raise UserError(
            f"optimizer.weight_decay: found {config.weight_decay} with adam, expected 0, or adamw as optimizer.name"
        )
    factors = match_rules(params, config.groups, "optimizer.groups", must_be_used=True)
    labels = jax.tree.map(lambda f: "freeze" if f is None else "train", factors, is_leaf=lambda f: f is None)
    if "train" not in jax.tree.leaves(labels):
        raise UserError("optimizer.groups: found that every parameter is frozen, expected at least one to train")
    _check_hold(config, params)
    if config.anchor < 0 or config.ewc < 0 or config.l2 < 0:
        found = f"anchor {config.anchor}, ewc {config.ewc}, l2 {config.l2}"
        raise UserError(f"optimizer: found {found}, expected 0 or more")
    parts = []
    if config.anchor or config.ewc:
        parts.append(pull_back(config.anchor, config.ewc, config.anchor_free, fisher))
    if config.hold:
        parts.append(hold_still(config.hold))
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.l2:
        parts.append(decay_weights(config.l2, config.no_decay))
    parts.append(_direction(config))
    if config.weight_decay:
        parts.append(decay_weights(config.weight_decay, config.no_decay))
    parts.append(scale_by_rate(learning_rate(config, total_steps), rate_factors(config, params)))
    return optax.partition({"train": optax.chain(*parts), "freeze": optax.set_to_zero()}, labels)


def trainable(config: OptimizerConfig, params: PyTree) -> PyTree:
    """A tree of bool: which leaves the optimizer moves."""
    factors = match_rules(params, config.groups, "optimizer.groups", must_be_used=True)
    return jax.tree.map(lambda f: f is not None, factors, is_leaf=lambda f: f is None)


def moving_state(config: OptimizerConfig, model_state: PyTree) -> PyTree:
    """A tree of int: the step from which a batch statistic moves, or NEVER. A frozen module's statistics are frozen
    with it, or what it computes would drift although its weights stand still; a name that no group fits moves."""

    def one(path: tuple[Any, ...], _: Any) -> int:
        # "batch_stats/encoder/…": a pattern that begins with "^encoder/" means the module, so both names are tried
        names = leaf_name(path), leaf_name(path[1:])

        def first(rules: tuple[tuple[str, Any], ...]) -> Any:
            return next(value for pattern, value in rules if any(re.search(pattern, name) for name in names))

        return NEVER if first((*config.groups, ("", 1.0))) is None else first((*config.hold, ("", 0)))

    return jax.tree_util.tree_map_with_path(one, model_state)


def rate_factors(config: OptimizerConfig, params: PyTree) -> dict[str, float]:
    """name -> factor on the learning rate: the group's times the layer's."""
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"optimizer.layer_decay: found {config.layer_decay}, expected 0 < factor <= 1")
    groups = named_leaves(match_rules(params, config.groups, "optimizer.groups"))
    layer = {name: _LAYER.search(name) for name in named_leaves(params)}
    count = 1 + max((int(found[1]) for found in layer.values() if found), default=-1)
    if config.layer_decay < 1 and not count:
        raise UserError("optimizer.layer_decay: found no parameters called layers_<number>, expected some")
    factors = {}
    for name, found in layer.items():
        depth = count - int(found[1]) if found else 0 if re.search(r"(^|/)head/", name) else count + 1
        factors[name] = (groups.get(name) or 0.0) * config.layer_decay**depth
    return factors


class PullState(NamedTuple):
    """Where the run started, and how much each parameter matters there; None where nothing pulls."""

    start: PyTree
    fisher: PyTree


def pull_back(
    anchor: float, ewc: float, free: tuple[str, ...], fisher: PyTree | None = None
) -> optax.GradientTransformation:
    """Adds (anchor + ewc · fisher) · (θ − θ₀) to the gradient; θ₀ are the parameters that `init` is called with."""
    patterns = [re.compile(pattern) for pattern in free]

    def held(path: tuple[Any, ...]) -> bool:
        return not any(pattern.search(leaf_name(path)) for pattern in patterns)

    def init(params: PyTree) -> PullState:
        start = jax.tree_util.tree_map_with_path(lambda path, p: jnp.copy(p) if held(path) else None, params)
        if not ewc:
            return PullState(start, None)
        known = {} if fisher is None else named_leaves(fisher)
        weights = jax.tree_util.tree_map_with_path(
            lambda path, p: jnp.asarray(known.get(leaf_name(path), jnp.zeros_like(p))) if held(path) else None, params
        )
        return PullState(start, weights)

    def update(updates: PyTree, state: PullState, params: PyTree | None = None) -> tuple[PyTree, PullState]:
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


def _check_hold(config: OptimizerConfig, params: PyTree) -> None:
    match_rules(params, (*config.hold, ("", 0)), "optimizer.hold", must_be_used=True)
    for pattern, steps in config.hold:
        if steps < 0:
            raise UserError(f"optimizer.hold: found {steps} steps for {pattern!r}, expected 0 or more")


def hold_still(hold: tuple[tuple[str, int], ...]) -> optax.GradientTransformationExtraArgs:
    """Takes the gradient from what must not move yet, before anything is made of it: it does not count in the clipping,
    leaves no trace in the optimizer's moments, and (see `decay_weights`) is not shrunk either."""

    def update(updates, state, params=None, *, step, **extra):
        del params, extra
        since = match_rules(updates, (*hold, ("", 0)), "optimizer.hold")
        return jax.tree.map(lambda u, s: jnp.where(step >= s, u, jnp.zeros_like(u)) if s else u, updates, since), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.name in ("adam", "adamw"):
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.name == "lion":
        return optax.scale_by_lion(b1=config.b1, b2=config.b2)
    if config.name == "sgd":
        return optax.trace(decay=config.momentum) if config.momentum else optax.identity()
    if config.name == "rmsprop":
        scale = optax.scale_by_rms(decay=config.b2, eps=config.eps)
        return optax.chain(scale, optax.trace(decay=config.momentum)) if config.momentum else scale
    raise UserError(f"optimizer.name: found {config.name!r}, expected adamw, adam, sgd, rmsprop or lion")


def decay_weights(rate: float, no_decay: tuple[str, ...]) -> optax.GradientTransformation:
    """Adds rate * parameter to every update, except to leaves that match `no_decay` and to leaves that nothing reaches.

    A leaf whose whole update is 0 gets no gradient from any term (the task's head at alpha = 1): AdamW would shrink
    it all the same, here it stays as it is.
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
    """Empty: the clock is the run's step."""


def scale_by_rate(rate: optax.Schedule, factors: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    """Scales every update by minus the learning rate at `step`, times its leaf's factor."""

    def update(updates, state, params=None, *, step, **extra):
        del params, extra
        now = rate(step)

        def one(path: tuple[Any, ...], u: Array) -> Array:
            return (-now * factors[leaf_name(path)]).astype(u.dtype) * u

        return jax.tree_util.tree_map_with_path(one, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: RateState(), update)
