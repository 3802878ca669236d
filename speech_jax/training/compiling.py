"""Ahead-of-time compilation of every batch shape, the largest first, so that a lack of memory shows at once."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from speech_jax.core.errors import UserError
from speech_jax.core.placement import batch_struct, put_batch, replicated
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import PyTree, Task, TrainState
from speech_jax.lowering.flops import program_flops
from speech_jax.objectives.mix import Term, terms
from speech_jax.objectives.schedules import Schedule
from speech_jax.training.config import StepConfig
from speech_jax.training.private_step import make_private_gradient, whole_term
from speech_jax.training.step import TermOut, make_gradient, make_update, moving_part

Signature = tuple[tuple[str, tuple[int, ...], str], ...]


class Programs:
    """Compiled parts of a step: a gradient for each loss term and batch shape, and one update for all of them.

    They are separate programs because a mix of two streams with m and n buckets then needs m + n gradients instead of
    m · n steps, and because the update, which does not depend on the bucket, takes as long to compile as a gradient.

    Attributes:
        keys: random keys that are arguments of every gradient.
        gradients: (term name, signature of its batch) -> compiled program.
        update: the compiled update.
        flops: floating point operations per device of each program.
        seconds: seconds of compilation.
    """

    def __init__(self, mesh: Mesh, all_terms: Sequence[Term], keys: Sequence[jax.Array]):
        self._mesh, self._terms = mesh, list(all_terms)
        self.keys = keys  # arguments, so that no program holds them: seeds share programs, and the noise stays secret
        self.gradients: dict[tuple[str, Signature], Any] = {}
        self.update: Any = None
        self.flops: dict[Any, float] = {}
        self.seconds = 0.0

    @property
    def count(self) -> int:
        """Number of compiled gradients, one per term and batch shape."""
        return len(self.gradients)

    def run(self, state: TrainState, host_batch: PyTree) -> tuple[TrainState, dict, jax.Array, float]:
        """Run one step. The buffers of the old state are donated.

        Args:
            state: the training state.
            host_batch: the batch as NumPy arrays.

        Returns:
            The new state, the metrics, the flags `finite` (see `make_update`), and the operations on one device.

        Raises:
            UserError: for a batch shape that was not compiled.
        """
        outs, metrics, flops = {}, {}, self.flops.get("update", 0.0)
        for term in self._terms:
            part = put_batch(term.select(host_batch), self._mesh)
            key = (term.name, signature(part))
            if key not in self.gradients:
                shapes = ", ".join(f"{name} {shape}" for name, shape, _ in key[1])
                raise UserError(
                    f"training data: found a batch of {shapes}, expected one of the {self.count} shapes of the plan"
                )
            out = self.gradients[key](state.params, state.model_state, state.step, part, *self.keys)
            metrics |= out.metrics
            outs[term.name] = out._replace(metrics={})
            flops += self.flops.get(key, 0.0)
        state, logs, finite = self.update(state, outs)
        return state, metrics | logs, finite, flops


def batch_spec_of(batch_spec: Callable, bucket: Any) -> PyTree:
    """Return the shapes of a batch of one bucket, or of {"pre": bucket, "task": bucket}, nested to any depth."""
    if isinstance(bucket, Mapping):
        return {name: batch_spec_of(batch_spec, part) for name, part in bucket.items()}
    return batch_spec(bucket)


def init_spec_of(batch_spec: Callable, bucket: Any) -> PyTree:
    """Return the shapes of the batch to initialize the model with: the task's part if the bucket is a pair."""
    while isinstance(bucket, Mapping):
        bucket = bucket["task"] if "task" in bucket else next(iter(bucket.values()))
    return batch_spec(bucket)


def signature(batch: PyTree) -> Signature:
    """Return the names, shapes and dtypes of a batch."""
    return tuple((name, tuple(x.shape), str(x.dtype)) for name, x in named_leaves(batch).items())


