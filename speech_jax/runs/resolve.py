"""Resolve a run: which task it trains, what reads its texts, and which checkpoint decides both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speech_jax.artifacts.folder import read_model, read_row_seconds
from speech_jax.audio.config import check_same_audio
from speech_jax.config import TrainConfig
from speech_jax.core.claims import refuse_idle
from speech_jax.core.errors import UserError, did_you_mean
from speech_jax.core.log import log
from speech_jax.core.types import Checkpointed, Reader, StartRules, TaskConfig
from speech_jax.data.config import DataConfig
from speech_jax.data.speakers import named, speaker_table
from speech_jax.data.utterances import Utterances
from speech_jax.evaluation.normalization import LANGUAGES, primary_language
from speech_jax.finetuning.vocabulary import lost_letters, weigh_texts
from speech_jax.runs.claims import check_kept_reader, idle_in_start
from speech_jax.runs.resume import Saved, keep_old_seeds, saved_run
from speech_jax.runs.streams import Sources
from speech_jax.text.normalize import MOST_FOREIGN
from speech_jax.text.texts import Texts
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checkpoint import FOLDER, OpenCheckpoint, open_checkpoint, saved_steps
from speech_jax.training.checksums import hash_arrays
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.layout import read_item

SHOWN_LETTERS = 12


class Start(NamedTuple):
    """The checkpoint in `init_from`, opened once.

    Attributes:
        checkpoint: Where it lies; its parameters are read when they are needed.
        model: Its task, reader and speakers.
        rules: What the run's task takes from it.
    """

    checkpoint: OpenCheckpoint
    model: Checkpointed
    rules: StartRules


class Resolved(NamedTuple):
    """A run whose task is settled.

    Attributes:
        config: The config with its task filled in.
        reader: The tokenizer or front end; None where no text is read.
        speakers: Names of the speakers, for a voice or vocoder that learns several.
        start: The checkpoint that a new run starts from; None without one, and for a run that resumes.
        saved: The newest checkpoint of this run, if there is one.
        origin: Step and hash of the checkpoint that the run started from, which its checkpoints keep; None without one.
        row_seconds: Those of this run's checkpoint, or of the one that it starts from, 0 if it names none; None without
            a checkpoint.
    """

    config: TrainConfig
    reader: Reader | None
    speakers: tuple[str, ...] = ()
    start: Start | None = None
    saved: Saved | None = None
    origin: Mapping[str, str] | None = None
    row_seconds: float | None = None

    @property
    def resumes(self) -> bool:
        """True if there is a checkpoint of this run."""
        return self.saved is not None


def resumes(config: TrainConfig) -> bool:
    """Return True if there is a checkpoint of this run to resume from."""
    return bool(saved_steps(Path(config.out_dir) / FOLDER))


def check_settings(config: TrainConfig) -> None:
    """Raise UserError for settings that cannot go together. Needs no data; called again once the task is known."""
    optimizer = config.optimizer
    if optimizer.ewc and (not config.init_from or config.pre is None):
        raise UserError("optimizer.ewc: found no init_from or no pre, expected a start model and its old recordings")
    for name, present, accepts in (
        ("pre_task", config.pre_task is not None, "takes_pre_task"),
        ("teacher", bool(config.teacher.checkpoint), "takes_teacher"),
    ):
        if present and config.task is not None and not getattr(config.task, accepts):
            raise UserError(f"{name}: found one with a task that is no recognizer, expected a CTCTaskConfig in task")
    teacher = config.teacher
    if teacher.checkpoint and not (0 <= teacher.weight <= 1 and teacher.temperature > 0 and teacher.hidden >= 0):
        raise UserError(f"teacher: found {teacher}, expected 0 <= weight <= 1, temperature > 0, hidden >= 0")
    if config.task is not None and config.init_from:
        refuse_idle(config, idle_in_start(config))
    sets = [e.name for e in config.evaluate]
    metrics = {"trainer.checkpoint.metric": config.trainer.checkpoint.metric}
    metrics |= {f"trainer.guards.{i}.metric": guard.metric for i, guard in enumerate(config.trainer.guards)}
    for name, metric in metrics.items():
        if sets and metric is not None and metric.rpartition("/")[0] not in sets:
            near = did_you_mean(metric.rpartition("/")[0], sets)  # "old/wer" is not near "B/wer"
            raise UserError(f"{name}: found {metric!r}, expected a metric of one of the sets {', '.join(sets)}{near}")
    if config.pre_task is not None and config.pre is None and config.teacher.checkpoint:
        raise UserError("teacher: found one with a pre_task without pre, expected recordings in pre for it")
    if config.adapter.kind == "none":
        return
    if not config.init_from:
        raise UserError("adapter: found no init_from, expected a checkpoint to adapt")
    if optimizer.groups != OptimizerConfig().groups:
        raise UserError("optimizer.groups: found them with adapters, expected adapter.train to say what else moves")
    if optimizer.ewc or optimizer.anchor:
        raise UserError("optimizer: found anchor or ewc with adapters, expected one of the two ways against forgetting")


def task_of(config: TrainConfig) -> TaskConfig:
    """Return the task of a run: the config's, or that of its own checkpoint or of the one in `init_from`."""
    if config.task is not None:
        return config.task
    if resumes(config):
        return read_model(open_checkpoint(config.out_dir, "last")).task
    if not config.init_from:
        raise UserError("task: found None, expected a task, or a checkpoint to take it from in init_from")
    return read_model(open_checkpoint(config.init_from, config.start.which)).task


