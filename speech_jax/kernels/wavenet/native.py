"""WaveNet sampling in compiled C on a CPU: float32, bfloat16 or int8 weights, with AVX-512, AVX2 or plain instructions.

With one stream every weight is read once a sample and used once, so the speed is the number of bytes over the
bandwidth of the cache that holds them, and small weights are fast weights. The loop over samples is in C
(kernels/wavenet/c/); here the weights are laid out for it, and every argument is checked, because the C code does not
check.

- float32: the arithmetic of `wavenet_plain`, up to the order of sums.
- bfloat16: weights, and the vectors they are multiplied with, are rounded; sums are float32.
- int8: weights have a scale for each output channel (symmetric, nearest), vectors one of their own each time (the
  largest value is 127); a product of the two is summed exactly, in 32-bit integers. A layer's history is kept in that
  form, so that it is rounded once. The first layers and the head take vectors of 16 bits (FINE_LAYERS).

Conditioning, biases, residuals, skips and what the first layer makes of the samples stay float32 in every kind; the
last product too where it has few outputs.

The same batch in chunks, in other batches or with other threads gives the same bits, on the same instructions.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Num, UInt8

from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet.native_pack import (
    DTYPES,
    INSTRUCTIONS,
    Dtype,
    Packed,
    available,
    instructions,
    library,
    pack,
)
from speech_jax.kernels.wavenet.step import StepState, before_first, noise_width, outputs_of

__all__ = [
    "DTYPES", "INSTRUCTIONS", "Dtype", "Packed", "Rings", "available", "follow", "instructions", "pack",
    "sample", "start",
]  # fmt: skip


class Rings(NamedTuple):
    """What the layers have seen, as the C code keeps it: bytes [batch, history_bytes], and how many samples went by."""

    bytes: UInt8[np.ndarray, "batch bytes"]
    time: int


def start(packed: Packed, batch: int) -> StepState:
    """Before the first sample: nothing was seen, and the last sample is 0 (or its class)."""
    if batch < 1:
        raise UserError(f"native WaveNet step: found a batch of {batch}, expected at least 1")
    rings = Rings(np.zeros((batch, packed.history_bytes), np.uint8), 0)
    return StepState(rings, np.array(before_first(packed.shape, batch)))


def sample(
    packed: Packed,
    state: StepState,
    cond: Float32[np.ndarray, "batch rows layers gate"],
    hop: int,
    noise: Float32[np.ndarray, "batch time n"],
    threads: int = 1,
) -> tuple[Num[np.ndarray, "batch time"], StepState]:
    """(float32 [batch, time] in [-1, 1], for "mulaw" the classes, int32; the state after it). time = rows · hop.

    `state` stays as it was. Streams go through the weights four at a time, and with `threads` in so many parts at once.
    UserError where an array has another shape or type than is expected, or is not finite.
    """
    cond, time = _conditioning(packed, state, cond, hop)
    noise = _array("noise", noise, (len(cond), time, noise_width(packed.shape)), np.float32)
    drawn = np.empty((len(cond), time), state.last.dtype)
    state = _run(packed, state, cond, hop, threads, noise=noise, drawn=drawn)
    return drawn, state


def follow(
    packed: Packed,
    state: StepState,
    cond: Float32[np.ndarray, "batch rows layers gate"],
    hop: int,
    given: Num[np.ndarray, "batch time"],
    threads: int = 1,
) -> tuple[Float32[np.ndarray, "batch time outputs"], StepState]:
    """The outputs at each step where `given` (samples, float32, or classes, int32) is what was drawn: by these the
    likelihood of a waveform under these weights is computed, so that kinds of weights can be compared."""
    cond, time = _conditioning(packed, state, cond, hop)
    given = _array("waveform", given, (len(cond), time), state.last.dtype)
    _check_classes(packed, "waveform", given)
    outputs = np.empty((len(cond), time, outputs_of(packed.shape)), np.float32)
    state = _run(packed, state, cond, hop, threads, given=given, outputs=outputs)
    return outputs, state


def _run(packed: Packed, state: StepState, cond: np.ndarray, hop: int, threads: int, **arrays: np.ndarray) -> StepState:
    """Calls the C code on parts of the batch; returns the new state."""
    rings, last = state.history.bytes.copy(), state.last.copy()
    batch, rows = cond.shape[:2]
    names = ("noise", "given", "drawn", "outputs")

    def part(begin: int, end: int) -> None:
        noise, given, drawn, outputs = (arrays[n][begin:end].ctypes.data if n in arrays else None for n in names)
        failed = library().wavenet_run(
            ctypes.byref(packed.net), end - begin, rows, hop, cond[begin:end].ctypes.data, noise, given,
            rings[begin:end].ctypes.data, state.history.time, last[begin:end].ctypes.data, drawn, outputs,
        )  # fmt: skip
        if failed:
            raise MemoryError("native WaveNet step: no memory")

    size = -(-batch // max(threads, 1))
    size = -(-size // 4) * 4 if size > 2 else size  # whole groups of four streams
    begins = range(0, batch, size)
    if len(begins) == 1:
        part(0, batch)
    else:  # ctypes lets the other threads run meanwhile
        with ThreadPoolExecutor(len(begins)) as pool:
            list(pool.map(lambda begin: part(begin, min(begin + size, batch)), begins))
    return StepState(Rings(rings, state.history.time + rows * hop), last)


def _conditioning(packed: Packed, state: StepState, cond: Any, hop: int) -> tuple[np.ndarray, int]:
    """Conditioning and the number of samples, after a check of both and of the state."""
    if not isinstance(state.history, Rings):
        raise UserError(f"native WaveNet step: found a state of {type(state.history).__name__}, expected `start`'s")
    batch = len(state.history.bytes)
    _array("state's rings", state.history.bytes, (batch, packed.history_bytes), np.uint8)
    kind = np.int32 if packed.shape.output == "mulaw" else np.float32
    _check_classes(packed, "state's last class", _array("state's last sample", state.last, (batch,), kind))
    rows = np.shape(cond)[1] if np.ndim(cond) == 4 else 0
    cond = _array("conditioning", cond, (batch, rows, packed.layers, packed.gate), np.float32)
    if not isinstance(hop, int | np.integer) or hop < 1 or state.history.time < 0:
        raise UserError(f"native WaveNet step: found hop {hop!r}, expected samples a row, at least 1")
    return cond, rows * int(hop)


def _array(name: str, array: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """The array in one piece of memory, or a UserError."""
    array = np.asarray(array)
    if array.shape != shape or array.dtype != dtype:
        raise UserError(
            f"native WaveNet step, {name}: found {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"native WaveNet step, {name}: found a value that is not finite, expected finite numbers")
    return np.ascontiguousarray(array)


def _check_classes(packed: Packed, name: str, array: np.ndarray) -> None:
    if array.dtype == np.int32 and array.size and (array.min() < 0 or array.max() >= packed.shape.classes):
        raise UserError(
            f"native WaveNet step, {name}: found {array.min()} to {array.max()}, expected classes 0 to "
            f"{packed.shape.classes - 1}"
        )
