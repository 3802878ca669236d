"""Cost of a compiled program, read from its HLO text: operations, bytes of memory, collectives.

XLA's own `cost_analysis` counts the body of a loop once; here a loop counts as often as it runs, if the text says so.
All figures are per device, since the text is of the partitioned program.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s32": 32,
         "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}  # fmt: skip
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
         "opt-barrier", "iota"}  # fmt: skip
_FREE_CALLS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
BETWEEN_SLICES = "between-slices"  # kind of an operation that sends data over the network of the data center
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


class HloOp(NamedTuple):
    """One instruction of a program that takes time, on one device.

    Attributes:
        name: its name in the text.
        kind: the collective in it, "matmul", or its opcode.
        flops: operations of its matrix products and convolutions, per run.
        bytes: bytes read from and written to main memory, per run.
        wire: bytes that the device sends to others, per run.
        times: number of runs; the counts of all loops around it multiply.
    """

    name: str
    kind: str
    flops: float
    bytes: float
    wire: float
    times: float


class Instruction(NamedTuple):
    """One line of the text.

    Attributes:
        name: name of the result.
        shape: shape of the result, as in the text.
        opcode: for example "fusion".
        operands: names of the operands; of a parameter its number, of a constant its value.
        attributes: rest of the line.
        root: True for the result of a computation.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


@dataclass(frozen=True)
class Module:
    """Parsed text of a program.

    Attributes:
        entry: name of the computation that the program runs.
        computations: instructions of each computation, by its name.
    """

    entry: str
    computations: Mapping[str, list[Instruction]]

    @property
    def unknown_loops(self) -> list[str]:
        """Names of loops whose count the text does not give; they are counted once."""
        return [
            line.name
            for lines in self.computations.values()
            for line in lines
            if line.opcode == "while" and _trip_count(self, line, lines) is None
        ]


# ---- Parsing


def parse(text: str) -> Module:
    """Parse the text of an optimized HLO module (`compiled.as_text()`)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$", line)
            if head and "=" not in line.split("(")[0]:
                current = computations.setdefault(head[2], [])
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif " = " in line:
            current.append(_instruction(line))
    return Module(entry, computations)


def _instruction(line: str) -> Instruction:
    left, right = line.strip().split(" = ", 1)
    root = left.startswith("ROOT ")
    name = left.removeprefix("ROOT ").lstrip("%")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inner = rest[opening + 1 : closing]
    operands = (inner,) if rest[:opening] in ("parameter", "constant") else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, shape, rest[:opening], operands, rest[closing + 1 :], root)


def _closing(text: str, opening: int) -> int:
    """Return the index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """Return (type, dimensions, in main memory) of each array in a shape.

    Layouts with S(1) and the like lie in the chip's own memory.
    """
    parsed = []
    for kind, dims, layout in _ARRAY.findall(shape):
        if kind in _BITS or kind.startswith("f8"):
            parsed.append((kind, tuple(int(n) for n in dims.split(",") if n), "S(" not in layout))
    return parsed


def nbytes(shape: str, *, everywhere: bool = False) -> float:
    """Return the bytes of a shape in main memory, or with `everywhere` in the chip's own memory too."""
    return sum(_size(kind, dims) for kind, dims, main in arrays(shape) if main or everywhere)


def _size(kind: str, dims: tuple[int, ...]) -> float:
    return math.prod(dims) * _BITS.get(kind, 8) / 8


# ---- Costs


def operations(module: Module) -> list[HloOp]:
    """Return every instruction that takes time. All branches of a conditional count, so sums are an upper bound."""
    return list(_walk(module, module.entry, 1.0))


def _walk(module: Module, computation: str, times: float) -> Iterator[HloOp]:
    lines = module.computations[computation]
    shapes = {line.name: line.shape for line in lines}
    for line in lines:
        kind = line.opcode
        if kind in _FREE or kind.endswith(("-done", "-update")) or _FREE_CALLS.search(line.attributes):
            continue
        if kind == "while":
            count = _trip_count(module, line, lines)
            for called in _called(line, ("body", "condition")):
                yield from _walk(module, called, times * (count or 1))
        elif kind in ("call", "async-start", "conditional"):
            for called in _called(line, ("to_apply", "calls", "branch_computations", "true_computation",
                                         "false_computation")):  # fmt: skip
                yield from _walk(module, called, times)
        else:
            yield _cost(module, line, shapes, times)


