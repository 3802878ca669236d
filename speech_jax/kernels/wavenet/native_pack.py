"""Weights of the native WaveNet step as its C code reads them, and the compiled library itself.

The layouts are those of kernels/wavenet/c/wavenet.h: all matrices in one piece of memory, in the order in which a
sample reads them.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
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
NARROW = 32  # a last product with at most so many outputs stays float32: it is small, and decides the likelihood
# With int8 weights the first layers, and the head, take vectors of 16 bits. The first layers carry the samples before
# this one, of which a trained net predicts the next to within a thousandth of full scale: nearly all that vectors of
# 8 bits cost is lost there (experiments/real_vocoder/results/int8.md).
FINE_LAYERS = 2
KINDS = ("float32", "bfloat16", "int8", "fine")  # of a matrix: dtypes, and int8 weights for vectors of 16 bits
# Groups of 16 columns in a block of a matrix: as many as one walk through its rows has sums for in registers, and half
# of that where a product has two. With AVX2 blocks of 16 made it four walks, and 0.75 to 0.85 of the speed.
BLOCKS = {
    "portable": dict.fromkeys(KINDS, 16),
    "avx2": dict.fromkeys(KINDS, 4) | {"fine": 2},
    "avx512": dict.fromkeys(KINDS, 16) | {"fine": 8},
}
AHEAD = (8, 4, 2, 1)  # samples that a product with earlier ones may be made for at once; up to wavenet.h's MAX_AHEAD
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


class Packed(NamedTuple):
    """Weights as the C code reads them; made by `pack`. `kept` holds the memory that `net` points to.

    Of `weight_bytes`, a step reads `step_bytes` for all streams of a group together; the rest is read for several
    samples of a stream at once, or by the second core, which comes to `ahead_bytes` for each.
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
    kept: tuple


# ---- the library


