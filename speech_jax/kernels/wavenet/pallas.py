"""A WaveNet sampled by one Pallas kernel that keeps the whole loop on a TPU or GPU; equal to the plain loop.

Between samples nothing leaves the chip: no program is launched, no weights come in, the conditioning stays at the rate
of its rows. Call `fits` first: where it gives a reason, take another engine.

    reason = fits(shape, weights, "tpu")
    state = start(shape, weights, batch, backend="tpu")
    audio, state = sample(shape, weights, state, cond, hop, noise, backend="tpu")     # as often as there are chunks

On a TPU (Mosaic) the weights and the histories lie in VMEM, 128 folds or a multiple to a tile. On a GPU (Triton) one
thread block makes 16 folds, which is what its matrix units take, and reads the weights from the L2 cache at each
sample. The GPU's program has been lowered, compiled for sm_80 and sm_90 by Triton's own package, and run by the
interpreter; it has NOT been run on a GPU. The TPU's has been compiled by the TPU's compiler, and run by the two
interpreters; it has NOT been run on a TPU.

Persistent kernels for WaveNet: NVIDIA's nv-wavenet (CUDA).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet.pallas_kernel import run
from speech_jax.kernels.wavenet.pallas_pack import Packed, PackPlan, groups, noise_rows, pack, pack_cond, pack_noise
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights, before_first, check_weights

_LANES = 128
_TILES = (512, 256, 128)  # of folds, on a TPU
_LEFT = 0.94  # of the VMEM; the compiler keeps the rest for itself
_V5E = 128 * 2**20
_WIDEST = 128  # on a GPU; wider ones were not compiled
_L2 = 32 * 2**20  # bytes that are sure to stay in the L2 cache of an A100 or H100


class Rings(NamedTuple):
    """What the layers have seen: `ring` [tiles, sum of the rings' lengths, residual, tile], and where in each layer's
    ring the next input goes, int32 [layers]."""

    ring: Array
    positions: Int[Array, " layers"]


def fits(
    shape: StepShape,
    weights: StepWeights,
    backend: str,
    *,
    batch: int = 1,
    dtype: str = "float32",
    hop: int = 256,
    memory: int | None = None,
) -> str | None:
    """Why the kernel cannot run this net there, in one line; None if it can.

    weights: arrays, or only their shapes (jax.ShapeDtypeStruct). backend: "tpu", "gpu", or another, which has no
    kernel. batch: folds. hop: samples a row of conditioning. memory: bytes of VMEM of a core of the TPU; None asks the
    TPU at hand, or takes a v5e's where there is none.
    """
    plan = _plan(shape, weights, batch, backend, dtype, hop, memory)
    return plan if isinstance(plan, str) else None


def start(
    shape: StepShape,
    weights: StepWeights,
    batch: int,
    *,
    backend: str,
    dtype: str = "float32",
    hop: int = 256,
    memory: int | None = None,
) -> StepState:
    """Before the first sample; arguments as for `fits`. UserError where it does not fit."""
    check_weights(shape, weights)
    plan = _fitting(shape, weights, batch, backend, dtype, hop, memory)
    tiles = -(-batch // plan.tile)
    ring = jnp.zeros((tiles, sum(plan.lengths), plan.residual, plan.tile), jnp.dtype(dtype))
    return StepState(Rings(ring, jnp.zeros(len(plan.lengths), jnp.int32)), before_first(shape, batch))


@partial(jax.jit, static_argnums=(0, 4), static_argnames=("backend", "interpret", "memory"))
def sample(
    shape: StepShape,
    weights: StepWeights,
    state: StepState,
    cond: Float[Array, "batch rows layers gate"],
    hop: int,
    noise: Float[Array, "batch time n"],
    *,
    backend: str,
    interpret: bool | pltpu.InterpretParams = False,
    memory: int | None = None,
) -> tuple[Array, StepState]:
    """(float32 [batch, time] in [-1, 1], for "mulaw" the classes, int32; the state after it). time = rows · hop.

    As kernels/wavenet/reference.py's `sample`, with the same noise. What the products take is float32 or bfloat16, as
    `start` was told. interpret: run the kernel's program without the accelerator, slowly, for tests;
    for a TPU's also by the interpreter that knows its memories.
    """
    rings, last = state
    batch, dtype = last.shape[0], rings.ring.dtype.name
    plan = _fitting(shape, weights, batch, backend, dtype, hop, memory, tile=rings.ring.shape[-1])
    tiles = rings.ring.shape[0]
    folds = jnp.pad(last.astype(jnp.float32), (0, tiles * plan.tile - batch)).reshape(tiles, 1, plan.tile)
    made, ring, folds = run(
        shape,
        plan,
        pack(shape, plan, weights),
        rings.ring,
        rings.positions,
        folds,
        pack_cond(plan, cond),
        pack_noise(shape, plan, noise, hop),
        hop,
        interpret,
    )
    made = jnp.moveaxis(made, -1, 1).reshape(tiles * plan.tile, -1)[:batch].astype(last.dtype)
    positions = (rings.positions + noise.shape[1]) % jnp.asarray(plan.lengths, jnp.int32)
    return made, StepState(Rings(ring, positions), folds.reshape(-1)[:batch].astype(last.dtype))


# --- The plan ---------------------------------------------------------------------------------------------------------


def _fitting(shape, weights, batch, backend, dtype, hop, memory, tile=None) -> PackPlan:
    plan = _plan(shape, weights, batch, backend, dtype, hop, memory, tile)
    if isinstance(plan, str):
        raise UserError(f"WaveNet Pallas kernel: {plan}")
    return plan


def _plan(shape, weights, batch, backend, dtype, hop, memory, tile=None) -> PackPlan | str:
    """The plan, or why there is none. tile: as the state has it; None chooses."""
    layers, kernel, residual, gate = weights.taps.shape
    if backend not in ("tpu", "gpu"):
        return f"found backend {backend!r}, the kernel is for 'tpu' and 'gpu'"
    if dtype not in ("float32", "bfloat16"):
        return f"found dtype {dtype!r}, expected 'float32' or 'bfloat16'"
    if kernel < 2:
        return f"found kernel size {kernel}, expected at least 2"
    if backend == "tpu":
        unit = 8 if dtype == "float32" else 16
        padded = lambda size: -(-size // unit) * unit  # noqa: E731
    else:  # Triton's blocks are powers of two, and its products take at least 16
        padded = lambda size: max(16, 1 << (size - 1).bit_length())  # noqa: E731
    plan = PackPlan(
        backend=backend,
        dtype=dtype,
        tile=0,
        kernel=kernel,
        residual=padded(residual),
        half=padded(gate // 2),
        skip=padded(weights.head1.shape[0]),
        head=padded(weights.head1.shape[1]),
        group=padded(weights.head2.shape[1] // groups(shape)),
        # On a GPU one row more, so that no row is read and written between two barriers.
        lengths=tuple((kernel - 1) * d + (backend == "gpu") for d in shape.dilations),
        memory=0,
    )
    if backend == "gpu":
        return _plan_gpu(shape, plan, weights)
    memory = _vmem() if memory is None else memory
    allowed = int(memory * _LEFT)
    wanted = -(-batch // _LANES) * _LANES
    sizes = [size for size in _TILES if size <= wanted] if tile is None else [tile]
    for size in sizes:
        plan = plan._replace(tile=size, memory=allowed)
        needed = vmem_bytes(shape, plan, weights, hop)
        if needed <= allowed:
            return plan
    return (
        f"weights, histories and blocks of {plan.tile} folds in {dtype} take {needed / 2**20:.0f} MiB of VMEM, "
        f"{allowed / 2**20:.0f} MiB are there"
    )


def _plan_gpu(shape, plan: PackPlan, weights) -> PackPlan | str:
    widest = max(plan.residual, plan.half, plan.skip, plan.head)
    if widest > _WIDEST:
        return (
            f"a width of {widest} is above {_WIDEST}, the most that a thread block's registers and shared memory hold"
        )
    packed = jax.eval_shape(partial(pack, shape, plan._replace(tile=1)), weights)
    held = sum(array.size * array.dtype.itemsize for array in packed)
    if held > _L2:
        return f"weights of {held / 2**20:.0f} MiB in {plan.dtype} do not stay in an L2 cache of {_L2 / 2**20:.0f} MiB"
    return plan._replace(tile=16)


def _vmem() -> int:
    device = jax.devices()[0]
    return pltpu.get_tpu_info().vmem_capacity_bytes if device.platform == "tpu" else _V5E


def vmem_bytes(shape: StepShape, plan: PackPlan, weights: StepWeights, hop: int) -> int:
    """Bytes of VMEM that the program of a plan takes: weights once, the rings, two blocks of what comes and goes row by
    row, and what a step works on."""
    packed = jax.eval_shape(partial(pack, shape, plan), weights)
    layers = len(plan.lengths)
    row = layers * 2 * plan.half + -(-hop * noise_rows(shape, plan) // 8) * 8 + -(-hop // 8) * 8
    work = 2 * plan.half + plan.kernel * plan.residual + 4 * (plan.residual + plan.skip) + 8 * plan.group
    ring = sum(plan.lengths) * plan.residual * plan.tile * jnp.dtype(plan.dtype).itemsize
    return _held(packed) + ring + 4 * plan.tile * (2 * row + 2 * work)


def _held(packed: Packed) -> int:
    """Bytes of the weights, the last two axes padded to a register's."""
    total = 0
    for array in packed:
        *lead, rows, columns = array.shape
        unit = 32 // array.dtype.itemsize
        size = -(-rows // unit) * unit * (-(-columns // _LANES) * _LANES) * array.dtype.itemsize
        for axis in lead:
            size *= axis
        total += size
    return total
