"""Attention with relative positions as two Pallas kernels for a TPU; scores and weights never leave the chip.

A program of the kernel has `size` queries of one head, and all keys of that head in VMEM, so that rows of scores are
complete and an ordinary softmax suffices. The backward kernel recomputes the weights from queries and keys; only the
arguments are saved for it. Scores by distance become scores by key with one strided rotation of the lanes: row r of a
block is rotated by r more than row 0.

Dropout uses a hash of (seed of utterance and head, query, key), so the forward pass, the backward pass and every mesh
drop the same weights. With several devices each computes its own rows and heads; only the gradient of the projected
distances is summed. `attend` and this part are shared with the GPU kernels of attention_gpu.py.

It has been run by the interpreter and compiled by the TPU's compiler; it has NOT been run on a TPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, UInt32

from speech_jax.core.hashing import hash_bits

_LANES = 128
_VMEM = 12 * 2**20  # bytes; the compiler's default limit for a program is 16 MiB
_TILE = 32  # rows of a tile of the narrowest type; blocks begin and end at multiples of it
_SIZES = (256, 128, 64, _TILE)  # largest number of queries per block
_BITS = 24  # bits of a random number
_ROWS, _HEADS = ("data", "fsdp"), "tensor"  # axes of the mesh over which rows and heads are sharded


class AttentionInputs(NamedTuple):
    """Arguments of attention: projected queries, keys and values of all heads.

    Attributes:
        query: scaled queries, multiplied with `key`.
        position_query: scaled queries, multiplied with `relative_key`; None without positions.
        key: keys.
        value: values.
        relative_key: projected distances: row queries - 1 - i + k is that of key k from query i. None without
            positions.
        key_mask: True for valid keys, False for padding.
    """

    query: Float[Array, "batch queries heads d"]
    position_query: Float[Array, "batch queries heads d"] | None
    key: Float[Array, "batch keys heads d"]
    value: Float[Array, "batch keys heads d"]
    relative_key: Float[Array, "queries+keys-1 heads d"] | None
    key_mask: Bool[Array, "batch keys"]


class BlockPlan(NamedTuple):
    """Static settings of a kernel.

    Attributes:
        size: queries of a program.
        rate: dropout of the weights; 0 for none.
        interpret: run by the interpreter, on any device.
    """

    size: int
    rate: float
    interpret: bool


class Padded(NamedTuple):
    """`AttentionInputs` as the kernels read them, padded to `Kernels.sizes`.

    Attributes:
        query: scaled queries.
        position_query: scaled queries for `relative_key`; None without positions.
        key: keys.
        value: values.
        relative_key: projected distances; row p is the distance of key p from the last query, padding included. None
            without positions.
        key_mask: 1 for valid keys, 0 for padding.
        seeds: seeds of dropout; None without it.
    """

    query: Float[Array, "batch heads queries d"]
    position_query: Float[Array, "batch heads queries d"] | None
    key: Float[Array, "batch heads keys d"]
    value: Float[Array, "batch heads keys d"]
    relative_key: Float[Array, "heads distances d"] | None
    key_mask: Float[Array, "batch 1 keys"]
    seeds: UInt32[Array, "batch heads"] | None


class Kernels(NamedTuple):
    """Functions that run the kernels of one kind of chip.

    Attributes:
        sizes: (size, queries, keys, d) -> numbers of queries, keys, distances and channels of `Padded`.
        forward: (plan, x) -> (output, residuals that `backward` needs in addition to x).
        backward: (plan, x, residuals, gradient of the output) -> gradients of x, possibly in float32; None for
            `key_mask` and `seeds`.
    """

    sizes: Callable[[int, int, int, int], tuple[int, int, int, int]]
    forward: Callable
    backward: Callable


def runs_on(kind: str) -> bool:
    """Return True if the kernel can be compiled for a device of this `device_kind`.

    The strided rotation needs a TPU v5 or later.
    """
    return kind not in ("TPU v2", "TPU v3", "TPU v4")


def block_size(queries: int, keys: int, width: int, itemsize: int) -> int | None:
    """Return the largest number of queries per program that fits into VMEM with all keys; None if none does.

    Args:
        queries: number of queries.
        keys: number of keys.
        width: channels of a head.
        itemsize: bytes of a number.
    """
    keys = round_up(keys, _LANES)
    lanes = round_up(width, _LANES)  # of a row
    for largest in _SIZES:
        size = round_up(-(-queries // -(-queries // largest)), _TILE)  # the same number of blocks, less padding
        distances = round_up(queries, size) + _span(size, keys)
        operands = keys * lanes * (2 * itemsize + 2 * 4) + distances * lanes * (itemsize + 4)
        operands += size * lanes * 5 * itemsize
        # Two of each operand, since the next one is fetched ahead; six arrays of scores.
        if 2 * operands + 6 * size * _span(size, keys) * 4 <= _VMEM:
            return size
    return None


def attend(
    inputs: AttentionInputs,
    seeds: UInt32[Array, "batch heads"] | None,
    rate: float,
    *,
    size: int,
    interpret: bool = False,
    kernels: Kernels | None = None,
) -> Float[Array, "batch queries heads d"]:
    """Return models/attention.py's `attend`, computed by kernels.

    Args:
        inputs: queries, keys and values.
        seeds: seeds of dropout, one per row and head; None for no dropout.
        rate: dropout of the weights.
        size: queries per program, from `block_size`.
        interpret: run by the interpreter, on any device; for tests.
        kernels: kernels of one kind of chip; by default a TPU's.
    """
    kernels = kernels or _TPU
    queries, keys, width = inputs.query.shape[1], inputs.key.shape[1], inputs.key.shape[3]
    all_queries, all_keys, distances, channels = kernels.sizes(size, queries, keys, width)
    query_padding, key_padding = all_queries - queries, all_keys - keys

    def arrange(x: Array | None, padding: int) -> Array | None:
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, channels - width))), 1, 2)

    def arrange_distances(x: Array | None) -> Array | None:
        if x is None:
            return None
        padding = (query_padding, distances - query_padding - len(x))
        return jnp.moveaxis(jnp.pad(x, (padding, (0, 0), (0, channels - width))), 0, 1)

    padded = Padded(
        query=arrange(inputs.query, query_padding),
        position_query=arrange(inputs.position_query, query_padding),
        key=arrange(inputs.key, key_padding),
        value=arrange(inputs.value, key_padding),
        relative_key=arrange_distances(inputs.relative_key),
        key_mask=jnp.pad(inputs.key_mask.astype(jnp.float32), ((0, 0), (0, key_padding)))[:, None],
        seeds=seeds,
    )
    mixed = _on_devices(kernels, BlockPlan(size, rate if seeds is not None else 0.0, interpret), padded)
    return jnp.moveaxis(mixed, 1, 2)[:, :queries, :, :width]


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least n."""
    return -(-n // multiple) * multiple


def _span(size: int, keys: int) -> int:
    """Return the rows of `relative_key` per block of queries: size + keys - 1 distances, rounded up to the lanes."""
    return round_up(size + keys - 1, _LANES)


# --- Shared by the kernels of both kinds of chip ----------------------------------------------------------------------


def dot(
    a: Array,
    b: Array,
    contract: tuple[int, int],
    float32_precision: lax.Precision | lax.DotAlgorithmPreset = lax.Precision.HIGHEST,
) -> Array:
    """Return a matrix product, summed in float32.

    Args:
        a: left factor.
        b: right factor.
        contract: the axes of a and b that are summed over.
        float32_precision: precision of the product of float32 factors; by default they are not rounded to bfloat16.
    """
    precision = float32_precision if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def dropout_factors(rate: float, seed: Array, shape: tuple[int, int], query: Array | int, key: Array | int) -> Array:
    """Return the dropout factors of a block of weights: 0 or 1 / (1 - rate), by a hash of query, key and seed.

    Args:
        rate: probability of 0.
        seed: seed of the row and head.
        shape: (queries, keys) of the block.
        query: index of the block's first query.
        key: index of the block's first key.
    """

    def hashed_index(axis: int, first: Array | int, factor: int) -> Array:
        return (first + lax.broadcasted_iota(jnp.int32, shape, axis)).astype(jnp.uint32) * np.uint32(factor)

    bits = hash_bits(seed ^ hashed_index(0, query, 0x9E3779B1) ^ hashed_index(1, key, 0x85EBCA77))
    random = (bits >> (32 - _BITS)).astype(jnp.int32)  # a TPU compares signed integers only
    return jnp.where(random >= math.ceil(rate * 2**_BITS), 1.0 / (1.0 - rate), 0.0)


# --- Shared by both kernels for a TPU ---------------------------------------------------------------------------------


def _weights(plan: BlockPlan, block: Array, refs: Padded) -> tuple[Array, Array | None]:
    """Return the weights [size, keys] of a block of queries in float32, and its rows of `relative_key`."""
    keys = refs.key.shape[-2]
    scores = dot(refs.query[0, 0], refs.key[0, 0], (1, 1))
    nearby = None
    if refs.relative_key is not None and refs.position_query is not None:
        nearby = refs.relative_key[0, _nearby(plan, block, refs.relative_key, keys), :]
        scores += _by_key(plan, dot(refs.position_query[0, 0], nearby, (1, 1)))[:, :keys]
    key_mask = refs.key_mask[0] > 0
    scores = jnp.where(key_mask, scores, jnp.finfo(jnp.float32).min)
    exponentials = jnp.where(key_mask, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)), 0.0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total > 0, total, 1.0), nearby  # zeros if no key is valid


