"""Every shape is compiled before the first step, the longest first, so that what does not fit in memory shows at
once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from speech_jax.errors import UserError
from speech_jax.training.flops import program_flops
from speech_jax.training.rules import named_leaves
from speech_jax.training.sharding import batch_struct
from speech_jax.types import PyTree

Signature = tuple[tuple[str, tuple[int, ...], str], ...]


class Compiled(NamedTuple):
    """One executable, and how many operations it is on one device (0 if unknown)."""

    run: Callable
    flops: float


def batch_spec_of(batch_spec: Callable, bucket: Any) -> PyTree:
    """The shapes of a batch: of one bucket, or of {"pre": bucket, "task": bucket} and so on down."""
    if isinstance(bucket, Mapping):
        return {name: batch_spec_of(batch_spec, part) for name, part in bucket.items()}
    return batch_spec(bucket)


def init_spec_of(batch_spec: Callable, bucket: Any) -> PyTree:
    """The shapes of a plain batch to initialise the model with: the task's, where the bucket is a pair."""
    while isinstance(bucket, Mapping):
        bucket = bucket["task"] if "task" in bucket else next(iter(bucket.values()))
    return batch_spec(bucket)


def signature(batch: PyTree) -> Signature:
    """The names, shapes and types of a batch."""
    return tuple((name, tuple(x.shape), str(x.dtype)) for name, x in named_leaves(batch).items())


def compile_steps(
    step: Any,
    state: PyTree,
    batch_spec: Callable,
    buckets: Sequence[Any],
    mesh: Mesh,
    *,
    accumulate: int,
    say: Callable[[str], None],
    check_stop: Callable[[], None],
) -> tuple[dict[Signature, Compiled], float]:
    """({signature of a batch: executable}, seconds it took) for every distinct bucket.

    step: the jitted step; state: its shapes with shardings.
    """
    structs = {}
    for bucket in buckets:
        struct = batch_struct(batch_spec_of(batch_spec, bucket), mesh)
        structs.setdefault(signature(struct), struct)
    if not structs:
        raise UserError("training data: found no bucket, expected at least one shape of batch")
    ordered = sorted(structs.items(), key=lambda item: -_numbers(item[1]))
    began = time.monotonic()
    compiled = {}
    for n, (key, struct) in enumerate(ordered, 1):
        check_stop()
        start = time.monotonic()
        executable = step.lower(state, struct).compile()
        compiled[key] = Compiled(executable, (program_flops(executable) or 0.0) * accumulate)
        widest = max(jax.tree.leaves(struct), key=lambda s: math.prod(s.shape)).shape
        shape = " x ".join(map(str, widest))
        say(f"compiled shape {n} of {len(ordered)} (largest array {shape}) in {time.monotonic() - start:.1f} s")
    return compiled, time.monotonic() - began


def _numbers(struct: PyTree) -> int:
    return sum(math.prod(s.shape) for s in jax.tree.leaves(struct))
