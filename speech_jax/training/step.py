"""One training step: gradients term by term, their mixture, and an update that refuses bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from speech_jax.errors import UserError
from speech_jax.objectives.mix import Method, Term, combine, terms
from speech_jax.training.rules import named_leaves
from speech_jax.training.state import OptState
from speech_jax.types import LossOut, Objective, PyTree, TrainState

Metrics = dict[str, tuple[Array, Array]]


@dataclass(frozen=True)
class StepConfig:
    """What happens around the gradient."""

    accumulate: int = 1
    """Micro-batches a step: the rows of a batch are taken in this many parts, each weighted by its valid units."""
    ema: float | None = None
    """Decay of the moving average of the parameters (0.999); none keeps no average. The first steps decay faster."""
    gradients: Method = "sum"
    """How the gradients of L_pre and L_task meet: "sum", or "pcgrad", which takes out what conflicts."""


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    *,
    seed: int,
    mesh: Mesh | None = None,
    rate: optax.Schedule | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics, Bool[Array, " checks"]]]:
    """The pure function (state, batch) -> (state, metrics, finite); the caller jits it and donates the state.

    trainable: a tree of bool like the parameters; no gradient is taken for the rest, and the rest stays bit for bit
    as it is.
    rate: the learning rate as a function of the step, to be logged.

    Each term's gradient is taken by itself: as many operations as the gradient of the sum, since the terms share no
    forward pass, and its norm can be logged. If the loss, a gradient or a batch statistic is not finite, nothing
    changes but the step and the counters. `finite` has one flag a check, in the order of `check_names`. The
    randomness of step n is fold_in(key(seed), n).
    """
    leaves = terms(objective)

    def split(params: PyTree) -> tuple[PyTree, PyTree]:
        moving = jax.tree.map(lambda p, t: p if t else None, params, trainable)
        fixed = jax.tree.map(lambda p, t: None if t else p, params, trainable)
        return moving, fixed

    def join(moving: PyTree, fixed: PyTree) -> PyTree:
        return jax.tree.map(lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda x: x is None)

    def gradients(state: TrainState, model_state: PyTree, batch: PyTree, part: Int[Array, ""] | None):
        """{term: (value, weight, gradient)}, the new model state, metrics."""
        moving, fixed = split(state.params)
        base = jax.random.fold_in(jax.random.key(seed), state.step)
        if part is not None:
            base = jax.random.fold_in(base, part)
        found, metrics, new_model_state = {}, {}, model_state
        for term in leaves:
            key = term.key(base)

            def loss(moving: PyTree, term: Term = term, key: jax.Array = key) -> tuple[Array, LossOut]:
                out = term.objective(join(moving, fixed), model_state, term.select(batch), key, state.step)
                return out.value, out

            (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
            found[term.name] = (value.astype(jnp.float32), out.weight.astype(jnp.float32), gradient)
            metrics |= _term_metrics(term.name, out)
            if term.owns_state:
                new_model_state = out.model_state
        return found, new_model_state, metrics

    def accumulated(state: TrainState, batch: PyTree):
        if config.accumulate == 1:
            found, model_state, metrics = gradients(state, state.model_state, batch, None)
            return (
                {n: v for n, (v, _, _) in found.items()},
                {n: g for n, (_, _, g) in found.items()},
                model_state,
                metrics,
            )
        parts = jax.tree.map(lambda x: _micro_batches(x, config.accumulate, mesh), batch)

        def body(carry, item):
            part, rows = item
            sums, model_state = carry
            found, model_state, metrics = gradients(state, model_state, rows, part)
            weighted = {
                name: (_times(weight, value), weight, jax.tree.map(lambda g, w=weight: _times(w, g), gradient))
                for name, (value, weight, gradient) in found.items()
            }
            return (jax.tree.map(jnp.add, sums, (weighted, metrics)), model_state), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(lambda s, b: gradients(s, s.model_state, b, jnp.zeros((), jnp.int32)), state, first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[2]))
        indices = jnp.arange(config.accumulate, dtype=jnp.int32)
        ((sums, metrics), model_state), _ = jax.lax.scan(body, (zeros, state.model_state), (indices, parts))
        values = {name: _over(value, weight) for name, (value, weight, _) in sums.items()}
        grads = {name: jax.tree.map(lambda g, w=weight: _over(g, w), g) for name, (_, weight, g) in sums.items()}
        return values, grads, model_state, metrics

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics, Bool[Array, " checks"]]:
        values, grads, model_state, metrics = accumulated(state, batch)
        value, gradient, logs = combine(objective, values, grads, state.step, method=config.gradients)
        one = jnp.ones(())
        metrics |= logs | {"loss": (value, one), "grad_norm": (optax.tree.norm(gradient), one)}
        if rate is not None:
            metrics["learning_rate"] = (rate(state.step), one)
        finite, good = _finite(value, gradient, model_state)

        _, fixed = split(jax.tree.map(jnp.zeros_like, state.params))
        full = join(gradient, fixed)
        updates, inner = optimizer.update(full, state.opt_state.inner, state.params, step=state.step)
        moved = jax.tree.map(lambda p, u, t: (p + u).astype(p.dtype) if t else p, state.params, updates, trainable)
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(config.ema, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(
                lambda e, p, t: e + ((1.0 - decay) * (p - e)).astype(e.dtype) if t else e, ema, moved, trainable
            )

        def keep(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

        bad = jnp.where(good, 0, 1).astype(jnp.int32)
        opt_state = OptState(
            inner=keep(inner, state.opt_state.inner),
            skipped=state.opt_state.skipped + bad,
            skipped_in_a_row=jnp.where(good, 0, state.opt_state.skipped_in_a_row + 1).astype(jnp.int32),
        )
        new = TrainState(
            step=state.step + 1,
            params=keep(moved, state.params),
            model_state=keep(model_state, state.model_state),
            opt_state=opt_state,
            ema=None if ema is None else keep(ema, state.ema),
        )
        return new, metrics, finite

    return step


def check_names(params: PyTree, model_state: PyTree, trainable: PyTree) -> list[str]:
    """What each flag of `finite` stands for: the loss, each gradient, each batch statistic."""
    moving = jax.tree.map(lambda p, t: p if t else None, params, trainable)
    gradients = [f"the gradient of {name}" for name in named_leaves(moving)]
    return ["the loss", *gradients, *(f"the batch statistic {name}" for name in named_leaves(model_state))]


def _finite(value: Array, gradient: PyTree, model_state: PyTree) -> tuple[Bool[Array, " checks"], Bool[Array, ""]]:
    """One flag a check, and whether all hold.

    A sum of squares is finite only if every number is. The verdict goes through a square root because XLA takes that for
    dear: an `all` of the flags would be computed again in the kernel of every leaf, and compiling would take minutes.
    """
    leaves = [value, *jax.tree.leaves(gradient), *jax.tree.leaves(model_state)]
    squares = jnp.stack([jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves])
    return jnp.isfinite(squares), jnp.isfinite(jnp.sqrt(jnp.sum(squares)))


def _term_metrics(name: str, out: LossOut) -> Metrics:
    prefix = f"{name}/" if name else ""
    weight = jnp.asarray(out.weight, jnp.float32)
    own = {f"{prefix}{key}": (jnp.asarray(s), jnp.asarray(c)) for key, (s, c) in out.metrics.items()}
    return {f"{prefix}loss": (_times(weight, out.value), weight)} | own


def _micro_batches(x: Array, parts: int, mesh: Mesh | None) -> Array:
    """[rows, …] -> [parts, rows / parts, …]; part i takes each row j * parts + i, so that no row changes its device."""
    if x.ndim == 0:
        return jnp.broadcast_to(x, (parts,))
    rows = x.shape[0]
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (parts * shards):
        raise UserError(
            f"training.accumulate: found a batch of {rows} rows, "
            f"expected a multiple of {parts} micro-batches x {shards} devices"
        )
    split = jnp.moveaxis(x.reshape(rows // parts, parts, *x.shape[1:]), 1, 0)
    if mesh is None:
        return split
    return jax.lax.with_sharding_constraint(split, NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))))


def _times(weight: Float[Array, ""], x: Array) -> Array:
    """weight * x, and 0 where weight is 0, whatever x is."""
    x = jnp.asarray(x)
    return jnp.where(weight > 0, weight.astype(x.dtype) * x, jnp.zeros_like(x))


def _over(x: Array, weight: Float[Array, ""]) -> Array:
    """x / weight, and 0 where weight is 0."""
    return jnp.where(weight > 0, x / jnp.where(weight > 0, weight, 1.0).astype(x.dtype), jnp.zeros_like(x))
