"""The types that rooms hand to each other. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

PyTree = Any
Batch = Mapping[str, Any]


class Model(NamedTuple):
    """A network as two pure functions; nothing outside models/ knows which library wrote it.

    init:  (key, batch) -> (params, model_state)
    apply: (params, model_state, batch, *, key, train) -> (outputs, model_state)
    """

    init: Callable
    apply: Callable


class LossOut(NamedTuple):
    """A mean that knows how many valid units (frames, labels) it is a mean of.

    metrics maps a name to a pair (sum, count), so that metrics merge across batches and hosts without bias.
    """

    value: Float[Array, ""]
    weight: Float[Array, ""]
    model_state: PyTree
    metrics: Mapping[str, tuple[Array, Array]]


# (params, model_state, batch, key, step) -> LossOut
Objective = Callable[[PyTree, PyTree, Batch, jax.Array, Int[Array, ""]], LossOut]


class Bucket(NamedTuple):
    """The static shape of one batch: rows, audio samples a row, labels a row."""

    rows: int
    samples: int
    labels: int


class Report(NamedTuple):
    """What an evaluation found.

    metrics:  name -> value, ready to log (for example {"wer": 0.123, "cer": 0.05, "loss": 0.7})
    examples: one dict an utterance, {"id", "reference", "hypothesis", …}, for tables and transcripts in the logs
    images:   name -> float array [height, width] to draw in gray, for example a spectrogram, or a finished picture,
              bytes [height, width, 3]
    audio:    name -> (samples [time] in [-1, 1], sample rate)
    """

    metrics: Mapping[str, float]
    examples: list[dict] = []
    images: Mapping[str, Any] = {}
    audio: Mapping[str, Any] = {}


class Task(NamedTuple):
    """All that training/ is told about what it trains.

    model:      the network; its `init` takes a batch made from `batch_spec`
    objective:  the loss
    batch_spec: (Bucket) -> pytree of jax.ShapeDtypeStruct, for compiling ahead of time
    evaluate:   (params, model_state, batches) -> Report
    sharding:   (pattern, one mesh axis or none for each dimension): how its parameters lie on a mesh by default
    """

    model: Model
    objective: Objective
    batch_spec: Callable
    evaluate: Callable
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


class TrainState(NamedTuple):
    """All of a run that must survive a restart, beside the data index. `ema` is None where no average is kept."""

    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree
