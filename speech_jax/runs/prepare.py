"""Prepare a run: everything but its training state and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.config import TrainConfig, config_from_assets, make_assets
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.types import Objective, PyTree, Task
from speech_jax.data.plan import check_plan, left_out
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.objectives.schedules import make_alpha
from speech_jax.runs.claims import check_metrics, check_run
from speech_jax.runs.objective import build_task, load_teacher, replays
from speech_jax.runs.private import check_private_settings, describe, private_run
from speech_jax.runs.resolve import Resolved, check_settings, resolve, resumes, task_of
from speech_jax.runs.resume import decide, reads_other_data
from speech_jax.runs.start import adapt, read_start, student
from speech_jax.runs.streams import (
    LEFT_OUT_SHOWN,
    Sources,
    Stream,
    check_distinct,
    check_unseen,
    load_stream,
    tell_tags,
    warn_of_equal_sets,
    warn_of_language,
    warn_of_misfits,
)
from speech_jax.tasks.ctc_task import with_teacher
from speech_jax.training.checkpoint import FOLDER, saved_steps
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.feed import Feed, PairedBatches
from speech_jax.training.layout import read_item
from speech_jax.training.privacy import Accountant
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import Init, init_values


class PreparedRun(NamedTuple):
    """The parts of a run.

    Attributes:
        config: The config with its task, wherever that came from.
        streams: Recordings of "task", and of "pre" where they are replayed.
        eval_streams: Recordings of each evaluation set by name.
        feed: Training batches.
        task: Model, evaluation, and both terms of the loss.
        optimizer: Its settings; with adapters they say what moves.
        init: (params, model_state) to start from, or None. A function that makes them for a run that resumes.
        fisher: Weights of the parameters for `optimizer.ewc`, or None.
        accountant: Privacy accountant, or None.
        pipeline: Digest of each stream's plan.
        contents: Digests of the recordings of each stream and evaluation set.
        assets: JSON that every checkpoint carries.
    """

    config: TrainConfig
    streams: dict[str, Stream]
    eval_streams: dict[str, Stream]
    feed: Feed
    task: Task
    optimizer: OptimizerConfig
    init: Init
    fisher: PyTree | None
    accountant: Accountant | None
    pipeline: dict[str, Any]
    contents: dict[str, Any]
    assets: dict[str, Any]


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
    for line in check_given(config):
        log.warning("%s", line)
    check_settings(config)
    make_alpha(config.alpha)
    make_mesh(config.mesh)
    if config.task is not None and config.trainer.step.privacy.on:
        check_private_settings(config)
    evaluated = {f"evaluate.{i}.data": e.data for i, e in enumerate(config.evaluate)}
    for flag, data in ({"data": config.data, "pre": config.pre} | evaluated).items():
        if data is not None:
            check_plan(data.plan, f"{flag}.plan")
    plain = task_of(config)
    check_metrics(config, plain.build(plain.placeholder_reader(100)).metrics)  # they are the same with every reader

    # ---- 2. and 3. Task, tokenizer and speakers, from a checkpoint or from the texts.
    sources = Sources()
    run = resolve(config, sources)
    config = run.config
    if run.saved is not None:
        decide(config, run.saved)

    # ---- 3. Recordings and the plans of their batches.
    options = config.task.stream_options()

    def stream(flag, data, *, shuffle: bool = True, reader=run.reader) -> Stream:
        return load_stream(
            data, reader, config.task.audio.sample_rate, flag=flag, seed=config.seed, shuffle=shuffle,
            speakers=run.speakers, options=options, sources=sources,
        )  # fmt: skip

    streams = {"task": stream("data", config.data)}
    pre = None
    if config.pre is not None:  # also where nothing is learned from it: a sweep's alpha 0 is prepared as its others are
        pre = stream("pre", config.pre, reader=run.reader if config.pre_task is None else None)
        if replays(config) or config.optimizer.ewc:
            streams["pre"] = pre
    task_feed = streams["task"].feed()
    feed = PairedBatches(streams["pre"].feed(), task_feed) if replays(config) else task_feed
    eval_streams = {}
    for number, evaluation in enumerate(config.evaluate):
        try:
            eval_streams[evaluation.name] = stream(f"evaluate.{number}.data", evaluation.data, shuffle=False)
        except UserError as error:
            raise UserError(f"{error} (evaluation set {evaluation.name!r})") from error
    for name, each in (streams | eval_streams).items():
        log.info("%s: %s", name, each.plan.describe())
        for line in left_out(each.plan, each.utterances, LEFT_OUT_SHOWN):
            log.info("  left out: %s", line)
        warn_of_language("data" if name == "task" else name, each)
        tell_tags("data" if name == "task" else name, each)
    for name, each in streams.items():
        warn_of_misfits("data" if name == "task" else name, each, options)
        check_unseen(name, each, eval_streams)
    warn_of_equal_sets(eval_streams)

    accountant = private_run(config, {name: (each.utterances, each.plan) for name, each in streams.items()})
    if accountant is not None:
        log.info("%s", describe(accountant, config.trainer.steps))
    if pre is not None and config.pre_task is None:
        check_distinct(streams["task"], pre)

    pipeline: dict[str, Any] = {name: each.plan.fingerprint() for name, each in streams.items()}
    sets = streams | {f"evaluate/{name}": each for name, each in eval_streams.items()}
    compared = {} if run.saved is None else run.saved.contents
    contents = {name: each.contents(compared.get(name, {}).get("sized")) for name, each in sets.items()}
    if run.saved is not None:
        decide(config, run.saved, pipeline, contents)

    # ---- 4. The task.
    teacher = None
    if config.teacher.checkpoint:
        assert run.reader is not None  # the settings were checked: a recognizer has one
        teacher = load_teacher(config, run.reader)
    task, old = build_task(config, run.reader, teacher)
    spec = task.batch_spec(streams["task"].plan.buckets[0])

    # ---- 5. Where it starts. A run that resumes has all of this in its checkpoint, but for the reference of a guard
    # that is new, so that it makes the start model only if there is one.
    plain_task, optimizer = task, config.optimizer

    def make_init() -> tuple[PyTree, PyTree]:
        if config.init_from:
            start = read_start(run, plain_task, spec)
            for line in start.describe():
                log.info("%s: %s", config.init_from, line)
            return start.params, with_teacher(start.model_state, teacher)
        params, model_state = init_values(student(plain_task.model), spec, config.seed)
        return params, with_teacher(model_state, teacher)

    init: Init = None
    fisher = None
    if config.init_from or teacher is not None:
        init = make_init if run.resumes else make_init()
    if config.optimizer.ewc and not run.resumes:
        fisher = fisher_of(config, old, streams["pre"], init)
    if config.adapter.kind != "none":
        task, optimizer, init = adapt(config, task, init)

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
        pipeline=pipeline,
        contents=contents,
        assets=make_assets(config, run.reader, run.speakers)
        | ({"start": run.origin} if run.origin else {})
        | (_row_seconds(run, streams) if options.joins and not config.trainer.step.privacy.on else {}),
    )


def _row_seconds(run: Resolved, streams: Mapping[str, Stream]) -> dict[str, float]:
    """Return the asset `row_seconds`: seconds that 95 % of the utterances that a recognizer learned do not exceed.

    Joined rows do not count: also with them, parts as long as single utterances are recognized best
    (experiments/long_recordings). A run from a checkpoint keeps a greater length of it; nothing is known of a model
    that was trained elsewhere.
    """
    if run.row_seconds == 0 or run.resumes:
        return {"row_seconds": run.row_seconds} if run.row_seconds else {}
    learned = [np.delete(each.seconds, [row for row, _ in each.plan.dropped]) for each in streams.values()]
    return {"row_seconds": round(max(run.row_seconds or 0.0, *(float(np.quantile(each, 0.95)) for each in learned)), 2)}


def check_given(config: TrainConfig) -> list[str]:
    """Check the settings of a run as its user gave them, see `check_run`; return lines for the log.

    A run that began with settings that nothing uses, in an earlier version, resumes with them.

    Raises:
        UserError: For a setting that reaches nothing.
    """
    try:
        return check_run(config)
    except UserError as error:
        if not resumes(config):
            raise
        root = Path(config.out_dir) / FOLDER
        began = config_from_assets(read_item(root / str(saved_steps(root)[-1]), "assets"))
        try:
            check_run(began)
        except UserError as before:
            if str(before).partition(":")[0] == str(error).partition(":")[0]:  # about the same setting
                return [str(error)]
        raise


def check_resume(config: TrainConfig) -> None:
    """Check that a run that is there may resume with these settings, without training it.

    Its recordings are read only if the settings that choose them have changed.

    Args:
        config: The config of the run; a run without checkpoints passes.

    Raises:
        UserError: If it may not.
    """
    if not resumes(config):
        return
    run = resolve(config)
    assert run.saved is not None
    decide(run.config, run.saved)
    if reads_other_data(run.saved.config, run.config):
        prepare(config)


def fisher_of(config: TrainConfig, old: Objective, stream: Stream, init: Any) -> PyTree:
    """Estimate how much each parameter of the start model matters on the old domain, `stream`."""
    count = config.optimizer.ewc_batches
    log.info("estimating the Fisher information on %d batches of pre", count)
    feed = stream.feed(whole=True)
    try:
        params, model_state = init
        fisher = estimate_fisher(
            old,
            params,
            model_state,
            tqdm(
                (next(feed) for _ in range(count)),
                total=count,
                unit="batch",
                disable=jax.process_index() > 0 or None,
            ),
            per=config.optimizer.ewc_per,
            microbatch=config.optimizer.ewc_microbatch,
            seed=config.seed,
        )
    finally:
        feed.close()
    if not fisher.size:
        raise UserError(
            f"optimizer.ewc: found no information in the {count} batches of pre (every gradient is 0 or not finite), "
            "expected old recordings whose texts fit"
        )
    log.info("Fisher information of the old domain: %s", fisher.describe())
    return fisher.weights
