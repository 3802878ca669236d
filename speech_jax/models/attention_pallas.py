"""Attention with relative positions as two Pallas kernels for a TPU, in which scores and weights never leave the chip.

A program of the kernel has `size` queries of one head, and all keys of that head in VMEM, so a row of scores is whole
and an ordinary softmax does. The backward kernel computes the weights again from queries and keys; nothing but the
arguments is kept for it. Scores by distance become scores by key with one strided rotation of the lanes: row r of a
block turns by r more than row 0.

Dropout draws by a hash of (the seed of utterance and head, query, key), so the backward pass and every mesh see the
same. With several devices each computes its own rows and heads; only the gradient of the distances is summed.

It has been run by the interpreter and compiled by the TPU's compiler; it has NOT been run on a TPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, UInt32

from speech_jax.models.layers import hash_bits

_LANES = 128
_VMEM = 12 * 2**20  # bytes; a program may take 16 MiB where nothing else is said
_TILE = 32  # rows of a tile, of the smallest numbers; what a block begins at and ends at
_SIZES = (256, 128, 64, _TILE)  # of blocks of queries, at most
_BITS = 24  # of a random number
_ROWS, _HEADS = ("data", "fsdp"), "tensor"  # the mesh's axes, over which they lie


class Plan(NamedTuple):
    """size: queries of a program. rate: of dropout, 0 without. interpret: run by the interpreter, on any device."""

    size: int
    rate: float
    interpret: bool


class Padded(NamedTuple):
    """What the kernels take. Queries and keys are padded to `size` and to 128, `place` to whole blocks. `there`: 1 for
    a key, 0 for padding. Without positions `query_at` and `place` are None, without dropout `seeds`."""

    query: Float[Array, "batch heads queries d"]
    query_at: Float[Array, "batch heads queries d"] | None
    key: Float[Array, "batch heads keys d"]
    value: Float[Array, "batch heads keys d"]
    place: Float[Array, "heads places d"] | None
    there: Float[Array, "batch 1 keys"]
    seeds: UInt32[Array, "batch heads"] | None


def block_size(queries: int, keys: int, width: int, itemsize: int) -> int | None:
    """Queries of a program, the most that fit into VMEM with all keys; None where not even the fewest do."""
    keys = _up(keys, _LANES)
    lanes = _up(width, _LANES)  # that a row takes
    for most in _SIZES:
        size = _up(-(-queries // -(-queries // most)), _TILE)  # as many blocks, with little padding
        places = _up(queries, size) + _span(size, keys)
        held = keys * lanes * (2 * itemsize + 2 * 4) + places * lanes * (itemsize + 4) + size * lanes * 5 * itemsize
        if 2 * held + 6 * size * _span(size, keys) * 4 <= _VMEM:  # two of each, one on its way; six arrays of scores
            return size
    return None


def attend(
    query: Float[Array, "batch queries heads d"],
    query_at: Float[Array, "batch queries heads d"] | None,
    key: Float[Array, "batch keys heads d"],
    value: Float[Array, "batch keys heads d"],
    place: Float[Array, "queries+keys-1 heads d"] | None,
    mask: Array,
    seeds: UInt32[Array, "batch heads"] | None,
    rate: float,
    *,
    size: int,
    interpret: bool = False,
) -> Float[Array, "batch queries heads d"]:
    """models/attention.py's `attend`, with its dropout drawn from `seeds`; size: from `block_size`."""
    queries, keys = query.shape[1], key.shape[1]
    more, extra = -queries % size, -keys % _LANES
    filler = _span(size, keys + extra) - size - keys + 1

    def arrange(x: Array | None, after: int) -> Array | None:
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, after), (0, 0), (0, 0))), 1, 2)

    padded = Padded(
        arrange(query, more),
        arrange(query_at, more),
        arrange(key, extra),
        arrange(value, extra),
        None if place is None else jnp.moveaxis(jnp.pad(place, ((more, filler), (0, 0), (0, 0))), 0, 1),
        jnp.pad(mask.astype(jnp.float32), ((0, 0), (0, extra)))[:, None],
        seeds,
    )
    mixed = _on_devices(Plan(size, rate if seeds is not None else 0.0, interpret), padded)
    return jnp.moveaxis(mixed, 1, 2)[:, :queries]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _span(size: int, keys: int) -> int:
    """Rows of `place` that a block of queries takes: its size + keys - 1 distances, and what fills the lanes."""
    return _up(size + keys - 1, _LANES)


