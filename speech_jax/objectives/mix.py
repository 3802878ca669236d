"""Combination of two losses: L(theta) = alpha * L_pre(theta) + (1 - alpha) * L_task(theta).

`mix` makes one objective out of two. The trainer splits it into its terms again (`terms`, `combine`), so that it can
log the gradient of each term at no extra cost. `combine_gradients` is the same sum as an optax transformation, for
training loops that compute the two gradients themselves. All three agree up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, LossOut, Objective, PyTree
from speech_jax.objectives.config import Method
from speech_jax.objectives.means import sums_of
from speech_jax.objectives.schedules import Schedule


@dataclass(frozen=True)
class Mix:
    """Objective alpha(step) * pre + (1 - alpha(step)) * task on batch = {"pre": …, "task": …}; made by `mix`.

    Attributes:
        pre: objective of pre-training.
        task: objective of the new task.
        alpha: weight on `pre`: a number in [0, 1], or a schedule.
    """

    pre: Objective
    task: Objective
    alpha: float | Schedule

    def __call__(
        self, params: PyTree, model_state: PyTree, batch: Batch, key: jax.Array, step: Int[Array, ""]
    ) -> LossOut:
        """Return the mixed loss.

        Its `weight` is the alpha-weighted sum of the terms' weights; the names of metrics begin with "pre/" or "task/".
        """
        single = static_branch(self)
        if single is not None:
            out = getattr(self, single)(params, model_state, batch[single], key, step)
            return out._replace(metrics=_prefixed(single, out) | {"alpha": alpha_metric(self, step)})
        alpha = alpha_at(self.alpha, step)
        pre = self.pre(_gate(alpha, params), model_state, batch["pre"], pre_key(key), step)
        task = self.task(_gate(1 - alpha, params), model_state, batch["task"], key, step)
        return mix_losses(alpha, pre, task)


def mix(pre: Objective, task: Objective, alpha: float | Schedule) -> Mix:
    """Return the objective L = alpha(step) * L_pre + (1 - alpha(step)) * L_task.

    Its batch is {"pre": batch of `pre`, "task": batch of `task`}. It is an Objective itself, so mixes nest.

    Both terms should be means per frame or per label: Adam ignores the overall scale of a loss, not the ratio of the
    two. A term of weight 0 cannot affect the other, even if it is NaN. Batch statistics follow the task's batch
    only. The task term gets the random key unchanged, whatever alpha is; the pre term gets a folded one.

    Args:
        pre: objective of pre-training.
        task: objective of the new task.
        alpha: weight on `pre`: a number in [0, 1], or a schedule (step -> value, clipped to [0, 1]). With a constant of
            exactly 0 or 1 the other term is not computed, its batch may be missing, and the result is bit for bit that
            of the single term.

    Returns:
        The objective. Its metrics include alpha and each term's loss.

    Raises:
        UserError: a constant alpha is not a number in [0, 1].

    Example:
        Two steps of gradient descent on 0.25 * (w - 1)² + 0.75 * (w - 3)², whose minimum is 2.5:

        >>> import jax, jax.numpy as jnp, optax
        >>> from speech_jax.core.types import LossOut
        >>> from speech_jax.objectives.mix import mix
        >>> def near_batch(params, model_state, batch, key, step):
        ...     return LossOut((params["w"] - batch) ** 2, jnp.ones(()), model_state, {})
        >>> objective = mix(near_batch, near_batch, alpha=0.25)
        >>> batch, key = {"pre": 1.0, "task": 3.0}, jax.random.key(0)
        >>> params, optimizer = {"w": jnp.zeros(())}, optax.sgd(0.25)
        >>> state = optimizer.init(params)
        >>> for step in range(2):
        ...     grads = jax.grad(lambda p: objective(p, {}, batch, jax.random.fold_in(key, step), step).value)(params)
        ...     updates, state = optimizer.update(grads, state)
        ...     params = optax.apply_updates(params, updates)
        ...     print(step, params["w"])
        0 1.25
        1 1.875
    """
    if not callable(alpha):
        number = float(alpha)
        if not (math.isfinite(number) and 0 <= number <= 1):
            raise UserError(f"alpha: found {alpha}, expected a number in [0, 1] or a schedule")
        alpha = number
    return Mix(pre, task, alpha)


def mix_losses(alpha: Float[Array, ""], pre: LossOut, task: LossOut) -> LossOut:
    """Return alpha · pre + (1 − alpha) · task of two losses that have been computed; see `Mix` for its metrics."""
    (pre_sums, of_pre), (task_sums, of_task) = sums_of(pre), sums_of(task)
    return LossOut(
        value=_scaled(alpha, pre.value) + _scaled(1 - alpha, task.value),
        weight=_scaled(alpha, pre.weight) + _scaled(1 - alpha, task.weight),
        model_state=task.model_state,  # batch statistics follow the task's data only
        metrics=_prefixed("pre", pre) | _prefixed("task", task) | {"alpha": (alpha, jnp.ones(()))},
        sums={"pre": pre_sums, "task": task_sums},
        of_sums=jax.tree_util.Partial(_mixed_value, alpha, of_pre, of_task),
    )


def _mixed_value(alpha: Float[Array, ""], of_pre: Callable, of_task: Callable, sums: Mapping[str, PyTree]) -> Array:
    """Return alpha · pre + (1 − alpha) · task of the sums of both losses; see `LossOut.of_sums`."""
    return _scaled(alpha, of_pre(sums["pre"])) + _scaled(1 - alpha, of_task(sums["task"]))


def alpha_at(alpha: float | Schedule, step: Int[Array, ""]) -> Float[Array, ""]:
    """Return alpha at `step`, float32, clipped to [0, 1]; NaN becomes 0."""
    value = jnp.asarray(alpha(step) if callable(alpha) else alpha, jnp.float32)
    return jnp.clip(jnp.nan_to_num(value, nan=0.0), 0.0, 1.0)


def alpha_metric(objective: Mix, step: Int[Array, ""]) -> tuple[Array, Array]:
    """Return alpha at `step` as a metric (sum, count)."""
    return alpha_at(objective.alpha, step), jnp.ones(())


def static_branch(objective: Mix) -> str | None:
    """Return the only term computed with a constant alpha of 0 ("task") or 1 ("pre"), else None."""
    if callable(objective.alpha):
        return None
    return {0.0: "task", 1.0: "pre"}.get(objective.alpha)


def pre_key(key: jax.Array) -> jax.Array:
    """Return the random key of the pre term; it is folded, so that the task's draws are the same without a pre term."""
    return jax.random.fold_in(key, 1)


# --- the terms of a mix, for the trainer ---------------------------------------------------------------------------


class Term(NamedTuple):
    """One leaf of a mix.

    Attributes:
        name: its branches joined by "/" ("task/pre"); "" for an objective that is no mix.
        objective: the leaf itself.
        select: returns its part of the batch.
        key: returns its random key, given the step's.
        owns_state: True if its batch updates the batch statistics.
    """

    name: str
    objective: Objective
    select: Callable[[Batch], Batch]
    key: Callable[[jax.Array], jax.Array]
    owns_state: bool


def terms(objective: Objective) -> list[Term]:
    """Return the leaves of a (nested) mix that are computed; without a mix, the objective as the only leaf."""
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
    """Return the mixed loss, the mixed gradient and what to log, from the value and gradient of each term.

    Args:
        objective: the (nested) mix, or a single objective.
        values: losses by the names of `terms(objective)`.
        gradients: gradients by the same names.
        step: optimizer step, for schedules of alpha.
        method: see `combine_pair`.

    Returns:
        (loss, gradient, logs). `logs` holds metrics (sum, count): alpha, grad_norm/<term>, and grad_cos/pre_task, the
        cosine of the two gradients. Names of a nested mix carry its branch: task/alpha, grad_cos/task/pre_task.
    """
    logs: dict[str, tuple[Array, Array]] = {}

    def visit(objective: Objective, path: tuple[str, ...]) -> tuple[Array, PyTree]:
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
            return visit(getattr(objective, single), (*path, single))
        pre_value, pre = visit(objective.pre, (*path, "pre"))
        task_value, task = visit(objective.task, (*path, "task"))
        alpha = alpha_at(objective.alpha, step)
        logs[f"grad_cos/{prefix}pre_task"] = (cosine_similarity(pre, task), one)
        value = _scaled(alpha, pre_value) + _scaled(1 - alpha, task_value)
        return value, combine_pair(alpha, pre, task, method)

    value, gradient = visit(objective, ())
    return value, gradient, logs


def combine_pair(alpha: Float[Array, ""], pre: PyTree, task: PyTree, method: Method = "sum") -> PyTree:
    """Return alpha * pre + (1 - alpha) * task of two gradients; one of weight 0 adds exactly nothing, even if NaN.

    Args:
        alpha: weight on `pre`, in [0, 1].
        pre: gradient of the pre-training loss.
        task: gradient of the task's loss.
        method: "sum" is the plain sum. "pcgrad" (arXiv 2001.06782) first removes from each gradient its component
            against the other, if their dot product is negative and 0 < alpha < 1. Plain sums usually do as well (arXiv
            2201.04122).

    Raises:
        UserError: the method is neither.
    """
    if method == "pcgrad":
        dot, pre_square, task_square = _vdot(pre, task), _vdot(pre, pre), _vdot(task, task)
        conflict = (dot < 0) & (alpha > 0) & (alpha < 1)
        from_pre = jnp.where(conflict, dot / jnp.where(conflict, task_square, 1.0), 0.0)
        from_task = jnp.where(conflict, dot / jnp.where(conflict, pre_square, 1.0), 0.0)

        def project(gradient: PyTree, other: PyTree, factor: Array) -> PyTree:
            return jax.tree.map(lambda g, o: jnp.where(conflict, g - factor * o, g), gradient, other)

        pre, task = project(pre, task, from_pre), project(task, pre, from_task)
    elif method != "sum":
        raise UserError(f"gradient method: found {method!r}, expected sum or pcgrad")
    return jax.tree.map(lambda p, t: _scaled(alpha, p) + _scaled(1 - alpha, t), pre, task)


