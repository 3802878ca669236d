"""Attention with relative positions as four Pallas kernels for an NVIDIA GPU, through Triton.

A program of the forward kernel has `size` queries of one head and loops over the keys, `size` at a time, with an online
softmax (Milakov and Gimelshein 2018, Dao et al. 2022). In the backward pass one kernel loops over the keys for the
gradient of the queries, one over the queries for those of the keys and values, and one along the diagonals, on which
the distances are equal, for that of the relative keys. Each recomputes the scores, and no two programs add to the same
number, so the same arguments give the same bits. In addition to the arguments, only the output and one number per query
are saved.

Relative shift: a block of scores needs 2 · size - 1 distances. They are two neighboring blocks of relative keys, both
aligned, since queries and keys come in blocks of one size. Row r, column c needs distance size - 1 - r + c of them.
Modulo the size, that is column c - r - 1 of either block: choose between the two products, then rotate row r by r + 1.
The next block of keys needs one of the two again, so a step of the forward loop costs three products of blocks, not
four. The rotation is one gather along the rows (Triton's `tt.gather`, for which Pallas has no function; see `_gather`).

Cost with T queries and keys and d channels of 2 bytes, per head and row: the forward pass takes 6 T² d operations and,
with blocks of 64, reads 6 T² d / 64 bytes of keys, values and relative keys from the L2 cache: 64 operations per byte.
Main memory traffic is 10 T d bytes, plus 4 T d of relative keys once for all rows. The backward pass takes 36 T² d
operations.

They have been run by the interpreter, and compiled for an H100 without one (experiments/pods/gpu_attention.py); they
have NOT been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.pallas.triton import lowering as triton_lowering  # for `_gather`: no public way to register a lowering
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.triton import dialect as triton_dialect
from jaxtyping import Array, Float, UInt32

from speech_jax.core.types import PyTree
from speech_jax.kernels import attention_tpu
from speech_jax.kernels.attention_tpu import AttentionInputs, BlockPlan, Kernels, Padded, dropout_factors, round_up

_NARROWEST = 16  # fewest channels of a head; they are padded to a power of two
_WIDEST = 256  # most bytes of a head's channels
_SHARES = 8  # parts of the batch in the gradient of the relative keys: that many more programs, and partial sums


class Saved(NamedTuple):
    """Output and residuals of the forward pass.

    Attributes:
        mixed: the output: weighted means of the values.
        total: logarithm of the sum of a query's exponentiated scores; 0 if no key is valid.
    """

    mixed: Float[Array, "batch heads queries d"]
    total: Float[Array, "batch heads queries"]


class Queries(NamedTuple):
    """A block of queries in the backward pass.

    Attributes:
        query: scaled queries.
        position_query: scaled queries for the relative keys; None without positions.
        d_output: gradient of the output.
        total: as in `Saved`.
        mean: sum over the channels of output times gradient, which the softmax's derivative subtracts.
    """

    query: Float[Array, "size d"]
    position_query: Float[Array, "size d"] | None
    d_output: Float[Array, "size d"]
    total: Float[Array, " size"]
    mean: Float[Array, " size"]


def block_size(width: int, itemsize: int) -> int | None:
    """Return the largest number of queries and keys of a block that a program's registers hold.

    Args:
        width: channels of a head.
        itemsize: bytes of a number.

    Returns:
        The number, or None for heads that are too wide: more than 128 channels of bfloat16, 64 of float32.
    """
    row = max(_NARROWEST, pl.next_power_of_2(width)) * itemsize
    if row > _WIDEST:
        return None
    if itemsize > 2:
        return 16  # a float32 product takes three of TF32, whose factors need more registers
    return 64 if row <= _WIDEST // 2 else 32


def attend(
    inputs: AttentionInputs,
    seeds: UInt32[Array, "batch heads"] | None,
    rate: float,
    *,
    size: int,
    interpret: bool = False,
) -> Float[Array, "batch queries heads d"]:
    """Return `attention_tpu.attend`, computed by the kernels for a GPU.

    Args:
        inputs: queries, keys and values.
        seeds: seeds of dropout, one per row and head; None for no dropout.
        rate: dropout of the weights.
        size: queries and keys per block, from `block_size`: a power of two, at least 16.
        interpret: run by the interpreter, on any device; for tests.
    """
    return attention_tpu.attend(inputs, seeds, rate, size=size, interpret=interpret, kernels=_GPU)


def _sizes(size: int, queries: int, keys: int, width: int) -> tuple[int, int, int, int]:
    queries, keys = round_up(queries, size), round_up(keys, size)
    return queries, keys, queries + keys, max(_NARROWEST, pl.next_power_of_2(width))


# --- Shared by the kernels --------------------------------------------------------------------------------------------

_along_rows = Primitive("gather_along_rows")
_along_rows.def_abstract_eval(lambda x, column: x)
mlir.register_lowering(
    _along_rows,
    mlir.lower_fun(lambda x, column: jnp.take_along_axis(x, column, axis=1), multiple_results=False),
)


@triton_lowering.register_lowering(_along_rows)
def _(context, x, column):
    return triton_dialect.gather(x, column, 1)


def _gather(x: Array, column: Array) -> Array:
    """Return x[r, column[r, c]], both of one shape. No function of Pallas lowers to Triton's operation for it."""
    return _along_rows.bind(x, column)