def _nearby(plan: BlockPlan, block: Array, relative_key: Any, keys: int) -> pl.Slice | slice:
    """Return the rows of `relative_key` for a block of queries; those of the last block begin at row 0."""
    span = _span(plan.size, keys)
    return pl.ds(pl.multiple_of(relative_key.shape[1] - span - block * plan.size, _TILE), span)


def _by_key(plan: BlockPlan, by_distance: Array) -> Array:
    """Rotate row r left by size - 1 - r, so that the score at the distance of key 0 is in column 0."""
    distances = by_distance.shape[-1]
    return pltpu.roll(by_distance, distances - plan.size + 1, 1, stride=1, stride_axis=0)


def _reverse_rows(x: Array) -> Array:
    """Reverse the order of the rows by a matrix product: it is exact, and the matrix unit is idle anyway; float32."""
    size = x.shape[0]
    row, column = (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in range(2))
    return dot((row + column == size - 1).astype(x.dtype), x, (1, 0))


def _by_distance(plan: BlockPlan, by_key: Array) -> Array:
    """Invert `_by_key`, with the rows reversed, since the rotation's stride cannot be negative; float32.

    Row size - 1 - r of the result is row r, filled up with zeros and rotated right by size - 1 - r.
    """
    keys = by_key.shape[-1]
    filler = jnp.zeros((plan.size, _span(plan.size, keys) - keys), jnp.float32)
    filled = jnp.concatenate([_reverse_rows(by_key), filler], axis=-1)
    return pltpu.roll(filled, 0, 1, stride=1, stride_axis=0)


