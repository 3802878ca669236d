"""The attention of attention_pallas.py as four Pallas kernels for an NVIDIA GPU, through Triton.

A program of the forward kernel has `size` queries of one head and goes over the keys, `size` at a time, with an online
softmax (Milakov and Gimelshein 2018, Dao et al. 2022). Backward, one kernel goes over the keys for the gradients of the
queries, one over the queries for those of the keys and values, and one along the diagonals, on which the distances are
the same, for those of the places; each computes the scores again, and none adds to what another program adds to, so the
same arguments give the same bits. Beside the arguments only the values and one number a query are kept.

The relative shift. A block of scores meets 2 · size - 1 distances: two neighboring blocks of places, both whole, since
queries and keys come in blocks of one size. Row r, column c needs distance size - 1 - r + c of them. Modulo the size,
that is column c - r - 1 of either block: choose between the two products, then turn row r by r + 1. The next block of
keys meets one of the two again, so a step forward costs three products of a block with a block, not four. The turning
is one gather along the rows (Triton's `tt.gather`, which Pallas does not know by itself; see `_gather`).

Limits, with T queries and keys and d channels of 2 bytes, for each head of a row: forward 6 T² d operations and, with
blocks of 64, 6 T² d / 64 bytes of keys, values and places, which the L2 cache has: 64 operations a byte. Main memory
gives and takes 10 T d bytes, and 4 T d of places once for all rows. Backward it is 36 T² d operations.

They have been run by the interpreter, and compiled for an H100 without one (experiments/pods/gpu_attention.py); they
have NOT been run on a GPU.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.pallas.triton import lowering as triton_lowering  # `_gather` needs its table of operations
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.triton import dialect as triton_dialect
from jaxtyping import Array, Float

from speech_jax.kernels import attention_tpu as attention_pallas
from speech_jax.kernels.attention_tpu import BlockPlan, Kernels, Padded, kept, up

_NARROWEST = 16  # channels of a head, which are padded to a power of two
_WIDEST = 256  # bytes of them
_SHARES = 8  # of the rows of a batch, for the gradient of the places: more programs, and as many partial sums


class Saved(NamedTuple):
    """total: the logarithm of the sum of a query's raised scores; 0 without a single key."""

    mixed: Float[Array, "batch heads queries d"]
    total: Float[Array, "batch heads queries"]


class Queries(NamedTuple):
    """A block of queries. above: the gradient by their values; mean: of that times the weights."""

    query: Float[Array, "size d"]
    query_at: Float[Array, "size d"] | None
    above: Float[Array, "size d"]
    total: Float[Array, " size"]
    mean: Float[Array, " size"]


def block_size(width: int, itemsize: int) -> int | None:
    """Queries and keys of a block, the most that a program's registers hold; None for heads that are too wide (more
    than 128 channels of bfloat16, 64 of float32)."""
    row = max(_NARROWEST, pl.next_power_of_2(width)) * itemsize
    if row > _WIDEST:
        return None
    if itemsize > 2:
        return 16  # a product of float32 takes three of TF32, and their factors more registers
    return 64 if row <= _WIDEST // 2 else 32


def attend(*asked, size: int, interpret: bool = False) -> Float[Array, "batch queries heads d"]:
    """`attention_pallas.attend` by these kernels. size: from `block_size`, a power of two and at least 16."""
    return attention_pallas.attend(*asked, size=size, interpret=interpret, kernels=_GPU)


def _sizes(size: int, queries: int, keys: int, width: int) -> tuple[int, int, int, int]:
    queries, keys = up(queries, size), up(keys, size)
    return queries, keys, queries + keys, max(_NARROWEST, pl.next_power_of_2(width))


# --- What the kernels compute -----------------------------------------------------------------------------------------

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
    """x[r, column[r, c]], both of one shape. Pallas has Triton's operation for it in no function of its own."""
    return _along_rows.bind(x, column)


def _dot(plan: BlockPlan, a: Array, b: Array, contract: tuple[int, int]) -> Array:
    """The product in float32. For float32 factors the matrix units take three products of TF32, which the interpreter
    does not know."""
    exact = lax.Precision.HIGHEST if plan.interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return attention_pallas.dot(a, b, contract, exact)