def _dot(plan: BlockPlan, a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """Return a matrix product summed in float32.

    Float32 factors take three products of TF32 on the matrix units; the interpreter does not support that setting.
    """
    precision = lax.Precision.HIGHEST if plan.interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return attention_tpu.dot(a, b, contract, precision)


def _rows_and_columns(x: Array) -> tuple[Array, Array]:
    return lax.broadcasted_iota(jnp.int32, x.shape, 0), lax.broadcasted_iota(jnp.int32, x.shape, 1)


def _choose(left: Array, right: Array) -> Array:
    """Choose per row, by distance, the columns of the left or the right block of relative keys that the scores need."""
    row, column = _rows_and_columns(left)
    return jnp.where(row + column >= len(left) - 1, left, right)


def _by_key(left: Array, right: Array) -> Array:
    """Return scores by key, from the products of the same queries with two neighboring blocks of relative keys."""
    row, column = _rows_and_columns(left)
    return _gather(_choose(left, right), (column - row - 1) & (len(left) - 1))


def _by_distance(by_key: Array) -> Array:
    """Invert the rotation of `_by_key`: return the scores by distance that `_choose` chose."""
    row, column = _rows_and_columns(by_key)
    return _gather(by_key, (column + row + 1) & (len(by_key) - 1))


def _scores(plan: BlockPlan, query: Array, key: Array, key_mask: Array, by_key: Array | None) -> Array:
    scores = _dot(plan, query, key, (1, 1))
    if by_key is not None:
        scores += by_key
    return jnp.where(key_mask, scores, jnp.finfo(jnp.float32).min)


def _keep(plan: BlockPlan, x: Padded, row: Array, head: Array, query_block: Array, key_block: Array) -> Array:
    shape = (plan.size, plan.size)
    assert x.seeds is not None  # they come with a rate
    return dropout_factors(plan.rate, x.seeds[row, head], shape, query_block * plan.size, key_block * plan.size)


def _part(plan: BlockPlan, block: Array) -> pl.Slice | slice:
    return pl.ds(block * plan.size, plan.size)


def _key_mask(plan: BlockPlan, x: Padded, row: Array, key_block: Array) -> Array:
    return x.key_mask[row, 0, _part(plan, key_block)][None, :] > 0


def _corner(plan: BlockPlan, x: Padded) -> int:
    """Return the left one of the two blocks of relative keys for the first block of queries and the first of keys."""
    return x.query.shape[2] // plan.size - 1


def _forward_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, saved = jax.tree.unflatten(tree, refs)
    query_block, head, row = (pl.program_id(axis) for axis in range(3))
    query_index = (row, head, _part(plan, query_block))
    query = x.query[query_index]
    start = _corner(plan, x) - query_block
    lowest = jnp.full(plan.size, jnp.finfo(jnp.float32).min)
    carry = [lowest, jnp.zeros_like(lowest), jnp.zeros(query.shape, jnp.float32)]
    if x.relative_key is not None:
        position_query = x.position_query[query_index]
        carry.append(_dot(plan, position_query, x.relative_key[head, _part(plan, start)], (1, 1)))

    def step(key_block: Array, carry: list) -> list:
        highest, total, mixed, *left = carry
        key_index = (row, head, _part(plan, key_block))
        key_mask, by_key, right = _key_mask(plan, x, row, key_block), None, []
        if left:
            right = [_dot(plan, position_query, x.relative_key[head, _part(plan, start + key_block + 1)], (1, 1))]
            by_key = _by_key(*left, *right)
        scores = _scores(plan, query, x.key[key_index], key_mask, by_key)
        before, highest = highest, jnp.maximum(highest, jnp.max(scores, axis=1))
        exponentials = jnp.where(key_mask, jnp.exp(scores - highest[:, None]), 0.0)
        shrunk = jnp.exp(before - highest)
        total = total * shrunk + jnp.sum(exponentials, axis=1)
        if plan.rate:
            exponentials *= _keep(plan, x, row, head, query_block, key_block)
        value = x.value[key_index]
        mixed = mixed * shrunk[:, None] + _dot(plan, exponentials.astype(value.dtype), value, (1, 0))
        return [highest, total, mixed, *right]

    highest, total, mixed, *_ = lax.fori_loop(0, x.key.shape[2] // plan.size, step, carry)
    any_key = total > 0  # zeros if no key is valid
    total = jnp.where(any_key, total, 1.0)
    saved.mixed[query_index] = (mixed / total[:, None]).astype(saved.mixed.dtype)
    saved.total[query_index] = jnp.where(any_key, highest + jnp.log(total), 0.0)


def _queries(plan: BlockPlan, x: Padded, output: tuple, row: Array, head: Array, query_block: Array) -> Queries:
    """Return a block of queries. output: (its gradient, totals, means) of all queries."""
    query_index = (row, head, _part(plan, query_block))
    position_query = None if x.position_query is None else x.position_query[query_index]
    return Queries(x.query[query_index], position_query, *(leaf[query_index] for leaf in output))


def _backward(
    plan: BlockPlan,
    queries: Queries,
    key: Array,
    value: Array,
    key_mask: Array,
    *,
    by_key: Array | None,
    keep: Array | None,
) -> tuple[Array, Array]:
    """Return the weights after dropout and the gradient of the scores of a block [size, size], in the factors' type."""
    scores = _scores(plan, queries.query, key, key_mask, by_key)
    weights = jnp.where(key_mask, jnp.exp(scores - queries.total[:, None]), 0.0)
    dropped, d_weights = weights, _dot(plan, queries.d_output, value, (1, 1))
    if keep is not None:
        dropped, d_weights = weights * keep, d_weights * keep
    d_scores = weights * (d_weights - queries.mean[:, None])
    return dropped.astype(value.dtype), d_scores.astype(key.dtype)


def _products(plan: BlockPlan, queries: Queries, left: Array, right: Array) -> Array:
    return _by_key(*(_dot(plan, queries.position_query, relative_key, (1, 1)) for relative_key in (left, right)))


def _query_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, output, grad = jax.tree.unflatten(tree, refs)
    query_block, head, row = (pl.program_id(axis) for axis in range(3))
    query_index = (row, head, _part(plan, query_block))
    queries = _queries(plan, x, output, row, head, query_block)
    start = _corner(plan, x) - query_block
    zeros = jnp.zeros(queries.query.shape, jnp.float32)
    carry = [zeros]
    if x.relative_key is not None:  # the gradient of position_query; the last block's gradient by distance
        carry += [zeros, jnp.zeros((plan.size, plan.size), x.key.dtype)]

    def step(key_block: Array, carry: list) -> list:
        d_query, *others = carry
        key_index = (row, head, _part(plan, key_block))
        key, by_key, keep = x.key[key_index], None, None
        if others:
            d_position_query, before = others
            left, right = (x.relative_key[head, _part(plan, start + key_block + n)] for n in range(2))
            by_key = _products(plan, queries, left, right)
        if plan.rate:
            keep = _keep(plan, x, row, head, query_block, key_block)
        key_mask = _key_mask(plan, x, row, key_block)
        _, d_scores = _backward(plan, queries, key, x.value[key_index], key_mask, by_key=by_key, keep=keep)
        d_query += _dot(plan, d_scores, key, (1, 0))
        if others:
            by_distance = _by_distance(d_scores)
            others = [d_position_query + _dot(plan, _choose(by_distance, before), left, (1, 0)), by_distance]
        return [d_query, *others]

    query_blocks = x.key.shape[2] // plan.size
    d_query, *others = lax.fori_loop(0, query_blocks, step, carry)
    grad.query[query_index] = d_query.astype(grad.query.dtype)
    if others:
        d_position_query, before = others
        assert x.relative_key is not None  # it comes with the position queries
        relative_key = x.relative_key[head, _part(plan, start + query_blocks)]
        d_position_query += _dot(plan, _choose(jnp.zeros_like(before), before), relative_key, (1, 0))
        grad.position_query[query_index] = d_position_query.astype(grad.position_query.dtype)


def _key_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, output, grad = jax.tree.unflatten(tree, refs)
    key_block, head, row = (pl.program_id(axis) for axis in range(3))
    key_index = (row, head, _part(plan, key_block))
    key, value, key_mask = x.key[key_index], x.value[key_index], _key_mask(plan, x, row, key_block)

    def step(query_block: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_key, d_value = carry
        queries, by_key, keep = _queries(plan, x, output, row, head, query_block), None, None
        if x.relative_key is not None:
            start = _corner(plan, x) - query_block + key_block
            by_key = _products(plan, queries, *(x.relative_key[head, _part(plan, start + n)] for n in range(2)))
        if plan.rate:
            keep = _keep(plan, x, row, head, query_block, key_block)
        dropped, d_scores = _backward(plan, queries, key, value, key_mask, by_key=by_key, keep=keep)
        d_value += _dot(plan, dropped, queries.d_output, (0, 0))
        return d_key + _dot(plan, d_scores, queries.query, (0, 0)), d_value

    zeros = jnp.zeros(key.shape, jnp.float32)
    d_key, d_value = lax.fori_loop(0, x.query.shape[2] // plan.size, step, (zeros, zeros))
    grad.key[key_index] = d_key.astype(grad.key.dtype)
    grad.value[key_index] = d_value.astype(grad.value.dtype)


def _relative_key_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, output, sums = jax.tree.unflatten(tree, refs)
    diagonal, head, share = (pl.program_id(axis) for axis in range(3))
    rows, shares = x.query.shape[0], sums.shape[1]
    query_blocks, key_blocks = (leaf.shape[2] // plan.size for leaf in (x.query, x.key))
    left, right = (x.relative_key[head, _part(plan, diagonal + n)] for n in range(2))
    # First block of queries on the diagonal, and the number of them.
    first = jnp.maximum(_corner(plan, x) - diagonal, 0)
    count = jnp.minimum(_corner(plan, x) - diagonal + key_blocks, query_blocks) - first

    def step(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        row, query_block = lax.div(turn, count) * shares + share, first + lax.rem(turn, count)
        key_block, keep = diagonal - _corner(plan, x) + query_block, None
        key_index = (row, head, _part(plan, key_block))
        queries = _queries(plan, x, output, row, head, query_block)
        if plan.rate:
            keep = _keep(plan, x, row, head, query_block, key_block)
        by_key = _products(plan, queries, left, right)
        key_mask = _key_mask(plan, x, row, key_block)
        key, value = x.key[key_index], x.value[key_index]
        _, d_scores = _backward(plan, queries, key, value, key_mask, by_key=by_key, keep=keep)
        by_distance = _by_distance(d_scores)
        zeros = jnp.zeros_like(by_distance)
        parts = (_choose(by_distance, zeros), _choose(zeros, by_distance))
        near, far = (_dot(plan, part, queries.position_query, (0, 0)) for part in parts)
        return carry[0] + near, carry[1] + far

    zeros = jnp.zeros(left.shape, jnp.float32)
    share_rows = lax.div(rows - share + shares - 1, shares)
    carry = lax.fori_loop(0, share_rows * count, step, (zeros, zeros))
    for side, total in enumerate(carry):
        sums[side, share, head, _part(plan, diagonal)] = total


# --- The calls --------------------------------------------------------------------------------------------------------


def _call(
    kernel: Callable, plan: BlockPlan, inputs: tuple, out: PyTree, *, name: str, warps: int, grid: tuple[int, int, int]
) -> PyTree:
    """Return the kernel's results, in the structure of `out`.

    All references are to whole arrays: pointers cost nothing. warps: of a program, for blocks of 64; smaller blocks
    have no work for more than four.
    """
    leaves = jax.tree.leaves(inputs)
    shapes, out_tree = jax.tree.flatten(out)
    _, tree = jax.tree.flatten((*inputs, out))
    results = pl.pallas_call(
        partial(kernel, plan, tree),
        grid=grid,
        out_shape=shapes,
        compiler_params=pltriton.CompilerParams(num_warps=warps if plan.size >= 64 else 4, num_stages=2),
        interpret=plan.interpret,
        name=name,
    )(*leaves)
    return jax.tree.unflatten(out_tree, results)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _forward_call(plan: BlockPlan, x: Padded) -> tuple[Array, Saved]:
    rows, heads, queries, _ = x.query.shape
    out = Saved(
        jax.ShapeDtypeStruct(x.query.shape, x.value.dtype), jax.ShapeDtypeStruct((rows, heads, queries), jnp.float32)
    )
    grid = (queries // plan.size, heads, rows)
    saved = _call(_forward_kernel, plan, (x,), out, name="attention", warps=4, grid=grid)
    return saved.mixed, saved


def _backward_call(plan: BlockPlan, x: Padded, saved: Saved, d_output: Array) -> Padded:
    rows, heads, queries, width = x.query.shape
    query_blocks, key_blocks = queries // plan.size, x.key.shape[2] // plan.size
    mean = jnp.sum(d_output.astype(jnp.float32) * saved.mixed, axis=-1)
    inputs = (x, (d_output, saved.total, mean))
    none = Padded(*(None,) * len(x))
    out = none._replace(
        query=_like(x.query), position_query=None if x.relative_key is None else _like(x.position_query)
    )
    grid = (query_blocks, heads, rows)
    of_queries = _call(_query_kernel, plan, inputs, out, name="attention_to_queries", warps=8, grid=grid)
    out = none._replace(key=_like(x.key), value=_like(x.value))
    grid = (key_blocks, heads, rows)
    of_keys = _call(_key_kernel, plan, inputs, out, name="attention_to_keys", warps=8, grid=grid)
    gradient = of_queries._replace(key=of_keys.key, value=of_keys.value)
    if x.relative_key is None:
        return gradient
    shares, diagonals = min(_SHARES, rows), query_blocks + key_blocks - 1
    sums = jax.ShapeDtypeStruct((2, shares, heads, diagonals * plan.size, width), jnp.float32)
    grid = (diagonals, heads, shares)
    sums = _call(_relative_key_kernel, plan, inputs, sums, name="attention_to_places", warps=8, grid=grid)
    left, right = jnp.sum(sums, axis=1)
    left = jnp.pad(left, ((0, 0), (0, plan.size), (0, 0)))
    right = jnp.pad(right, ((0, 0), (plan.size, 0), (0, 0)))
    return gradient._replace(relative_key=left + right)


_GPU = Kernels(_sizes, _forward_call, _backward_call)
