"""Arithmetic of a program (FLOPs), peaks of devices, and the largest arrays of a function."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")

PEAK_BF16 = {
    # dense bfloat16 FLOP/s of one device as JAX counts devices, from the makers' data sheets
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: Any | None = None) -> float | None:
    """Return the peak bfloat16 FLOP/s of a device (by default the first), or None if it is unknown."""
    kind = (jax.devices()[0] if device is None else device).device_kind
    if "PCIe" in kind or "NVL" in kind:
        return None  # their clocks differ from those of the SXM boards in the table
    matches = [name for name in PEAK_BF16 if kind == name or (name.startswith("NVIDIA") and kind.startswith(name))]
    return PEAK_BF16[max(matches, key=len)] if matches else None


def program_flops(stage: Any) -> float | None:
    """Return the floating point operations of a lowered or compiled program on one device, as XLA counts them.

    XLA counts the body of a loop once, so the figure is too low for recurrent layers. None if XLA gives no figure.
    """
    try:
        cost = stage.cost_analysis()
    except (NotImplementedError, RuntimeError, jax.errors.JaxRuntimeError):
        return None
    if isinstance(cost, list | tuple):
        cost = cost[0] if cost else None
    flops = (cost or {}).get("flops")
    return float(flops) if flops and flops > 0 else None


def matmul_flops(function: Any, *args: Any) -> float:
    """Return the operations of the matrix products and convolutions of `function(*args)`, all devices together.

    Counted in the trace: nothing is computed. The body of a loop counts as often as it runs (once if the count is
    unknown); of the branches of a `cond` the most expensive one counts. Padding of a convolution counts, as in the
    usual "model FLOPs".

    Args:
        function: the function to trace.
        *args: its arguments, or their shapes (`jax.ShapeDtypeStruct`).
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * out * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, output_axis = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * out * math.prod(kernel) / kernel[output_axis]
        elif name == "cond":
            total += max(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
        else:
            inner = sum(_jaxpr_flops(getattr(sub, "jaxpr", sub)) for sub in _sub_programs(params))
            total += inner * (params["length"] if name == "scan" else 1)
    return total


class Value(NamedTuple):
    """An intermediate array of a function.

    Attributes:
        shape: its shape.
        dtype: its type.
        nbytes: its size in bytes.
        primitive: the JAX primitive that computes it.
        source: FILE:LINE in this package that computes it, or "".
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    primitive: str
    source: str


def largest_values(function: Any, *args: Any, count: int = 12) -> list[Value]:
    """Return the largest intermediate arrays of `function(*args)`, all devices together, from its trace.

    Lifetimes and fusion are not considered: not all of them exist at a time, and some not at all.

    Args:
        function: the function to trace.
        *args: its arguments, or their shapes (`jax.ShapeDtypeStruct`).
        count: number of arrays to return; each shape, type and line of the source counts once.
    """
    values: dict[tuple, Value] = {}

    def walk(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            source = _source_line(equation)
            for out in equation.outvars:
                shape, dtype = getattr(out.aval, "shape", ()), getattr(out.aval, "dtype", None)
                size = math.prod(shape) * getattr(dtype, "itemsize", 0)
                value = Value(shape, str(dtype), size, equation.primitive.name, source)
                values.setdefault((shape, value.dtype, source), value)
            for branch in equation.params.get("branches", ()):
                walk(branch.jaxpr)
            for sub in _sub_programs(equation.params):
                walk(getattr(sub, "jaxpr", sub))

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return sorted(values.values(), key=lambda value: -value.nbytes)[:count]


def _source_line(equation: Any) -> str:
    """Return FILE:LINE of the innermost line of this package that made an equation."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if frame.file_name.startswith(_PACKAGE):
            return f"speech_jax/{frame.file_name.removeprefix(_PACKAGE)}:{frame.line_num}"
    return ""


def _sub_programs(params: dict[str, Any]) -> list[Any]:
    """Return the programs inside an equation: of a call, a loop, or a function with a custom derivative."""
    return [x for x in params.values() if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")]
