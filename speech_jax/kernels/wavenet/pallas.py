"""WaveNet sampling by one Pallas kernel that keeps the whole loop on a TPU or GPU; equal to the plain loop.

Between samples nothing leaves the chip: no program is launched, no weights are loaded, the conditioning stays at the
rate of its rows. Call `fits` first; if it returns a reason, use another engine.

    reason = fits(shape, weights, "tpu")
    state = start(shape, weights, batch, backend="tpu")
    audio, state = sample(shape, weights, state, cond, hop, noise, backend="tpu")     # once per chunk

On a TPU (Mosaic) weights and histories are in VMEM, with a multiple of 128 folds per tile. On a GPU (Triton) one thread
block computes 16 folds, the width of its matrix units, and reads the weights from the L2 cache at each sample. The
GPU's program has been lowered, compiled for sm_80 and sm_90 by Triton's own package, and run by the interpreter; it has
NOT been run on a GPU. The TPU's has been compiled by the TPU's compiler, and run by the two interpreters; it has NOT
been run on a TPU.

Persistent kernels for WaveNet: NVIDIA's nv-wavenet (CUDA).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet.pallas_kernel import run
from speech_jax.kernels.wavenet.pallas_pack import (
    PackPlan,
    PallasWeights,
    groups,
    noise_rows,
    pack,
    pack_cond,
    pack_noise,
)
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights, before_first, check_weights

_LANES = 128
_TILES = (512, 256, 128)  # folds per tile, on a TPU
_USABLE = 0.94  # share of the VMEM; the compiler reserves the rest
_V5E = 128 * 2**20  # bytes of VMEM of a v5e's core
_WIDEST = 128  # most channels on a GPU; more have not been compiled
_L2 = 32 * 2**20  # bytes that stay in the L2 cache of an A100 or H100


class PallasRings(NamedTuple):
    """Histories of the layers.

    Attributes:
        ring: [tiles, sum of the rings' lengths, residual, tile].
        positions: row of each layer's ring for the next input.
    """

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
    """Return the reason why the kernel cannot run this network, in one line; None if it can.

    Args:
        shape: static facts of the network.
        weights: arrays, or only their shapes (`jax.ShapeDtypeStruct`).
        backend: "tpu" or "gpu"; there is no kernel for others.
        batch: number of folds.
        dtype: type of weights and histories, "float32" or "bfloat16".
        hop: samples per row of conditioning.
        memory: bytes of VMEM of a TPU core; None for those of the TPU at hand, or without one a v5e's.
    """
    plan = _plan(shape, weights, batch=batch, backend=backend, dtype=dtype, hop=hop, memory=memory)
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
    """Return the state before the first sample; arguments are those of `fits`.

    Raises:
        UserError: the network does not fit.
    """
    check_weights(shape, weights)
    plan = _plan_or_fail(shape, weights, batch=batch, backend=backend, dtype=dtype, hop=hop, memory=memory)
    tiles = -(-batch // plan.tile)
    ring = jnp.zeros((tiles, sum(plan.lengths), plan.residual, plan.tile), jnp.dtype(dtype))
    return StepState(PallasRings(ring, jnp.zeros(len(plan.lengths), jnp.int32)), before_first(shape, batch))


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
    """Sample time = rows · hop samples, equal to reference.py's `sample` with the same noise.

    Args:
        shape: static facts of the network.
        weights: its weights, float32; they are converted to the type of the state's histories.
        state: from `start`, or the state that the previous call returned.
        cond: conditioning, gate biases included.
        hop: samples per row of conditioning.
        noise: from `draw.make_noise`.
        backend: "tpu" or "gpu".
        interpret: run by the interpreter, slowly and without an accelerator, for tests; for a TPU possibly with the
            settings of the interpreter that simulates its memories.
        memory: as for `fits`.

    Returns:
        (samples, state after them). Samples are float32 [batch, time] in [-1, 1], or for "mulaw" int32 classes.

    Raises:
        UserError: the network does not fit.
    """
    rings, last = state
    batch, dtype = last.shape[0], rings.ring.dtype.name
    tiles, *_, tile = rings.ring.shape
    plan = _plan_or_fail(
        shape, weights, batch=batch, backend=backend, dtype=dtype, hop=hop, memory=memory, tile=tile
    )
    folds = jnp.pad(last.astype(jnp.float32), (0, tiles * plan.tile - batch)).reshape(tiles, 1, plan.tile)
    samples, ring, folds = run(
        shape,
        plan,
        pack(shape, plan, weights),
        ring=rings.ring,
        positions=rings.positions,
        last=folds,
        cond=pack_cond(plan, cond),
        noise=pack_noise(shape, plan, noise, hop),
        hop=hop,
        interpret=interpret,
    )
    samples = jnp.moveaxis(samples, -1, 1).reshape(tiles * plan.tile, -1)[:batch].astype(last.dtype)
    positions = (rings.positions + noise.shape[1]) % jnp.asarray(plan.lengths, jnp.int32)
    return samples, StepState(PallasRings(ring, positions), folds.reshape(-1)[:batch].astype(last.dtype))


# --- The plan ---------------------------------------------------------------------------------------------------------


def _plan_or_fail(shape: StepShape, weights: StepWeights, **settings: Any) -> PackPlan:
    plan = _plan(shape, weights, **settings)
    if isinstance(plan, str):
        raise UserError(f"WaveNet Pallas kernel: {plan}")
    return plan


def _plan(
    shape: StepShape,
    weights: StepWeights,
    *,
    batch: int,
    backend: str,
    dtype: str,
    hop: int,
    memory: int | None,
    tile: int | None = None,
) -> PackPlan | str:
    """Return the plan, or the reason why there is none. tile: folds per tile of the state; None to choose."""
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
        # On a GPU one more row, so that no row is both read and written between two barriers.
        lengths=tuple((kernel - 1) * d + (backend == "gpu") for d in shape.dilations),
        memory=0,
    )
    if backend == "gpu":
        return _plan_gpu(shape, plan, weights)
    memory = _vmem() if memory is None else memory
    allowed = int(memory * _USABLE)
    folds = -(-batch // _LANES) * _LANES
    sizes = [size for size in _TILES if size <= folds] if tile is None else [tile]
    for size in sizes:
        plan = plan._replace(tile=size, memory=allowed)
        needed = vmem_bytes(shape, plan, weights, hop)
        if needed <= allowed:
            return plan
    return (
        f"weights, histories and blocks of {plan.tile} folds in {dtype} take {needed / 2**20:.0f} MiB of VMEM, "
        f"{allowed / 2**20:.0f} MiB are available"
    )


def _plan_gpu(shape, plan: PackPlan, weights) -> PackPlan | str:
    widest = max(plan.residual, plan.half, plan.skip, plan.head)
    if widest > _WIDEST:
        return (
            f"a width of {widest} is above {_WIDEST}, the most that a thread block's registers and shared memory hold"
        )
    packed = jax.eval_shape(partial(pack, shape, plan._replace(tile=1)), weights)
    size = sum(array.size * array.dtype.itemsize for array in packed)
    if size > _L2:
        return f"weights of {size / 2**20:.0f} MiB in {plan.dtype} do not stay in an L2 cache of {_L2 / 2**20:.0f} MiB"
    return plan._replace(tile=16)


def _vmem() -> int:
    device = jax.devices()[0]
    return pltpu.get_tpu_info().vmem_capacity_bytes if device.platform == "tpu" else _V5E


def vmem_bytes(shape: StepShape, plan: PackPlan, weights: StepWeights, hop: int) -> int:
    """Return the bytes of VMEM that the program of a plan takes.

    They are those of the weights, the rings, two blocks of all operands per row of conditioning, and the values of a
    step.
    """
    packed = jax.eval_shape(partial(pack, shape, plan), weights)
    layers = len(plan.lengths)
    row = layers * 2 * plan.half + -(-hop * noise_rows(shape, plan) // 8) * 8 + -(-hop // 8) * 8
    work = 2 * plan.half + plan.kernel * plan.residual + 4 * (plan.residual + plan.skip) + 8 * plan.group
    ring = sum(plan.lengths) * plan.residual * plan.tile * jnp.dtype(plan.dtype).itemsize
    return _weight_bytes(packed) + ring + 4 * plan.tile * (2 * row + 2 * work)


def _weight_bytes(weights: PallasWeights) -> int:
    """Return the bytes of the weights, the last two axes padded to those of a register."""
    total = 0
    for array in weights:
        *lead, rows, columns = array.shape
        unit = 32 // array.dtype.itemsize
        size = -(-rows // unit) * unit * (-(-columns // _LANES) * _LANES) * array.dtype.itemsize
        for axis in lead:
            size *= axis
        total += size
    return total
