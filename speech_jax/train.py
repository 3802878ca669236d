"""`python -m speech_jax.train --config configs/X.py`: trains a model, or goes on with a run that is already there.

The story of a run: config → recordings → task → state and loop (training/loop.py). All that the checkpoint folder
has to know goes with it as assets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from speech_jax.audio.config import AudioConfig
from speech_jax.config import TrainConfig, make_assets, parse_config
from speech_jax.config_dict import to_text
from speech_jax.data.config import DataConfig
from speech_jax.data.manifest import Utterance, shared_recording
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import Plan, eval_plan, left_out, lengths, make_plan
from speech_jax.data.sources import load_sources
from speech_jax.data.speakers import speaker_ids
from speech_jax.errors import UserError, run_front_door
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
from speech_jax.tasks.ctc import CTCTaskConfig, output_frames, with_teacher
from speech_jax.tasks.pretrain import shared_objective
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.feed import Batches, Feed, PairedBatches
from speech_jax.training.loop import FitResult, fit
from speech_jax.training.state import init_values
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
    check_settings(config)
    config, tokenizer, speakers = resolve(config)
    alpha = make_alpha(config.alpha)
    replays = config.pre is not None and alpha != 0.0

    # ---- Recordings.
    rate = config.task.audio.sample_rate
    options = {"speakers": speakers, "frame_rate": frames_a_second(config), "mels": mels_of(config)}
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


# ---- Recordings


class Stream(NamedTuple):
    """Recordings and the plan of their batches."""

    config: DataConfig
    utterances: list[Utterance]
    plan: Plan
    seconds: np.ndarray
    labels: np.ndarray
    tokenizer: Tokenizer | None
    mels: AudioConfig | None = None
    speakers: np.ndarray | None = None

    def feed(self) -> Batches:
        """An endless stream of training batches; each host reads its own rows."""
        return Batches(self._batches, self.plan.buckets)

    def one_pass(self):
        """A function that makes one pass over the set."""
        return lambda: self._batches(0)

    def _batches(self, start: int):
        return batches(
            self.utterances,
            self.plan,
            self.tokenizer,
            self.config,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            mels=self.mels,
            speakers=self.speakers,
        )


def load_stream(
    config: DataConfig,
    tokenizer: Tokenizer | None,
    sample_rate: int,
    *,
    shuffle: bool = True,
    speakers: tuple[str, ...] = (),
    frame_rate: float = 0.0,
    mels: AudioConfig | None = None,
) -> Stream:
    """Reads the manifests of `config` and plans its batches: epochs without end, or one pass where not `shuffle`.

    speakers: the names of a voice that has several; every utterance must be by one of them.
    frame_rate: a voice's frames a second. A text with more symbols than its recording has frames is not what is said
    there: it is named and left out of training.
    mels: whose features the rows' own mel files must hold, for a vocoder that learns from them."""
    utterances = load_sources(config)
    numbers = speaker_ids(utterances, speakers) if speakers else None
    seconds, labels = lengths(utterances, tokenizer)
    if shuffle and frame_rate:
        fits = that_fit(utterances, seconds, labels, frame_rate)
        utterances, seconds, labels = [utterances[row] for row in fits], seconds[fits], labels[fits]
        numbers = numbers if numbers is None else numbers[fits]
    if shuffle:
        plan = make_plan(seconds, labels, config.plan, seed=config.seed, sample_rate=sample_rate)
    else:
        plan = eval_plan(seconds, labels, config.plan, sample_rate=sample_rate)
    return Stream(config, utterances, plan, seconds, labels, tokenizer, mels, numbers)


def mels_of(config: TrainConfig) -> AudioConfig | None:
    """Whose features the recordings' own mel files must hold, where the task learns from those."""
    of_files = isinstance(config.task, WaveNetTaskConfig) and config.task.mels == "manifest"
    return config.task.audio if of_files else None


def frames_a_second(config: TrainConfig) -> float:
    """Frames a second of a voice; 0 for a task whose network need not make as many frames as there are labels."""
    audio = config.task.audio
    return audio.sample_rate / audio.hop if isinstance(config.task, Tacotron2TaskConfig) else 0.0


def that_fit(utterances: list[Utterance], seconds: np.ndarray, labels: np.ndarray, frame_rate: float) -> np.ndarray:
    """The rows whose text has no more symbols than the recording has frames; the others are named in warnings. Raises
    UserError, with the first of them, if none is left."""
    misfits = np.flatnonzero(labels > seconds * frame_rate)  # none without a length, which the plan leaves out
    found = [
        f"{utterances[row].where}: {utterances[row].id}: found {labels[row]} symbols in {seconds[row]:.2f} s, "
        f"{int(seconds[row] * frame_rate)} frames, expected at most one a frame"
        for row in misfits
    ]
    if len(misfits) == len(utterances):
        raise UserError(f"{found[0]} (and so all {len(utterances)} utterances)")
    for line in found[:LEFT_OUT_SHOWN]:
        log.warning("left out: %s", line)
    if len(found) > LEFT_OUT_SHOWN:
        log.warning("left out: %d more texts with more symbols than frames", len(found) - LEFT_OUT_SHOWN)
    return np.setdiff1d(np.arange(len(utterances)), misfits)


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


def check_unseen(name: str, stream: Stream, eval_streams: dict[str, Stream]) -> None:
    """UserError if the replayed stream has a recording of an evaluation set: what is kept would be what was drilled.
    The task's own stream may be measured on purpose, so that one is warned of."""
    for set_name, held_out in eval_streams.items():
        found = shared_recording(stream.utterances, held_out.utterances)
        if found is not None:
            line = (
                f"{found[0].where}: found a recording that the evaluation set {set_name!r} has too ({found[1].where})"
            )
            if name == "pre":
                raise UserError(f"pre: {line}, expected none")
            log.warning("%s: %s: its error rate is not that of unseen speech", name, line)


def audio_seconds(batch: Batch, sample_rate: int) -> tuple[float, float]:
    """Seconds of audio in a batch, without and with padding."""
    if "pre" in batch:
        parts = [audio_seconds(part, sample_rate) for part in batch.values()]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)
    return float(np.sum(batch["audio_lengths"])) / sample_rate, batch["audio"].size / sample_rate


if __name__ == "__main__":
    run_front_door(main)
