"""Prepare a run: everything but its training state and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.config import TrainConfig, make_assets
from speech_jax.core.log import log
from speech_jax.core.types import Objective, PyTree, Task
from speech_jax.data.plan import check_plan, left_out
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.objectives.schedules import make_alpha
from speech_jax.runs.claims import check_run
from speech_jax.runs.objective import build_task, load_teacher, replays
from speech_jax.runs.private import check_private_settings, describe, private_run
from speech_jax.runs.resolve import check_settings, resolve
from speech_jax.runs.start import adapt, read_start, student
from speech_jax.runs.streams import LEFT_OUT_SHOWN, Sources, Stream, check_unseen, load_stream, warn_of_misfits
from speech_jax.tasks.ctc_task import with_teacher
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.feed import Feed, PairedBatches
from speech_jax.training.optimizer import check_optimizer
from speech_jax.training.privacy import Accountant
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import init_values


class PreparedRun(NamedTuple):
    """The parts of a run.

    Attributes:
        config: The config with its task, wherever that came from.
        streams: Recordings of "task", and of "pre" where they are replayed.
        eval_streams: Recordings of each evaluation set by name.
        feed: Training batches.
        task: Model, evaluation, and both terms of the loss.
        optimizer: Its settings; with adapters they say what moves.
        init: (params, model_state) to start from, or None.
        fisher: Weights of the parameters for `optimizer.ewc`, or None.
        accountant: Privacy accountant, or None.
        assets: JSON that every checkpoint carries.
        base_params: Returns the parameters that an adapter is put on.
    """

    config: TrainConfig
    streams: dict[str, Stream]
    eval_streams: dict[str, Stream]
    feed: Feed
    task: Task
    optimizer: OptimizerConfig
    init: tuple[PyTree, PyTree] | None
    fisher: PyTree | None
    accountant: Accountant | None
    assets: dict[str, Any]
    base_params: Callable[[], PyTree]


def prepare(config: TrainConfig) -> PreparedRun:
    """Prepare a run: read, plan and build all of it but its training state.

    DO NOT CHANGE THE ORDER of the steps; each needs those before it:
      1. settings that need no data, so that a mistake in them does not cost an hour of reading;
      2. the checkpoint: the run's own if there is one, else `init_from`; it decides task, tokenizer and speakers;
      3. manifests, each read once: texts for a new tokenizer, lengths for the plans;
      4. the task, built once, with both terms of its loss;
      5. where it starts: parameters, teacher, Fisher information, adapters.

    Args:
        config: The config of the run.

    Returns:
        Its parts.

    Raises:
        UserError: For anything that a user can correct.
    """
    # ---- 1. Settings.
    for line in check_run(config):
        log.warning("%s", line)
    check_settings(config)
    check_optimizer(config.optimizer, config.trainer.steps)
    make_alpha(config.alpha)
    make_mesh(config.mesh)
    if config.task is not None and config.trainer.step.privacy.on:
        check_private_settings(config)
    for data in (config.data, config.pre, *(e.data for e in config.evaluate)):
        if data is not None:
            check_plan(data.plan)

    # ---- 2. and 3. Task, tokenizer and speakers, from a checkpoint or from the texts.
    sources = Sources()
    run = resolve(config, sources)
    config = run.config

    # ---- 3. Recordings and the plans of their batches.
    options = config.task.stream_options()

    def stream(data, *, shuffle: bool = True, reader=run.reader) -> Stream:
        return load_stream(
            data, reader, config.task.audio.sample_rate, shuffle=shuffle, speakers=run.speakers, options=options,
            sources=sources,
        )  # fmt: skip

    streams = {"task": stream(config.data)}
    if replays(config) or config.optimizer.ewc:
        streams["pre"] = stream(config.pre, reader=run.reader if config.pre_task is None else None)
    task_feed = streams["task"].feed()
    feed = PairedBatches(streams["pre"].feed(), task_feed) if replays(config) else task_feed
    eval_streams = {e.name: stream(e.data, shuffle=False) for e in config.evaluate}
    for name, each in (streams | eval_streams).items():
        log.info("%s: %s", name, each.plan.describe())
        for line in left_out(each.plan, each.utterances, LEFT_OUT_SHOWN):
            log.info("  left out: %s", line)
    for name, each in streams.items():
        warn_of_misfits(name, each, options)
        check_unseen(name, each, eval_streams)

    accountant = private_run(config, {name: (each.utterances, each.plan) for name, each in streams.items()})
    if accountant is not None:
        log.info("%s", describe(accountant, config.trainer.steps))

    # ---- 4. The task.
    teacher = None
    if config.teacher.checkpoint:
        assert run.reader is not None  # the settings were checked: a recognizer has one
        teacher = load_teacher(config, run.reader)
    task, old = build_task(config, run.reader, teacher)
    spec = task.batch_spec(streams["task"].plan.buckets[0])

    # ---- 5. Where it starts. A run that resumes has all of this in its checkpoint.
    start = fisher = init = None
    optimizer = config.optimizer
    if not run.resumes:
        if run.start is not None:
            start = read_start(run, task, spec)
            for line in start.describe():
                log.info("%s: %s", config.init_from, line)
            init = start.params, with_teacher(start.model_state, teacher)
        elif teacher is not None:
            params, model_state = init_values(student(task.model), spec, config.seed)
            init = params, with_teacher(model_state, teacher)
        if config.optimizer.ewc:
            assert init is not None  # the settings were checked: EWC starts from a checkpoint
            fisher = fisher_of(config, old, streams["pre"], init)
    plain_task = task
    if config.adapter.kind != "none":
        task, optimizer, init = adapt(config, task, init)

    def base_params() -> PyTree:
        if start is not None:
            return start.params
        return read_start(run._replace(start=open_start(config)), plain_task, spec).params

    return PreparedRun(
        config=config,
        streams=streams,
        eval_streams=eval_streams,
        feed=feed,
        task=task,
        optimizer=optimizer,
        init=init,
        fisher=fisher,
        accountant=accountant,
        assets=make_assets(config, run.reader, run.speakers),
        base_params=base_params,
    )


def fisher_of(config: TrainConfig, old: Objective, stream: Stream, init: tuple) -> PyTree:
    """Estimate how much each parameter of the start model matters on the old domain, `stream`."""
    count = config.optimizer.ewc_batches
    log.info("Fisher information from %d batches of the old domain", count)
    feed = stream.feed(whole=True)
    try:
        params, model_state = init
        return estimate_fisher(
            old,
            params,
            model_state,
            tqdm(
                (next(feed) for _ in range(count)),
                total=count,
                unit="batch",
                disable=jax.process_index() > 0 or None,
            ),
            rows=lambda batch: int(np.sum(batch["index"] >= 0)),
            seed=config.seed,
        )
    finally:
        feed.close()
