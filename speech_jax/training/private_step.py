"""Gradient of a differentially private step: per utterance, clipped, summed, with noise. See privacy.py."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from speech_jax.core.errors import UserError
from speech_jax.core.placement import row_shards
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import Objective, PyTree
from speech_jax.objectives.mix import Mix, Term, alpha_metric
from speech_jax.training.config import StepConfig
from speech_jax.training.privacy import libraries
from speech_jax.training.step import Metrics, TermOut, moving_part


def whole_term(objective: Objective) -> Term:
    """Return the objective, a mix or not, as one term: clipping needs an utterance's combined gradient."""
    return Term("", objective, lambda batch: batch, lambda key: key, True)


def make_private_gradient(
    term: Term, trainable: PyTree, config: StepConfig, *, mesh: Mesh | None = None
) -> Callable[[PyTree, PyTree, Int[Array, ""], PyTree, jax.Array, jax.Array], TermOut]:
    """Make the pure function (params, model_state, step, batch, key, noise key) -> TermOut.

    The private counterpart of `step.make_gradient`. Row i of the batch, or of all batches of a mix together, is one
    example. Its loss is the objective of a batch of that one row: a mean over its own labels or frames, in which no
    other row and no total of the batch takes part. Its gradient is clipped to `clip_norm`. The sum over the rows and
    the noise are divided by the number of rows of the bucket, fillers included, which is public.

    A row in which any of the batches has a filler (index -1) adds nothing. So replacing an utterance of either stream
    by nothing removes its whole row, and changes the sum by at most `clip_norm`; if its partner stayed in alone, the
    sum could change by twice that.

    The randomness of row i in step n is fold_in(fold_in(key, n), i), that of the noise fold_in(noise key, n). A NaN
    gradient adds 0.

    Args:
        term: from `whole_term`.
        trainable: a tree of bool like the parameters.
        config: its `privacy` settings are used.
        mesh: the mesh the batch is sharded over; None without one.

    Returns:
        The function, to be jitted. It raises UserError when traced for a model whose state depends on the batch, or for
        rows that the micro-batch does not divide.
    """
    privacy = config.privacy

    def gradient(
        params: PyTree, model_state: PyTree, step: Int[Array, ""], batch: PyTree, key: jax.Array, noise_key: jax.Array
    ) -> TermOut:
        clipping, noise_addition = libraries().clipping, libraries().noise_addition
        real = real_rows(batch)
        rows = len(real)
        microbatch = privacy.microbatch * (1 if mesh is None else row_shards(mesh))
        if rows % microbatch:
            raise UserError(
                f"trainer.step.privacy.microbatch: found a batch of {rows} rows, expected a multiple of {microbatch}: "
                f"{privacy.microbatch} on each of {microbatch // privacy.microbatch} devices"
            )
        base = jax.random.fold_in(key, step)

        def loss(moving: PyTree, row: PyTree, index: Int[Array, "1"]) -> tuple[Array, Metrics]:
            all_params = jax.tree.map(lambda m, p: p if m is None else m, moving, params, is_leaf=lambda x: x is None)
            key = term.key(jax.random.fold_in(base, index[0]))
            out = term.objective(all_params, model_state, row, key, step)
            _refuse_statistics(model_state, out.model_state)
            return out.value.astype(jnp.float32), jax.tree.map(jnp.asarray, dict(out.metrics))

        clipped_mean = clipping.clipped_grad(
            loss,
            has_aux=True,
            l2_clip_norm=privacy.clip_norm,
            normalize_by=rows,
            batch_argnums=(1, 2),
            return_values=True,
            return_grad_norms=True,
            microbatch_size=microbatch,
        )
        moving = moving_part(params, trainable)
        mean, aux = clipped_mean(moving, batch, jnp.arange(rows), is_padding_example=~real)
        if privacy.on:
            noise = noise_addition.gaussian_privatizer(
                stddev=privacy.noise_multiplier * clipped_mean.sensitivity(),
                prng_key=jax.random.fold_in(noise_key, step),
            )
            mean, _ = noise.update(mean, noise.init(mean))
        metrics = _alphas(term.objective, step)
        if not privacy.log_exact:
            return TermOut(jnp.zeros(()), mean, model_state, metrics)
        good = real & jnp.isfinite(aux.values)
        count = jnp.sum(good).astype(jnp.float32)
        total = jnp.sum(jnp.where(good, aux.values, 0.0))
        clipped = jnp.sum(good & (aux.grad_norms > privacy.clip_norm)).astype(jnp.float32)
        sums = jax.tree.map(lambda x: jnp.sum(jnp.where(good, x, 0.0)), aux.aux)
        metrics = sums | metrics | {"privacy/clipped": (clipped, count)}
        return TermOut(total / jnp.maximum(count, 1.0), mean, model_state, metrics)

    return gradient


def real_rows(batch: PyTree) -> Bool[Array, " rows"]:
    """Return a mask of the rows in which no batch of the mix has a filler.

    Raises:
        UserError: if the batches have different numbers of rows.
    """
    indices = [leaf for name, leaf in named_leaves(batch).items() if name.split("/")[-1] == "index"]
    sizes = {len(index) for index in indices}
    if len(sizes) != 1:
        raise UserError(
            f"trainer.step.privacy: found batches of {sorted(sizes)} rows, expected as many in each stream of the mix"
        )
    return jnp.all(jnp.stack(indices) >= 0, axis=0)


def _refuse_statistics(before: PyTree, after: PyTree) -> None:
    """Refuse a model state that the forward pass changes: no noise covers these statistics of the recordings."""
    old, new = named_leaves(before), named_leaves(after)
    changed = sorted({*old, *new} - {name for name in old if new.get(name) is old[name]})
    if changed:
        raise UserError(
            f"trainer.step.privacy: found the statistic {changed[0]!r}, which depends on the batches, expected none: "
            "batch norm is not private, --task.model.conv-norm layer and group are"
        )


def _alphas(objective: Objective, step: Int[Array, ""], prefix: str = "") -> Metrics:
    if not isinstance(objective, Mix):
        return {}
    inner = _alphas(objective.pre, step, f"{prefix}pre/") | _alphas(objective.task, step, f"{prefix}task/")
    return {f"{prefix}alpha": alpha_metric(objective, step)} | inner
