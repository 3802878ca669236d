"""Every shape is compiled before the first step, the longest first, so that what does not fit in memory shows at
once."""

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
from speech_jax.training.private_step import make_private_gradient, whole_term
from speech_jax.training.step import StepConfig, TermOut, make_gradient, make_update, moving_part

Signature = tuple[tuple[str, tuple[int, ...], str], ...]


class Programs:
    """The compiled parts of a step: a gradient for each term and shape of its batch, and one update for all of them.

    Apart, because a mix of two streams with m and n buckets then takes m + n gradients and not m * n steps, and because
    the update, which does not depend on the bucket, takes as long to compile as a gradient.
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
        """How many shapes of batch there is a gradient for, over all terms."""
        return len(self.gradients)

    def run(self, state: TrainState, host: PyTree) -> tuple[TrainState, dict, jax.Array, float]:
        """(state, metrics, finite, operations on one device) of one step; the old state is given up.

        host: the batch as NumPy arrays. Raises UserError for a shape that was not compiled.
        """
        outs, metrics, flops = {}, {}, self.flops.get("update", 0.0)
        for term in self._terms:
            part = put_batch(term.select(host), self._mesh)
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
    """The shapes of a batch: of one bucket, or of {"pre": bucket, "task": bucket} and so on down."""
    if isinstance(bucket, Mapping):
        return {name: batch_spec_of(batch_spec, part) for name, part in bucket.items()}
    return batch_spec(bucket)


def init_spec_of(batch_spec: Callable, bucket: Any) -> PyTree:
    """The shapes of a plain batch to initialize the model with: the task's, where the bucket is a pair."""
    while isinstance(bucket, Mapping):
        bucket = bucket["task"] if "task" in bucket else next(iter(bucket.values()))
    return batch_spec(bucket)


def signature(batch: PyTree) -> Signature:
    """The names, shapes and types of a batch."""
    return tuple((name, tuple(x.shape), str(x.dtype)) for name, x in named_leaves(batch).items())


def compile_programs(
    task: Task,
    state: TrainState,
    shardings: TrainState,
    optimizer: optax.GradientTransformationExtraArgs,
    trainable: PyTree,
    config: StepConfig,
    buckets: Sequence[Any],
    mesh: Mesh,
    *,
    keys: Sequence[jax.Array],
    rate: optax.Schedule,
    moving_state: PyTree,
    say: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Programs:
    """Compiles everything a run needs, the longest shapes first. state: its shapes with shardings.

    keys: the run's and, if it is private, that of its noise, on every device of the mesh; to compile, shapes will do.
    A private run takes the gradient of a mix as one, so it needs a program for each pair of shapes.
    """
    private = config.privacy.on
    all_terms = [whole_term(task.objective)] if private else terms(task.objective)
    programs = Programs(mesh, all_terms, keys)
    whole = replicated(mesh)
    moving = moving_part(shardings.params, trainable)
    began = time.monotonic()
    jobs, outs = [], {}
    for term in all_terms:
        out_shardings = TermOut(whole, moving, shardings.model_state if term.owns_state else None, whole)
        make = make_private_gradient if private else make_gradient
        gradient = jax.jit(make(term, trainable, config, mesh=mesh), out_shardings=out_shardings)
        structs = {}
        for bucket in buckets:
            struct = batch_struct(batch_spec_of(task.batch_spec, term.select(bucket)), mesh)
            structs.setdefault((term.name, signature(struct)), struct)
        jobs += [(key, gradient, struct) for key, struct in structs.items()]
        example = next(iter(structs.values()))
        shape = jax.eval_shape(gradient, state.params, state.model_state, state.step, example, *keys)
        placed = out_shardings._replace(value=whole, metrics={})
        outs[term.name] = jax.tree.map(_with_sharding, shape._replace(metrics={}), placed)
    jobs.sort(key=lambda job: -_numbers(job[2]))
    for n, (key, gradient, struct) in enumerate(jobs, 1):
        check_stop()
        start = time.monotonic()
        program = gradient.lower(state.params, state.model_state, state.step, struct, *keys).compile()
        programs.gradients[key] = program
        programs.flops[key] = (program_flops(program) or 0.0) * config.accumulate
        widest = max(jax.tree.leaves(struct), key=lambda s: math.prod(s.shape)).shape
        what = f"{key[0]} " if key[0] else ""
        shape = " x ".join(map(str, widest))
        say(f"compiled {what}shape {n} of {len(jobs)} ({shape}) in {time.monotonic() - start:.1f} s")
    check_stop()
    start = time.monotonic()
    objective = functools.partial(task.objective) if private else task.objective  # no mix to take apart
    update = make_update(objective, optimizer, trainable, config, rate=rate, moving_state=moving_state)
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=(shardings, whole, whole))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")  # there are more gradients
        programs.update = jitted.lower(state, outs).compile()
    programs.flops["update"] = program_flops(programs.update) or 0.0
    say(f"compiled the update in {time.monotonic() - start:.1f} s")
    programs.seconds = time.monotonic() - began
    return programs


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _numbers(struct: PyTree) -> int:
    return sum(math.prod(s.shape) for s in jax.tree.leaves(struct))
