"""What a compiled program does, read from its text: operations, bytes of memory, collectives, and loops as often as
they run.

XLA's own `cost_analysis` takes the body of a loop once; here a loop whose count XLA knows is taken that often. All
figures are of one device, as the text is of the partitioned program.
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
BETWEEN_SLICES = "between-slices"  # kind of an operation that hands data to the network of the data center
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


class Op(NamedTuple):
    """One instruction of a program that takes time, on one device.

    flops: of matrix products and convolutions in it; bytes: read from and written to the device's main memory;
    wire: bytes that a device sends to others; times: how often it runs, loops around it included.
    """

    name: str
    kind: str
    flops: float
    bytes: float
    wire: float
    times: float


class Instruction(NamedTuple):
    """One line of the text."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    """Names; of a parameter its number, of a constant its value."""
    attributes: str
    root: bool


@dataclass(frozen=True)
class Module:
    """A program's text, by computation. `shapes` has every instruction's, of all computations."""

    entry: str
    computations: Mapping[str, list[Instruction]]

    @property
    def unknown_loops(self) -> list[str]:
        """Loops whose count the text does not tell; they are taken once."""
        return [
            line.name
            for lines in self.computations.values()
            for line in lines
            if line.opcode == "while" and _rounds(self, line, lines) is None
        ]


# ---- reading


def parse(text: str) -> Module:
    """Reads the text of an optimized HLO module (`compiled.as_text()`)."""
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
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """(type, dimensions, whether it lies in main memory) of each array in a shape; S(1) and the like: on the chip."""
    found = []
    for kind, dims, layout in _ARRAY.findall(shape):
        if kind in _BITS or kind.startswith("f8"):
            found.append((kind, tuple(int(n) for n in dims.split(",") if n), "S(" not in layout))
    return found


def nbytes(shape: str, *, everywhere: bool = False) -> float:
    """Bytes of a shape in main memory (or `everywhere`)."""
    return sum(_size(kind, dims) for kind, dims, main in arrays(shape) if main or everywhere)


def _size(kind: str, dims: tuple[int, ...]) -> float:
    return math.prod(dims) * _BITS.get(kind, 8) / 8


# ---- what it costs


def operations(module: Module) -> list[Op]:
    """Every instruction that takes time, with how often it runs. Branches are all taken: the sum is an upper bound."""
    return list(_walk(module, module.entry, 1.0))


def _walk(module: Module, computation: str, times: float) -> Iterator[Op]:
    lines = module.computations[computation]
    shapes = {line.name: line.shape for line in lines}
    for line in lines:
        kind = line.opcode
        if kind in _FREE or kind.endswith(("-done", "-update")) or _FREE_CALLS.search(line.attributes):
            continue
        if kind == "while":
            count = _rounds(module, line, lines)
            for called in _called(line, ("body", "condition")):
                yield from _walk(module, called, times * (count or 1))
        elif kind in ("call", "async-start", "conditional"):
            for called in _called(line, ("to_apply", "calls", "branch_computations", "true_computation",
                                         "false_computation")):  # fmt: skip
                yield from _walk(module, called, times)
        else:
            yield _cost(module, line, shapes, times)


def _rounds(module: Module, loop: Instruction, lines: list[Instruction]) -> int | None:
    """How often a loop runs: as XLA says, or where it counts up by one to a constant (a TPU's text says no more)."""
    said = re.search(r"known_trip_count[^\d]*(\d+)", loop.attributes)
    if said:
        return int(said[1])
    condition = {i.name: i for i in module.computations[_called(loop, ("condition",))[0]]}
    root = next(i for i in condition.values() if i.root)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    counter, limit = (condition[name] for name in root.operands)
    place = re.search(r"index=(\d+)", counter.attributes)
    if limit.opcode != "constant" or counter.opcode != "get-tuple-element" or place is None:
        return None
    known = {i.name: i for i in lines}
    start = known[loop.operands[0]]
    first = known.get(start.operands[int(place[1])]) if start.opcode == "tuple" else None
    begin = int(first.operands[0]) if first is not None and first.opcode == "constant" else 0
    return int(limit.operands[0]) - begin


def _called(line: Instruction, keys: tuple[str, ...]) -> list[str]:
    found = []
    for key in keys:
        match = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", line.attributes)
        if match:
            found += re.findall(r"%?([\w.\-]+)", match[1])
    return found


def _cost(module: Module, line: Instruction, shapes: Mapping[str, str], times: float) -> Op:
    if line.opcode == "fusion":
        lines = module.computations[_called(line, ("calls",))[0]]
        moved = _fusion_bytes(module, line, shapes)
        parts = list(_inside(module, lines))
    else:
        moved = _plain_bytes(line, shapes)
        parts = [(line, shapes)]
    flops = sum(_flops(part, table) for part, table in parts)
    wire = sum(_wire(part, table) for part, table in parts)
    talks = [_base(part) for part, _ in parts if _base(part) in COLLECTIVES]
    kind = talks[0] if talks else "matmul" if flops else _base(line)
    return Op(line.name, kind, flops, moved, wire, times)


def _base(line: Instruction) -> str:
    """The operation, whether it begins here or is whole. BETWEEN_SLICES: it hands a device's data to its host for other
    slices; the compiler sums within a slice first, and has the hosts exchange what is left (MegaScale)."""
    if line.opcode == "send" and "xla_megascale_runtime" in line.attributes:
        return BETWEEN_SLICES
    return line.opcode.removesuffix("-start")


def _inside(module: Module, lines: list[Instruction]) -> Iterator[tuple[Instruction, dict[str, str]]]:
    """What is fused, with the shapes that its operands are looked up in."""
    table = {line.name: line.shape for line in lines}
    for line in lines:
        yield line, table
        if line.opcode == "fusion":
            yield from _inside(module, module.computations[_called(line, ("calls",))[0]])


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
    """Bytes that a fusion reads and writes: of a parameter only what is sliced out of it, of a result that is an update
    in place only the update."""
    lines = module.computations[_called(line, ("calls",))[0]]
    total = 0.0
    for parameter in (i for i in lines if i.opcode == "parameter"):
        size = nbytes(shapes[line.operands[int(parameter.operands[0])]])
        total += min(size, _read(module, lines, parameter.name, size)) if size else 0.0
    root = next(i for i in lines if i.root)
    results = root.operands if root.opcode == "tuple" else [root.name]
    if len(results) != len(arrays(line.shape)):  # one instruction with several results, as a reduction of two arrays
        return total + nbytes(line.shape)
    for (kind, dims, main), name in zip(arrays(line.shape), results, strict=True):
        if main:
            total += min(_size(kind, dims), _written(module, lines, name))
    return total


def _read(module: Module, lines: list[Instruction], name: str, size: float) -> float:
    """Bytes that a fused computation reads of an array of `size` bytes, through bitcasts and fusions within."""
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
            places = [str(place) for place, operand in enumerate(line.operands) if operand == name]
            inside = [i.name for i in inner if i.opcode == "parameter" and i.operands[0] in places]
            total += sum(_read(module, inner, own, size) for own in inside)
        elif line.opcode != "dynamic-update-slice" or line.operands[0] != name:
            return size
    return total


def _written(module: Module, lines: list[Instruction], name: str) -> float:
    """Bytes that are written of a fusion's result."""
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
    """Two for each product and sum of a matrix product or a convolution; padding and dilation cost nothing. A kernel
    of Pallas says itself how many it has."""
    if line.opcode == "custom-call":
        said = re.search(r'"cost_estimate":\{"flops":"(\d+)"', line.attributes)
        return float(said[1]) if said else 0.0
    if line.opcode == "dot":
        left = _dims(shapes[line.operands[0]])
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(n) for n in contracted[1].split(",") if n] if contracted else []
        return 2.0 * math.prod(_dims(line.shape)) * math.prod(left[a] for a in axes)
    if line.opcode != "convolution":
        return 0.0
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", line.attributes)
    left, right, out = _dims(shapes[line.operands[0]]), _dims(shapes[line.operands[1]]), _dims(line.shape)
    window = re.search(r"window=\{([^}]*)\}", line.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    taps = 1.0
    for place, label in enumerate(sorted(c for c in labels[2] if c.isdigit())):
        taps *= _valid_taps(
            left[labels[1].index(label)], right[labels[2].index(label)], out[labels[3].index(label)], settings, place
        )
    # The kernel's "i" is a group's share of the channels already.
    rest = math.prod(out[labels[3].index(c)] for c in "bf") * right[labels[2].index("i")]
    return 2.0 * taps * rest


def _valid_taps(size: int, kernel: int, out: int, settings: Mapping[str, str], place: int) -> float:
    """Products along one axis: pairs of an output and a tap that meet a number of the input, not padding."""

    def setting(name: str, default: str) -> str:
        return settings[name].split("x")[place] if name in settings else default

    stride, low = int(setting("stride", "1")), int(setting("pad", "0_0").split("_")[0])
    spread, dilation = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * dilation - low
    return float(np.sum((at >= 0) & (at % spread == 0) & (at < (size - 1) * spread + 1)))


def _wire(line: Instruction, shapes: Mapping[str, str]) -> float:
    """Bytes that a device sends in a ring: (n − 1)/n of what is gathered or scattered, twice that of an all-reduce."""
    kind = _base(line)
    if kind not in (*COLLECTIVES, BETWEEN_SLICES):
        return 0.0
    taken = sum(nbytes(shapes.get(name, ""), everywhere=True) for name in line.operands)
    if kind == BETWEEN_SLICES:
        slices = re.search(r'_xla_megascale_target="\{([\d,]*)\}', line.attributes)
        n = len(slices[1].split(",")) if slices else 2
        return 2 * (n - 1) / n * taken if '_type="ALL_REDUCE"' in line.attributes else taken
    n = group_size(line.attributes)
    if kind == "collective-permute":
        return taken
    share = (n - 1) / n if n else 1.0
    return {"all-reduce": 2 * share * taken, "all-gather": (n - 1) * taken if n else taken}.get(kind, share * taken)


def group_size(attributes: str) -> int:
    """How many devices take part in a collective; 0 where the text does not tell."""
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