def _forward_kernel(plan: BlockPlan, tree, *refs) -> None:
    refs, out = jax.tree.unflatten(tree, refs[:-1]), refs[-1]
    row, head, block = (pl.program_id(axis) for axis in range(3))
    weights, _ = _weights(plan, block, refs)
    if plan.rate:
        weights *= dropout_factors(plan.rate, refs.seeds[row, head], weights.shape, block * plan.size, 0)
    value = refs.value[0, 0]
    out[0, 0] = dot(weights.astype(value.dtype), value, (1, 0)).astype(out.dtype)


def _backward_kernel(plan: BlockPlan, tree, out_tree, *refs) -> None:
    inputs = tree.num_leaves
    refs, grad = jax.tree.unflatten(tree, refs[:inputs]), jax.tree.unflatten(out_tree, refs[inputs:])
    refs, d_output = refs
    head, row, block = (pl.program_id(axis) for axis in range(3))

    @pl.when(block == 0)
    def _():
        grad.key[...] = jnp.zeros_like(grad.key)
        grad.value[...] = jnp.zeros_like(grad.value)

    weights, nearby = _weights(plan, block, refs)
    key, value, d_output = refs.key[0, 0], refs.value[0, 0], d_output[0, 0]
    dropped, d_weights = weights, dot(d_output, value, (1, 1))
    if plan.rate:
        keep = dropout_factors(plan.rate, refs.seeds[row, head], weights.shape, block * plan.size, 0)
        dropped, d_weights = weights * keep, d_weights * keep
    grad.value[0, 0] += dot(dropped.astype(value.dtype), d_output, (0, 0))
    d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=-1, keepdims=True))
    small = d_scores.astype(key.dtype)
    grad.query[0, 0] = dot(small, key, (1, 0)).astype(grad.query.dtype)
    grad.key[0, 0] += dot(small, refs.query[0, 0], (0, 0))
    if nearby is None:
        return

    @pl.when((block == 0) & (row == 0))
    def _():
        grad.relative_key[...] = jnp.zeros_like(grad.relative_key)

    flipped = _by_distance(plan, small).astype(key.dtype)
    d_position_query = _reverse_rows(dot(flipped, nearby, (1, 0)).astype(key.dtype))
    grad.position_query[0, 0] = d_position_query.astype(grad.position_query.dtype)
    position_query = _reverse_rows(refs.position_query[0, 0]).astype(key.dtype)
    rows = _nearby(plan, block, grad.relative_key, key.shape[0])
    grad.relative_key[0, rows, :] += dot(flipped, position_query, (0, 0))


# --- The calls for a TPU ----------------------------------------------------------------------------------------------


def _specs(plan: BlockPlan, x: Padded, order: Callable) -> Padded:
    """Return the block of each argument that a program gets. order: program ids -> (row, head, block)."""

    def cut(shape: tuple[int, ...], index: Callable) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *ids: index(*order(*ids)))

    width, keys = x.key.shape[-1], x.key.shape[-2]
    queries = cut((1, 1, plan.size, width), lambda row, head, block: (row, head, block, 0))
    all_keys = cut((1, 1, keys, width), lambda row, head, block: (row, head, 0, 0))
    return Padded(
        queries,
        None if x.position_query is None else queries,
        all_keys,
        all_keys,
        None if x.relative_key is None else cut((1, *x.relative_key.shape[1:]), lambda row, head, block: (head, 0, 0)),
        cut((1, 1, keys), lambda row, head, block: (row, 0, 0)),
        None if x.seeds is None else pl.BlockSpec(memory_space=pltpu.SMEM),
    )