def _trip_count(module: Module, loop: Instruction, lines: list[Instruction]) -> int | None:
    """Return the number of runs of a loop's body, or None.

    It is XLA's figure, or the limit of a counter that goes up by one (all that a TPU's text has).
    """
    stated = re.search(r"known_trip_count[^\d]*(\d+)", loop.attributes)
    if stated:
        return int(stated[1])
    condition = {i.name: i for i in module.computations[_called(loop, ("condition",))[0]]}
    root = next(i for i in condition.values() if i.root)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    counter, limit = (condition[name] for name in root.operands)
    index = re.search(r"index=(\d+)", counter.attributes)
    if limit.opcode != "constant" or counter.opcode != "get-tuple-element" or index is None:
        return None
    by_name = {i.name: i for i in lines}
    start = by_name[loop.operands[0]]
    first = by_name.get(start.operands[int(index[1])]) if start.opcode == "tuple" else None
    begin = int(first.operands[0]) if first is not None and first.opcode == "constant" else 0
    return int(limit.operands[0]) - begin


def _called(line: Instruction, keys: tuple[str, ...]) -> list[str]:
    names = []
    for key in keys:
        match = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", line.attributes)
        if match:
            names += re.findall(r"%?([\w.\-]+)", match[1])
    return names


def _cost(module: Module, line: Instruction, shapes: Mapping[str, str], times: float) -> HloOp:
    if line.opcode == "fusion":
        lines = module.computations[_called(line, ("calls",))[0]]
        traffic = _fusion_bytes(module, line, shapes)
        parts = list(_fused(module, lines))
    else:
        traffic = _plain_bytes(line, shapes)
        parts = [(line, shapes)]
    flops = sum(_flops(part, table) for part, table in parts)
    wire = sum(_wire(part, table) for part, table in parts)
    collectives = [_base(part) for part, _ in parts if _base(part) in COLLECTIVES]
    kind = collectives[0] if collectives else "matmul" if flops else _base(line)
    return HloOp(line.name, kind, flops, traffic, wire, times)


def _base(line: Instruction) -> str:
    """Return the opcode without "-start", or BETWEEN_SLICES.

    That one sends a device's data to its host for other slices: the compiler sums within a slice first, then the hosts
    exchange the results (MegaScale).
    """
    if line.opcode == "send" and "xla_megascale_runtime" in line.attributes:
        return BETWEEN_SLICES
    return line.opcode.removesuffix("-start")


def _fused(module: Module, lines: list[Instruction]) -> Iterator[tuple[Instruction, dict[str, str]]]:
    """Yield the fused instructions, each with the shapes of its computation."""
    table = {line.name: line.shape for line in lines}
    for line in lines:
        yield line, table
        if line.opcode == "fusion":
            yield from _fused(module, module.computations[_called(line, ("calls",))[0]])


def _plain_bytes(line: Instruction, shapes: Mapping[str, str]) -> float:
    size = [nbytes(shapes.get(name, "")) for name in line.operands]
    if _base(line) in ("dynamic-slice", "slice", "gather"):
        read = min((_size(kind, dims) for kind, dims, _ in arrays(line.shape) if dims), default=0.0)
        return read + (nbytes(line.shape) if line.opcode == _base(line) else 0.0)
    if line.opcode in ("dynamic-update-slice", "scatter") and len(size) > 1:
        return 2 * size[-1 if line.opcode == "scatter" else 1]
    if line.opcode.endswith("-start"):  # the result is (destination, source, …)
        first = arrays(line.shape)[:1]
        return sum(size) + sum(_size(kind, dims) for kind, dims, main in first if main)
    return sum(size) + nbytes(line.shape)


def _fusion_bytes(module: Module, line: Instruction, shapes: Mapping[str, str]) -> float:
    """Return the bytes that a fusion reads and writes.

    Of a parameter that is sliced only the slice counts; of a result that is updated in place, only the update.
    """
    lines = module.computations[_called(line, ("calls",))[0]]
    total = 0.0
    for parameter in (i for i in lines if i.opcode == "parameter"):
        size = nbytes(shapes[line.operands[int(parameter.operands[0])]])
        total += min(size, _read(module, lines, parameter.name, size)) if size else 0.0
    root = next(i for i in lines if i.root)
    results = root.operands if root.opcode == "tuple" else [root.name]
    if len(results) != len(arrays(line.shape)):  # one instruction with several results, as in a reduction of two arrays
        return total + nbytes(line.shape)
    for (kind, dims, main), name in zip(arrays(line.shape), results, strict=True):
        if main:
            total += min(_size(kind, dims), _written(module, lines, name))
    return total


