"""How much arithmetic a step is, and what share of the chip's peak that makes."""

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
    """Peak bfloat16 FLOP/s of a device, or None where it is not known: then no utilization is shown."""
    kind = (jax.devices()[0] if device is None else device).device_kind
    if "PCIe" in kind or "NVL" in kind:
        return None  # other clocks than the SXM boards in the table
    fitting = [name for name in PEAK_BF16 if kind == name or (name.startswith("NVIDIA") and kind.startswith(name))]
    return PEAK_BF16[max(fitting, key=len)] if fitting else None


def program_flops(stage: Any) -> float | None:
    """Floating point operations of one lowered or compiled program on one device, as XLA counts them; None if it does
    not say.

    XLA counts the body of a loop once, so recurrent layers come out too low.
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
    """Operations of the matrix products and convolutions of `function(*args)`, all devices together, from its trace.

    Loops count as often as they run (one whose count is not known once), of branches the dearest. Padding of a
    convolution counts, as it does in the field's "model FLOPs". Nothing is computed; args may be shapes.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * out * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, place = equation.invars[1].aval.shape, given["dimension_numbers"].rhs_spec[0]
            total += 2.0 * out * math.prod(kernel) / kernel[place]
        elif name == "cond":
            total += max(_jaxpr_flops(branch.jaxpr) for branch in given["branches"])
        else:
            inner = sum(_jaxpr_flops(getattr(sub, "jaxpr", sub)) for sub in _subs(given))
            total += inner * (given["length"] if name == "scan" else 1)
    return total


class Value(NamedTuple):
    """An array that a function makes on its way. place: the line of the source that makes it."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    primitive: str
    place: str


def largest_values(function: Any, *args: Any, count: int = 12) -> list[Value]:
    """The largest arrays that `function(*args)` makes, each shape and line once, all devices together; args may be
    shapes. Which of them are alive at a time, and what the compiler fuses away, is not asked."""
    found: dict[tuple, Value] = {}

    def walk(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            place = _place(equation)
            for out in equation.outvars:
                shape, dtype = getattr(out.aval, "shape", ()), getattr(out.aval, "dtype", None)
                size = math.prod(shape) * getattr(dtype, "itemsize", 0)
                value = Value(shape, str(dtype), size, equation.primitive.name, place)
                found.setdefault((shape, value.dtype, place), value)
            for branch in equation.params.get("branches", ()):
                walk(branch.jaxpr)
            for sub in _subs(equation.params):
                walk(getattr(sub, "jaxpr", sub))

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return sorted(found.values(), key=lambda value: -value.nbytes)[:count]


def _place(equation: Any) -> str:
    """FILE:LINE of the innermost line of this package that made an equation."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if frame.file_name.startswith(_PACKAGE):
            return f"speech_jax/{frame.file_name.removeprefix(_PACKAGE)}:{frame.line_num}"
    return ""


def _subs(params: dict[str, Any]) -> list[Any]:
    """The programs inside an equation: of a call, a loop, a function with its own derivative."""
    return [x for x in params.values() if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")]