def _cost(plan: BlockPlan, x: Padded, products: tuple[int, int], results: list) -> pl.CostEstimate:
    """Return the cost of a call with so many `products` of (queries with keys, queries with distances)."""
    rows, heads, queries, width = x.query.shape
    keys = x.key.shape[-2]
    pairs = rows * heads * queries
    distances = 0 if x.relative_key is None else _span(plan.size, keys)
    return pl.CostEstimate(
        flops=2 * pairs * width * (products[0] * keys + products[1] * distances),
        bytes_accessed=sum(leaf.size * leaf.dtype.itemsize for leaf in (*jax.tree.leaves(x), *results)),
        transcendentals=pairs * keys,
    )


def _sizes(size: int, queries: int, keys: int, width: int) -> tuple[int, int, int, int]:
    queries, keys = round_up(queries, size), round_up(keys, _LANES)
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


def _backward(plan: BlockPlan, x: Padded, saved: None, d_output: Array) -> Padded:
    """Return the gradients of x; those that are sums over queries are in float32."""
    leaves, tree = jax.tree.flatten((x, d_output))
    specs = _specs(plan, x, lambda head, row, block: (row, head, block))
    rows, heads, queries, _ = x.query.shape
    float32_like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)  # noqa: E731
    like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)  # noqa: E731
    out = Padded(
        like(x.query), x.position_query, float32_like(x.key), float32_like(x.value), x.relative_key, None, None
    )
    if x.relative_key is not None:
        out = out._replace(position_query=like(x.position_query), relative_key=float32_like(x.relative_key))
    shapes, out_tree = jax.tree.flatten(out)
    gradients = pl.pallas_call(
        partial(_backward_kernel, plan, tree, out_tree),
        grid=(heads, rows, queries // plan.size),
        in_specs=[*jax.tree.leaves(specs), specs.query],
        out_specs=jax.tree.leaves(specs._replace(key_mask=None, seeds=None)),
        out_shape=shapes,
        cost_estimate=_cost(plan, x, (5, 3), shapes),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=plan.interpret,
        name="attention_backward",
    )(*leaves)
    return jax.tree.unflatten(out_tree, gradients)


# --- Gradients, and several devices -----------------------------------------------------------------------------------


_TPU = Kernels(_sizes, _forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernels: Kernels, plan: BlockPlan, x: Padded) -> Array:
    return kernels.forward(plan, x)[0]


def _attend_forward(kernels: Kernels, plan: BlockPlan, x: Padded) -> tuple[Array, tuple]:
    mixed, saved = kernels.forward(plan, x)
    return mixed, (x, saved)


def _attend_backward(kernels: Kernels, plan: BlockPlan, residuals: tuple, d_output: Array) -> tuple[Padded]:
    x, saved = residuals
    gradient = jax.tree.map(
        lambda g, leaf: g.astype(leaf.dtype),
        *(t._replace(key_mask=None, seeds=None) for t in (kernels.backward(plan, x, saved, d_output), x)),
    )
    seeds = None if x.seeds is None else np.zeros(x.seeds.shape, jax.dtypes.float0)
    return (gradient._replace(key_mask=jnp.zeros_like(x.key_mask), seeds=seeds),)


_attend.defvjp(_attend_forward, _attend_backward)


def _on_devices(kernels: Kernels, plan: BlockPlan, x: Padded) -> Array:
    """Run `_attend` with each device's own rows and heads on the mesh of `jax.set_mesh`, if there is one.

    The compiler does not partition kernels by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _attend(kernels, plan, x)
    rows = tuple(axis for axis in _ROWS if axis in mesh.axis_names)
    heads = _HEADS if x.query.shape[1] % mesh.shape.get(_HEADS, x.query.shape[1] + 1) == 0 else None
    by_row_and_head = PartitionSpec(rows, heads)
    specs = Padded(
        *(by_row_and_head,) * 4,
        relative_key=PartitionSpec(heads),
        key_mask=PartitionSpec(rows),
        seeds=by_row_and_head,
    )
    specs = Padded(*(None if leaf is None else spec for leaf, spec in zip(x, specs, strict=True)))
    attend_shard = partial(_attend, kernels, plan)
    return jax.shard_map(attend_shard, mesh=mesh, in_specs=(specs,), out_specs=by_row_and_head, check_vma=False)(x)
