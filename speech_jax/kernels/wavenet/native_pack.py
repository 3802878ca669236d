"""Weights of the native WaveNet step in the layout of its C code, and the compiled library itself.

The layouts are described in kernels/wavenet/c/wavenet.h: all matrices are contiguous in memory, in the order in which a
sample's computation reads them.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32, UInt8

import speech_jax.kernels.wavenet.c
from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet.step import StepShape, StepWeights, check_weights, outputs_of

Dtype = Literal["float32", "bfloat16", "int8"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "int8")
INSTRUCTIONS = ("portable", "avx2", "avx512")
OUTPUTS = ("gaussian", "logistics", "mulaw")
LANES = 16  # as in kernels/wavenet/c/wavenet.h
NARROW = 32  # a last product with at most this many outputs stays float32: it is small, and decides the likelihood
# With int8 weights the first layers and the head take vectors of 16 bits. The first layers carry the previous samples,
# from which a trained network predicts the next one to within a thousandth of full scale: nearly all of the quality
# that vectors of 8 bits cost is lost there (experiments/real_vocoder/results/int8.md).
FINE_LAYERS = 2
KINDS = ("float32", "bfloat16", "int8", "fine")  # of a matrix: dtypes, and int8 weights for vectors of 16 bits
# Groups of 16 columns in a block of a matrix: as many as one pass over its rows can sum in registers, and half of that
# where a product has two sums. With AVX2, blocks of 16 needed four passes and ran at 0.75 to 0.85 of the speed.
BLOCKS = {
    "portable": dict.fromkeys(KINDS, 16),
    "avx2": dict.fromkeys(KINDS, 4) | {"fine": 2},
    "avx512": dict.fromkeys(KINDS, 16) | {"fine": 8},
}
# Number of samples for which a product with earlier inputs is computed at once; at most wavenet.h's MAX_AHEAD.
AHEAD = (8, 4, 2, 1)
HUGE_PAGE = 1 << 21


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("weights", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("groups", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("block", ctypes.c_int32),
    ]


_INTEGERS = "layers kernel residual half skip head outputs inputs output mixtures level cores early".split()
_ARRAYS = "dilations ahead first first_bias out_bias skip_bias head1_bias head2_bias first_taps first_taps_bias".split()
_MATRICES = "taps out skips head1 head2".split()


class _Net(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in _INTEGERS]
        + [(name, ctypes.c_float) for name in ("residual_scale", "min_log_scale")]
        + [(name, ctypes.c_void_p) for name in _ARRAYS + _MATRICES]
    )


class NativeWeights(NamedTuple):
    """Weights as the C code reads them; made by `pack`.

    Attributes:
        shape: static facts of the network.
        dtype: type of the weights.
        instructions: instruction set that they are laid out for.
        layers: number of layers.
        gate: channels of a gate, both halves.
        weight_bytes: bytes of all matrices.
        step_bytes: bytes that a step reads, once for a group of streams.
        ahead_bytes: bytes per step and stream of the other matrices, which are read for several samples at once, or by
            the second core.
        history_bytes: bytes of a stream's ring buffers.
        net: the C struct.
        memory: the arrays that `net` points to.
    """

    shape: StepShape
    dtype: Dtype
    instructions: str
    layers: int
    gate: int
    weight_bytes: int
    step_bytes: int
    ahead_bytes: float
    history_bytes: int
    net: _Net
    memory: tuple


# ---- the library


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(Path(speech_jax.kernels.wavenet.c.__file__).with_name("_wavenet.so")))
    except OSError:  # not built, or built for another machine
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    library.wavenet_level.argtypes = []
    library.wavenet_signed.argtypes = [ctypes.c_int]
    library.wavenet_history_bytes.argtypes = [pointer]
    library.wavenet_history_bytes.restype = whole
    library.wavenet_run.argtypes = [pointer, whole, whole, whole, *[pointer] * 4, whole, *[pointer] * 3]
    return library


def available() -> bool:
    """Return True if the library was built when the package was installed."""
    return _library() is not None


def instructions() -> tuple[str, ...]:
    """Return the instruction sets that this machine supports, the fastest last."""
    return INSTRUCTIONS[: library().wavenet_level() + 1]


def library() -> ctypes.CDLL:
    """Return the compiled library.

    Raises:
        UserError: there is none.
    """
    compiled = _library()
    if compiled is None:
        raise UserError(
            "native WaveNet step: found no compiled library in the installed package, expected one; `pip install` "
            "builds it where there is a C compiler (gcc or clang). The other engines do not need it"
        )
    return compiled


# ---- weights


def pack(
    shape: StepShape,
    weights: StepWeights,
    dtype: Dtype = "float32",
    instructions: str | None = None,
    cores: Literal[1, 2] = 1,
) -> NativeWeights:
    """Lay out weights for `start`, `sample` and `follow` of kernels/wavenet/native.py.

    Args:
        shape: static facts of the network.
        weights: its weights, float32.
        dtype: type that the matrices are converted to.
        instructions: one of `instructions()`; None for the fastest.
        cores: with 2, two cores share each stream, and the samples are the same: the second core computes the products
            with earlier samples, half of the work with kernel size 3. It is faster only if two cores are idle; if one
            is busy, both wait for it.

    Raises:
        UserError: the library is missing, the arrays do not fit the shape, or a weight is not finite.
    """
    instructions = instructions or INSTRUCTIONS[library().wavenet_level()]
    weights = StepWeights(*(np.asarray(array) for array in weights))
    _check(shape, weights, dtype, instructions, cores)
    layers, kernel, residual, gate = weights.taps.shape
    skip, head = weights.head1.shape
    outputs = outputs_of(shape)
    fine = "fine" if dtype == "int8" else dtype
    last_kind = "float32" if outputs <= NARROW else fine
    kinds = [fine if layer < FINE_LAYERS else dtype for layer in range(layers)]

    def halves(array: np.ndarray) -> np.ndarray:
        return np.concatenate([_pad(half) for half in np.split(array, 2, axis=-1)], axis=-1)

    ahead = np.array([_ahead(dilation, kernel, cores) for dilation in shape.dilations], np.int32)
    reach = np.outer(shape.dilations, np.arange(kernel)[::-1])

    # The second core computes the skips of these layers; the first would have to wait for those of the last layers.
    early_skips = layers * 3 // 4
    # Taps computed for several samples at once, or by the second core.
    taps_ahead = (ahead > 1) | (reach > 1) & (cores > 1)

    def tap(layer: int, j: int) -> tuple[str, int, np.ndarray, str]:
        return "taps", layer * kernel + j, halves(weights.taps[layer, j]), kinds[layer]

    def skips(layer: int) -> tuple[str, int, np.ndarray, str]:
        return "skips", layer, _pad(weights.skip[layer]), kinds[layer]

    def every_step() -> Iterator[tuple[str, int, np.ndarray, str]]:
        """Yield the matrices of a sample's chain of products, in the order in which they are read."""
        for layer in range(layers):
            if layer:  # the first layer's are `first_taps`
                yield tap(layer, kernel - 1)
            if layer + 1 < layers:
                yield from (tap(layer + 1, j) for j in range(kernel - 1) if not taps_ahead[layer + 1, j])
                yield "out", layer, _pad(weights.out[layer]), kinds[layer]
            if cores == 1 or layer >= early_skips:
                yield skips(layer)
        yield "head1", 0, _pad(weights.head1), fine
        yield "head2", 0, _pad(weights.head2), last_kind

    def ahead_of_step() -> Iterator[tuple[str, int, np.ndarray, str]]:
        for layer in range(layers):
            if cores == 2 and layer < early_skips:
                yield skips(layer)
            yield from (tap(layer, j) for j in range(kernel - 1) if layer and taps_ahead[layer, j])

    blocks, signed = BLOCKS[instructions], bool(library().wavenet_signed(INSTRUCTIONS.index(instructions)))
    walks = [
        [(name, at, matrix.shape, kind, _layout(matrix, kind, blocks[kind], signed)) for name, at, matrix, kind in walk]
        for walk in (every_step(), ahead_of_step())
    ]
    room = sum(-(-len(data) // 64) * 64 for walk in walks for *_, data in walk)
    blob, offset = _memory(room), 0
    sizes = {"taps": layers * kernel, "out": layers, "skips": layers, "head1": 1, "head2": 1}
    matrices = {name: (_Matrix * size)() for name, size in sizes.items()}
    for name, at, (rows, columns), kind, data in itertools.chain(*walks):
        blob[offset : offset + len(data)] = data
        matrices[name][at] = _Matrix(blob.ctypes.data + offset, rows, columns // LANES, KINDS.index(kind), blocks[kind])
        offset += -(-len(data) // 64) * 64
    step_bytes = sum(len(data) for *_, data in walks[0])
    ahead_bytes = sum(len(data) / (ahead.flat[at] if name == "taps" else 1) for name, at, *_, data in walks[1])

    arrays = {
        "dilations": np.asarray(shape.dilations, np.int32),
        "ahead": ahead,
        "first": _pad(weights.first),
        "first_bias": _pad(weights.first_bias),
        "out_bias": _pad(weights.out_bias),
        "skip_bias": _pad(weights.skip_bias),
        "head1_bias": _pad(weights.head1_bias),
        "head2_bias": _pad(weights.head2_bias),
        "first_taps": halves(weights.first @ weights.taps[0]),
        "first_taps_bias": halves(weights.first_bias @ weights.taps[0]),
    }
    net = _Net(
        layers, kernel, residual, gate // 2, skip, head, outputs, weights.first.shape[0],
        OUTPUTS.index(shape.output), shape.mixtures, INSTRUCTIONS.index(instructions), cores, early_skips,
        shape.residual_scale, shape.min_log_scale,
        *(arrays[name].ctypes.data for name in _ARRAYS),
        *(ctypes.addressof(matrices[name]) for name in _MATRICES),
    )  # fmt: skip
    history = library().wavenet_history_bytes(ctypes.byref(net))
    memory = (blob, arrays, matrices)
    return NativeWeights(
        shape=shape, dtype=dtype, instructions=instructions, layers=layers, gate=gate, weight_bytes=room,
        step_bytes=step_bytes, ahead_bytes=ahead_bytes, history_bytes=history, net=net, memory=memory,
    )  # fmt: skip


def _check(shape: StepShape, weights: StepWeights, dtype: str, level: str, cores: int) -> None:
    levels = instructions()
    if dtype not in DTYPES or level not in levels or shape.output not in OUTPUTS:
        raise UserError(
            f"native WaveNet step: found dtype {dtype!r}, instructions {level!r}, output {shape.output!r}, expected "
            f"one of {DTYPES}, one of {levels} (what this machine has), one of {OUTPUTS}"
        )
    check_weights(shape, weights)
    if weights.taps.size == 0 or min(weights.head1.shape + weights.head2.shape) < 1 or min(shape.dilations) < 1:
        raise UserError(
            f"native WaveNet step: found taps {weights.taps.shape}, head {weights.head1.shape}, dilations "
            f"{shape.dilations}, expected at least one layer, no empty width, and dilations of at least 1"
        )
    for name, array in zip(StepWeights._fields, weights, strict=True):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise UserError(
                f"WaveNet weights {name!r}: found {array.dtype}, finite: {bool(np.isfinite(array).all())}, expected "
                "finite float32"
            )
    if cores not in (1, 2):
        raise UserError(f"native WaveNet step: found {cores} cores, expected 1 or 2")


def _ahead(dilation: int, kernel: int, cores: int) -> list[int]:
    """Return, for each tap, the oldest first, the number of samples for which its products are computed at once.

    It is at most the distance that the tap reaches back, since later inputs do not exist yet; with two cores half of
    that, since the second core works that far ahead.
    """
    return [max(n for n in AHEAD if n * cores <= max(j * dilation, cores)) for j in reversed(range(kernel))]


def _padded_width(width: int) -> int:
    return -(-width // LANES) * LANES


def _pad(array: Float[np.ndarray, "*rows columns"]) -> Float32[np.ndarray, "*rows padded"]:
    """Pad with zeros to a multiple of 16 columns."""
    padding = _padded_width(array.shape[-1]) - array.shape[-1]
    return np.ascontiguousarray(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)]), np.float32)


def _layout(
    matrix: Float32[np.ndarray, "rows columns"], kind: str, block: int, signed: bool
) -> UInt8[np.ndarray, " bytes"]:
    """Return a matrix's bytes in the order described in kernels/wavenet/c/wavenet.h.

    signed: store "int8" and "fine" weights as signed bytes, else with 128 added.
    """
    rows_per_word = {"float32": 1, "bfloat16": 2, "int8": 4, "fine": 4}[kind]  # rows in 32 bits
    is_int8 = kind in ("int8", "fine")
    matrix = np.pad(matrix, [(0, -len(matrix) % rows_per_word), (0, 0)])
    if kind == "bfloat16":
        matrix = matrix.astype(ml_dtypes.bfloat16).view(np.uint16)
    if is_int8:
        scales = np.abs(matrix).max(axis=0) / np.float32(127)
        matrix = (
            (np.rint(matrix / np.where(scales > 0, scales, 1)) + (0 if signed else 128))
            .astype(np.int16)
            .astype(np.uint8)
        )
    pieces, column = [], 0
    while column < matrix.shape[1]:
        groups_left = (matrix.shape[1] - column) // LANES
        columns = LANES * next(groups for groups in (16, 8, 4, 2, 1) if groups <= min(groups_left, block))
        part = slice(column, column + columns)
        rows = matrix[:, part].reshape(-1, rows_per_word, columns).transpose(0, 2, 1)
        pieces.append(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
        if is_int8:
            pieces.append(scales[part].view(np.uint8))
        column += columns
    return np.concatenate(pieces)


def _memory(size: int) -> UInt8[np.ndarray, " size"]:
    """Allocate memory, on huge pages if the system has them.

    The weights are read from end to end for every sample; with small pages much of the time goes into TLB misses.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Shared memory, the default, would not get huge pages.
        pages = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    else:
        pages = mmap.mmap(-1, size + HUGE_PAGE)
    whole = np.frombuffer(pages, np.uint8)
    first = -whole.ctypes.data % HUGE_PAGE
    return whole[first : first + size]
