"""How much arithmetic a step is, and what share of the chip's peak that makes."""

from __future__ import annotations

import math
from typing import Any

import jax

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
    """Peak bfloat16 FLOP/s of a device, or None where it is not known: then no utilisation is shown."""
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


def _subs(params: dict[str, Any]) -> list[Any]:
    """The programs inside an equation: of a call, a loop, a function with its own derivative."""
    return [x for x in params.values() if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")]
