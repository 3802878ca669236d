"""Attention with relative positions as two Pallas kernels for a TPU, in which scores and weights never leave the chip.

A program of the kernel has `size` queries of one head, and all keys of that head in VMEM, so a row of scores is whole
and an ordinary softmax does. The backward kernel computes the weights again from queries and keys; nothing but the
arguments is kept for it. Scores by distance become scores by key with one strided rotation of the lanes: row r of a
block turns by r more than row 0.

Dropout draws by a hash of (the seed of utterance and head, query, key), so the backward pass and every mesh see the
same. With several devices each computes its own rows and heads; only the gradient of the distances is summed.
That part is the same for the kernels for a GPU (attention_pallas_gpu.py), which take it from here.

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

from speech_jax.core.hashing import hash_bits

_LANES = 128
_VMEM = 12 * 2**20  # bytes; a program may take 16 MiB where nothing else is said
_TILE = 32  # rows of a tile, of the smallest numbers; what a block begins at and ends at
_SIZES = (256, 128, 64, _TILE)  # of blocks of queries, at most
_BITS = 24  # of a random number
_ROWS, _HEADS = ("data", "fsdp"), "tensor"  # the mesh's axes, over which they lie


class BlockPlan(NamedTuple):
    """size: queries of a program. rate: of dropout, 0 without. interpret: run by the interpreter, on any device."""

    size: int
    rate: float
    interpret: bool


class Padded(NamedTuple):
    """What the kernels take, padded to `Kernels.sizes`. `there`: 1 for a key, 0 for padding. Row p of `place` is the
    distance that the last of all queries, padding included, has from key p. Without positions `query_at` and `place`
    are None, without dropout `seeds`."""

    query: Float[Array, "batch heads queries d"]
    query_at: Float[Array, "batch heads queries d"] | None
    key: Float[Array, "batch heads keys d"]
    value: Float[Array, "batch heads keys d"]
    place: Float[Array, "heads places d"] | None
    there: Float[Array, "batch 1 keys"]
    seeds: UInt32[Array, "batch heads"] | None


class Kernels(NamedTuple):
    """What one kind of chip computes with.

    sizes: (size, queries, keys, d) -> the numbers of queries, keys, places and channels that `Padded` has. forward:
    (plan, x) -> (values, what `backward` needs beside x). backward: (plan, x, that, gradient by the values) ->
    gradients by x, which may be in float32, None for `there` and `seeds`.
    """

    sizes: Callable[[int, int, int, int], tuple[int, int, int, int]]
    forward: Callable
    backward: Callable


def runs_on(kind: str) -> bool:
    """Whether the kernel can be compiled for a device of this kind: rows that are rotated each by its own amount need a
    TPU v5 or later."""
    return kind not in ("TPU v2", "TPU v3", "TPU v4")


def block_size(queries: int, keys: int, width: int, itemsize: int) -> int | None:
    """Queries of a program, the most that fit into VMEM with all keys; None where not even the fewest do."""
    keys = up(keys, _LANES)
    lanes = up(width, _LANES)  # that a row takes
    for most in _SIZES:
        size = up(-(-queries // -(-queries // most)), _TILE)  # as many blocks, with little padding
        places = up(queries, size) + _span(size, keys)
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
    kernels: Kernels | None = None,
) -> Float[Array, "batch queries heads d"]:
    """models/attention.py's `attend`, with its dropout drawn from `seeds`; size: from `block_size`. kernels: a TPU's
    where nothing is said."""
    kernels = kernels or _TPU
    queries, keys, width = query.shape[1], key.shape[1], key.shape[3]
    all_queries, all_keys, places, channels = kernels.sizes(size, queries, keys, width)
    more, extra = all_queries - queries, all_keys - keys

    def arrange(x: Array | None, after: int) -> Array | None:
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, after), (0, 0), (0, channels - width))), 1, 2)

    def arrange_places(x: Array | None) -> Array | None:
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, ((more, places - more - len(x)), (0, 0), (0, channels - width))), 0, 1)

    padded = Padded(
        arrange(query, more),
        arrange(query_at, more),
        arrange(key, extra),
        arrange(value, extra),
        arrange_places(place),
        jnp.pad(mask.astype(jnp.float32), ((0, 0), (0, extra)))[:, None],
        seeds,
    )
    mixed = _on_devices(kernels, BlockPlan(size, rate if seeds is not None else 0.0, interpret), padded)
    return jnp.moveaxis(mixed, 1, 2)[:, :queries, :, :width]


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _span(size: int, keys: int) -> int:
    """Rows of `place` that a block of queries takes: its size + keys - 1 distances, and what fills the lanes."""
    return up(size + keys - 1, _LANES)


# --- What the kernels for both kinds of chip compute ------------------------------------------------------------------


def dot(
    a: Array,
    b: Array,
    contract: tuple[int, int],
    exact: lax.Precision | lax.DotAlgorithmPreset = lax.Precision.HIGHEST,
) -> Array:
    """The product in float32; float32 factors are multiplied `exact`ly, not rounded to bfloat16."""
    precision = exact if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def kept(rate: float, seed: Array, shape: tuple[int, int], query: Array | int, key: Array | int) -> Array:
    """What dropout multiplies the weights with: 0 or 1 / (1 - rate), by a hash of query, key and seed. query, key: the
    numbers of the first ones."""

    def number(axis: int, first: Array | int, factor: int) -> Array:
        return (first + lax.broadcasted_iota(jnp.int32, shape, axis)).astype(jnp.uint32) * np.uint32(factor)

    bits = hash_bits(seed ^ number(0, query, 0x9E3779B1) ^ number(1, key, 0x85EBCA77))
    random = (bits >> (32 - _BITS)).astype(jnp.int32)  # a TPU compares signed numbers
    return jnp.where(random >= math.ceil(rate * 2**_BITS), 1.0 / (1.0 - rate), 0.0)


# --- What both kernels for a TPU compute ------------------------------------------------------------------------------


def _weights(plan: BlockPlan, block: Array, refs: Padded) -> tuple[Array, Array | None]:
    """The weights [size, keys] of this block of queries in float32, and the rows of `place` that it meets."""
    keys = refs.key.shape[-2]
    scores = dot(refs.query[0, 0], refs.key[0, 0], (1, 1))
    near = None
    if refs.place is not None:
        near = refs.place[0, _near(plan, block, refs.place, keys), :]
        scores += _by_key(plan, dot(refs.query_at[0, 0], near, (1, 1)))[:, :keys]
    there = refs.there[0] > 0
    scores = jnp.where(there, scores, jnp.finfo(jnp.float32).min)
    raised = jnp.where(there, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)), 0.0)
    total = jnp.sum(raised, axis=-1, keepdims=True)
    return raised / jnp.where(total > 0, total, 1.0), near  # without a single key: zeros


def _near(plan: BlockPlan, block: Array, place: Array, keys: int) -> pl.Slice:
    """The rows of `place` that a block of queries meets: the last block those from the first on."""
    span = _span(plan.size, keys)
    return pl.ds(pl.multiple_of(place.shape[1] - span - block * plan.size, _TILE), span)


def _by_key(plan: BlockPlan, by_distance: Array) -> Array:
    """Row r, turned left by size - 1 - r: what stood at the distance of key 0 stands in column 0."""
    places = by_distance.shape[-1]
    return pltpu.roll(by_distance, places - plan.size + 1, 1, stride=1, stride_axis=0)


def _turn_over(x: Array) -> Array:
    """The rows in the other order, as a product: exact, and the matrix unit has the time. float32."""
    size = x.shape[0]
    row, column = (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in range(2))
    return dot((row + column == size - 1).astype(x.dtype), x, (1, 0))


def _by_distance(plan: BlockPlan, by_key: Array) -> Array:
    """The way back of `_by_key`, filled up with zeros, and turned over: row size - 1 - r is row r turned right by
    size - 1 - r. (The rotation's stride cannot be negative.) float32."""
    keys = by_key.shape[-1]
    filler = jnp.zeros((plan.size, _span(plan.size, keys) - keys), jnp.float32)
    filled = jnp.concatenate([_turn_over(by_key), filler], axis=-1)
    return pltpu.roll(filled, 0, 1, stride=1, stride_axis=0)


def _forward_kernel(plan: BlockPlan, tree, *refs) -> None:
    refs, out = jax.tree.unflatten(tree, refs[:-1]), refs[-1]
    row, head, block = (pl.program_id(axis) for axis in range(3))
    weights, _ = _weights(plan, block, refs)
    if plan.rate:
        weights *= kept(plan.rate, refs.seeds[row, head], weights.shape, block * plan.size, 0)
    value = refs.value[0, 0]
    out[0, 0] = dot(weights.astype(value.dtype), value, (1, 0)).astype(out.dtype)


def _backward_kernel(plan: BlockPlan, tree, out_tree, *refs) -> None:
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
    dropped, to_weights = weights, dot(above, value, (1, 1))
    if plan.rate:
        keep = kept(plan.rate, refs.seeds[row, head], weights.shape, block * plan.size, 0)
        dropped, to_weights = weights * keep, to_weights * keep
    grad.value[0, 0] += dot(dropped.astype(value.dtype), above, (0, 0))
    to_scores = weights * (to_weights - jnp.sum(weights * to_weights, axis=-1, keepdims=True))
    small = to_scores.astype(key.dtype)
    grad.query[0, 0] = dot(small, key, (1, 0)).astype(grad.query.dtype)
    grad.key[0, 0] += dot(small, refs.query[0, 0], (0, 0))
    if near is None:
        return

    @pl.when((block == 0) & (row == 0))
    def _():
        grad.place[...] = jnp.zeros_like(grad.place)

    turned = _by_distance(plan, small).astype(key.dtype)
    grad.query_at[0, 0] = _turn_over(dot(turned, near, (1, 0)).astype(key.dtype)).astype(grad.query_at.dtype)
    query_at = _turn_over(refs.query_at[0, 0]).astype(key.dtype)
    grad.place[0, _near(plan, block, grad.place, key.shape[0]), :] += dot(turned, query_at, (0, 0))


# --- The calls for a TPU ----------------------------------------------------------------------------------------------


def _specs(plan: BlockPlan, x: Padded, order: Callable) -> Padded:
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


def _cost(plan: BlockPlan, x: Padded, products: tuple[int, int], results: list) -> pl.CostEstimate:
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


def _sizes(size: int, queries: int, keys: int, width: int) -> tuple[int, int, int, int]:
    queries, keys = up(queries, size), up(keys, _LANES)
    return queries, keys, queries - size + _span(size, keys), width


def _forward(plan: BlockPlan, x: Padded) -> tuple[Array, None]:
    leaves, tree = jax.tree.flatten(x)
    specs = _specs(plan, x, lambda row, head, block: (row, head, block))
    rows, heads, queries, _ = x.query.shape
    out = jax.ShapeDtypeStruct(x.query.shape, x.value.dtype)
    mixed = pl.pallas_call(
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
    return mixed, None


def _backward(plan: BlockPlan, x: Padded, saved: None, above: Array) -> Padded:
    """Those gradients that are sums over queries are in float32."""
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


_TPU = Kernels(_sizes, _forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernels: Kernels, plan: BlockPlan, x: Padded) -> Array:
    return kernels.forward(plan, x)[0]


def _attend_forward(kernels: Kernels, plan: BlockPlan, x: Padded) -> tuple[Array, tuple]:
    mixed, saved = kernels.forward(plan, x)
    return mixed, (x, saved)


def _attend_backward(kernels: Kernels, plan: BlockPlan, known: tuple, above: Array) -> tuple[Padded]:
    x, saved = known
    gradient = jax.tree.map(
        lambda g, leaf: g.astype(leaf.dtype),
        *(t._replace(there=None, seeds=None) for t in (kernels.backward(plan, x, saved, above), x)),
    )
    seeds = None if x.seeds is None else np.zeros(x.seeds.shape, jax.dtypes.float0)
    return (gradient._replace(there=jnp.zeros_like(x.there), seeds=seeds),)


_attend.defvjp(_attend_forward, _attend_backward)


def _on_devices(kernels: Kernels, plan: BlockPlan, x: Padded) -> Array:
    """_attend, on each device of the mesh that `jax.set_mesh` names its own rows and heads: the compiler does not split
    kernels by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _attend(kernels, plan, x)
    rows = tuple(axis for axis in _ROWS if axis in mesh.axis_names)
    heads = _HEADS if x.query.shape[1] % mesh.shape.get(_HEADS, x.query.shape[1] + 1) == 0 else None
    each = PartitionSpec(rows, heads)
    specs = Padded(each, each, each, each, PartitionSpec(heads), PartitionSpec(rows), each)
    specs = Padded(*(None if leaf is None else spec for leaf, spec in zip(x, specs, strict=True)))
    share = partial(_attend, kernels, plan)
    return jax.shard_map(share, mesh=mesh, in_specs=(specs,), out_specs=each, check_vma=False)(x)
