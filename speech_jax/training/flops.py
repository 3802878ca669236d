"""How much arithmetic a step is, and what share of the chip's peak that makes."""

from __future__ import annotations

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
