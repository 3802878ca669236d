"""The Pallas kernel of kernels/wavenet/pallas.py: one step, and the two calls (operands: wavenet_pallas_pack.py).

Units lie on the second last axis and folds (independent streams) on the last, on both kinds of accelerator. So a TPU
has 128 folds on its lanes and any width that is a multiple of 8 (16 for bfloat16) on its sublanes, the halves of a gate
are whole registers, the taps of a layer are stacked without a copy for one matrix product, and the step that draws a
sample works on rows of folds.

The loops: tiles of folds (the grid), rows of conditioning (the grid on a TPU, a loop on a GPU), the samples of a row,
the layers. A TPU has the weights and the histories in VMEM from the first sample of a call to the last, and gets the
rows of conditioning from HBM ahead of time. A GPU's weights and histories lie in device memory, small enough that the
L2 cache holds the weights; one program (thread block) makes one tile.

The history of layer l is a ring of `lengths[l]` rows; what the layer saw at sample t is in row t mod lengths[l].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float, Int

from speech_jax.kernels.wavenet.pallas_pack import Packed, PackPlan, groups, noise_rows
from speech_jax.kernels.wavenet.step import StepShape

WARPS = 8  # of a thread block, on a GPU


# --- One step ---------------------------------------------------------------------------------------------------------


def _dot(plan: PackPlan, a: Array, b: Array) -> Array:
    """float32 sums; float32 factors are not rounded to what the unit likes best.

    On a GPU's matrix units that takes three products of TF32, which the interpreter does not know.
    """
    precision = None
    if a.dtype == jnp.float32:
        tensor_cores = plan.backend == "gpu" and not plan.interpreted
        precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if tensor_cores else jax.lax.Precision.HIGHEST
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _product(plan: PackPlan, matrix, index: tuple, sizes: Sequence[int], parts: Sequence[Array]) -> list[Array]:
    """matrix[index] @ (parts on top of each other), cut into pieces of so many rows.

    On a TPU it is one product. Triton can neither join nor cut what it has in registers, so there it is a product for
    each piece and part.
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
            one = _dot(plan, block, part)
            total = one if total is None else total + one
            column += part.shape[0]
        pieces.append(total)
        row += size
    return pieces