def _rows_and_columns(x: Array) -> tuple[Array, Array]:
    return lax.broadcasted_iota(jnp.int32, x.shape, 0), lax.broadcasted_iota(jnp.int32, x.shape, 1)


def _choose(left: Array, right: Array) -> Array:
    """By distance: of each row the columns of the left block of places that a block of scores meets, of the right one
    the others."""
    row, column = _rows_and_columns(left)
    return jnp.where(row + column >= len(left) - 1, left, right)


def _by_key(left: Array, right: Array) -> Array:
    """Scores by key, from the products of the same queries with two neighboring blocks of places."""
    row, column = _rows_and_columns(left)
    return _gather(_choose(left, right), (column - row - 1) & (len(left) - 1))


def _by_distance(by_key: Array) -> Array:
    """The way back: what `_choose` took."""
    row, column = _rows_and_columns(by_key)
    return _gather(by_key, (column + row + 1) & (len(by_key) - 1))


def _scores(plan: BlockPlan, query: Array, key: Array, there: Array, by_key: Array | None) -> Array:
    scores = _dot(plan, query, key, (1, 1))
    if by_key is not None:
        scores += by_key
    return jnp.where(there, scores, jnp.finfo(jnp.float32).min)


def _keep(plan: BlockPlan, x: Padded, row: Array, head: Array, block: Array, number: Array) -> Array:
    shape = (plan.size, plan.size)
    return kept(plan.rate, x.seeds[row, head], shape, block * plan.size, number * plan.size)


def _part(plan: BlockPlan, number: Array) -> pl.Slice:
    return pl.ds(number * plan.size, plan.size)


def _there(plan: BlockPlan, x: Padded, row: Array, number: Array) -> Array:
    return x.there[row, 0, _part(plan, number)][None, :] > 0


def _corner(plan: BlockPlan, x: Padded) -> int:
    """The block of places, left of the two, that the first block of queries and the first one of keys meet."""
    return x.query.shape[2] // plan.size - 1