def compile_programs(
    task: Task,
    *,
    state: TrainState,
    shardings: TrainState,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    buckets: Sequence[Any],
    mesh: Mesh,
    keys: Sequence[jax.Array],
    rate: Schedule,
    moving_state: PyTree,
    log_every: int = 1,
    penalties: Callable[[PyTree, PyTree], Mapping[str, tuple[jax.Array, PyTree]]] | None = None,
    say: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Programs:
    """Compile every program that a run needs, the largest shapes first.

    A private run takes the gradient of a mix as a whole, so it needs a program for each pair of shapes.

    Args:
        task: objective and batch shapes.
        state: shapes of the training state, with shardings.
        shardings: shardings of the training state.
        optimizer: from `make_optimizer`.
        trainable: a tree of bool like the parameters.
        config: micro-batches, moving average, privacy.
        buckets: every batch shape that can occur.
        mesh: from `make_mesh`.
        keys: the key of the run and, if it is private, of its noise, on every device; shapes are enough.
        rate: the learning rate schedule, to be logged.
        moving_state: from `frozen.moving_state`.
        log_every: see `make_gradient`.
        penalties: see `make_update`.
        say: called with a line for the log after each program.
        check_stop: called before each program; may raise to abandon the compilation.

    Returns:
        The compiled programs.
    """
    private = config.privacy.on
    all_terms = [whole_term(task.objective)] if private else terms(task.objective)
    programs = Programs(mesh, all_terms, keys)
    everywhere = replicated(mesh)
    moving = moving_part(shardings.params, trainable)
    began = time.monotonic()
    jobs, outs = [], {}
    for term in all_terms:
        whole: Any = everywhere  # TermOut holds arrays; here it holds their shardings
        out_shardings = TermOut(whole, moving, shardings.model_state if term.owns_state else None, whole)
        if private:
            function = make_private_gradient(term, trainable, config, mesh=mesh)
        else:
            function = make_gradient(
                term, trainable, config, mesh=mesh, moving_state=moving_state, log_every=log_every
            )
        gradient = jax.jit(function, out_shardings=out_shardings)
        structs = {}
        for bucket in buckets:
            struct = batch_struct(batch_spec_of(task.batch_spec, term.select(bucket)), mesh)
            structs.setdefault((term.name, signature(struct)), struct)
        jobs += [(key, gradient, struct) for key, struct in structs.items()]
        example = next(iter(structs.values()))
        shape = jax.eval_shape(gradient, state.params, state.model_state, state.step, example, *keys)
        placed = out_shardings._replace(metrics={})
        outs[term.name] = jax.tree.map(_with_sharding, shape._replace(metrics={}), placed)
    jobs.sort(key=lambda job: -_num_elements(job[2]))
    for n, (key, gradient, struct) in enumerate(jobs, 1):
        check_stop()
        start = time.monotonic()
        program = gradient.lower(state.params, state.model_state, state.step, struct, *keys).compile()
        programs.gradients[key] = program
        programs.flops[key] = (program_flops(program) or 0.0) * config.accumulate
        largest = max(jax.tree.leaves(struct), key=lambda s: math.prod(s.shape)).shape
        name = f"{key[0]} " if key[0] else ""
        shape = " x ".join(map(str, largest))
        say(f"compiled {name}shape {n} of {len(jobs)} ({shape}) in {time.monotonic() - start:.1f} s")
    check_stop()
    start = time.monotonic()
    objective = functools.partial(task.objective) if private else task.objective  # hides a mix: it is one term
    update = make_update(
        objective, optimizer, trainable, config, rate=rate, moving_state=moving_state, penalties=penalties
    )
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=(shardings, everywhere, everywhere))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")  # there are more gradients
        programs.update = jitted.lower(state, outs).compile()
    programs.flops["update"] = program_flops(programs.update) or 0.0
    say(f"compiled the update in {time.monotonic() - start:.1f} s")
    programs.seconds = time.monotonic() - began
    return programs


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _num_elements(struct: PyTree) -> int:
    return sum(math.prod(s.shape) for s in jax.tree.leaves(struct))