@functools.cache
def _library() -> ctypes.CDLL | None:
    folder = Path(speech_jax.kernels.wavenet.c.__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_wavenet{suffix}"
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another machine: as good as none
                return None
            pointer, whole = ctypes.c_void_p, ctypes.c_int64
            library.wavenet_level.argtypes = []
            library.wavenet_signed.argtypes = [ctypes.c_int]
            library.wavenet_history_bytes.argtypes = [pointer]
            library.wavenet_history_bytes.restype = whole
            library.wavenet_run.argtypes = [pointer, whole, whole, whole, *[pointer] * 4, whole, *[pointer] * 3]
            return library
    return None


def available() -> bool:
    """Whether the library was built when the package was installed."""
    return _library() is not None


def instructions() -> tuple[str, ...]:
    """The kinds of instructions that this machine has, the best last."""
    return INSTRUCTIONS[: library().wavenet_level() + 1]


def library() -> ctypes.CDLL:
    """The compiled library; UserError where there is none."""
    found = _library()
    if found is None:
        raise UserError(
            "native WaveNet step: found no compiled library in the installed package, expected one; it is built by "
            "`pip install` where there is a C compiler (gcc or clang), and the other engines do without it"
        )
    return found


# ---- weights


def pack(
    shape: StepShape,
    weights: StepWeights,
    dtype: Dtype = "float32",
    instructions: str | None = None,
    cores: Literal[1, 2] = 1,
) -> Packed:
    """Weights for `start`, `sample` and `follow`. instructions: one of `instructions()`, or None for the best. cores:
    2 lets two cores share each stream, with the same samples: the second makes the products with earlier samples, half
    of a net with kernel 3. Worth it where two cores are idle; where one has other work both wait for it.

    UserError where the library is missing, the arrays do not fit the shape, or a weight is not finite.
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

    early = layers * 3 // 4  # layers whose skips the second core makes: the others' would keep the first waiting
    later = (ahead > 1) | (reach > 1) & (cores > 1)  # taps made for several samples at once, or by the second core

    def tap(layer: int, j: int) -> tuple[str, int, np.ndarray, str]:
        return "taps", layer * kernel + j, halves(weights.taps[layer, j]), kinds[layer]

    def skips(layer: int) -> tuple[str, int, np.ndarray, str]:
        return "skips", layer, _pad(weights.skip[layer]), kinds[layer]

    def every_step() -> Iterator[tuple[str, int, np.ndarray, str]]:
        """What the chain of products of a sample reads, in that order, so that it is one walk through memory."""
        for layer in range(layers):
            if layer:  # the first layer's are `first_taps`
                yield tap(layer, kernel - 1)
            if layer + 1 < layers:
                yield from (tap(layer + 1, j) for j in range(kernel - 1) if not later[layer + 1, j])
                yield "out", layer, _pad(weights.out[layer]), kinds[layer]
            if cores == 1 or layer >= early:
                yield skips(layer)
        yield "head1", 0, _pad(weights.head1), fine
        yield "head2", 0, _pad(weights.head2), last_kind

    def apart() -> Iterator[tuple[str, int, np.ndarray, str]]:
        for layer in range(layers):
            if cores == 2 and layer < early:
                yield skips(layer)
            yield from (tap(layer, j) for j in range(kernel - 1) if layer and later[layer, j])

    blocks, signed = BLOCKS[instructions], bool(library().wavenet_signed(INSTRUCTIONS.index(instructions)))
    walks = [
        [(name, at, matrix.shape, kind, _layout(matrix, kind, blocks[kind], signed)) for name, at, matrix, kind in walk]
        for walk in (every_step(), apart())
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
        OUTPUTS.index(shape.output), shape.mixtures, INSTRUCTIONS.index(instructions), cores, early,
        shape.residual_scale, shape.min_log_scale,
        *(arrays[name].ctypes.data for name in _ARRAYS),
        *(ctypes.addressof(matrices[name]) for name in _MATRICES),
    )  # fmt: skip
    history = library().wavenet_history_bytes(ctypes.byref(net))
    kept = (blob, arrays, matrices)
    return Packed(shape, dtype, instructions, layers, gate, room, step_bytes, ahead_bytes, history, net, kept)


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
    """For each tap, the oldest first: for how many samples at once its products are made. No more than it reaches back,
    as later inputs are not known, and of two cores the second works as far ahead again."""
    return [max(n for n in AHEAD if n * cores <= max(j * dilation, cores)) for j in reversed(range(kernel))]


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def _pad(array: Float[np.ndarray, "*rows columns"]) -> Float32[np.ndarray, "*rows padded"]:
    """Zeros to a multiple of 16 columns."""
    more = _padded(array.shape[-1]) - array.shape[-1]
    return np.ascontiguousarray(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]), np.float32)


def _layout(
    matrix: Float32[np.ndarray, "rows columns"], kind: str, block: int, signed: bool
) -> UInt8[np.ndarray, " bytes"]:
    """A matrix's bytes in the order that kernels/wavenet/c/wavenet.h describes; signed: int8 and fine without 128."""
    together = {"float32": 1, "bfloat16": 2, "int8": 4, "fine": 4}[kind]  # rows in 32 bits
    in_bytes = kind in ("int8", "fine")
    matrix = np.pad(matrix, [(0, -len(matrix) % together), (0, 0)])
    if kind == "bfloat16":
        matrix = matrix.astype(ml_dtypes.bfloat16).view(np.uint16)
    if in_bytes:
        scales = np.abs(matrix).max(axis=0) / np.float32(127)
        matrix = (
            (np.rint(matrix / np.where(scales > 0, scales, 1)) + (0 if signed else 128))
            .astype(np.int16)
            .astype(np.uint8)
        )
    found, at = [], 0
    while at < matrix.shape[1]:
        left = (matrix.shape[1] - at) // LANES
        columns = LANES * next(groups for groups in (16, 8, 4, 2, 1) if groups <= min(left, block))
        part = slice(at, at + columns)
        rows = matrix[:, part].reshape(-1, together, columns).transpose(0, 2, 1)
        found.append(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
        if in_bytes:
            found.append(scales[part].view(np.uint8))
        at += columns
    return np.concatenate(found)


def _memory(size: int) -> UInt8[np.ndarray, " size"]:
    """Memory on large pages where the system has them: the weights are read from end to end for every sample, and with
    small pages a good part of the time goes into looking up where they are."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has none
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    else:
        pages = mmap.mmap(-1, size + HUGE_PAGE)
    whole = np.frombuffer(pages, np.uint8)
    first = -whole.ctypes.data % HUGE_PAGE
    return whole[first : first + size]
