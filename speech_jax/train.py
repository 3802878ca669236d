"""`python -m speech_jax.train --config configs/X.py`: trains a model, or goes on with a run that is already there.

The story of a run: config → recordings → task → state and loop (training/loop.py). All that the checkpoint folder
has to know goes with it as assets.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.audio.config import fingerprint
from speech_jax.config import TrainConfig, config_from_assets, make_assets, parse_config
from speech_jax.config_dict import to_text
from speech_jax.data.config import DataConfig
from speech_jax.data.manifest import Utterance
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import Plan, eval_plan, left_out, lengths, make_plan
from speech_jax.data.sources import load_sources
from speech_jax.errors import UserError, run_front_door
from speech_jax.finetuning.adapters import (
    ADAPTER,
    BASE,
    adapter_groups,
    init_adapters,
    save_adapter,
    with_adapters,
)
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.finetuning.restore import Start, start_from
from speech_jax.objectives.mix import Mix, mix
from speech_jax.objectives.schedules import make_alpha
from speech_jax.recognizer import load_recognizer_parts
from speech_jax.tasks.ctc import (
    CTCTaskConfig,
    Teacher,
    build_model,
    ctc_task,
    output_frames,
    own_state,
    with_teacher,
)
from speech_jax.text.tokenizer import Tokenizer, train_tokenizer
from speech_jax.training.checkpoint import FOLDER, load_assets, saved_steps
from speech_jax.training.feed import Batches, Feed, PairedBatches
from speech_jax.training.loop import FitResult, fit
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.training.state import init_shapes, init_values
from speech_jax.types import Batch, PyTree, Task

log = logging.getLogger("speech_jax")
LEFT_OUT_SHOWN = 5  # utterances that no batch takes, named in the log; the plan counts them all


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
    config, tokenizer = resolve(config)
    alpha = make_alpha(config.alpha)
    replays = config.pre is not None and alpha != 0.0

    # ---- Recordings.
    rate = config.task.audio.sample_rate
    streams = {"task": load_stream(config.data, tokenizer, rate)}
    if replays:
        streams["pre"] = load_stream(config.pre, tokenizer, rate)
    feeds = {name: stream.feed(tokenizer) for name, stream in streams.items()}
    feed: Feed = PairedBatches(feeds["pre"], feeds["task"]) if replays else feeds["task"]
    eval_streams = {e.name: load_stream(e.data, tokenizer, rate, shuffle=False) for e in config.evaluate}
    for name, stream in (streams | eval_streams).items():
        log.info("%s: %s", name, stream.plan.describe())
        for line in left_out(stream.plan, stream.utterances)[:LEFT_OUT_SHOWN]:
            log.info("  left out: %s", line)
    for name, stream in streams.items():
        warn_of_misfits(name, stream, config.task)

    # ---- Task.
    teacher = load_teacher(config, tokenizer) if config.teacher.checkpoint else None
    task = ctc_task(config.task, tokenizer, teacher)
    if replays:
        task = task._replace(objective=mix(task.objective, task.objective, alpha))

    # ---- State and loop.
    start = fisher = init = None
    optimizer = config.optimizer
    if not goes_on(config):
        if config.init_from:
            start = read_start(config, streams["task"], tokenizer)
            for line in start.describe():
                log.info("%s: %s", config.init_from, line)
            init = start.params, with_teacher(start.model_state, teacher)
        elif teacher is not None:
            spec = task.batch_spec(streams["task"].plan.buckets[0])
            params, own = init_values(ctc_task(config.task, tokenizer).model, spec, config.seed)
            init = params, with_teacher(own, teacher)
        if config.optimizer.ewc:
            fisher = fisher_of(config, task, tokenizer, init)
    if config.adapter.kind != "none":
        task, optimizer, init = adapt(config, task, init)
    result = fit(
        task,
        feed,
        config=config.trainer,
        optimizer=optimizer,
        mesh=config.mesh,
        out_dir=config.out_dir,
        assets=make_assets(config, tokenizer),
        texts={"config.json": to_text(config)},
        pipeline={name: stream.plan.fingerprint() for name, stream in streams.items()},
        eval_sets={name: stream.one_pass(tokenizer) for name, stream in eval_streams.items()},
        init=init,
        fisher=fisher,
        units=lambda batch: audio_seconds(batch, rate),
        seed=config.seed,
    )
    if config.adapter.kind != "none" and not result.stopped and jax.process_index() == 0:
        before = (start or read_start(config, streams["task"], tokenizer)).params
        params = jax.device_get(result.state.params if result.state.ema is None else result.state.ema)
        file = Path(config.out_dir) / "adapter.safetensors"
        save_adapter(file, params, before, config.adapter, json.dumps(tokenizer.to_json()))
        log.info("%s: %.1f MB", file, file.stat().st_size / 1e6)
    return result


# ---- What is trained


def goes_on(config: TrainConfig) -> bool:
    """Whether there is a checkpoint of this run to go on from."""
    return bool(saved_steps(Path(config.out_dir) / FOLDER))


def resolve(config: TrainConfig) -> tuple[TrainConfig, Tokenizer]:
    """The config with its task filled in, and the tokenizer: that of the run, of the checkpoint, or a new one."""
    if goes_on(config):
        assets = load_assets(config.out_dir, "last")
        config = fill_task(config, assets, config.out_dir)
        return config, Tokenizer.from_json(assets["tokenizer"])
    if config.init_from:
        assets = load_assets(config.init_from, config.start.which)
        config = fill_task(config, assets, config.init_from)
        if config.start.tokenizer == "keep":
            return config, Tokenizer.from_json(assets["tokenizer"])
    if config.task is None:
        raise UserError("config.task: found None, expected a task, or a checkpoint to take it from in config.init_from")
    texts = [u.text for u in load_sources(config.data)]
    if config.pre is not None:
        texts += [u.text for u in load_sources(config.pre)]
    return config, train_tokenizer(texts, config.task.tokenizer)


def old_tokenizer(config: TrainConfig) -> Tokenizer:
    """The tokenizer of the checkpoint that the run starts from."""
    return Tokenizer.from_json(load_assets(config.init_from, config.start.which)["tokenizer"])


def fill_task(config: TrainConfig, assets: dict, folder: str) -> TrainConfig:
    """`config` with the task of the checkpoint in `folder`, where it names none; else its audio settings must agree."""
    found = config_from_assets(assets).task
    if config.task is None:
        return dataclasses.replace(config, task=found)
    check_audio(found, config.task, folder)
    return config


def check_audio(found: CTCTaskConfig, wanted: CTCTaskConfig, folder: str) -> None:
    """UserError naming the first audio setting in which the checkpoint in `folder` differs from the config."""
    if fingerprint(found.audio) == fingerprint(wanted.audio):
        return
    for field in dataclasses.fields(found.audio):
        ours, theirs = getattr(wanted.audio, field.name), getattr(found.audio, field.name)
        if ours != theirs:
            raise UserError(
                f"{folder}: found a checkpoint with audio.{field.name} = {theirs!r}, expected {ours!r} as in the config"
            )


def load_teacher(config: TrainConfig, tokenizer: Tokenizer) -> Teacher:
    """The teacher. UserError unless its scores can be compared with the new recogniser's, frame by frame."""
    folder = config.teacher.checkpoint
    parts = load_recognizer_parts(folder)
    if not 0 <= config.teacher.weight <= 1 or config.teacher.temperature <= 0 or config.teacher.hidden < 0:
        raise UserError(f"teacher: found {config.teacher}, expected 0 <= weight <= 1, temperature > 0, hidden >= 0")
    if parts.tokenizer.pieces != tokenizer.pieces:
        raise UserError(f"{folder}: found a teacher with another vocabulary, expected the new recogniser's")
    check_audio(parts.task, config.task, folder)
    samples = 60 * config.task.audio.sample_rate
    theirs, ours = (output_frames(samples, task) for task in (parts.task, config.task))
    if theirs != ours:
        raise UserError(f"{folder}: found a teacher with {theirs} frames a minute, expected {ours}")
    network = build_model(parts.task, tokenizer.vocab_size)
    return Teacher(config.teacher, network, parts.params, parts.model_state)


