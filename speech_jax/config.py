"""The config of a training run: one frozen dataclass that holds one of every room's."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from speech_jax.audio.config import fingerprint
from speech_jax.core.config_dict import from_dict, new_field, to_dict
from speech_jax.core.errors import UserError
from speech_jax.core.types import Reader, TaskConfig
from speech_jax.core.version import __version__
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.finetuning.config import AdapterConfig, StartConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.tasks.ctc import CTCTaskConfig, TeacherConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.training.config import HostsConfig, MeshConfig, OptimizerConfig, TrainerConfig

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "soxr", "soundfile")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """One evaluation set."""

    name: str
    """Its name in the logs: `wer/NAME`."""
    data: DataConfig
    """Its recordings; every utterance is used once, in order of length."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run: L = alpha · L_pre + (1 − alpha) · L_task, from scratch or from a checkpoint."""

    out_dir: str
    """The run's folder: checkpoints, logs, the resolved config. A run that is already there is resumed."""
    data: DataConfig
    """Recordings of the task, L_task."""
    task: CTCTaskConfig | PretrainTaskConfig | Tacotron2TaskConfig | WaveNetTaskConfig | TaskConfig | None = None
    """What is learned: a recognizer, an encoder from recordings without text, a voice, or a vocoder. None takes it
    from `init_from`."""
    pre: DataConfig | None = None
    """Recordings of the old domain, L_pre; None trains on those of the task alone."""
    pre_task: PretrainTaskConfig | None = None
    """L_pre is this unsupervised loss of the recognizer's encoder, on `pre`; without `pre` on the task's recordings, in
    the same forward pass. None is the task's own loss."""
    alpha: AlphaConfig = AlphaConfig()
    """The weight of L_pre over the steps."""
    evaluate: tuple[EvalConfig, ...] = ()
    """Sets on which the model is measured during training."""
    init_from: str = ""
    """A checkpoint folder to start from: its weights and tokenizer are taken (see `start`), and `task` must fit it."""
    start: StartConfig = StartConfig()
    """What is taken from there, what is new, and whether the vocabulary changes."""
    adapter: AdapterConfig = AdapterConfig()
    """Low-rank adapters that are trained instead of the whole network."""
    teacher: TeacherConfig = TeacherConfig()
    """A recognizer whose scores the new one is pulled to."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer, learning rate, weight decay, what is frozen."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    hosts: HostsConfig = new_field(HostsConfig())
    """How the processes of a run find each other, where there are several."""
    trainer: TrainerConfig = TrainerConfig()
    """Steps, evaluation, checkpoints, logging."""
    seed: int = 0
    """Seed of initialization, data order, augmentation and dropout."""


def load_config_file(path: str) -> TrainConfig:
    """Runs the Python file and returns the TrainConfig that it calls `config`."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such config file")
    try:
        found = runpy.run_path(path).get("config")
    except UserError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = f"{path}:{frames[-1].lineno}" if frames else f"{path}:{getattr(error, 'lineno', 1)}"
        raise UserError(f"{line}: {type(error).__name__}: {error}") from error
    if not isinstance(found, TrainConfig):
        raise UserError(f"{path}: found config = {type(found).__name__}, expected a TrainConfig called `config`")
    return found


def parse_config(argv: Sequence[str]) -> TrainConfig:
    """`--config FILE` and one flag for every field, `--optimizer.peak-lr 1e-3`, with its docstring as help."""
    argv = list(argv)
    path = None
    for position, word in enumerate(argv):
        if word == "--config" and position + 1 < len(argv):
            path = argv[position + 1]
            del argv[position : position + 2]
            break
        if word.startswith("--config="):
            path = word.removeprefix("--config=")
            del argv[position]
            break
    if not path and not any(word in ("-h", "--help") or word.startswith("--tyro-") for word in argv):
        raise UserError("found no --config, expected --config FILE, a Python file with `config = TrainConfig(…)`")
    example = TrainConfig(out_dir="runs/NAME", data=DataConfig(sources=(SourceConfig(path="train.jsonl"),)))
    default = load_config_file(path) if path else example  # for --help and shell completion
    parsed = tyro.cli(
        _with_task_of(default),
        prog="python -m speech_jax.train --config FILE",
        description=TrainConfig.__doc__,
        default=default,
        args=argv,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return TrainConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(TrainConfig)})


def _with_task_of(default: TrainConfig | Any) -> type[TrainConfig]:
    """Return TrainConfig with its `task` declared as the default's own type, which need not be one of the union."""
    if getattr(default, "task", None) is None:
        return TrainConfig
    body = {"__annotations__": {"task": type(default.task)}, "task": default.task, "__doc__": TrainConfig.__doc__}
    body["__module__"] = TrainConfig.__module__
    return dataclasses.dataclass(frozen=True)(type("TrainConfig", (TrainConfig,), body))


def config_from_assets(assets: dict) -> TrainConfig:
    """The resolved config that a checkpoint folder carries."""
    return from_dict(TrainConfig, assets["config"])


def make_assets(config: TrainConfig, tokenizer: Reader | None, speakers: tuple[str, ...] = ()) -> dict:
    """What a checkpoint folder carries beside the parameters, so that no front door needs a second argument."""
    beside = ({} if tokenizer is None else {"tokenizer": tokenizer.to_json()}) | (
        {"speakers": list(speakers)} if speakers else {}
    )
    task = config.task
    assert task is not None  # that of a resolved config
    return beside | {
        "config": to_dict(config),
        "audio_fingerprint": fingerprint(task.audio),
        "versions": {"speech_jax": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
