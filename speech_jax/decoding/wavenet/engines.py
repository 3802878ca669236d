"""The engines that sample a WaveNet, behind one interface, and what is taken where one of them cannot be had.

"scan" runs everywhere (wavenet.py). "native" is a step in C for CPUs (wavenet_native.py), "pallas" a kernel that stays
on the chip of a TPU or GPU (wavenet_pallas.py); both are imported when they are asked for. All make the same of the
same noise, up to the rounding of their weights.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.decoding.wavenet import scan as wavenet
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights

log = logging.getLogger("speech_jax")

ROWS_OF_A_GROUP = 4  # of the scan on a CPU: with fewer a core reads its weights for too little

Kind = Literal["auto", "scan", "native", "pallas"]
Dtype = Literal["float32", "bfloat16", "int8"]
Cores = Literal[1, 2]


class Engine(NamedTuple):
    """name: whose it is. start: (batch) -> state. sample: (state, cond, hop, noise) -> (drawn, state), see
    wavenet_weights.py."""

    name: str
    start: Callable
    sample: Callable


def make_engine(
    kind: Kind,
    shape: StepShape,
    weights: StepWeights,
    hop: int,
    *,
    batch: int = 1,
    dtype: Dtype = "float32",
    cores: Cores = 1,
) -> Engine:
    """The engine of that kind. hop: samples of a row of conditioning; batch: rows that it will make at once; dtype: of
    the weights ("scan" knows float32 alone, "pallas" no int8); cores: that "native" takes, each for rows of its own, or
    both for one row.

    "auto" is "native" on a CPU that has it, else "scan": the kernel has been compiled for TPU and GPU and compared in
    interpret mode, but has not run on either yet, so it is taken where it is asked for. A kind that this machine cannot
    run is a warning, and "scan" takes its place.
    """
    backend = jax.default_backend()
    makers = {"native": partial(_native, shape, weights, dtype, batch, cores),
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
    """The plain scan of wavenet.py. A step is a row of small products, for each of which XLA takes one core of a CPU;
    so there rows are made in groups side by side, one a core. Rows do not depend on each other."""

    def start(batch: int) -> list[StepState]:
        groups = _groups(batch)
        return [wavenet.start(shape, weights, batch // groups) for _ in range(groups)]

    def sample(state: list[StepState], cond, hop: int, noise):
        if len(state) == 1:
            drawn, after = wavenet.sample(shape, weights, state[0], cond, hop, noise)
            return drawn, [after]
        rows = len(cond) // len(state)

        def group(number: int, before: StepState):
            part = slice(number * rows, (number + 1) * rows)
            return jax.block_until_ready(wavenet.sample(shape, weights, before, cond[part], hop, noise[part]))

        with ThreadPoolExecutor(len(state)) as pool:
            made = list(pool.map(group, range(len(state)), state))
        return jnp.concatenate([drawn for drawn, _ in made]), [after for _, after in made]

    return Engine("scan", start, sample)


def _groups(batch: int) -> int:
    """How many equal groups of at least `ROWS_OF_A_GROUP` rows there are a core for."""
    if jax.default_backend() != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(n for n in range(min(cores, max(batch // ROWS_OF_A_GROUP, 1)), 0, -1) if batch % n == 0)


def _native(shape: StepShape, weights: StepWeights, dtype: Dtype, batch: int, cores: Cores) -> Engine | str:
    """The C step, or why there is none."""
    from speech_jax.kernels.wavenet import native

    if not native.available():
        return "it was not compiled when the package was installed"
    weights = StepWeights(*(np.asarray(a, np.float32) for a in weights))
    packed = native.pack(shape, weights, dtype, cores=cores if batch == 1 else 1)

    def sample(state, cond, hop, noise):
        cond, noise = np.asarray(cond, np.float32), np.asarray(noise, np.float32)
        return native.sample(packed, state, cond, hop, noise, threads=1 if batch == 1 else cores)

    return Engine("native", partial(native.start, packed), sample)


def _pallas(shape: StepShape, weights: StepWeights, dtype: Dtype, hop: int, batch: int, backend: str) -> Engine | str:
    """The kernel, or why there is none."""
    try:
        from speech_jax.kernels.wavenet import pallas
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
