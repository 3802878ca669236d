"""WaveNet sampling engines behind one interface, with a fallback where an engine is not available.

"scan" runs everywhere (decoding/wavenet/scan.py). "native" is a step in C for CPUs (kernels/wavenet/native.py),
"pallas" a kernel that stays on the chip of a TPU or GPU (kernels/wavenet/pallas.py); both are imported on first use.
Given the same noise all engines draw the same samples, up to the rounding of their weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.core.log import log
from speech_jax.decoding.config import Cores, Dtype
from speech_jax.decoding.wavenet import scan as wavenet
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights

ROWS_PER_GROUP = 4  # of the scan on a CPU: with fewer rows, reading the weights dominates

Kind = Literal["auto", "scan", "native", "pallas"]


class Engine(NamedTuple):
    """A sampler for one network; kernels/wavenet/step.py describes the arrays.

    Attributes:
        name: "scan", "native" or "pallas".
        start: (batch) -> state before the first sample.
        sample: (state, cond, hop, noise) -> (samples, state).
    """

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
    """Return an engine; "scan" with a warning where this machine cannot run the requested one.

    "auto" is "native" on a CPU where it was built, else "scan". The Pallas kernel has been compiled for TPU and GPU and
    compared in interpret mode, but has not run on either yet, so "auto" never selects it.

    Args:
        kind: the engine.
        shape: static sizes of the network.
        weights: its weights.
        hop: samples per row of conditioning.
        batch: rows sampled at once.
        dtype: type of the weights; "scan" supports float32 only, "pallas" not int8.
        cores: CPU cores of "native"; rows are divided between them, and a single row is computed by both.
    """
    backend = jax.default_backend()
    makers = {"native": partial(_native, shape, weights, dtype, batch, cores),
              "pallas": partial(_pallas, shape, weights, dtype, hop, batch, backend)}  # fmt: skip
    selected = kind
    if kind == "auto":
        selected = "native" if backend == "cpu" else "scan"
    if selected in makers:
        engine = makers[selected]()
        if isinstance(engine, Engine):
            return engine
        if kind != "auto":
            log.warning("WaveNet engine %s: %s; using scan instead", kind, engine)
    if dtype != "float32":
        log.warning("WaveNet engine scan: found dtype %s, expected float32; using float32", dtype)
    return scan_engine(shape, weights)


def scan_engine(shape: StepShape, weights: StepWeights) -> Engine:
    """Return the `lax.scan` engine.

    A step is a sequence of small matrix products, and XLA computes each on one core of a CPU. There, rows are sampled
    in groups in parallel, one group per core; rows do not depend on each other.

    Args:
        shape: static sizes of the network.
        weights: its weights, float32.
    """

    def start(batch: int) -> list[StepState]:
        groups = _groups(batch)
        return [wavenet.start(shape, weights, batch // groups) for _ in range(groups)]

    def sample(state: list[StepState], cond, hop: int, noise):
        if len(state) == 1:
            drawn, after = wavenet.sample(shape, weights, state[0], cond, hop, noise)
            return drawn, [after]
        rows = len(cond) // len(state)

        def sample_group(index: int, before: StepState):
            part = slice(index * rows, (index + 1) * rows)
            return jax.block_until_ready(wavenet.sample(shape, weights, before, cond[part], hop, noise[part]))

        with ThreadPoolExecutor(len(state)) as pool:
            results = list(pool.map(sample_group, range(len(state)), state))
        return jnp.concatenate([drawn for drawn, _ in results]), [after for _, after in results]

    return Engine("scan", start, sample)


def _groups(batch: int) -> int:
    """Return the number of equal groups of at least `ROWS_PER_GROUP` rows, at most one per core."""
    if jax.default_backend() != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return next(n for n in range(min(cores, max(batch // ROWS_PER_GROUP, 1)), 0, -1) if batch % n == 0)


def _native(shape: StepShape, weights: StepWeights, dtype: Dtype, batch: int, cores: Cores) -> Engine | str:
    """Return the engine of the C step, or the reason why it is not available."""
    from speech_jax.kernels.wavenet import native

    if not native.available():
        return "it was not compiled when the package was installed"
    on_host: Any = (np.asarray(a, np.float32) for a in weights)
    weights = StepWeights(*on_host)
    packed = native.pack(shape, weights, dtype, cores=cores if batch == 1 else 1)

    def sample(state, cond, hop, noise):
        cond, noise = np.asarray(cond, np.float32), np.asarray(noise, np.float32)
        return native.sample(packed, state, cond, hop, noise, threads=1 if batch == 1 else cores)

    return Engine("native", partial(native.start, packed), sample)


def _pallas(shape: StepShape, weights: StepWeights, dtype: Dtype, hop: int, batch: int, backend: str) -> Engine | str:
    """Return the engine of the Pallas kernel, or the reason why it is not available."""
    try:
        from speech_jax.kernels.wavenet import pallas
    except ImportError:
        return "this installation of JAX has no Pallas"
    reason = pallas.fits(shape, weights, backend, batch=batch, dtype=dtype, hop=hop)
    if reason:
        return reason

    @partial(jax.jit, static_argnums=2)
    def run(state, cond, hop, noise):
        return pallas.sample(shape, weights, state, cond, hop, noise, backend=backend)

    def start(rows: int):
        return pallas.start(shape, weights, rows, backend=backend, dtype=dtype, hop=hop)

    return Engine("pallas", start, lambda state, cond, hop, noise: run(state, jnp.asarray(cond), hop, noise))
