"""Build what a run minimizes: the task's loss, L_pre, and a teacher."""

from __future__ import annotations

from typing import Any, NamedTuple

from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.audio.config import check_same_audio
from speech_jax.config import TrainConfig
from speech_jax.core.config_dict import describe_differences, differences
from speech_jax.core.errors import UserError
from speech_jax.core.types import Objective, Reader, Task
from speech_jax.objectives.mix import mix
from speech_jax.objectives.schedules import make_alpha
from speech_jax.tasks.ctc_task import Teacher, build_model, output_frames
from speech_jax.tasks.pretrain_task import shared_objective, with_pretext


class RunTask(NamedTuple):
    """The task of a run, built once.

    Attributes:
        task: Model and evaluation, with L_pre in the objective if the run has one.
        old: L_pre alone, as a loss on recordings of its own.
    """

    task: Task
    old: Objective


def build_task(config: TrainConfig, reader: Reader | None, teacher: Teacher | None = None) -> RunTask:
    """Build the task of a run, with both terms of its loss.

    L_pre is the task's own loss or the unsupervised loss of `pre_task`, on recordings of its own (`pre`) or, for the
    latter, on the task's recordings from the same forward pass.

    Args:
        config: The config with its task.
        reader: The task's tokenizer or front end.
        teacher: A recognizer whose scores the new one is pulled to.

    Returns:
        The task, and L_pre alone.

    Raises:
        UserError: If `pre_task` is not of the task's network and audio settings.
    """
    config_task: Any = config.task  # its own reader is what it is handed
    task = config_task.build(reader, teacher)
    old = task.objective
    if config.pre_task is not None:
        differing = differences(config.pre_task.model, config.task.model, "model")
        if differing:
            found = describe_differences(differing)
            raise UserError(f"pre_task and task: found {found}, expected the same network")
        check_same_audio(config.pre_task.audio, config.task.audio, "pre_task", "the task")
        pretext = config.pre_task.build(None)
        task, old = with_pretext(task, pretext), pretext.objective
    alpha = make_alpha(config.alpha)
    if replays(config):
        task = task._replace(objective=mix(old, task.objective, alpha))
    elif config.pre_task is not None and alpha != 0.0:
        tokenizer: Any = reader  # the task takes a `pre_task`, so it is a recognizer
        task = task._replace(objective=shared_objective(config_task, config.pre_task, tokenizer, alpha))
    return RunTask(task, old)


def replays(config: TrainConfig) -> bool:
    """Return True if L_pre has recordings of its own and a weight that is not always 0."""
    return config.pre is not None and make_alpha(config.alpha) != 0.0


def load_teacher(config: TrainConfig, reader: Reader) -> Teacher:
    """Load the teacher.

    Raises UserError unless its scores can be compared with the new recognizer's, frame by frame.
    """
    folder = config.teacher.checkpoint
    parts = load_recognizer_parts(folder)
    if parts.tokenizer.pieces != reader.pieces:
        raise UserError(f"{folder}: found a teacher with another vocabulary, expected the new recognizer's")
    check_same_audio(parts.task.audio, config.task.audio, folder, "the config")
    samples = 60 * config.task.audio.sample_rate
    task: Any = config.task  # a recognizer: it takes a teacher
    frames, expected = output_frames(samples, parts.task), output_frames(samples, task)
    if frames != expected:
        raise UserError(f"{folder}: found a teacher with {frames} frames per minute, expected {expected}")
    network = build_model(parts.task, reader.vocab_size)
    return Teacher(config.teacher, network, parts.params, parts.model_state)