def _forward_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, saved = jax.tree.unflatten(tree, refs)
    block, head, row = (pl.program_id(axis) for axis in range(3))
    mine = (row, head, _part(plan, block))
    query = x.query[mine]
    start = _corner(plan, x) - block
    lowest = jnp.full(plan.size, jnp.finfo(jnp.float32).min)
    carry = [lowest, jnp.zeros_like(lowest), jnp.zeros(query.shape, jnp.float32)]
    if x.place is not None:
        query_at = x.query_at[mine]
        carry.append(_dot(plan, query_at, x.place[head, _part(plan, start)], (1, 1)))

    def step(number: Array, carry: list) -> list:
        highest, total, mixed, *left = carry
        here = (row, head, _part(plan, number))
        there, by_key, right = _there(plan, x, row, number), None, []
        if left:
            right = [_dot(plan, query_at, x.place[head, _part(plan, start + number + 1)], (1, 1))]
            by_key = _by_key(*left, *right)
        scores = _scores(plan, query, x.key[here], there, by_key)
        before, highest = highest, jnp.maximum(highest, jnp.max(scores, axis=1))
        raised = jnp.where(there, jnp.exp(scores - highest[:, None]), 0.0)
        shrunk = jnp.exp(before - highest)
        total = total * shrunk + jnp.sum(raised, axis=1)
        if plan.rate:
            raised *= _keep(plan, x, row, head, block, number)
        value = x.value[here]
        mixed = mixed * shrunk[:, None] + _dot(plan, raised.astype(value.dtype), value, (1, 0))
        return [highest, total, mixed, *right]

    highest, total, mixed, *_ = lax.fori_loop(0, x.key.shape[2] // plan.size, step, carry)
    any_key = total > 0  # without a single one: zeros
    total = jnp.where(any_key, total, 1.0)
    saved.mixed[mine] = (mixed / total[:, None]).astype(saved.mixed.dtype)
    saved.total[mine] = jnp.where(any_key, highest + jnp.log(total), 0.0)


def _queries(plan: BlockPlan, x: Padded, above: tuple, row: Array, head: Array, block: Array) -> Queries:
    mine = (row, head, _part(plan, block))
    query_at = None if x.query_at is None else x.query_at[mine]
    return Queries(x.query[mine], query_at, *(leaf[mine] for leaf in above))


def _backward(
    plan: BlockPlan, asked: Queries, key: Array, value: Array, there: Array, by_key: Array | None, keep: Array | None
) -> tuple[Array, Array]:
    """The weights after dropout and the gradient by the scores, of a block [size, size], as the factors they become."""
    scores = _scores(plan, asked.query, key, there, by_key)
    weights = jnp.where(there, jnp.exp(scores - asked.total[:, None]), 0.0)
    dropped, to_weights = weights, _dot(plan, asked.above, value, (1, 1))
    if keep is not None:
        dropped, to_weights = weights * keep, to_weights * keep
    to_scores = weights * (to_weights - asked.mean[:, None])
    return dropped.astype(value.dtype), to_scores.astype(key.dtype)


def _products(plan: BlockPlan, asked: Queries, left: Array, right: Array) -> Array:
    return _by_key(*(_dot(plan, asked.query_at, place, (1, 1)) for place in (left, right)))


def _query_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, above, grad = jax.tree.unflatten(tree, refs)
    block, head, row = (pl.program_id(axis) for axis in range(3))
    mine = (row, head, _part(plan, block))
    asked = _queries(plan, x, above, row, head, block)
    start = _corner(plan, x) - block
    zeros = jnp.zeros(asked.query.shape, jnp.float32)
    carry = [zeros]
    if x.place is not None:  # the gradient of query_at; the last block's gradient by distance
        carry += [zeros, jnp.zeros((plan.size, plan.size), x.key.dtype)]

    def step(number: Array, carry: list) -> list:
        to_query, *others = carry
        here = (row, head, _part(plan, number))
        key, by_key, keep = x.key[here], None, None
        if others:
            to_query_at, before = others
            left, right = (x.place[head, _part(plan, start + number + n)] for n in range(2))
            by_key = _products(plan, asked, left, right)
        if plan.rate:
            keep = _keep(plan, x, row, head, block, number)
        there = _there(plan, x, row, number)
        _, to_scores = _backward(plan, asked, key, x.value[here], there, by_key, keep)
        to_query += _dot(plan, to_scores, key, (1, 0))
        if others:
            turned = _by_distance(to_scores)
            others = [to_query_at + _dot(plan, _choose(turned, before), left, (1, 0)), turned]
        return [to_query, *others]

    blocks = x.key.shape[2] // plan.size
    to_query, *others = lax.fori_loop(0, blocks, step, carry)
    grad.query[mine] = to_query.astype(grad.query.dtype)
    if others:
        to_query_at, before = others
        place = x.place[head, _part(plan, start + blocks)]
        to_query_at += _dot(plan, _choose(jnp.zeros_like(before), before), place, (1, 0))
        grad.query_at[mine] = to_query_at.astype(grad.query_at.dtype)


def _key_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, above, grad = jax.tree.unflatten(tree, refs)
    number, head, row = (pl.program_id(axis) for axis in range(3))
    here = (row, head, _part(plan, number))
    key, value, there = x.key[here], x.value[here], _there(plan, x, row, number)

    def step(block: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        to_key, to_value = carry
        asked, by_key, keep = _queries(plan, x, above, row, head, block), None, None
        if x.place is not None:
            start = _corner(plan, x) - block + number
            by_key = _products(plan, asked, *(x.place[head, _part(plan, start + n)] for n in range(2)))
        if plan.rate:
            keep = _keep(plan, x, row, head, block, number)
        dropped, to_scores = _backward(plan, asked, key, value, there, by_key, keep)
        to_value += _dot(plan, dropped, asked.above, (0, 0))
        return to_key + _dot(plan, to_scores, asked.query, (0, 0)), to_value

    zeros = jnp.zeros(key.shape, jnp.float32)
    to_key, to_value = lax.fori_loop(0, x.query.shape[2] // plan.size, step, (zeros, zeros))
    grad.key[here] = to_key.astype(grad.key.dtype)
    grad.value[here] = to_value.astype(grad.value.dtype)


def _place_kernel(plan: BlockPlan, tree, *refs) -> None:
    x, above, sums = jax.tree.unflatten(tree, refs)
    diagonal, head, share = (pl.program_id(axis) for axis in range(3))
    rows, shares = x.query.shape[0], sums.shape[1]
    blocks, numbers = (leaf.shape[2] // plan.size for leaf in (x.query, x.key))
    left, right = (x.place[head, _part(plan, diagonal + n)] for n in range(2))
    first = jnp.maximum(_corner(plan, x) - diagonal, 0)  # block of queries on the diagonal, and how many there are
    count = jnp.minimum(_corner(plan, x) - diagonal + numbers, blocks) - first

    def step(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        row, block = lax.div(turn, count) * shares + share, first + lax.rem(turn, count)
        number, keep = diagonal - _corner(plan, x) + block, None
        here = (row, head, _part(plan, number))
        asked = _queries(plan, x, above, row, head, block)
        if plan.rate:
            keep = _keep(plan, x, row, head, block, number)
        by_key = _products(plan, asked, left, right)
        _, to_scores = _backward(plan, asked, x.key[here], x.value[here], _there(plan, x, row, number), by_key, keep)
        turned = _by_distance(to_scores)
        zeros = jnp.zeros_like(turned)
        parts = (_choose(turned, zeros), _choose(zeros, turned))
        return tuple(sum_ + _dot(plan, part, asked.query_at, (0, 0)) for sum_, part in zip(carry, parts, strict=True))

    zeros = jnp.zeros(left.shape, jnp.float32)
    own_rows = lax.div(rows - share + shares - 1, shares)
    carry = lax.fori_loop(0, own_rows * count, step, (zeros, zeros))
    for side, total in enumerate(carry):
        sums[side, share, head, _part(plan, diagonal)] = total


# --- The calls --------------------------------------------------------------------------------------------------------


def _call(kernel, plan: BlockPlan, name: str, warps: int, grid: tuple[int, int, int], inputs: tuple, out):
    """The kernel's results, in the shape of `out`. All references are to whole arrays: pointers cost nothing.

    warps: of a program, for blocks of 64; smaller ones have no work for more than four."""
    leaves = jax.tree.leaves(inputs)
    shapes, out_tree = jax.tree.flatten(out)
    _, tree = jax.tree.flatten((*inputs, out))
    found = pl.pallas_call(
        partial(kernel, plan, tree),
        grid=grid,
        out_shape=shapes,
        compiler_params=pltriton.CompilerParams(num_warps=warps if plan.size >= 64 else 4, num_stages=2),
        interpret=plan.interpret,
        name=name,
    )(*leaves)
    return jax.tree.unflatten(out_tree, found)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _forward_call(plan: BlockPlan, x: Padded) -> tuple[Array, Saved]:
    rows, heads, queries, _ = x.query.shape
    out = Saved(
        jax.ShapeDtypeStruct(x.query.shape, x.value.dtype), jax.ShapeDtypeStruct((rows, heads, queries), jnp.float32)
    )
    saved = _call(_forward_kernel, plan, "attention", 4, (queries // plan.size, heads, rows), (x,), out)
    return saved.mixed, saved


def _backward_call(plan: BlockPlan, x: Padded, saved: Saved, above: Array) -> Padded:
    rows, heads, queries, width = x.query.shape
    blocks, numbers = queries // plan.size, x.key.shape[2] // plan.size
    mean = jnp.sum(above.astype(jnp.float32) * saved.mixed, axis=-1)
    inputs = (x, (above, saved.total, mean))
    none = Padded(*(None,) * len(x))
    of_queries = none._replace(query=_like(x.query), query_at=None if x.place is None else _like(x.query_at))
    of_queries = _call(_query_kernel, plan, "attention_to_queries", 8, (blocks, heads, rows), inputs, of_queries)
    of_keys = none._replace(key=_like(x.key), value=_like(x.value))
    of_keys = _call(_key_kernel, plan, "attention_to_keys", 8, (numbers, heads, rows), inputs, of_keys)
    found = of_queries._replace(key=of_keys.key, value=of_keys.value)
    if x.place is None:
        return found
    shares, diagonals = min(_SHARES, rows), blocks + numbers - 1
    sums = jax.ShapeDtypeStruct((2, shares, heads, diagonals * plan.size, width), jnp.float32)
    sums = _call(_place_kernel, plan, "attention_to_places", 8, (diagonals, heads, shares), inputs, sums)
    left, right = jnp.sum(sums, axis=1)
    left = jnp.pad(left, ((0, 0), (0, plan.size), (0, 0)))
    right = jnp.pad(right, ((0, 0), (plan.size, 0), (0, 0)))
    return found._replace(place=left + right)


_GPU = Kernels(_sizes, _forward_call, _backward_call)
