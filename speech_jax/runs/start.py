"""Parameters that a run starts from: the checkpoint in `init_from`, with surgery and adapters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from speech_jax.config import TrainConfig
from speech_jax.core.types import Batch, Model, PyTree, Task
from speech_jax.finetuning.adapters import ADAPTER, BASE, adapter_groups, init_adapters, with_adapters
from speech_jax.finetuning.restore import StartValues, start_from
from speech_jax.runs.resolve import Resolved, open_start
from speech_jax.tasks.ctc_task import own_state
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.state import Init, init_shapes, init_values


def student(model: Model) -> Model:
    """Return the model without its teacher, whose parameters are part of the model state."""

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, model_state = model.init(key, batch)
        return params, own_state(model_state)

    return model._replace(init=init)


def read_start(run: Resolved, task: Task, spec: PyTree) -> StartValues:
    """Read what a run starts from: the checkpoint in `init_from`, as `start` says.

    Args:
        run: The resolved run. One that resumes has no start checkpoint open; it is opened then.
        task: Its task.
        spec: Shapes of a batch.

    Returns:
        Parameters and model state, and which leaves were taken, initialized or left behind.

    Raises:
        UserError: If a leaf is missing, has another shape or is left over, or if a pattern of `start` fits nothing.
    """
    config, model, start = run.config, student(task.model), run.start or open_start(run)
    old, speakers = start.model, run.speakers
    return start_from(
        start.checkpoint,
        *init_shapes(model, spec, config.seed),
        fresh=(*config.start.fresh, *start.rules.fresh),
        drop=config.start.drop,
        optional=start.rules.optional,
        init=lambda: init_values(model, spec, config.seed),
        tokens=None if old.reader is None or run.reader is None else (old.reader.pieces, run.reader.pieces),
        speakers=(old.speakers, speakers) if speakers and old.speakers else None,
        select_state=own_state,
        grow=start.rules.grow or (lambda params: params),
    )


def adapt(config: TrainConfig, task: Task, init: Any) -> tuple[Task, OptimizerConfig, Init]:
    """Put adapters in place of the whole network.

    Args:
        config: The run's config.
        task: Its task.
        init: (params, model_state) to start from, or a function that makes them.

    Returns:
        The task, the optimizer's settings, and what to start from, all with adapters.
    """

    def adapted(values: Any) -> tuple[PyTree, PyTree]:
        params, model_state = values
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        return {BASE: params, ADAPTER: init_adapters(key, params, config.adapter)}, model_state

    optimizer = dataclasses.replace(config.optimizer, groups=adapter_groups(config.adapter))
    start = (lambda: adapted(init())) if callable(init) else adapted(init)
    return with_adapters(task, config.adapter), optimizer, start
