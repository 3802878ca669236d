"""One training step: gradients term by term, their mixture, and an update that refuses bad numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import LossOut, Objective, PyTree, TrainState
from speech_jax.objectives.mix import Method, Term, combine, terms
from speech_jax.training.privacy import PrivacyConfig
from speech_jax.training.state import OptState

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
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """Training that tells little about any one utterance."""

    def __post_init__(self) -> None:
        if self.privacy.on and (self.accumulate != 1 or self.gradients != "sum"):
            raise UserError(
                f"trainer.step: found accumulate {self.accumulate}, gradients {self.gradients!r} with privacy, "
                "expected 1 and 'sum': privacy.microbatch saves memory, and each utterance's gradient is clipped whole"
            )


class TermOut(NamedTuple):
    """What one term of the objective gives: its mean, its gradient (None where nothing is trained), the batch
    statistics after it (None if this term leaves them alone), and its metrics."""

    value: Float[Array, ""]
    gradient: PyTree
    model_state: PyTree
    metrics: Metrics


def make_gradient(
    term: Term, trainable: PyTree, config: StepConfig, *, mesh: Mesh | None = None
) -> Callable[[PyTree, PyTree, Int[Array, ""], PyTree, Array], TermOut]:
    """The pure function (params, model_state, step, the term's own batch, the run's key) -> TermOut.

    trainable: a tree of bool like the parameters; no gradient is taken for the rest.
    With micro-batches the gradients are weighted by each one's valid units, so that their sum is the whole batch's.
    The randomness of step n is fold_in(key, n), and fold_in(…, i) of that for micro-batch i. The key is an argument so
    that runs which differ in their seed alone share a compiled program.
    """

    def once(params: PyTree, model_state: PyTree, step: Array, batch: PyTree, base: Array) -> tuple[TermOut, Array]:
        moving, fixed = _split(params, trainable)

        def loss(moving: PyTree) -> tuple[Array, LossOut]:
            with nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for kernels
                out = term.objective(_join(moving, fixed), model_state, batch, term.key(base), step)
            return out.value, out

        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
        model_state = out.model_state if term.owns_state else None
        weight = jnp.asarray(out.weight, jnp.float32)
        return TermOut(value.astype(jnp.float32), gradient, model_state, _term_metrics(term.name, out)), weight

    def gradient(params: PyTree, model_state: PyTree, step: Int[Array, ""], batch: PyTree, key: Array) -> TermOut:
        base = jax.random.fold_in(key, step)
        if config.accumulate == 1:
            return once(params, model_state, step, batch, base)[0]
        parts = jax.tree.map(lambda x: _micro_batches(x, config.accumulate, mesh), batch)

        def body(carry, item):
            sums, model_state = carry
            index, rows = item
            out, weight = once(params, model_state, step, rows, jax.random.fold_in(base, index))
            weighted = jax.tree.map(lambda x: _times(weight, x), (out.value, out.gradient))
            sums = jax.tree.map(jnp.add, sums, (weighted, out.metrics, weight))
            return (sums, out.model_state if term.owns_state else model_state), None

        first = jax.tree.map(lambda x: x[0], parts)
        shape, weight = jax.eval_shape(once, params, model_state, step, first, base)
        zeros = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), ((shape.value, shape.gradient), shape.metrics, weight)
        )
        indices = jnp.arange(config.accumulate, dtype=jnp.int32)
        (sums, model_state), _ = jax.lax.scan(body, (zeros, model_state), (indices, parts))
        weighted, metrics, weight = sums
        value, total = jax.tree.map(lambda x: _over(x, weight), weighted)
        return TermOut(value, total, model_state if term.owns_state else None, metrics)

    return gradient


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    *,
    rate: optax.Schedule | None = None,
    moving_state: PyTree | None = None,
) -> Callable[[TrainState, Mapping[str, TermOut]], tuple[TrainState, Metrics, Bool[Array, " checks"]]]:
    """The pure function (state, {term: TermOut}) -> (state, metrics, finite).

    rate: the learning rate as a function of the step, to be logged.
    moving_state: a tree of int like the batch statistics: the step from which each moves, negative for never. None
    lets all move.
    If the loss, a gradient or a batch statistic is not finite, nothing changes but the step and the counters. `finite`
    has one flag a check, in the order of `check_names`. What is frozen stays bit for bit as it is.
    """
    owner = next(term.name for term in terms(objective) if term.owns_state)

    def update(state: TrainState, outs: Mapping[str, TermOut]) -> tuple[TrainState, Metrics, Bool[Array, " checks"]]:
        values = {name: out.value for name, out in outs.items()}
        gradients = {name: out.gradient for name, out in outs.items()}
        value, gradient, logs = combine(objective, values, gradients, state.step, method=config.gradients)
        model_state = outs[owner].model_state
        if moving_state is not None:

            def moved_since(new: Array, old: Array, since: int) -> Array:
                if since <= 0:
                    return old if since < 0 else new
                return jnp.where(state.step >= since, new, old)

            model_state = jax.tree.map(moved_since, model_state, state.model_state, moving_state)
        one = jnp.ones(())
        metrics = logs | {"loss": (value, one), "grad_norm": (optax.tree.norm(gradient), one)}
        if config.privacy.on and not config.privacy.log_exact:
            del metrics["loss"]  # an exact figure of private recordings
        if rate is not None:
            metrics["learning_rate"] = (rate(state.step), one)
        finite, good = _finite(value, gradient, model_state)

        _, fixed = _split(jax.tree.map(jnp.zeros_like, state.params), trainable)
        updates, inner = optimizer.update(_join(gradient, fixed), state.opt_state.inner, state.params, step=state.step)
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

    return update


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    *,
    seed: int,
    mesh: Mesh | None = None,
    rate: optax.Schedule | None = None,
    moving_state: PyTree | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics, Bool[Array, " checks"]]]:
    """The whole step as one pure function (state, batch) -> (state, metrics, finite); jit it with a donated state.

    Each term's gradient is taken by itself: as many operations as the gradient of the sum, since the terms share no
    forward pass, and its norm can be logged. The loop runs the same parts as separate programs (see compiling.py).
    """
    if config.privacy.on:
        raise ValueError("a private step is made by make_private_gradient and make_update")
    parts = [(t, make_gradient(t, trainable, config, mesh=mesh)) for t in terms(objective)]
    update = make_update(objective, optimizer, trainable, config, rate=rate, moving_state=moving_state)

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics, Bool[Array, " checks"]]:
        key = jax.random.key(seed)
        outs = {t.name: f(state.params, state.model_state, state.step, t.select(batch), key) for t, f in parts}
        state, metrics, finite = update(state, outs)
        return state, {**{k: v for out in outs.values() for k, v in out.metrics.items()}, **metrics}, finite

    return step


def moving_part(params: PyTree, trainable: PyTree) -> PyTree:
    """The parameters with None in place of the frozen ones."""
    return _split(params, trainable)[0]


def _split(params: PyTree, trainable: PyTree) -> tuple[PyTree, PyTree]:
    moving = jax.tree.map(lambda p, t: p if t else None, params, trainable)
    fixed = jax.tree.map(lambda p, t: None if t else p, params, trainable)
    return moving, fixed


def _join(moving: PyTree, fixed: PyTree) -> PyTree:
    return jax.tree.map(lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda x: x is None)


def check_names(params: PyTree, model_state: PyTree, trainable: PyTree) -> list[str]:
    """What each flag of `finite` stands for: the loss, each gradient, each batch statistic."""
    gradients = [f"the gradient of {name}" for name in named_leaves(moving_part(params, trainable))]
    return ["the loss", *gradients, *(f"the batch statistic {name}" for name in named_leaves(model_state))]


def _finite(value: Array, gradient: PyTree, model_state: PyTree) -> tuple[Bool[Array, " checks"], Bool[Array, ""]]:
    """One flag a check, and whether all hold.

    A sum of squares is finite only if every number is. The verdict goes through a square root because XLA takes that
    for dear: an `all` of the flags would be computed anew in the kernel of every leaf, and compiling take minutes.
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
