"""Prepare a run: all of it but its state and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.config import TrainConfig, make_assets
from speech_jax.core.log import log
from speech_jax.core.types import PyTree, Task
from speech_jax.data.plan import left_out
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.objectives.mix import Mix
from speech_jax.runs.objective import load_teacher, make_task, old_objective, replays, with_old_term
from speech_jax.runs.private import describe, private_run
from speech_jax.runs.resolve import check_settings, goes_on, resolve
from speech_jax.runs.start import adapt, read_start
from speech_jax.runs.streams import (
    LEFT_OUT_SHOWN,
    Stream,
    check_unseen,
    load_stream,
    stream_options,
    warn_of_misfits,
)
from speech_jax.tasks.ctc import CTCTaskConfig, with_teacher
from speech_jax.training.feed import Feed, PairedBatches
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.training.privacy import Accountant
from speech_jax.training.state import init_values


class Run(NamedTuple):
    """What a run is made of.

    config:   with the task, whatever it was taken from
    streams:  the recordings of "task", and of "pre" where they are replayed
    feed:     the training batches
    task:     with both terms of the loss
    init:     (parameters, model state) to start from, or None
    before:   gives the parameters that an adapter is put on
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
    before: Callable[[], PyTree]


def prepare(config: TrainConfig) -> Run:
    """All of a run but its state and its steps. Raises UserError for what a user can mend."""
    # ---- What is trained: from the run that is there, else from the checkpoint to start from, else anew.
    check_settings(config)
    config, tokenizer, speakers = resolve(config)

    # ---- Recordings.
    rate = config.task.audio.sample_rate
    options = stream_options(config, speakers)
    streams = {"task": load_stream(config.data, tokenizer, rate, **options)}
    if replays(config) or config.optimizer.ewc:
        streams["pre"] = load_stream(config.pre, tokenizer if config.pre_task is None else None, rate, **options)
    feed: Feed = streams["task"].feed()
    if replays(config):
        feed = PairedBatches(streams["pre"].feed(), feed)
    eval_streams = {e.name: load_stream(e.data, tokenizer, rate, shuffle=False, **options) for e in config.evaluate}
    for name, stream in (streams | eval_streams).items():
        log.info("%s: %s", name, stream.plan.describe())
        for line in left_out(stream.plan, stream.utterances)[:LEFT_OUT_SHOWN]:
            log.info("  left out: %s", line)
    for name, stream in streams.items():
        if isinstance(config.task, CTCTaskConfig) and stream.tokenizer is not None:
            warn_of_misfits(name, stream, config.task)
        check_unseen(name, stream, eval_streams)

    accountant = private_run(config, {name: (stream.utterances, stream.plan) for name, stream in streams.items()})
    if accountant is not None:
        log.info("%s", describe(accountant, config.trainer.steps))

    # ---- Task.
    teacher = load_teacher(config, tokenizer) if config.teacher.checkpoint else None
    task = with_old_term(config, make_task(config, tokenizer, teacher), tokenizer)
    spec = task.batch_spec(streams["task"].plan.buckets[0])

    # ---- Where it starts.
    start = fisher = init = None
    optimizer = config.optimizer
    if not goes_on(config):
        if config.init_from:
            start = read_start(config, spec, tokenizer, speakers)
            for line in start.describe():
                log.info("%s: %s", config.init_from, line)
            init = start.params, with_teacher(start.model_state, teacher)
        elif teacher is not None:
            params, own = init_values(make_task(config, tokenizer).model, spec, config.seed)
            init = params, with_teacher(own, teacher)
        if config.optimizer.ewc:
            fisher = fisher_of(config, task, streams["pre"], init)
    if config.adapter.kind != "none":
        task, optimizer, init = adapt(config, task, init)
    return Run(
        config, streams, eval_streams, feed, task, optimizer, init, fisher, accountant,
        make_assets(config, tokenizer, speakers),
        lambda: (start or read_start(config, spec, tokenizer, speakers)).params,
    )  # fmt: skip


def fisher_of(config: TrainConfig, task: Task, stream: Stream, init: tuple) -> PyTree:
    """How much each parameter of the start model matters on the old domain, `stream`."""
    objective = task.objective.pre if isinstance(task.objective, Mix) else old_objective(config, task)
    count = config.optimizer.ewc_batches
    log.info("Fisher information from %d batches of the old domain", count)
    feed = stream.feed(whole=True)
    try:
        return estimate_fisher(
            objective,
            *init,
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
