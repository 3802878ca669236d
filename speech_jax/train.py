"""`python -m speech_jax.train --config configs/X.py`: trains a model, or goes on with a run that is already there.

The story of a run: config → recordings → task → state and loop (training/loop.py). All that the checkpoint folder
has to know goes with it as assets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.config import TrainConfig, make_assets, parse_config
from speech_jax.config_dict import to_text
from speech_jax.data.plan import left_out
from speech_jax.errors import run_front_door
from speech_jax.finetuning.adapters import save_adapter
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.objectives.mix import Mix, mix
from speech_jax.objectives.schedules import make_alpha
from speech_jax.private import describe, private_run
from speech_jax.starting import (
    adapt,
    check_settings,
    goes_on,
    load_teacher,
    make_task,
    old_objective,
    read_start,
    resolve,
)
from speech_jax.streams import (
    LEFT_OUT_SHOWN,
    Stream,
    audio_seconds,
    check_unseen,
    load_stream,
    stream_options,
    warn_of_misfits,
)
from speech_jax.tasks.ctc import CTCTaskConfig, with_teacher
from speech_jax.tasks.pretrain import shared_objective
from speech_jax.training.feed import Feed, PairedBatches
from speech_jax.training.loop import FitResult, fit
from speech_jax.training.state import init_values
from speech_jax.types import PyTree, Task

log = logging.getLogger("speech_jax")


def main(argv: Sequence[str]) -> int:
    """The front door; returns the exit code."""
    setup_logging()
    train(parse_config(argv))
    return 0


def setup_logging() -> None:
    """Our own messages, and warnings of the libraries."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)


def train(config: TrainConfig) -> FitResult:
    """Runs `config` to its last step, or until a signal; goes on with what is in `config.out_dir`."""
    # ---- What is trained: from the run that is there, else from the checkpoint to start from, else anew.
    check_settings(config)
    config, tokenizer, speakers = resolve(config)
    alpha = make_alpha(config.alpha)
    replays = config.pre is not None and alpha != 0.0

    # ---- Recordings.
    rate = config.task.audio.sample_rate
    options = stream_options(config, speakers)
    streams = {"task": load_stream(config.data, tokenizer, rate, **options)}
    if replays or config.optimizer.ewc:
        streams["pre"] = load_stream(config.pre, tokenizer if config.pre_task is None else None, rate, **options)
    feed: Feed = streams["task"].feed()
    if replays:
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
    task = make_task(config, tokenizer, teacher)
    if replays:
        task = task._replace(objective=mix(old_objective(config, task), task.objective, alpha))
    elif config.pre_task is not None and alpha != 0.0:
        task = task._replace(objective=shared_objective(config.task, config.pre_task, tokenizer, alpha))
    spec = task.batch_spec(streams["task"].plan.buckets[0])

    # ---- State and loop.
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
    result = fit(
        task,
        feed,
        config=config.trainer,
        optimizer=optimizer,
        mesh=config.mesh,
        out_dir=config.out_dir,
        assets=make_assets(config, tokenizer, speakers),
        texts={"config.json": to_text(config)},
        pipeline={name: stream.plan.fingerprint() for name, stream in streams.items()}
        | ({} if accountant is None else {"privacy": accountant.config.settings()}),
        eval_sets={name: stream.one_pass() for name, stream in eval_streams.items()},
        init=init,
        fisher=fisher,
        units=lambda batch: audio_seconds(batch, rate),
        seed=config.seed,
        epsilon=None if accountant is None else accountant.epsilon,
    )
    if config.adapter.kind != "none" and not result.stopped and jax.process_index() == 0:
        before = (start or read_start(config, spec, tokenizer, speakers)).params
        params = jax.device_get(result.state.params if result.state.ema is None else result.state.ema)
        file = Path(config.out_dir) / "adapter.safetensors"
        save_adapter(file, params, before, config.adapter, json.dumps(tokenizer.to_json()))
        log.info("%s: %.1f MB", file, file.stat().st_size / 1e6)
    return result


# ---- What is trained


def fisher_of(config: TrainConfig, task: Task, stream: Stream, init: tuple) -> PyTree:
    """How much each parameter of the start model matters on the old domain, `stream`."""
    objective = task.objective.pre if isinstance(task.objective, Mix) else old_objective(config, task)
    count = config.optimizer.ewc_batches
    log.info("Fisher information from %d batches of the old domain", count)
    feed = stream.feed()
    try:
        return estimate_fisher(
            objective,
            *init,
            tqdm((next(feed) for _ in range(count)), total=count, unit="batch", disable=None),
            rows=lambda batch: int(np.sum(batch["index"] >= 0)),
            seed=config.seed,
        )
    finally:
        feed.close()


if __name__ == "__main__":
    run_front_door(main)