def _draw(shape: StepShape, plan: PackPlan, outputs: list[Array], noise: Callable[[int, int], Array]) -> Array:
    """kernels/wavenet/draw.py's `draw` on columns: the sample, or the class as a float, [1, tile].

    noise(start, size): rows of this sample's noise. Padding rows of means and scales are zero, so that a sum over rows
    is the one that counts.
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
    if plan.backend == "tpu":  # no cumulative sum there: a product with ones on and below the diagonal
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
    weights: Packed,
    table,
    ring,
    time: Array,
    last: Float[Array, "1 tile"],
    cond: Callable[[Array, int, int], Array],
    noise: Callable[[int, int], Array],
) -> Float[Array, "1 tile"]:
    """One sample, [1, tile].

    weights, table (dilations, offsets, lengths, positions; [4, layers]) and ring are references; time: samples since
    the call began; cond(layer, start, size), noise(start, size): rows of this sample's conditioning and noise.
    """
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

        def row(back: Array) -> Array:  # where that lies which was seen so many samples ago, at most a ring's length
            now = table[3, layer] + time + length - back
            return offset + (jnp.bitwise_and(now, length - 1) if powers_of_two else jax.lax.rem(now, length))

        seen = [ring[row((plan.kernel - 1 - tap) * dilation)] for tap in range(plan.kernel - 1)]
        ring[row(jnp.int32(0))] = x.astype(plan.dtype)
        left, right = _product(plan, weights.taps, (layer,), [plan.half] * 2, [*seen, x])
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


def _row(shape, plan, hop, barrier, weights, table, ring, row, time, last, cond, noise, audio) -> Array:
    """The samples of row `row` of conditioning, the first of which is sample `time` of the call. All are references but
    row, time and last, which is returned."""
    rows = noise_rows(shape, plan)

    def sample(number: Array, last: Array) -> Array:
        last = _step(
            shape, plan, weights, table, ring, time + number, last,
            cond=lambda layer, start, size: cond[row, layer, pl.ds(start, size), :],
            noise=lambda start, size: noise[row, pl.ds(number * rows + start, size), :],
        )  # fmt: skip
        audio[row, pl.ds(number, 1), :] = last
        if barrier:
            pltriton.debug_barrier()  # what one thread wrote into a ring, another reads at the next sample
        return last

    return jax.lax.fori_loop(0, hop, sample, last)


def _tpu_kernel(shape, plan, hop, table, *refs):
    packed, (cond, noise, ring_in, last_in, audio, ring_out, last_out, ring, last, done) = refs[:-10], refs[-10:]
    tile, row = pl.program_id(0), pl.program_id(1)

    @pl.when(row == 0)
    def _():
        copy = pltpu.make_async_copy(ring_in.at[tile], ring, done)
        copy.start()
        last[...] = last_in[...]
        copy.wait()

    last[...] = _row(
        shape, plan, hop, False, Packed(*packed), table, ring, 0, row * hop, last[...], cond, noise, audio
    )  # fmt: skip

    @pl.when(row == pl.num_programs(1) - 1)
    def _():
        copy = pltpu.make_async_copy(ring, ring_out.at[tile], done)
        copy.start()
        last_out[...] = last[...]
        copy.wait()


def _gpu_kernel(shape, plan, hop, barrier, rows, table, *refs):
    packed, (cond, noise, _, last_in, audio, ring, last_out) = refs[:-7], refs[-7:]

    def row(number: Array, last: Array) -> Array:
        return _row(
            shape, plan, hop, barrier, Packed(*packed), table, ring, number, number * hop, last, cond, noise, audio
        )  # fmt: skip

    last_out[...] = jax.lax.fori_loop(0, rows, row, last_in[...])


def run(
    shape: StepShape,
    plan: PackPlan,
    packed: Packed,
    ring: Array,
    positions: Int[Array, " layers"],
    last: Float[Array, "tiles 1 tile"],
    cond: Float[Array, "tiles rows layers gate tile"],
    noise: Float[Array, "tiles rows hop_n tile"],
    hop: int,
    interpret: bool | pltpu.InterpretParams,
) -> tuple[Float[Array, "tiles rows hop tile"], Array, Float[Array, "tiles 1 tile"]]:
    """(samples or classes, rings, last ones) after rows · hop samples, everything packed.

    ring: `dtype` [tiles, sum of lengths, residual, tile], changed in place; positions: int32, each layer's sample
    number modulo its ring's length.
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
    multiplied = sum(math.prod(matrix.shape) for matrix in (packed.taps, packed.join, packed.head1, packed.head2))
    held = [*packed, ring, last, cond, noise]
    options = {
        "out_shape": out_shape,
        "input_output_aliases": {1 + len(packed) + 2: 1},
        "interpret": interpret,
        "name": "wavenet_sample",
        "cost_estimate": pl.CostEstimate(
            flops=2 * multiplied * steps,
            transcendentals=layers * gate * steps,
            bytes_accessed=sum(array.nbytes for array in held) + ring.nbytes + 4 * steps,
        ),
    }
    operands = (table, *packed, cond, noise, ring, last)
    if plan.backend == "gpu":
        whole = lambda array: pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim)  # noqa: E731
        of_tile = lambda *block: pl.BlockSpec((None, *block), lambda i: (i,) + (0,) * len(block))  # noqa: E731
        ring_block, last_block = of_tile(*ring.shape[1:]), of_tile(1, tile)
        return pl.pallas_call(
            functools.partial(_gpu_kernel, shape, plan, hop, not plan.interpreted, rows),
            grid=(tiles,),
            in_specs=[
                whole(table), *map(whole, packed),
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
        functools.partial(_tpu_kernel, shape, plan, hop),
        grid=(tiles, rows),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM), *map(resident, packed),
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