def _read(module: Module, lines: list[Instruction], name: str, size: float) -> float:
    """Return the bytes that a fused computation reads of an array of `size` bytes; follows bitcasts and fusions."""
    total = 0.0
    for line in lines:
        if name not in line.operands:
            continue
        if line.opcode == "bitcast":
            total += _read(module, lines, line.name, size)
        elif line.opcode in ("dynamic-slice", "slice", "gather"):
            total += nbytes(line.shape, everywhere=True)
        elif line.opcode == "fusion":
            inner = module.computations[_called(line, ("calls",))[0]]
            numbers = [str(number) for number, operand in enumerate(line.operands) if operand == name]
            parameters = [i.name for i in inner if i.opcode == "parameter" and i.operands[0] in numbers]
            total += sum(_read(module, inner, parameter, size) for parameter in parameters)
        elif line.opcode != "dynamic-update-slice" or line.operands[0] != name:
            return size
    return total


def _written(module: Module, lines: list[Instruction], name: str) -> float:
    """Return the bytes written of a fusion's result."""
    line = next(i for i in lines if i.name == name)
    if line.opcode == "dynamic-update-slice":
        return nbytes(next(i.shape for i in lines if i.name == line.operands[1]), everywhere=True)
    if line.opcode == "bitcast":
        return _written(module, lines, line.operands[0])
    if line.opcode == "fusion":
        inner = module.computations[_called(line, ("calls",))[0]]
        root = next(i for i in inner if i.root)
        return _written(module, inner, root.name) if root.opcode != "tuple" else nbytes(line.shape, everywhere=True)
    return nbytes(line.shape, everywhere=True)


def _flops(line: Instruction, shapes: Mapping[str, str]) -> float:
    """Return 2 per multiplication and addition of a matrix product or convolution; padding and dilation cost nothing.

    A Pallas kernel states its own figure.
    """
    if line.opcode == "custom-call":
        stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', line.attributes)
        return float(stated[1]) if stated else 0.0
    if line.opcode == "dot":
        left = _dims(shapes[line.operands[0]])
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(n) for n in contracted[1].split(",") if n] if contracted else []
        return 2.0 * math.prod(_dims(line.shape)) * math.prod(left[a] for a in axes)
    if line.opcode != "convolution":
        return 0.0
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", line.attributes)
    assert labels is not None  # XLA prints them with every convolution
    left, right, out = _dims(shapes[line.operands[0]]), _dims(shapes[line.operands[1]]), _dims(line.shape)
    window = re.search(r"window=\{([^}]*)\}", line.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    taps = 1.0
    for axis, label in enumerate(sorted(c for c in labels[2] if c.isdigit())):
        taps *= _valid_taps(
            left[labels[1].index(label)], right[labels[2].index(label)], out[labels[3].index(label)], settings, axis
        )
    # The kernel's "i" counts the channels of one group only.
    rest = math.prod(out[labels[3].index(c)] for c in "bf") * right[labels[2].index("i")]
    return 2.0 * taps * rest


def _valid_taps(size: int, kernel: int, out: int, settings: Mapping[str, str], axis: int) -> float:
    """Return the products along one axis: pairs of an output and a tap that fall on the input, not on padding."""

    def setting(name: str, default: str) -> str:
        return settings[name].split("x")[axis] if name in settings else default

    stride, low = int(setting("stride", "1")), int(setting("pad", "0_0").split("_")[0])
    input_dilation, kernel_dilation = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    index = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * kernel_dilation - low
    on_input = (index >= 0) & (index % input_dilation == 0) & (index < (size - 1) * input_dilation + 1)
    return float(np.sum(on_input))


def _wire(line: Instruction, shapes: Mapping[str, str]) -> float:
    """Return the bytes that a device sends in a ring: (n − 1)/n of the array, twice that for an all-reduce."""
    kind = _base(line)
    if kind not in (*COLLECTIVES, BETWEEN_SLICES):
        return 0.0
    size = sum(nbytes(shapes.get(name, ""), everywhere=True) for name in line.operands)
    if kind == BETWEEN_SLICES:
        slices = re.search(r'_xla_megascale_target="\{([\d,]*)\}', line.attributes)
        n = len(slices[1].split(",")) if slices else 2
        return 2 * (n - 1) / n * size if '_type="ALL_REDUCE"' in line.attributes else size
    n = group_size(line.attributes)
    if kind == "collective-permute":
        return size
    share = (n - 1) / n if n else 1.0
    return {"all-reduce": 2 * share * size, "all-gather": (n - 1) * size if n else size}.get(kind, share * size)


def group_size(attributes: str) -> int:
    """Return the number of devices that take part in a collective; 0 if the text does not say."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)
    if tiled:
        return int(tiled[2])
    meshed = re.search(r"replica_groups=\w*mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes)  # axes of a mesh by name
    if meshed:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", meshed[1]))
        return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'([^']+)'", meshed[2]))
    return 0


def _dims(shape: str) -> tuple[int, ...]:
    return arrays(shape)[0][1]