def resolve(config: TrainConfig, sources: Sources | None = None) -> Resolved:
    """Settle task, reader and speakers: those of the run that resumes, of the checkpoint to start from, or new ones.

    Args:
        config: The run's config; its task may be None.
        sources: Reads each manifest once; only new readers and speaker tables need it.

    Returns:
        The resolved run.

    Raises:
        UserError: If no task is named anywhere, if the checkpoint's audio settings, symbols or speakers conflict with
            the config's, or if a new tokenizer's language is not known or loses letters of the texts.
    """
    sources = sources or Sources()

    # DO NOT CHANGE THE ORDER. A run that is there decides everything: it must resume as it began, whatever `init_from`
    # has become. Next comes the start checkpoint, and only what neither says is made from the recordings.
    if resumes(config):
        checkpoint = open_checkpoint(config.out_dir, "last")
        model = read_model(checkpoint)
        record = read_item(checkpoint.folder, "data")
        saved = saved_run(config.out_dir, int(checkpoint.folder.name), record, checkpoint.assets)
        if config.task is None:
            config = dataclasses.replace(config, task=model.task)
            check_settings(config)
        config = keep_old_seeds(_with_speakers(config, model.speakers), saved)
        origin, seconds = checkpoint.assets.get("start"), read_row_seconds(checkpoint)
        return Resolved(config, model.reader, model.speakers, saved=saved, origin=origin, row_seconds=seconds)

    if not config.init_from:
        task_of(config)  # refuses a run that has none
        speakers = _new_speakers(config, (), sources)
        return Resolved(_with_speakers(config, speakers), _new_reader(config, sources), speakers)

    checkpoint = open_checkpoint(config.init_from, config.start.which)
    model = read_model(checkpoint)
    config = _with_task(config, model, config.init_from, sources)
    speakers = _new_speakers(config, model.speakers, sources)
    config = _with_speakers(config, speakers)
    start = Start(checkpoint, model, config.task.start_rules(model))
    keeps = config.start.tokenizer == "keep" and start.rules.keeps_reader
    if keeps and start.rules.conflict:
        raise UserError(
            f"{config.init_from}: {start.rules.conflict}; expected the same, or start.tokenizer 'new' to move what "
            "was learned to the symbols that both have"
        )
    if keeps and model.reader is not None:
        check_kept_reader(config, model.task)
    reader = model.reader if keeps and model.reader is not None else _new_reader(config, sources)
    if reader is None:
        refuse_idle(config, {"start.tokenizer": "in a task that reads no text"})
    origin = {"step": checkpoint.folder.name, "sha256": hash_arrays(checkpoint.folder)}
    return Resolved(config, reader, speakers, start, origin=origin, row_seconds=read_row_seconds(checkpoint))


def open_start(run: Resolved) -> Start:
    """Open the checkpoint that a run which resumes has started from.

    Raises UserError if it is gone, or another one lies there now.
    """
    config, origin = run.config, run.origin or {}
    step = origin.get("step", "")  # no number if init_from is a step's folder of another name
    checkpoint = open_checkpoint(config.init_from, int(step) if step.isdecimal() else config.start.which)
    if origin and hash_arrays(checkpoint.folder) != origin["sha256"]:
        raise UserError(
            f"{config.init_from}: found other parameters than those that this run started from (step {step}), "
            "expected the same checkpoint"
        )
    model = read_model(checkpoint)
    return Start(checkpoint, model, config.task.start_rules(model))


def _with_task(config: TrainConfig, model: Checkpointed, folder: str, sources: Sources) -> TrainConfig:
    """Return the config with the checkpoint's task where it names none; else the audio settings must agree.

    A new tokenizer takes the language and the alphabet of the texts, not those of the checkpoint.
    """
    if config.task is None:
        task: Any = model.task
        if config.start.tokenizer == "new" and hasattr(task, "tokenizer"):
            language = _language_of_texts(sources.load(config.data, "data"))
            task = dataclasses.replace(
                task, tokenizer=dataclasses.replace(task.tokenizer, language=language, alphabet="")
            )
        config = dataclasses.replace(config, task=task)
        check_settings(config)
    else:
        check_same_audio(model.task.audio, config.task.audio, folder, "the config")
    return config