def read_start(config: TrainConfig, stream: Stream, tokenizer: Tokenizer) -> Start:
    """What the run starts from: the checkpoint in `init_from`, as `start` says."""
    task = ctc_task(config.task, tokenizer)
    spec = task.batch_spec(stream.plan.buckets[0])
    return start_from(
        config.init_from,
        *init_shapes(task.model, spec, config.seed),
        which=config.start.which,
        fresh=config.start.fresh,
        drop=config.start.drop,
        init=lambda: init_values(task.model, spec, config.seed),
        tokens=(old_tokenizer(config).pieces, tokenizer.pieces),
        own_state=own_state,
    )


def adapt(config: TrainConfig, task: Task, init: tuple | None) -> tuple[Task, OptimizerConfig, tuple | None]:
    """(the task, the optimizer's settings, what to start from) with adapters in place of the whole network."""
    if not config.init_from:
        raise UserError("adapter: found no init_from, expected a checkpoint to adapt")
    if config.optimizer.groups != OptimizerConfig().groups:
        raise UserError("optimizer.groups: found them beside adapters, expected adapter.train to say what else moves")
    if config.optimizer.ewc or config.optimizer.anchor:
        raise UserError("optimizer: found anchor or ewc beside adapters, expected one of the two ways to hold on")
    if init is not None:
        params, model_state = init
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        init = {BASE: params, ADAPTER: init_adapters(key, params, config.adapter)}, model_state
    optimizer = dataclasses.replace(config.optimizer, groups=adapter_groups(config.adapter))
    return with_adapters(task, config.adapter), optimizer, init


