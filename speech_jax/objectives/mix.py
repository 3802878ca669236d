"""How losses combine: L(theta) = alpha * L_pre(theta) + (1 - alpha) * L_task(theta).

The same sum stands at two levels. `mix` makes an objective out of two; the trainer takes its terms apart again with
`terms` and `combine`, so that it can log each term's gradient at no extra cost. `combine_gradients` is an optax
transformation for those who keep the two gradients apart themselves. All three agree to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, LossOut, Objective, PyTree
from speech_jax.objectives.schedules import Schedule

Method = Literal["sum", "pcgrad"]


@dataclass(frozen=True)
class Mix:
    """alpha(step) * pre + (1 - alpha(step)) * task, on batch = {"pre": …, "task": …}. Make it with `mix`."""

    pre: Objective
    task: Objective
    alpha: float | Schedule

    def __call__(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: jax.Array, step: Int[Array, ""]
    ) -> LossOut:
        """The mixed loss. `weight` is the alpha-weighted sum of the terms' weights; metrics are prefixed by their
        term."""
        single = static_branch(self)
        if single is not None:
            out = getattr(self, single)(params, model_state, batch[single], key, step)
            return out._replace(metrics=_prefixed(single, out) | {"alpha": alpha_metric(self, step)})
        alpha = alpha_at(self.alpha, step)
        pre = self.pre(_gate(alpha, params), model_state, batch["pre"], pre_key(key), step)
        task = self.task(_gate(1 - alpha, params), model_state, batch["task"], key, step)
        return LossOut(
            value=_scaled(alpha, pre.value) + _scaled(1 - alpha, task.value),
            weight=_scaled(alpha, pre.weight) + _scaled(1 - alpha, task.weight),
            model_state=task.model_state,  # batch statistics follow the task's data only
            metrics=_prefixed("pre", pre) | _prefixed("task", task) | {"alpha": alpha_metric(self, step)},
        )


def mix(pre: Objective, task: Objective, alpha: float | Schedule) -> Mix:
    """L = alpha(step) * L_pre + (1 - alpha(step)) * L_task, itself an Objective, so that mixes nest.

    A schedule is clipped to [0, 1]. With a constant alpha of exactly 0 or 1 the other term is not computed, its batch
    need not be there, and the rest behaves bit for bit like the single term (its batch statistics too). A term whose
    weight is 0 cannot spoil the other one, whatever it returns. The task term gets the key as it is, whatever alpha
    is; the pre term a folded one.
    Both terms should be means per frame or per label: Adam forgets the overall scale, not the ratio of the two.

    Raises UserError if a constant alpha is not a number in [0, 1].
    """
    if not callable(alpha):
        number = float(alpha)
        if not (math.isfinite(number) and 0 <= number <= 1):
            raise UserError(f"alpha: found {alpha}, expected a number in [0, 1] or a schedule")
        alpha = number
    return Mix(pre, task, alpha)


def alpha_at(alpha: float | Schedule, step: Int[Array, ""]) -> Float[Array, ""]:
    """alpha at `step`, clipped to [0, 1], float32. A schedule that returns NaN counts as 0."""
    value = jnp.asarray(alpha(step) if callable(alpha) else alpha, jnp.float32)
    return jnp.clip(jnp.nan_to_num(value, nan=0.0), 0.0, 1.0)


def alpha_metric(objective: Mix, step: Int[Array, ""]) -> tuple[Array, Array]:
    return alpha_at(objective.alpha, step), jnp.ones(())


def static_branch(objective: Mix) -> str | None:
    """Which single term a constant alpha of exactly 0 or 1 leaves: "task", "pre", or None for both."""
    if callable(objective.alpha):
        return None
    return {0.0: "task", 1.0: "pre"}.get(objective.alpha)


def pre_key(key: jax.Array) -> jax.Array:
    """The pre term's own randomness, so that the task's draws do not depend on whether there is a pre term."""
    return jax.random.fold_in(key, 1)


# --- the terms of a mix, for the trainer ---------------------------------------------------------------------------


class Term(NamedTuple):
    """One leaf of a mix. `name` is "" for an objective that is no mix, else its branches joined by "/"."""

    name: str
    objective: Objective
    select: Callable[[Batch], Batch]
    key: Callable[[jax.Array], jax.Array]
    owns_state: bool  # whether its batch updates the batch statistics


def terms(objective: Objective) -> list[Term]:
    """The leaves of a (nested) mix that are computed, each with its part of the batch and its own key."""
    return _terms(objective, (), lambda key: key, True)


def _terms(objective: Objective, path: tuple[str, ...], key: Callable, owns_state: bool) -> list[Term]:
    if not isinstance(objective, Mix):

        def select(batch: Batch) -> Batch:
            for branch in path:
                batch = batch[branch]
            return batch

        return [Term("/".join(path), objective, select, key, owns_state)]
    single = static_branch(objective)
    if single is not None:
        return _terms(getattr(objective, single), (*path, single), key, owns_state)
    return [
        *_terms(objective.pre, (*path, "pre"), lambda k: pre_key(key(k)), False),
        *_terms(objective.task, (*path, "task"), key, owns_state),
    ]


def combine(
    objective: Objective,
    values: Mapping[str, Any],
    gradients: Mapping[str, PyTree],
    step: Int[Array, ""],
    *,
    method: Method = "sum",
) -> tuple[Float[Array, ""], PyTree, dict[str, tuple[Array, Array]]]:
    """The mixed loss, the mixed gradient, and what there is to log, from each term's own value and gradient.

    values, gradients: by the names of `terms(objective)`.
    The logs hold alpha, grad_norm/<term>, and grad_cos/pre_task, the cosine of the two gradients; those of a nested
    mix carry
    its branch: grad_cos/task/pre_task.
    """
    logs: dict[str, tuple[Array, Array]] = {}
    value, gradient = _combine(objective, (), values, gradients, step, method, logs)
    return value, gradient, logs


def _combine(objective, path, values, gradients, step, method, logs):
    name = "/".join(path)
    one = jnp.ones(())
    if not isinstance(objective, Mix):
        if name:
            logs[f"grad_norm/{name}"] = (optax.tree.norm(gradients[name]), one)
        return values[name], gradients[name]
    prefix = f"{name}/" if name else ""
    logs[f"{prefix}alpha"] = alpha_metric(objective, step)
    single = static_branch(objective)
    if single is not None:
        return _combine(getattr(objective, single), (*path, single), values, gradients, step, method, logs)
    pre_value, pre = _combine(objective.pre, (*path, "pre"), values, gradients, step, method, logs)
    task_value, task = _combine(objective.task, (*path, "task"), values, gradients, step, method, logs)
    alpha = alpha_at(objective.alpha, step)
    logs[f"grad_cos/{prefix}pre_task"] = (cosine_similarity(pre, task), one)
    value = _scaled(alpha, pre_value) + _scaled(1 - alpha, task_value)
    return value, combine_pair(alpha, pre, task, method)


def combine_pair(alpha: Float[Array, ""], pre: PyTree, task: PyTree, method: Method = "sum") -> PyTree:
    """alpha * pre + (1 - alpha) * task, where a gradient of weight 0 adds exactly nothing, NaN or not.

    "pcgrad" (arXiv 2001.06782) first takes out of each gradient what points against the other; where they agree, and
    where alpha is 0 or 1, it is the plain sum. Plain sums usually do as well (arXiv 2201.04122).
    """
    if method == "pcgrad":
        dot, pre_square, task_square = _vdot(pre, task), _vdot(pre, pre), _vdot(task, task)
        conflict = (dot < 0) & (alpha > 0) & (alpha < 1)
        from_pre = jnp.where(conflict, dot / jnp.where(conflict, task_square, 1.0), 0.0)
        from_task = jnp.where(conflict, dot / jnp.where(conflict, pre_square, 1.0), 0.0)

        def less(gradient: PyTree, other: PyTree, share: Array) -> PyTree:
            return jax.tree.map(lambda g, o: jnp.where(conflict, g - share * o, g), gradient, other)

        pre, task = less(pre, task, from_pre), less(task, pre, from_task)
    elif method != "sum":
        raise UserError(f"gradient method: found {method!r}, expected sum or pcgrad")
    return jax.tree.map(lambda p, t: _scaled(alpha, p) + _scaled(1 - alpha, t), pre, task)


def cosine_similarity(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """The cosine of the angle between two gradients; 0 if one of them is 0."""
    norms = optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.where(norms > 0, _vdot(a, b) / jnp.where(norms > 0, norms, 1.0), 0.0)


class CombineState(NamedTuple):
    """How many updates there were, and what the last one looked like."""

    count: Int[Array, ""]
    alpha: Float[Array, ""]
    norm_pre: Float[Array, ""]
    norm_task: Float[Array, ""]
    cosine: Float[Array, ""]


def combine_gradients(alpha: float | Schedule, *, method: Method = "sum") -> optax.GradientTransformationExtraArgs:
    """First in an `optax.chain`: its update takes {"pre": gradient, "task": gradient} and hands on one gradient.

    The schedule follows this transformation's own count of updates, or the extra argument `step` of `update` if it is
    given. "sum" equals `mix` to rounding. Raises UserError as `mix` does.
    """
    objective = mix(_no_objective, _no_objective, alpha)
    if method not in ("sum", "pcgrad"):
        raise UserError(f"gradient method: found {method!r}, expected sum or pcgrad")

    def init(params: PyTree) -> CombineState:
        del params
        zero = jnp.zeros(())
        return CombineState(jnp.zeros((), jnp.int32), zero, zero, zero, zero)

    def update(updates, state, params=None, *, step=None, **extra):
        del params, extra
        weight = alpha_at(objective.alpha, state.count if step is None else step)
        pre, task = updates["pre"], updates["task"]
        combined = combine_pair(weight, pre, task, method)
        norms = optax.tree.norm(pre), optax.tree.norm(task)
        count = optax.safe_increment(state.count)
        return combined, CombineState(count, weight, *norms, cosine_similarity(pre, task))

    return optax.GradientTransformationExtraArgs(init, update)


def _no_objective(*args: Any) -> LossOut:
    raise TypeError("combine_gradients takes gradients; it has no objective to call")


def _prefixed(name: str, out: LossOut) -> dict[str, tuple[Array, Array]]:
    metrics = {f"{name}/{key}": value for key, value in out.metrics.items()}
    return {f"{name}/loss": (_scaled(out.weight, out.value), out.weight)} | metrics


def _gate(weight: Float[Array, ""], params: PyTree) -> PyTree:
    """The identity, but its gradient is exactly 0 where weight is 0, even if what flows back is NaN."""
    return jax.tree.map(lambda p: jnp.where(weight > 0, p, jax.lax.stop_gradient(p)), params)


def _scaled(weight: Float[Array, ""], x: Array) -> Array:
    """weight * x in x's type, and exactly 0 where weight is 0: 0 * NaN would be NaN."""
    x = jnp.asarray(x)
    return jnp.where(weight > 0, (weight * x).astype(x.dtype), jnp.zeros_like(x))


def _vdot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    products = jax.tree.map(lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros(()))