def _streams(config: TrainConfig) -> dict[str, DataConfig]:
    return {"data": config.data} if config.pre is None else {"data": config.data, "pre": config.pre}


def _languages(utterances: Utterances) -> set[str]:
    names = utterances.languages
    return {primary_language(names.names[code]) for code in np.unique(names.codes).tolist()}


def _language_of_texts(utterances: Utterances) -> str:
    """Return the language that the rows of the task's recordings name; raise UserError if they do not name one."""
    names = _languages(utterances)
    language = "".join(names)
    if len(names) == 1 and language in LANGUAGES:
        return language
    found = f"{' and '.join(sorted(filter(None, names)))}{' and rows without one' if '' in names else ''}"
    found = "none" if names == {""} else found
    raise UserError(
        f"task.tokenizer.language: found {found} in the rows of data ({utterances[0].where}), expected the language of "
        "the texts that the new tokenizer is made from: --task.tokenizer.language de, or none, which only removes "
        "capitals and punctuation"
    )


def _new_reader(config: TrainConfig, sources: Sources) -> Reader | None:
    """Return a new reader for the task, made from the texts of both streams.

    In a run from a checkpoint the texts of `pre` count with the weight alpha, and not at all where it is 0.
    """
    streams = _streams(config)
    moves = bool(config.init_from) and config.start.tokenizer == "new"
    alpha = config.alpha.start if config.alpha.kind == "constant" else (config.alpha.start + config.alpha.end) / 2
    if moves and alpha == 0:
        streams.pop("pre", None)
    pieces = getattr(getattr(config.task, "tokenizer", None), "kind", "char") != "char"

    def read() -> Texts:
        texts = [sources.load(stream, flag).texts for flag, stream in streams.items()]
        if moves and pieces and len(texts) == 2:
            return weigh_texts(texts[0], texts[1], alpha)
        return sum(texts[1:], texts[0])

    reader = config.task.make_reader(read)
    if isinstance(reader, Tokenizer):
        for flag, stream in streams.items():
            _check_letters(flag, sources.load(stream, flag), reader, refuse=moves)
    return reader


def _check_letters(flag: str, utterances: Utterances, tokenizer: Tokenizer, *, refuse: bool) -> None:
    """Say which letters of the texts no label stands for; raise UserError if they are more than foreign words have.

    Args:
        flag: name of the stream.
        utterances: its rows.
        tokenizer: the new tokenizer.
        refuse: raise for letters that lose their accent; otherwise only those that the tokenizer lacks are an error.
    """
    lost = lost_letters(utterances.texts, tokenizer)
    if not lost:
        return
    letters = ", ".join(f"{letter!r} {count}" for letter, count in lost.most_common(SHOWN_LETTERS))
    letters += f" and {len(lost) - SHOWN_LETTERS} more" if len(lost) > SHOWN_LETTERS else ""
    if tokenizer.language != "en":
        raise UserError(
            f"task.tokenizer.alphabet: found no {letters} of the texts of {flag}, expected all their characters, or '' "
            "to take them from the texts"
        )
    share = lost.total() / max(1, int(utterances.texts.characters("none").counts.sum()))
    said = _languages(utterances) == {"en"}
    counts = f"{lost.total()} letters ({share:.1%}) of the texts of {flag} that English rules write without accents"
    if refuse and share >= MOST_FOREIGN and not said:
        raise UserError(
            f"task.tokenizer.language: found 'en', with {counts}: {letters}; expected the language of the texts, or "
            "rows whose language is en"
        )
    log.warning("task.tokenizer.language: %s: %s", counts, letters)


def _new_speakers(config: TrainConfig, old: tuple[str, ...], sources: Sources) -> tuple[str, ...]:
    """Return the names of the speakers, if the task learns several: the checkpoint's, then those it lacks."""
    task: Any = config.task  # one with named speakers has a field `speakers`
    if not task.named_speakers:
        return ()
    if task.speakers != "data":
        if old:
            speakers = f"a table of speakers ({named(old)}) and task.speakers {task.speakers!r}"
            raise UserError(f'{config.init_from}: found {speakers}, expected "data"')
        return ()
    if config.init_from and config.start.speakers == "keep":
        if not old:
            raise UserError(f'{config.init_from}: found no table of speakers, expected start.speakers "add" or "new"')
        return old
    streams = _streams(config)
    names = sorted({name for flag, stream in streams.items() for name in speaker_table(sources.load(stream, flag))})
    return tuple(names) if config.start.speakers == "new" else old + tuple(name for name in names if name not in old)


def _with_speakers(config: TrainConfig, speakers: tuple[str, ...]) -> TrainConfig:
    """Return the config whose network has a vector for each speaker."""
    if not (speakers and config.task.named_speakers):
        return config
    return dataclasses.replace(config, task=config.task.with_speakers(len(speakers)))
