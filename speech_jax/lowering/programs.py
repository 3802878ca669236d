"""Measure one compiled program: bytes, operations, collectives, and a roofline time."""

from __future__ import annotations

import math
import re
from typing import Any

import jax

from speech_jax.core.types import PyTree
from speech_jax.lowering.chips import Chip, roofline
from speech_jax.lowering.hlo import operations, parse

SHOWN_LINES = 24  # of the compiler's list of what does not fit
SHOWN_SLOWEST = 20  # instructions in the JSON


def measure(name: str, program: Any, chip: Chip) -> dict[str, Any]:
    """Return the figures of one compiled program on one chip: bytes, operations, collectives, roofline."""
    module = parse(program.as_text())
    ops = operations(module)
    memory = program.memory_analysis()
    collectives: dict[str, dict[str, float]] = {}
    for op in ops:
        if op.wire:
            total = collectives.setdefault(op.kind, {"times": 0.0, "bytes": 0.0})
            total["times"] += op.times
            total["bytes"] += op.times * op.wire
    slowest = sorted(ops, key=lambda op: -op.times * max(op.flops / chip.peak, op.bytes / chip.bandwidth))
    return {
        "name": name,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": sum(op.times * op.flops for op in ops),
        "bytes": sum(op.times * op.bytes for op in ops),
        "collectives": collectives,
        "loops_of_unknown_length": len(module.unknown_loops),
        "roofline": roofline(ops, chip),
        "slowest": [op._asdict() for op in slowest[:SHOWN_SLOWEST]],
    }


def shard_bytes(tree: PyTree) -> int:
    """Return the bytes that a tree of shapes with shardings takes on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def allocations(error: Exception) -> list[str]:
    """Return the compiler's list of the largest allocations if it ran out of memory; raise any other error."""
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        raise error
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    pattern = r"(Ran out|Program hbm|\d+\. Size|Shape:|Operator:|XLA label:)"
    largest = [line for line in lines if re.match(pattern, line)]
    return (largest or lines)[:SHOWN_LINES]
