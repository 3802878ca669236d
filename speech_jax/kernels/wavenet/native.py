"""WaveNet sampling in compiled C on a CPU: float32, bfloat16 or int8 weights, with AVX-512, AVX2 or plain instructions.

With one stream every weight is read and used once per sample, so the time per sample is the size of the weights divided
by the bandwidth of the cache that holds them: smaller weights are faster. The loop over samples is in C
(kernels/wavenet/c/); here the weights are laid out for it, and every argument is checked, because the C code checks
nothing.

- float32: the arithmetic of `reference`, up to the order of sums.
- bfloat16: weights, and the vectors they are multiplied with, are rounded; sums are float32.
- int8: weights have a scale per output channel (symmetric, nearest), vectors one scale each (the largest value is 127);
  products are summed exactly, in 32-bit integers. The history of a layer is stored in that form, so that it is rounded
  once. The first layers and the head take vectors of 16 bits (FINE_LAYERS).

Conditioning, biases, residuals, skips and the first layer's projection of the samples are float32 in all of them; so is
the last product if it has few outputs.

On the same instruction set, the samples of a row are bit for bit the same in chunks, in other batches and with other
numbers of threads.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Num, UInt8
from numpy.typing import DTypeLike

from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet.native_pack import (
    DTYPES,
    INSTRUCTIONS,
    Dtype,
    NativeWeights,
    available,
    instructions,
    library,
    pack,
)
from speech_jax.kernels.wavenet.step import StepState, before_first, noise_width, outputs_of

__all__ = [
    "DTYPES", "INSTRUCTIONS", "Dtype", "NativeRings", "NativeWeights", "available", "follow", "instructions", "pack",
    "sample", "start",
]  # fmt: skip


class NativeRings(NamedTuple):
    """Histories of the layers, as the C code stores them.

    Attributes:
        bytes: the ring buffers of each row.
        time: number of samples so far.
    """

    bytes: UInt8[np.ndarray, "batch bytes"]
    time: int


def start(weights: NativeWeights, batch: int) -> StepState:
    """Return the state before the first sample: histories of zeros, and a last sample of 0 (or its class)."""
    if batch < 1:
        raise UserError(f"native WaveNet step: found a batch of {batch}, expected at least 1")
    rings = NativeRings(np.zeros((batch, weights.history_bytes), np.uint8), 0)
    return StepState(rings, np.array(before_first(weights.shape, batch)))


def sample(
    weights: NativeWeights,
    state: StepState,
    cond: Float32[np.ndarray, "batch rows layers gate"],
    hop: int,
    noise: Float32[np.ndarray, "batch time n"],
    threads: int = 1,
) -> tuple[Num[np.ndarray, "batch time"], StepState]:
    """Sample time = rows · hop samples.

    Args:
        weights: from `pack`.
        state: from `start`, or the state that the previous call returned; it is not changed.
        cond: conditioning, gate biases included.
        hop: samples per row of conditioning.
        noise: from `draw.make_noise`.
        threads: number of parts of the batch that run at once; each reads the weights once for up to four rows.

    Returns:
        (samples, state after them). Samples are float32 in [-1, 1], or for "mulaw" int32 classes.

    Raises:
        UserError: an array has an unexpected shape or type, or is not finite.
    """
    cond, time = _conditioning(weights, state, cond, hop)
    noise = _array("noise", noise, (len(cond), time, noise_width(weights.shape)), np.float32)
    drawn = np.empty((len(cond), time), state.last.dtype)
    state = _run(weights, state, cond, hop, threads, noise=noise, drawn=drawn)
    return drawn, state


def follow(
    weights: NativeWeights,
    state: StepState,
    cond: Float32[np.ndarray, "batch rows layers gate"],
    hop: int,
    samples: Num[np.ndarray, "batch time"],
    threads: int = 1,
) -> tuple[Float32[np.ndarray, "batch time outputs"], StepState]:
    """Return the outputs at each step when the given samples are drawn, for the likelihood of a waveform.

    Args:
        weights: from `pack`.
        state: from `start`, or the state that the previous call returned; it is not changed.
        cond: conditioning, gate biases included.
        hop: samples per row of conditioning.
        samples: float32 samples, or for "mulaw" int32 classes; time = rows · hop.
        threads: number of parts of the batch that run at once.

    Returns:
        (outputs, state after them).

    Raises:
        UserError: an array has an unexpected shape or type, or is not finite.
    """
    cond, time = _conditioning(weights, state, cond, hop)
    samples = _array("waveform", samples, (len(cond), time), state.last.dtype)
    _check_classes(weights, "waveform", samples)
    outputs = np.empty((len(cond), time, outputs_of(weights.shape)), np.float32)
    state = _run(weights, state, cond, hop, threads, given=samples, outputs=outputs)
    return outputs, state


def _run(
    weights: NativeWeights, state: StepState, cond: np.ndarray, hop: int, threads: int, **arrays: np.ndarray
) -> StepState:
    """Run the C code on parts of the batch, and return the new state."""
    rings, last = state.history.bytes.copy(), np.array(state.last)
    batch, rows = cond.shape[:2]
    names = ("noise", "given", "drawn", "outputs")

    def part(begin: int, end: int) -> None:
        noise, given, drawn, outputs = (arrays[n][begin:end].ctypes.data if n in arrays else None for n in names)
        failed = library().wavenet_run(
            ctypes.byref(weights.net), end - begin, rows, hop, cond[begin:end].ctypes.data, noise, given,
            rings[begin:end].ctypes.data, state.history.time, last[begin:end].ctypes.data, drawn, outputs,
        )  # fmt: skip
        if failed:
            raise MemoryError("native WaveNet step: out of memory")

    size = -(-batch // max(threads, 1))
    size = -(-size // 4) * 4 if size > 2 else size  # whole groups of four streams
    begins = range(0, batch, size)
    if len(begins) == 1:
        part(0, batch)
    else:  # ctypes releases the interpreter lock during the call
        with ThreadPoolExecutor(len(begins)) as pool:
            list(pool.map(lambda begin: part(begin, min(begin + size, batch)), begins))
    return StepState(NativeRings(rings, state.history.time + rows * hop), last)


def _conditioning(weights: NativeWeights, state: StepState, cond: Any, hop: int) -> tuple[np.ndarray, int]:
    """Return the conditioning and the number of samples; check both and the state."""
    if not isinstance(state.history, NativeRings):
        raise UserError(
            f"native WaveNet step: found a state with {type(state.history).__name__}, expected one from `start`"
        )
    batch = len(state.history.bytes)
    _array("state's rings", state.history.bytes, (batch, weights.history_bytes), np.uint8)
    kind = np.int32 if weights.shape.output == "mulaw" else np.float32
    _check_classes(weights, "state's last class", _array("state's last sample", state.last, (batch,), kind))
    rows = np.shape(cond)[1] if np.ndim(cond) == 4 else 0
    cond = _array("conditioning", cond, (batch, rows, weights.layers, weights.gate), np.float32)
    if not isinstance(hop, int | np.integer) or hop < 1 or state.history.time < 0:
        raise UserError(f"native WaveNet step: found hop {hop!r}, expected samples per row, at least 1")
    return cond, rows * int(hop)


def _array(name: str, array: Any, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return the array as contiguous memory; UserError if its shape, type or values are wrong."""
    array = np.asarray(array)
    if array.shape != shape or array.dtype != dtype:
        raise UserError(
            f"native WaveNet step, {name}: found {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"native WaveNet step, {name}: found a value that is not finite, expected finite numbers")
    return np.ascontiguousarray(array)


def _check_classes(weights: NativeWeights, name: str, array: np.ndarray) -> None:
    if array.dtype == np.int32 and array.size and (array.min() < 0 or array.max() >= weights.shape.classes):
        raise UserError(
            f"native WaveNet step, {name}: found {array.min()} to {array.max()}, expected classes 0 to "
            f"{weights.shape.classes - 1}"
        )
