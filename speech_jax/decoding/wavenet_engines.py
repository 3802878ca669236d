"""The engines that sample a WaveNet, behind one interface, and what is taken where one of them cannot be had.

"scan" runs everywhere (wavenet.py). "native" is a step in C for CPUs (wavenet_native.py), "pallas" a kernel that stays
on the chip of a TPU or GPU (wavenet_pallas.py); both are imported when they are asked for. All make the same of the
same noise, up to the rounding of their weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.decoding import wavenet
from speech_jax.decoding.wavenet_weights import StepShape, StepWeights

log = logging.getLogger("speech_jax")

Kind = Literal["auto", "scan", "native", "pallas"]
Dtype = Literal["float32", "bfloat16", "int8"]


class Engine(NamedTuple):
    """name: whose it is. start: (batch) -> state. sample: (state, cond, hop, noise) -> (drawn, state), see
    wavenet_weights.py."""

    name: str
    start: Callable
    sample: Callable


def make_engine(
    kind: Kind, shape: StepShape, weights: StepWeights, hop: int, *, batch: int = 1, dtype: Dtype = "float32"
) -> Engine:
    """The engine of that kind. hop: samples of a row of conditioning; batch: rows that it will make at once; dtype: of
    the weights ("scan" knows float32 alone, "pallas" no int8).

    "auto" is "native" on a CPU that has it, else "scan": the kernel has been compiled for TPU and GPU and compared in
    interpret mode, but has not run on either yet, so it is taken where it is asked for. A kind that this machine cannot
    run is a warning, and "scan" takes its place.
    """
    backend = jax.default_backend()
    makers = {"native": partial(_native, shape, weights, dtype),
              "pallas": partial(_pallas, shape, weights, dtype, hop, batch, backend)}  # fmt: skip
    wanted = kind
    if kind == "auto":
        wanted = "native" if backend == "cpu" else "scan"
    if wanted in makers:
        made = makers[wanted]()
        if isinstance(made, Engine):
            return made
        if kind != "auto":
            log.warning("WaveNet engine %s: %s; the scan takes its place", kind, made)
    if dtype != "float32":
        log.warning("WaveNet engine scan: found dtype %s, it knows float32 alone and takes that", dtype)
    return scan_engine(shape, weights)


def scan_engine(shape: StepShape, weights: StepWeights) -> Engine:
    """The plain scan of wavenet.py."""

    def sample(state, cond, hop, noise):
        return wavenet.sample(shape, weights, state, cond, hop, noise)

    return Engine("scan", partial(wavenet.start, shape, weights), sample)


def _native(shape: StepShape, weights: StepWeights, dtype: Dtype) -> Engine | str:
    """The C step, or why there is none."""
    from speech_jax.decoding import wavenet_native as native

    if not native.available():
        return "it was not compiled when the package was installed"
    packed = native.pack(shape, StepWeights(*(np.asarray(a, np.float32) for a in weights)), dtype)

    def sample(state, cond, hop, noise):
        return native.sample(packed, state, np.asarray(cond, np.float32), hop, np.asarray(noise, np.float32))

    return Engine("native", partial(native.start, packed), sample)


def _pallas(shape: StepShape, weights: StepWeights, dtype: Dtype, hop: int, batch: int, backend: str) -> Engine | str:
    """The kernel, or why there is none."""
    try:
        from speech_jax.decoding import wavenet_pallas as pallas
    except ImportError:
        return "this installation has none"
    why_not = pallas.fits(shape, weights, backend, batch=batch, dtype=dtype, hop=hop)
    if why_not:
        return why_not

    @partial(jax.jit, static_argnums=2)
    def run(state, cond, hop, noise):
        return pallas.sample(shape, weights, state, cond, hop, noise, backend=backend)

    def start(rows: int):
        return pallas.start(shape, weights, rows, backend=backend, dtype=dtype, hop=hop)

    return Engine("pallas", start, lambda state, cond, hop, noise: run(state, jnp.asarray(cond), hop, noise))