def fisher_of(config: TrainConfig, task: Task, tokenizer: Tokenizer, init: tuple | None) -> PyTree:
    """How much each parameter of the start model matters on the old domain."""
    if not config.init_from or config.pre is None:
        raise UserError("optimizer.ewc: found no init_from or no pre, expected a start model and its old recordings")
    stream = load_stream(config.pre, tokenizer, config.task.audio.sample_rate)
    objective = task.objective.pre if isinstance(task.objective, Mix) else task.objective
    count = config.optimizer.ewc_batches
    log.info("Fisher information from %d batches of the old domain", count)
    feed = stream.feed(tokenizer)
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


# ---- Recordings


class Stream(NamedTuple):
    """Recordings and the plan of their batches."""

    config: DataConfig
    utterances: list[Utterance]
    plan: Plan
    seconds: np.ndarray
    labels: np.ndarray

    def feed(self, tokenizer: Tokenizer) -> Batches:
        """An endless stream of training batches; each host reads its own rows."""
        return Batches(lambda start: self._batches(tokenizer, start), self.plan.buckets)

    def one_pass(self, tokenizer: Tokenizer):
        """A function that makes one pass over the set."""
        return lambda: self._batches(tokenizer, 0)

    def _batches(self, tokenizer: Tokenizer, start: int):
        return batches(
            self.utterances,
            self.plan,
            tokenizer,
            self.config,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def load_stream(config: DataConfig, tokenizer: Tokenizer, sample_rate: int, *, shuffle: bool = True) -> Stream:
    """Reads the manifests of `config` and plans its batches: epochs without end, or one pass where not `shuffle`."""
    utterances = load_sources(config)
    seconds, labels = lengths(utterances, tokenizer)
    if shuffle:
        plan = make_plan(seconds, labels, config.plan, seed=config.seed, sample_rate=sample_rate)
    else:
        plan = eval_plan(seconds, labels, config.plan, sample_rate=sample_rate)
    return Stream(config, utterances, plan, seconds, labels)


def warn_of_misfits(name: str, stream: Stream, task: CTCTaskConfig) -> None:
    """Says how many transcripts have more labels than the network leaves frames: CTC cannot learn from them."""
    samples = (stream.seconds * task.audio.sample_rate).astype(np.int64)
    misfits = int(np.sum(stream.labels > output_frames(samples, task)))
    if misfits:
        log.warning(
            "%s: %d of %d transcripts have more labels than the network leaves frames and weigh nothing in the loss: "
            "a smaller task.model.subsampling_factor or a larger task.tokenizer.vocab_size would let them in",
            name, misfits, len(stream.labels),
        )  # fmt: skip


def audio_seconds(batch: Batch, sample_rate: int) -> tuple[float, float]:
    """Seconds of audio in a batch, without and with padding."""
    if "pre" in batch:
        parts = [audio_seconds(part, sample_rate) for part in batch.values()]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)
    return float(np.sum(batch["audio_lengths"])) / sample_rate, batch["audio"].size / sample_rate


if __name__ == "__main__":
    run_front_door(main)
