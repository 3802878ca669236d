"""The objective of a run: the task's loss, L_pre, and a teacher."""

from __future__ import annotations

from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.audio.config import fingerprint
from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.core.types import Objective, Task
from speech_jax.objectives.mix import mix
from speech_jax.objectives.schedules import make_alpha
from speech_jax.runs.resolve import Reader, check_audio
from speech_jax.tasks.ctc import Teacher, build_model, ctc_task, output_frames
from speech_jax.tasks.pretrain import PretrainTaskConfig, pretrain_task, shared_objective, with_pretext
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig, tacotron2_task
from speech_jax.tasks.wavenet import WaveNetTaskConfig, wavenet_task
from speech_jax.text.tokenizer import Tokenizer


def make_task(config: TrainConfig, tokenizer: Reader | None, teacher: Teacher | None = None) -> Task:
    """The task alone, without L_pre; with the parameters of an unsupervised L_pre where there is one."""
    if isinstance(config.task, PretrainTaskConfig):
        return pretrain_task(config.task)
    if isinstance(config.task, Tacotron2TaskConfig):
        return tacotron2_task(config.task, tokenizer)
    if isinstance(config.task, WaveNetTaskConfig):
        return wavenet_task(config.task)
    task = ctc_task(config.task, tokenizer, teacher)
    if config.pre_task is None:
        return task
    if config.task.model != config.pre_task.model:
        raise UserError("pre_task: found another network than the task's, expected the same task.model")
    if fingerprint(config.task.audio) != fingerprint(config.pre_task.audio):
        raise UserError("pre_task: found other audio settings than the task's, expected the same")
    return with_pretext(task, pretrain_task(config.pre_task))


def replays(config: TrainConfig) -> bool:
    """Whether L_pre hears recordings of its own."""
    return config.pre is not None and make_alpha(config.alpha) != 0.0


def old_objective(config: TrainConfig, task: Task) -> Objective:
    """L_pre on recordings of its own: the task's loss, or an unsupervised one."""
    return task.objective if config.pre_task is None else pretrain_task(config.pre_task).objective


def with_old_term(config: TrainConfig, task: Task, tokenizer: Reader | None) -> Task:
    """`task` with L_pre in its loss, if the run has one: on recordings of its own, or on the task's from one pass."""
    alpha = make_alpha(config.alpha)
    if replays(config):
        return task._replace(objective=mix(old_objective(config, task), task.objective, alpha))
    if config.pre_task is not None and alpha != 0.0:
        return task._replace(objective=shared_objective(config.task, config.pre_task, tokenizer, alpha))
    return task


def load_teacher(config: TrainConfig, tokenizer: Tokenizer) -> Teacher:
    """The teacher. UserError unless its scores can be compared with the new recognizer's, frame by frame."""
    folder = config.teacher.checkpoint
    parts = load_recognizer_parts(folder)
    if not 0 <= config.teacher.weight <= 1 or config.teacher.temperature <= 0 or config.teacher.hidden < 0:
        raise UserError(f"teacher: found {config.teacher}, expected 0 <= weight <= 1, temperature > 0, hidden >= 0")
    if parts.tokenizer.pieces != tokenizer.pieces:
        raise UserError(f"{folder}: found a teacher with another vocabulary, expected the new recognizer's")
    check_audio(parts.task, config.task, folder)
    samples = 60 * config.task.audio.sample_rate
    theirs, ours = (output_frames(samples, task) for task in (parts.task, config.task))
    if theirs != ours:
        raise UserError(f"{folder}: found a teacher with {theirs} frames a minute, expected {ours}")
    network = build_model(parts.task, tokenizer.vocab_size)
    return Teacher(config.teacher, network, parts.params, parts.model_state)