# --- What both kernels compute ----------------------------------------------------------------------------------------


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """The product in float32; float32 factors are not rounded to bfloat16."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def _weights(plan: Plan, block: Array, refs: Padded) -> tuple[Array, Array | None]:
    """The weights [size, keys] of this block of queries in float32, and the rows of `place` that it meets."""
    keys = refs.key.shape[-2]
    scores = _dot(refs.query[0, 0], refs.key[0, 0], (1, 1))
    near = None
    if refs.place is not None:
        near = refs.place[0, _near(plan, block, refs.place, keys), :]
        scores += _by_key(plan, _dot(refs.query_at[0, 0], near, (1, 1)))[:, :keys]
    there = refs.there[0] > 0
    scores = jnp.where(there, scores, jnp.finfo(jnp.float32).min)
    raised = jnp.where(there, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)), 0.0)
    total = jnp.sum(raised, axis=-1, keepdims=True)
    return raised / jnp.where(total > 0, total, 1.0), near  # without a single key: zeros


def _near(plan: Plan, block: Array, place: Array, keys: int) -> pl.Slice:
    """The rows of `place` that a block of queries meets: the last block those from the first on."""
    span = _span(plan.size, keys)
    return pl.ds(pl.multiple_of(place.shape[1] - span - block * plan.size, _TILE), span)


def _by_key(plan: Plan, by_distance: Array) -> Array:
    """Row r, turned left by size - 1 - r: what stood at the distance of key 0 stands in column 0."""
    places = by_distance.shape[-1]
    return pltpu.roll(by_distance, places - plan.size + 1, 1, stride=1, stride_axis=0)


def _turn_over(x: Array) -> Array:
    """The rows in the other order, as a product: exact, and the matrix unit has the time. float32."""
    size = x.shape[0]
    row, column = (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in range(2))
    return _dot((row + column == size - 1).astype(x.dtype), x, (1, 0))


def _by_distance(plan: Plan, by_key: Array) -> Array:
    """The way back of `_by_key`, filled up with zeros, and turned over: row size - 1 - r is row r turned right by
    size - 1 - r. (The rotation's stride cannot be negative.) float32."""
    keys = by_key.shape[-1]
    filler = jnp.zeros((plan.size, _span(plan.size, keys) - keys), jnp.float32)
    filled = jnp.concatenate([_turn_over(by_key), filler], axis=-1)
    return pltpu.roll(filled, 0, 1, stride=1, stride_axis=0)


def _kept(plan: Plan, block: Array, seed: Array, keys: int) -> Array:
    """What dropout multiplies the weights with: 0 or 1 / (1 - rate), by a hash of query, key and seed."""

    def number(axis: int, first: Array | int, factor: int) -> Array:
        return (first + lax.broadcasted_iota(jnp.int32, (plan.size, keys), axis)).astype(jnp.uint32) * np.uint32(factor)

    bits = hash_bits(seed ^ number(0, block * plan.size, 0x9E3779B1) ^ number(1, 0, 0x85EBCA77))
    random = (bits >> (32 - _BITS)).astype(jnp.int32)  # the chip compares signed numbers
    return jnp.where(random >= math.ceil(plan.rate * 2**_BITS), 1.0 / (1.0 - plan.rate), 0.0)


def _seed(refs: Padded, row: Array, head: Array) -> Array | None:
    return None if refs.seeds is None else refs.seeds[row, head]


def _forward_kernel(plan: Plan, tree, *refs) -> None:
    refs, out = jax.tree.unflatten(tree, refs[:-1]), refs[-1]
    row, head, block = (pl.program_id(axis) for axis in range(3))
    weights, _ = _weights(plan, block, refs)
    if plan.rate:
        weights *= _kept(plan, block, _seed(refs, row, head), weights.shape[1])
    value = refs.value[0, 0]
    out[0, 0] = _dot(weights.astype(value.dtype), value, (1, 0)).astype(out.dtype)


def _backward_kernel(plan: Plan, tree, out_tree, *refs) -> None:
    inputs = tree.num_leaves
    refs, grad = jax.tree.unflatten(tree, refs[:inputs]), jax.tree.unflatten(out_tree, refs[inputs:])
    refs, above = refs
    head, row, block = (pl.program_id(axis) for axis in range(3))

    @pl.when(block == 0)
    def _():
        grad.key[...] = jnp.zeros_like(grad.key)
        grad.value[...] = jnp.zeros_like(grad.value)

    weights, near = _weights(plan, block, refs)
    key, value, above = refs.key[0, 0], refs.value[0, 0], above[0, 0]
    dropped, to_weights = weights, _dot(above, value, (1, 1))
    if plan.rate:
        kept = _kept(plan, block, _seed(refs, row, head), weights.shape[1])
        dropped, to_weights = weights * kept, to_weights * kept
    grad.value[0, 0] += _dot(dropped.astype(value.dtype), above, (0, 0))
    to_scores = weights * (to_weights - jnp.sum(weights * to_weights, axis=-1, keepdims=True))
    small = to_scores.astype(key.dtype)
    grad.query[0, 0] = _dot(small, key, (1, 0)).astype(grad.query.dtype)
    grad.key[0, 0] += _dot(small, refs.query[0, 0], (0, 0))
    if near is None:
        return

    @pl.when((block == 0) & (row == 0))
    def _():
        grad.place[...] = jnp.zeros_like(grad.place)

    turned = _by_distance(plan, small).astype(key.dtype)
    grad.query_at[0, 0] = _turn_over(_dot(turned, near, (1, 0)).astype(key.dtype)).astype(grad.query_at.dtype)
    query_at = _turn_over(refs.query_at[0, 0]).astype(key.dtype)
    grad.place[0, _near(plan, block, grad.place, key.shape[0]), :] += _dot(turned, query_at, (0, 0))


# --- The calls --------------------------------------------------------------------------------------------------------


def _specs(plan: Plan, x: Padded, order: Callable) -> Padded:
    """How the arguments are cut for a program. order: program numbers -> (row, head, block)."""

    def some(shape: tuple[int, ...], index: Callable) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *at: index(*order(*at)))

    width, keys = x.key.shape[-1], x.key.shape[-2]
    queries = some((1, 1, plan.size, width), lambda row, head, block: (row, head, block, 0))
    whole = some((1, 1, keys, width), lambda row, head, block: (row, head, 0, 0))
    return Padded(
        queries,
        None if x.query_at is None else queries,
        whole,
        whole,
        None if x.place is None else some((1, *x.place.shape[1:]), lambda row, head, block: (head, 0, 0)),
        some((1, 1, keys), lambda row, head, block: (row, 0, 0)),
        None if x.seeds is None else pl.BlockSpec(memory_space=pltpu.SMEM),
    )