def cosine_similarity(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Return the cosine of the angle between two gradients; 0 if one of them is 0."""
    norms = optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.where(norms > 0, _vdot(a, b) / jnp.where(norms > 0, norms, 1.0), 0.0)


class CombineState(NamedTuple):
    """State of `combine_gradients`.

    Attributes:
        count: updates so far.
        alpha: weight on the pre-training gradient in the last update.
        norm_pre: norm of the last pre-training gradient.
        norm_task: norm of the last task gradient.
        cosine: cosine of the angle between the two.
    """

    count: Int[Array, ""]
    alpha: Float[Array, ""]
    norm_pre: Float[Array, ""]
    norm_task: Float[Array, ""]
    cosine: Float[Array, ""]


def combine_gradients(alpha: float | Schedule, *, method: Method = "sum") -> optax.GradientTransformationExtraArgs:
    """Return an optax transformation from {"pre": gradient, "task": gradient} to their mix; first in an `optax.chain`.

    For training loops that compute the two gradients themselves, for example on different batches or devices, or by
    another method than `jax.grad`. With method "sum" it equals `mix` up to rounding.

    Args:
        alpha: weight on the pre-training gradient: a number in [0, 1], or a schedule (step -> value, clipped to
            [0, 1]). A schedule follows the updates counted here, or the extra argument `step` of `update` if given.
        method: "sum" or "pcgrad", see `combine_pair`.

    Returns:
        The transformation. Its state is a `CombineState`: the last alpha, norms and cosine, for logging.

    Raises:
        UserError: a constant alpha is not a number in [0, 1], or the method is unknown.

    Example:
        Fine-tune with Adam while a fading share of the gradient pulls back to the old data:

        >>> import jax, jax.numpy as jnp, optax
        >>> from speech_jax.objectives.mix import combine_gradients
        >>> from speech_jax.objectives.schedules import linear
        >>> def loss(params, target):
        ...     return jnp.sum((params["w"] - target) ** 2)
        >>> optimizer = optax.chain(
        ...     combine_gradients(linear(0.5, 0.0, steps=10)), optax.clip_by_global_norm(1.0), optax.adam(0.1)
        ... )
        >>> params = {"w": jnp.array([0.0, 0.0])}
        >>> state = optimizer.init(params)
        >>> old, new = jnp.array([1.0, 1.0]), jnp.array([3.0, 0.0])
        >>> for step in range(2):
        ...     gradients = {"pre": jax.grad(loss)(params, old), "task": jax.grad(loss)(params, new)}
        ...     updates, state = optimizer.update(gradients, state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(f"alpha {state[0].alpha:.2f}, cosine {state[0].cosine:.2f}, w[0] {params['w'][0]:.2f}")
        alpha 0.50, cosine 0.71, w[0] 0.10
        alpha 0.45, cosine 0.68, w[0] 0.20
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
        return combined, CombineState(jnp.asarray(count), weight, *norms, cosine_similarity(pre, task))

    return optax.GradientTransformationExtraArgs(init, update)


def _no_objective(*args: Any) -> LossOut:
    raise TypeError("combine_gradients takes gradients; it has no objective to call")


def _prefixed(name: str, out: LossOut) -> dict[str, tuple[Array, Array]]:
    metrics = {f"{name}/{key}": value for key, value in out.metrics.items()}
    return {f"{name}/loss": (_scaled(out.weight, out.value), out.weight)} | metrics


def _gate(weight: Float[Array, ""], params: PyTree) -> PyTree:
    """Return `params`; where weight is 0 their gradient is exactly 0, even if the incoming one is NaN."""
    return jax.tree.map(lambda p: jnp.where(weight > 0, p, jax.lax.stop_gradient(p)), params)


def _scaled(weight: Float[Array, ""], x: Array) -> Array:
    """Return weight * x in x's type; exactly 0 where weight is 0, since 0 * NaN is NaN."""
    x = jnp.asarray(x)
    return jnp.where(weight > 0, (weight * x).astype(x.dtype), jnp.zeros_like(x))


def _vdot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    products = jax.tree.map(lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros(()))
