"""The Pallas kernel of pallas.py: one step, and the calls for a TPU and a GPU (operands: pallas_pack.py).

Channels are on the second last axis and folds (independent streams) on the last, on both kinds of accelerator. So a TPU
has 128 folds on its lanes and any width that is a multiple of 8 (16 for bfloat16) on its sublanes, the halves of a gate
are whole registers, the taps of a layer are stacked without a copy for one matrix product, and drawing a sample works
on rows of folds.

The loops, from the outside: tiles of folds (the grid), rows of conditioning (the grid on a TPU, a loop on a GPU),
samples of a row, layers. A TPU keeps weights and histories in VMEM during a call, and prefetches the rows of
conditioning from HBM. A GPU's weights and histories are in device memory, small enough that the L2 cache holds the
weights; one program (thread block) computes one tile.

The history of layer l is a ring of `lengths[l]` rows; the layer's input at sample t is in row t mod lengths[l].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float, Int

from speech_jax.kernels.wavenet.pallas_pack import PackPlan, PallasWeights, groups, noise_rows
from speech_jax.kernels.wavenet.step import StepShape

WARPS = 8  # of a thread block, on a GPU


class _Refs(NamedTuple):
    """References to one tile's arrays, in the kernel.

    Attributes:
        weights: the packed weights.
        table: dilations, offsets, lengths, positions: int32 [4, layers].
        ring: histories [sum of lengths, residual, tile].
        cond: conditioning [rows, layers, gate, tile].
        noise: noise [rows, hop · n, tile].
        audio: samples to write [rows, hop, tile].
    """

    weights: PallasWeights
    table: Any
    ring: Any
    cond: Any
    noise: Any
    audio: Any


# --- One step ---------------------------------------------------------------------------------------------------------


def _dot(plan: PackPlan, a: Array, b: Array) -> Array:
    """Return a matrix product summed in float32; float32 factors are not rounded.

    On a GPU's matrix units that takes three products of TF32; the interpreter does not support that setting.
    """
    precision = None
    if a.dtype == jnp.float32:
        tensor_cores = plan.backend == "gpu" and not plan.interpreted
        precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if tensor_cores else jax.lax.Precision.HIGHEST
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _product(plan: PackPlan, matrix, index: tuple, sizes: Sequence[int], parts: Sequence[Array]) -> list[Array]:
    """Return matrix[index] @ concatenated parts, split into pieces of `sizes` rows.

    On a TPU it is one product. Triton can neither concatenate nor split blocks in registers, so there it is one product
    per piece and part.
    """
    parts = [part.astype(plan.dtype) for part in parts]
    if plan.backend == "tpu":
        whole = _dot(plan, matrix[index], jnp.concatenate(parts, axis=0))
        starts = [sum(sizes[:piece]) for piece in range(len(sizes))]
        return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    pieces, row = [], 0
    for size in sizes:
        total, column = None, 0
        for part in parts:
            block = matrix[(*index, pl.ds(row, size), pl.ds(column, part.shape[0]))]
            product = _dot(plan, block, part)
            total = product if total is None else total + product
            column += part.shape[0]
        pieces.append(total)
        row += size
    return pieces


def _draw(shape: StepShape, plan: PackPlan, outputs: list[Array], noise: Callable[[int, int], Array]) -> Array:
    """Return draw.py's `draw` for columns: the sample, or the class as a float, [1, tile].

    noise(start, size): rows of this sample's noise. Padding rows of means and scales are zero, so a sum over rows
    selects the only real one.
    """
    if shape.output == "gaussian":
        mean, log_scale = (jnp.sum(part, axis=0, keepdims=True) for part in outputs)
        return jnp.clip(mean + jnp.exp(jnp.maximum(log_scale, shape.min_log_scale)) * noise(0, 1), -1.0, 1.0)
    number = jax.lax.broadcasted_iota(jnp.int32, outputs[0].shape, 0)
    if shape.output == "logistics":
        logits, means, scales = outputs
        score = logits - jnp.log(-jnp.log(noise(0, plan.group)))
        best = jnp.max(score, axis=0, keepdims=True)
        chosen = jnp.min(jnp.where(score == best, number, plan.group), axis=0, keepdims=True) == number
        mean = jnp.sum(jnp.where(chosen, means, 0.0), axis=0, keepdims=True)
        log_scale = jnp.sum(jnp.where(chosen, scales, 0.0), axis=0, keepdims=True)
        u = noise(plan.group, 1)
        spread = jnp.exp(jnp.maximum(log_scale, shape.min_log_scale)) * (jnp.log(u) - jnp.log1p(-u))
        return jnp.clip(mean + spread, -1.0, 1.0)
    (logits,) = outputs
    odds = jnp.exp(logits - jnp.max(logits, axis=0, keepdims=True))
    odds = odds / jnp.sum(odds, axis=0, keepdims=True)
    if plan.backend == "tpu":  # Mosaic has no cumulative sum: multiply by a lower triangular matrix of ones
        square = (plan.group, plan.group)
        below = jax.lax.broadcasted_iota(jnp.int32, square, 1) <= jax.lax.broadcasted_iota(jnp.int32, square, 0)
        cumulative = _dot(plan, below.astype(jnp.float32), odds)
    else:
        cumulative = jnp.cumsum(odds, axis=0)
    below = jnp.sum((cumulative <= noise(0, 1)).astype(jnp.float32), axis=0, keepdims=True)
    return jnp.minimum(below, float(shape.classes - 1))


def _step(
    shape: StepShape,
    plan: PackPlan,
    refs: _Refs,
    time: Array,
    last: Float[Array, "1 tile"],
    *,
    cond: Callable[[Array, int, int], Array],
    noise: Callable[[int, int], Array],
) -> Float[Array, "1 tile"]:
    """Return one sample.

    time: number of samples since the start of the call. cond(layer, start, size), noise(start, size): rows of this
    sample's conditioning and noise.
    """
    weights, table, ring = refs.weights, refs.table, refs.ring
    if shape.output == "mulaw":
        classes = jax.lax.broadcasted_iota(jnp.int32, (plan.group, plan.tile), 0)
        one_hot = (classes == last.astype(jnp.int32)).astype(jnp.float32)
        (x,) = _product(plan, weights.first, (), [plan.residual], [one_hot])
        x = x + weights.first_bias[...]
    else:
        x = weights.first[...] * last + weights.first_bias[...]
    powers_of_two = all(length & (length - 1) == 0 for length in plan.lengths)

    def layer_step(layer: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, skips = carry
        dilation, offset, length = table[0, layer], table[1, layer], table[2, layer]

        def row(back: Array) -> Array:  # row of the input of `back` samples ago; back is at most the ring's length
            index = table[3, layer] + time + length - back
            return offset + (jnp.bitwise_and(index, length - 1) if powers_of_two else jax.lax.rem(index, length))

        earlier = [ring[row((plan.kernel - 1 - tap) * dilation)] for tap in range(plan.kernel - 1)]
        ring[row(jnp.int32(0))] = x.astype(plan.dtype)
        left, right = _product(plan, weights.taps, (layer,), [plan.half] * 2, [*earlier, x])
        z = jnp.tanh(left + cond(layer, 0, plan.half)) * jax.nn.sigmoid(right + cond(layer, plan.half, plan.half))
        residual, skip = _product(plan, weights.join, (layer,), [plan.residual, plan.skip], [z])
        x = (x + residual + weights.out_bias[layer]) * shape.residual_scale
        return x, skips + skip

    skips = jnp.zeros((plan.skip, plan.tile), jnp.float32)
    _, skips = jax.lax.fori_loop(0, len(shape.dilations), layer_step, (x, skips))
    hidden = jax.nn.relu(skips + weights.skip_bias[...])
    (hidden,) = _product(plan, weights.head1, (), [plan.head], [hidden])
    hidden = jax.nn.relu(hidden + weights.head1_bias[...])
    outputs = _product(plan, weights.head2, (), [plan.group] * groups(shape), [hidden])
    outputs = [y + weights.head2_bias[pl.ds(n * plan.group, plan.group), :] for n, y in enumerate(outputs)]
    return _draw(shape, plan, outputs, noise)


# --- The calls --------------------------------------------------------------------------------------------------------


def _row(
    shape: StepShape,
    plan: PackPlan,
    refs: _Refs,
    row: Array | int,
    last: Array,
    *,
    time: Array,
    hop: int,
    barrier: bool,
) -> Array:
    """Write the samples of one row of conditioning, and return the last one. time: number of the first in the call."""
    rows = noise_rows(shape, plan)

    def sample(number: Array, last: Array) -> Array:
        last = _step(
            shape, plan, refs, time + number, last,
            cond=lambda layer, start, size: refs.cond[row, layer, pl.ds(start, size), :],
            noise=lambda start, size: refs.noise[row, pl.ds(number * rows + start, size), :],
        )  # fmt: skip
        refs.audio[row, pl.ds(number, 1), :] = last
        if barrier:
            pltriton.debug_barrier()  # other threads read at the next sample what this one wrote into a ring
        return last

    return jax.lax.fori_loop(0, hop, sample, last)


def _tpu_kernel(shape: StepShape, plan: PackPlan, table, *refs, hop: int) -> None:
    packed, (cond, noise, ring_in, last_in, audio, ring_out, last_out, ring, last, done) = refs[:-10], refs[-10:]
    tile, row = pl.program_id(0), pl.program_id(1)
    refs = _Refs(PallasWeights(*packed), table, ring, cond, noise, audio)

    @pl.when(row == 0)
    def _():
        copy = pltpu.make_async_copy(ring_in.at[tile], ring, done)
        copy.start()
        last[...] = last_in[...]
        copy.wait()

    last[...] = _row(shape, plan, refs, 0, last[...], time=row * hop, hop=hop, barrier=False)

    @pl.when(row == pl.num_programs(1) - 1)
    def _():
        copy = pltpu.make_async_copy(ring, ring_out.at[tile], done)
        copy.start()
        last_out[...] = last[...]
        copy.wait()


def _gpu_kernel(shape: StepShape, plan: PackPlan, table, *refs, hop: int, rows: int) -> None:
    packed, (cond, noise, _, last_in, audio, ring, last_out) = refs[:-7], refs[-7:]
    refs = _Refs(PallasWeights(*packed), table, ring, cond, noise, audio)

    def sample_row(row: Array, last: Array) -> Array:
        return _row(shape, plan, refs, row, last, time=row * hop, hop=hop, barrier=not plan.interpreted)

    last_out[...] = jax.lax.fori_loop(0, rows, sample_row, last_in[...])


def run(
    shape: StepShape,
    plan: PackPlan,
    weights: PallasWeights,
    *,
    ring: Array,
    positions: Int[Array, " layers"],
    last: Float[Array, "tiles 1 tile"],
    cond: Float[Array, "tiles rows layers gate tile"],
    noise: Float[Array, "tiles rows hop_n tile"],
    hop: int,
    interpret: bool | pltpu.InterpretParams,
) -> tuple[Float[Array, "tiles rows hop tile"], Array, Float[Array, "tiles 1 tile"]]:
    """Sample rows · hop samples; arrays are packed as in pallas_pack.py.

    Args:
        shape: static facts of the network.
        plan: settings of the program.
        weights: packed weights.
        ring: histories, `plan.dtype` [tiles, sum of lengths, residual, tile]; updated in place.
        positions: int32, each layer's sample number modulo its ring's length.
        last: previous samples or classes.
        cond: packed conditioning.
        noise: packed noise.
        hop: samples per row of conditioning.
        interpret: run by the interpreter, without an accelerator.

    Returns:
        (samples or classes, histories, last samples or classes).
    """
    tiles, rows, layers, gate, tile = cond.shape
    table = jnp.stack([jnp.asarray(shape.dilations), jnp.asarray(plan.offsets), jnp.asarray(plan.lengths), positions])
    table = table.astype(jnp.int32)
    per_row = noise.shape[2]
    out_shape = (
        jax.ShapeDtypeStruct((tiles, rows, hop, tile), jnp.float32),
        jax.ShapeDtypeStruct(ring.shape, ring.dtype),
        jax.ShapeDtypeStruct(last.shape, jnp.float32),
    )
    plan = plan._replace(interpreted=bool(interpret))
    steps = tiles * tile * rows * hop
    products = sum(math.prod(matrix.shape) for matrix in (weights.taps, weights.join, weights.head1, weights.head2))
    inputs = [*weights, ring, last, cond, noise]
    options = {
        "out_shape": out_shape,
        "input_output_aliases": {1 + len(weights) + 2: 1},
        "interpret": interpret,
        "name": "wavenet_sample",
        "cost_estimate": pl.CostEstimate(
            flops=2 * products * steps,
            transcendentals=layers * gate * steps,
            bytes_accessed=sum(array.nbytes for array in inputs) + ring.nbytes + 4 * steps,
        ),
    }
    operands = (table, *weights, cond, noise, ring, last)
    if plan.backend == "gpu":
        whole = lambda array: pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim)  # noqa: E731
        of_tile = lambda *block: pl.BlockSpec((None, *block), lambda i: (i,) + (0,) * len(block))  # noqa: E731
        ring_block, last_block = of_tile(*ring.shape[1:]), of_tile(1, tile)
        return pl.pallas_call(
            functools.partial(_gpu_kernel, shape, plan, hop=hop, rows=rows),
            grid=(tiles,),
            in_specs=[
                whole(table), *map(whole, weights),
                of_tile(rows, layers, gate, tile), of_tile(rows, per_row, tile), ring_block, last_block,
            ],
            out_specs=(of_tile(rows, hop, tile), ring_block, last_block),
            compiler_params=pltriton.CompilerParams(num_warps=WARPS, num_stages=1),
            **options,
        )(*operands)  # fmt: skip
    resident = lambda array: pl.BlockSpec(  # noqa: E731
        array.shape, lambda i, row: (0,) * array.ndim, pipeline_mode=pl.Buffered(1)
    )
    of_row = lambda *block: pl.BlockSpec((None, 1, *block), lambda i, row: (i, row) + (0,) * len(block))  # noqa: E731
    of_tile = pl.BlockSpec((None, 1, tile), lambda i, row: (i, 0, 0))
    elsewhere = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        functools.partial(_tpu_kernel, shape, plan, hop=hop),
        grid=(tiles, rows),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM), *map(resident, weights),
            of_row(layers, gate, tile), of_row(per_row, tile), elsewhere, of_tile,
        ],
        out_specs=(of_row(hop, tile), elsewhere, of_tile),
        scratch_shapes=[
            pltpu.VMEM(ring.shape[1:], ring.dtype), pltpu.VMEM((1, tile), jnp.float32), pltpu.SemaphoreType.DMA,
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"),
            vmem_limit_bytes=None if interpret else plan.memory,
        ),
        **options,
    )(*operands)  # fmt: skip
