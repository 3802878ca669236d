"""Parts of one training step: the gradient of each loss term, and an update that skips non-finite steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import LossOut, Objective, PyTree, TrainState
from speech_jax.objectives.means import PENALTY, sums_of
from speech_jax.objectives.mix import Term, combine, terms
from speech_jax.objectives.schedules import Schedule
from speech_jax.training.config import StepConfig
from speech_jax.training.frozen import hold_statistics, release_statistics
from speech_jax.training.state import OptState

Metrics = dict[str, tuple[Array, Array]]


class TermOut(NamedTuple):
    """Result of one term of the objective.

    Attributes:
        value: the term's mean loss.
        gradient: its gradient; None in place of frozen parameters.
        model_state: batch statistics after the forward pass; None if this term does not update them.
        metrics: name -> (sum, count).
    """

    value: Float[Array, ""]
    gradient: PyTree
    model_state: PyTree
    metrics: Metrics


def make_gradient(
    term: Term,
    trainable: PyTree,
    config: StepConfig,
    *,
    mesh: Mesh | None = None,
    moving_state: PyTree | None = None,
    log_every: int = 1,
) -> Callable[[PyTree, PyTree, Int[Array, ""], PyTree, Array], TermOut]:
    """Make the pure function (params, model_state, step, the term's batch, the run's key) -> TermOut.

    With micro-batches, the sums that the loss divides by are added over all of them before the division, so that
    losses and gradients add up to the whole batch's (but for batch norms that are trained, whose statistics are a
    micro-batch's). The randomness of step n is fold_in(key, n), whether the batch is split or not. A micro-batch has
    its number in batch["micro_batch"], for draws that do not belong to an utterance (`audio.rows.place_key`). The key
    is an argument so that runs which differ only in their seed share a compiled program.

    Args:
        term: the loss, and the selection of its part of a batch.
        trainable: a tree of bool like the parameters; no gradient is computed for the others.
        config: number of micro-batches.
        mesh: the mesh the batch is sharded over; None without one.
        moving_state: from `frozen.moving_state`: the batch norms that compute as in evaluation; None holds none.
        log_every: steps between the lines of the log; the penalties' shares of the gradient, which cost a backward pass
            each, are computed for these steps only.

    Returns:
        The function, to be jitted.
    """

    def loss_of_rows(moving: PyTree, fixed: PyTree, model_state: PyTree, step: Array, batch: PyTree, base: Array):
        with nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for kernels
            held = hold_statistics(model_state, moving_state, step)
            out = term.objective(_join(moving, fixed), held, batch, term.key(base), step)
        return out._replace(model_state=release_statistics(out.model_state) if term.owns_state else None)

    def whole_batch(params: PyTree, model_state: PyTree, step: Array, batch: PyTree, base: Array) -> TermOut:
        moving, fixed = _split(params, trainable)

        def loss(moving: PyTree) -> tuple[tuple[Array, PyTree], LossOut]:
            out = loss_of_rows(moving, fixed, model_state, step, batch, base)
            return (out.value, out.sums if _penalties(out.sums) else None), out

        (value, sums), pullback, out = jax.vjp(loss, moving, has_aux=True)
        (gradient,) = pullback((jnp.ones_like(value), jax.tree.map(jnp.zeros_like, sums)))
        metrics = _term_metrics(term.name, out)
        if sums is not None:
            due = (step + 1) % log_every == 0
            parts = {
                name: _when(due, lambda only=only: pullback((jnp.zeros_like(value), only))[0], gradient)
                for name, only in _penalty_cotangents(jax.grad(out.of_sums)(sums)).items()
            }
            metrics |= _penalty_metrics(term.name, sums, out.of_sums, gradient, parts, due)
        return TermOut(value.astype(jnp.float32), gradient, out.model_state, metrics)

    def micro_batches(params: PyTree, model_state: PyTree, step: Array, batch: PyTree, base: Array) -> TermOut:
        moving, fixed = _split(params, trainable)
        parts = jax.tree.map(lambda x: _micro_batches(x, config.accumulate, mesh), batch)
        items = jnp.arange(config.accumulate, dtype=jnp.int32), parts

        def sums_of_part(moving: PyTree, model_state: PyTree, item: tuple) -> tuple[PyTree, tuple]:
            batch = {**item[1], "micro_batch": item[0]}
            out = loss_of_rows(moving, fixed, model_state, step, batch, base)
            sums, of_sums = sums_of(out)
            return sums, (out, of_sums)

        # 1. The sums over all micro-batches. What the derivative does not need of them, which is all but the counts in
        #    most losses, is not computed: XLA removes it, the networks included.
        def add_sums(total: PyTree, item: tuple) -> tuple[PyTree, PyTree]:
            sums, (_, of_sums) = sums_of_part(moving, model_state, item)
            return jax.tree.map(jnp.add, total, sums), of_sums

        first = jax.tree.map(lambda x: x[0], items)
        shapes, (out_shape, _) = jax.eval_shape(sums_of_part, moving, model_state, first)
        total, functions = jax.lax.scan(add_sums, _zeros(shapes), items)
        of_sums = jax.tree.map(lambda x: x[0], functions)  # that of all micro-batches
        cotangent = jax.grad(of_sums)(total)
        due = (step + 1) % log_every == 0
        penalties = _penalty_cotangents(cotangent)

        # 2. The gradients: each micro-batch's share of the derivative at these sums.
        def add_gradient(carry: tuple, item: tuple) -> tuple[tuple, None]:
            sums, model_state = carry
            own, pullback, (out, _) = jax.vjp(lambda m: sums_of_part(m, model_state, item), moving, has_aux=True)
            (gradient,) = pullback(cotangent)
            if out.of_sums is None:  # one mean: a micro-batch without units weighs nothing, even if it is NaN
                gradient = jax.tree.map(lambda g: jnp.where(out.weight > 0, g, jnp.zeros_like(g)), gradient)
            shares = {
                name: _when(due, lambda only=only: pullback(only)[0], gradient) for name, only in penalties.items()
            }
            weight = jnp.asarray(out.weight, jnp.float32)
            sums = jax.tree.map(jnp.add, sums, (own, gradient, shares, dict(out.metrics), weight))
            return (sums, out.model_state if term.owns_state else model_state), None

        gradient_shape = jax.eval_shape(lambda m: m, moving)
        zeros = _zeros((shapes, gradient_shape, {name: gradient_shape for name in penalties}))
        counters = _zeros((dict(out_shape.metrics), jax.ShapeDtypeStruct((), jnp.float32)))
        (sums, model_state), _ = jax.lax.scan(add_gradient, ((*zeros, *counters), model_state), items)
        total, gradient, shares, metrics, weight = sums
        out = LossOut(of_sums(total).astype(jnp.float32), weight, None, metrics)
        metrics = _term_metrics(term.name, out)
        if penalties:
            metrics |= _penalty_metrics(term.name, total, of_sums, gradient, shares, due)
        return TermOut(out.value, gradient, model_state if term.owns_state else None, metrics)

    def gradient(params: PyTree, model_state: PyTree, step: Int[Array, ""], batch: PyTree, key: Array) -> TermOut:
        function = whole_batch if config.accumulate == 1 else micro_batches
        return function(params, model_state, step, batch, jax.random.fold_in(key, step))

    return gradient


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _when(due: Bool[Array, ""], make: Callable[[], PyTree], like: PyTree) -> PyTree:
    """Return make(), computed only where `due`; zeros otherwise."""
    return jax.lax.cond(due, make, lambda: jax.tree.map(jnp.zeros_like, like))


def _penalties(sums: PyTree) -> Mapping[str, PyTree]:
    """Return the sums of the penalties among the terms of a loss."""
    return sums.get(PENALTY, {}) if isinstance(sums, Mapping) else {}


def _only(sums: PyTree, name: str) -> PyTree:
    """Return `sums` with zeros in place of everything but one penalty."""
    zeros = jax.tree.map(jnp.zeros_like, sums)
    return {**zeros, PENALTY: {**zeros[PENALTY], name: sums[PENALTY][name]}}


def _penalty_cotangents(cotangent: PyTree) -> dict[str, PyTree]:
    """Return, for each penalty, the part of a loss's derivative by its sums that is of the penalty's sums alone."""
    return {name: _only(cotangent, name) for name in _penalties(cotangent)}


def _penalty_metrics(
    term: str, sums: PyTree, of_sums: Callable, gradient: PyTree, parts: Mapping[str, PyTree], due: Bool[Array, ""]
) -> Metrics:
    """Return the value of each penalty and its share of the gradient, see `gradient_share`."""
    prefix, one, metrics = f"{term}/" if term else "", jnp.ones(()), {}
    for name, part in parts.items():
        rest = jax.tree.map(jnp.subtract, gradient, part)
        share, count = gradient_share(part, rest), due.astype(jnp.float32)
        metrics[f"{prefix}penalty/{name}"] = (of_sums(_only(sums, name)), one)
        metrics[f"{prefix}penalty_share/{name}"] = (jnp.where(due, share, 0.0), count)
    return metrics


def gradient_share(part: PyTree, rest: PyTree) -> Float[Array, ""]:
    """Return |part| / (|part| + |rest|) of two gradients that are added: 0 where the part is 0, 1 where it is all."""
    size, other = optax.tree.norm(part), optax.tree.norm(rest)
    return size / jnp.maximum(size + other, jnp.finfo(jnp.float32).tiny)


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    *,
    rate: Schedule | None = None,
    moving_state: PyTree | None = None,
    penalties: Callable[[PyTree, PyTree], Mapping[str, tuple[Array, PyTree]]] | None = None,
) -> Callable[[TrainState, Mapping[str, TermOut]], tuple[TrainState, Metrics, Bool[Array, " checks"]]]:
    """Make the pure function (state, {term: TermOut}) -> (state, metrics, finite).

    If the loss, a gradient or a batch statistic is not finite, only the step and the counters change. Frozen parameters
    stay the same bit for bit.

    Args:
        objective: the loss whose terms are combined.
        optimizer: from `make_optimizer`.
        trainable: a tree of bool like the parameters.
        config: moving average and combination of the gradients.
        rate: the learning rate as a function of the step, to be logged.
        moving_state: a tree of int like the batch statistics: the step from which each is updated, negative for never.
            None updates all of them.
        penalties: (parameters, state of the optimizer) -> name -> (value, gradient) of what the optimizer adds to the
            loss, to be logged, see `optimizer.penalties`; None logs none.

    Returns:
        The function, to be jitted. Its `finite` has one flag per check, in the order of `check_names`.
    """
    owner = next(term.name for term in terms(objective) if term.owns_state)

    def update(state: TrainState, outs: Mapping[str, TermOut]) -> tuple[TrainState, Metrics, Bool[Array, " checks"]]:
        values = {name: out.value for name, out in outs.items()}
        gradients = {name: out.gradient for name, out in outs.items()}
        value, gradient, logs = combine(objective, values, gradients, state.step, method=config.gradients)
        model_state = outs[owner].model_state
        if moving_state is not None:

            def update_from(new: Array, old: Array, first_step: int) -> Array:
                if first_step <= 0:
                    return old if first_step < 0 else new
                return jnp.where(state.step >= first_step, new, old)

            model_state = jax.tree.map(update_from, model_state, state.model_state, moving_state)
        one = jnp.ones(())
        metrics = logs | {"loss": (value, one), "grad_norm": (optax.tree.norm(gradient), one)}
        if config.privacy.on and not config.privacy.log_exact:
            del metrics["loss"]  # an exact statistic of private recordings
        for name, (size, pull) in (penalties(state.params, state.opt_state.inner) if penalties else {}).items():
            metrics[f"penalty/{name}"] = (size, one)
            metrics[f"penalty_share/{name}"] = (gradient_share(pull, gradient), one)
        if rate is not None:
            metrics["learning_rate"] = (rate(state.step), one)
        finite, good = _finite(value, gradient, model_state)

        _, fixed = _split(jax.tree.map(jnp.zeros_like, state.params), trainable)
        updates, inner = optimizer.update(_join(gradient, fixed), state.opt_state.inner, state.params, step=state.step)
        params = jax.tree.map(lambda p, u, t: (p + u).astype(p.dtype) if t else p, state.params, updates, trainable)
        ema = state.ema
        if ema is not None:
            assert config.ema is not None  # the state has an average where the config has a decay
            decay = jnp.minimum(config.ema, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(
                lambda e, p, t: e + ((1.0 - decay) * (p - e)).astype(e.dtype) if t else e, ema, params, trainable
            )

        def new_if_good(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

        bad = jnp.where(good, 0, 1).astype(jnp.int32)
        opt_state = OptState(
            inner=new_if_good(inner, state.opt_state.inner),
            skipped=state.opt_state.skipped + bad,
            skipped_in_a_row=jnp.where(good, 0, state.opt_state.skipped_in_a_row + 1).astype(jnp.int32),
        )
        new = TrainState(
            step=state.step + 1,
            params=new_if_good(params, state.params),
            model_state=new_if_good(model_state, state.model_state),
            opt_state=opt_state,
            ema=None if ema is None else new_if_good(ema, state.ema),
        )
        return new, metrics, finite

    return update


def moving_part(params: PyTree, trainable: PyTree) -> PyTree:
    """Return the parameters with None in place of the frozen ones."""
    return _split(params, trainable)[0]


def _split(params: PyTree, trainable: PyTree) -> tuple[PyTree, PyTree]:
    moving = jax.tree.map(lambda p, t: p if t else None, params, trainable)
    fixed = jax.tree.map(lambda p, t: None if t else p, params, trainable)
    return moving, fixed


def _join(moving: PyTree, fixed: PyTree) -> PyTree:
    return jax.tree.map(lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda x: x is None)


def check_names(params: PyTree, model_state: PyTree, trainable: PyTree) -> list[str]:
    """Return the names of the flags of `finite`: the loss, each gradient, each batch statistic."""
    gradients = [f"the gradient of {name}" for name in named_leaves(moving_part(params, trainable))]
    return ["the loss", *gradients, *(f"the batch statistic {name}" for name in named_leaves(model_state))]


def _finite(value: Array, gradient: PyTree, model_state: PyTree) -> tuple[Bool[Array, " checks"], Bool[Array, ""]]:
    """Return one flag per check, and one flag that is True if all checks pass.

    A sum of squares is finite only if every number is. The overall flag is computed through sqrt because XLA treats
    sqrt as expensive and does not duplicate it; an `all()` would be recomputed in every leaf's kernel, and compilation
    would take minutes.
    """
    leaves = [value, *jax.tree.leaves(gradient), *jax.tree.leaves(model_state)]
    squares = jnp.stack([jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves])
    return jnp.isfinite(squares), jnp.isfinite(jnp.sqrt(jnp.sum(squares)))


def _term_metrics(name: str, out: LossOut) -> Metrics:
    prefix = f"{name}/" if name else ""
    weight = jnp.asarray(out.weight, jnp.float32)
    metrics = {f"{prefix}{key}": (jnp.asarray(s), jnp.asarray(c)) for key, (s, c) in out.metrics.items()}
    return {f"{prefix}loss": (_times(weight, out.value), weight)} | metrics


def _micro_batches(x: Array, parts: int, mesh: Mesh | None) -> Array:
    """Reshape [rows, …] to [parts, rows / parts, …].

    Part i takes each row j * parts + i, so that no row changes its device.
    """
    if x.ndim == 0:
        return jnp.broadcast_to(x, (parts,))
    rows = x.shape[0]
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (parts * shards):
        raise UserError(
            f"trainer.step.accumulate: found a batch of {rows} rows, "
            f"expected a multiple of {parts} micro-batches x {shards} devices"
        )
    split = jnp.moveaxis(x.reshape(rows // parts, parts, *x.shape[1:]), 1, 0)
    if mesh is None:
        return split
    return jax.lax.with_sharding_constraint(split, NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))))


def _times(weight: Float[Array, ""], x: Array) -> Array:
    """Return weight * x, and 0 where weight is 0, even if x is NaN."""
    x = jnp.asarray(x)
    return jnp.where(weight > 0, weight.astype(x.dtype) * x, jnp.zeros_like(x))
