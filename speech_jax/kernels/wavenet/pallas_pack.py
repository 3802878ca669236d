"""Operands of the Pallas kernel (pallas_kernel.py): its static plan; packed weights, conditioning and noise."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.kernels.wavenet.step import StepShape, StepWeights

_NEVER = -1e30  # logit of a class that is never drawn; finite, so that nothing becomes NaN


class PackPlan(NamedTuple):
    """Static settings of the program, in addition to the StepShape: padded widths, and the tiles of folds.

    Attributes:
        backend: "tpu" or "gpu".
        dtype: type of weights and histories in the products, "float32" or "bfloat16"; sums are float32.
        tile: folds (independent streams) per tile.
        kernel: taps of a convolution.
        residual: channels between the layers, padded.
        half: channels of half a gate, padded.
        skip: channels of the skip, padded.
        head: channels of the head's hidden layer, padded.
        group: rows of one kind of output (means, log scales, logits), padded.
        lengths: rows of each layer's ring.
        memory: bytes of VMEM that the program may take, on a TPU.
        interpreted: True if run by the interpreter, without an accelerator.
    """

    backend: str
    dtype: str
    tile: int
    kernel: int
    residual: int
    half: int
    skip: int
    head: int
    group: int
    lengths: tuple[int, ...]
    memory: int
    interpreted: bool = False

    @property
    def offsets(self) -> tuple[int, ...]:
        """First row of each layer's ring in the array of all rings."""
        return tuple(sum(self.lengths[:layer]) for layer in range(len(self.lengths)))


class PallasWeights(NamedTuple):
    """Weights as the kernel reads them: transposed and padded; matrices multiplied by the same vector are joined.

    `lanes` is the tile on a TPU, where a column would have to be broadcast over the lanes at each use, and 1 on a GPU.

    Attributes:
        first: input projection: [residual, lanes] float32, or for "mulaw" [residual, group].
        first_bias: its bias.
        taps: dilated convolutions: [layers, 2 · half, kernel · residual].
        join: projections of the gated values to residual and skip: [layers, residual + skip, half].
        out_bias: biases of the residual's part.
        skip_bias: sum of the biases of the skips.
        head1: hidden layer of the head: [head, skip].
        head1_bias: its bias.
        head2: output layer of the head: [groups · group, head].
        head2_bias: its bias.
    """

    first: Array
    first_bias: Float[Array, "residual lanes"]
    taps: Array
    join: Array
    out_bias: Float[Array, "layers residual lanes"]
    skip_bias: Float[Array, "skip lanes"]
    head1: Array
    head1_bias: Float[Array, "head lanes"]
    head2: Array
    head2_bias: Float[Array, "groups_group lanes"]


def groups(shape: StepShape) -> int:
    """Return the number of kinds of output."""
    return {"gaussian": 2, "logistics": 3, "mulaw": 1}[shape.output]


def noise_rows(shape: StepShape, plan: PackPlan) -> int:
    """Return the rows of noise per sample: 1, or for "logistics" those of the mixtures, then eight with one in use."""
    return plan.group + 8 if shape.output == "logistics" else 1


def _pad(array: Array, axis: int, size: int, value: float = 0.0) -> Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths, constant_values=value)


def _pad_halves(array: Array, axis: int, half: int) -> Array:
    """Pad each half of the gate's axis to `half`."""
    return jnp.concatenate([_pad(part, axis, half) for part in jnp.split(array, 2, axis)], axis)


def pack(shape: StepShape, plan: PackPlan, weights: StepWeights) -> PallasWeights:
    """Return the weights for the kernel. Padding adds zeros, and logits of classes that are never drawn."""
    layers, kernel, *_ = weights.taps.shape
    lanes = plan.tile if plan.backend == "tpu" else 1

    def column(bias: Array, size: int) -> Array:
        padded = _pad(jnp.asarray(bias, jnp.float32), bias.ndim - 1, size)
        return jnp.broadcast_to(padded[..., None], (*padded.shape, lanes))

    taps = _pad(_pad_halves(weights.taps, 3, plan.half), 2, plan.residual)
    taps = jnp.transpose(taps, (0, 3, 1, 2)).reshape(layers, 2 * plan.half, kernel * plan.residual)
    join = jnp.concatenate([_pad(weights.out, 2, plan.residual), _pad(weights.skip, 2, plan.skip)], axis=2)
    number = groups(shape)
    head2 = _pad(weights.head2.reshape(weights.head2.shape[0], number, -1), 2, plan.group)
    bias = _pad(weights.head2_bias.reshape(number, -1), 1, plan.group)
    if shape.output != "gaussian":  # the first group is logits
        real = jnp.arange(plan.group) < weights.head2_bias.shape[0] // number
        bias = bias.at[0].set(jnp.where(real, bias[0], _NEVER))
    first = _pad(weights.first, 1, plan.residual)
    cast = functools.partial(jnp.asarray, dtype=jnp.dtype(plan.dtype))
    return PallasWeights(
        first=cast(_pad(first, 0, plan.group).T) if shape.output == "mulaw" else column(first[0], plan.residual),
        first_bias=column(weights.first_bias, plan.residual),
        taps=cast(taps),
        join=cast(jnp.swapaxes(_pad(join, 1, plan.half), 1, 2)),
        out_bias=column(weights.out_bias, plan.residual),
        skip_bias=column(weights.skip_bias, plan.skip),
        head1=cast(_pad(_pad(weights.head1, 0, plan.skip), 1, plan.head).T),
        head1_bias=column(weights.head1_bias, plan.head),
        head2=cast(_pad(head2.reshape(-1, number * plan.group), 0, plan.head).T),
        head2_bias=column(bias.reshape(-1), number * plan.group),
    )


def pack_cond(
    plan: PackPlan, cond: Float[Array, "batch rows layers gate"]
) -> Float[Array, "tiles rows layers padded_gate tile"]:
    """Return the conditioning with the folds on the last axis, in tiles; padding folds get zeros."""
    cond = _pad_halves(cond, 3, plan.half)
    tiles = -(-cond.shape[0] // plan.tile)
    cond = _pad(cond, 0, tiles * plan.tile)
    return jnp.moveaxis(cond.reshape(tiles, plan.tile, *cond.shape[1:]), 1, -1)


def pack_noise(
    shape: StepShape, plan: PackPlan, noise: Float[Array, "batch time n"], hop: int
) -> Float[Array, "tiles rows hop_n tile"]:
    """Return the noise with the folds on the last axis, in tiles and rows of conditioning; padding is 0.5."""
    if shape.output == "logistics":
        uniforms = _pad(noise[..., :-1], 2, plan.group, 0.5)
        noise = jnp.concatenate([uniforms, _pad(noise[..., -1:], 2, 8, 0.5)], axis=2)
    batch, time, rows = noise.shape
    tiles = -(-batch // plan.tile)
    noise = _pad(noise, 0, tiles * plan.tile, 0.5).reshape(tiles, plan.tile, time // hop, hop * rows)
    return jnp.moveaxis(noise, 1, -1)