def _cost(plan: Plan, x: Padded, products: tuple[int, int], results: list) -> pl.CostEstimate:
    """products: of queries with keys, of queries with places."""
    rows, heads, queries, width = x.query.shape
    keys = x.key.shape[-2]
    pairs = rows * heads * queries
    places = 0 if x.place is None else _span(plan.size, keys)
    return pl.CostEstimate(
        flops=2 * pairs * width * (products[0] * keys + products[1] * places),
        bytes_accessed=sum(leaf.size * leaf.dtype.itemsize for leaf in (*jax.tree.leaves(x), *results)),
        transcendentals=pairs * keys,
    )


def _forward(plan: Plan, x: Padded) -> Array:
    leaves, tree = jax.tree.flatten(x)
    specs = _specs(plan, x, lambda row, head, block: (row, head, block))
    rows, heads, queries, _ = x.query.shape
    out = jax.ShapeDtypeStruct(x.query.shape, x.value.dtype)
    return pl.pallas_call(
        partial(_forward_kernel, plan, tree),
        grid=(rows, heads, queries // plan.size),
        in_specs=jax.tree.leaves(specs),
        out_specs=specs.query,
        out_shape=out,
        cost_estimate=_cost(plan, x, (2, 1), [out]),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=plan.interpret,
        name="attention",
    )(*leaves)


def _backward(plan: Plan, x: Padded, above: Array) -> Padded:
    """The gradients; those that are sums over queries in float32, those of `there` and `seeds` None."""
    leaves, tree = jax.tree.flatten((x, above))
    specs = _specs(plan, x, lambda head, row, block: (row, head, block))
    rows, heads, queries, _ = x.query.shape
    exact = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)  # noqa: E731
    like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)  # noqa: E731
    out = Padded(like(x.query), x.query_at, exact(x.key), exact(x.value), x.place, None, None)
    if x.place is not None:
        out = out._replace(query_at=like(x.query_at), place=exact(x.place))
    shapes, out_tree = jax.tree.flatten(out)
    found = pl.pallas_call(
        partial(_backward_kernel, plan, tree, out_tree),
        grid=(heads, rows, queries // plan.size),
        in_specs=[*jax.tree.leaves(specs), specs.query],
        out_specs=jax.tree.leaves(specs._replace(there=None, seeds=None)),
        out_shape=shapes,
        cost_estimate=_cost(plan, x, (5, 3), shapes),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=plan.interpret,
        name="attention_backward",
    )(*leaves)
    return jax.tree.unflatten(out_tree, found)


# --- Their gradient, and several devices ------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, x: Padded) -> Array:
    return _forward(plan, x)


def _attend_forward(plan: Plan, x: Padded) -> tuple[Array, Padded]:
    return _forward(plan, x), x


def _attend_backward(plan: Plan, x: Padded, above: Array) -> tuple[Padded]:
    gradient = jax.tree.map(
        lambda g, leaf: g.astype(leaf.dtype),
        *(t._replace(there=None, seeds=None) for t in (_backward(plan, x, above), x)),
    )
    seeds = None if x.seeds is None else np.zeros(x.seeds.shape, jax.dtypes.float0)
    return (gradient._replace(there=jnp.zeros_like(x.there), seeds=seeds),)


_attend.defvjp(_attend_forward, _attend_backward)


def _on_devices(plan: Plan, x: Padded) -> Array:
    """_attend, on each device of the mesh that `jax.set_mesh` names its own rows and heads: the compiler does not split
    kernels by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _attend(plan, x)
    rows = tuple(axis for axis in _ROWS if axis in mesh.axis_names)
    heads = _HEADS if x.query.shape[1] % mesh.shape.get(_HEADS, x.query.shape[1] + 1) == 0 else None
    each = PartitionSpec(rows, heads)
    specs = Padded(each, each, each, each, PartitionSpec(heads), PartitionSpec(rows), each)
    specs = Padded(*(None if leaf is None else spec for leaf, spec in zip(x, specs, strict=True)))
    return jax.shard_map(partial(_attend, plan), mesh=mesh, in_specs=(specs,), out_specs=each, check_vma=False)(x)
