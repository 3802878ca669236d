"""Top-level training config; nests every component's config."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from speech_jax.audio.config import fingerprint
from speech_jax.core.config_dict import from_dict, mask_config, new_field, to_saved_dict
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
    """Evaluation set.

    Example:
        >>> from speech_jax.config import EvalConfig
        >>> from speech_jax.data.config import DataConfig, SourceConfig
        >>> dev = EvalConfig("dev", DataConfig(sources=(SourceConfig(path="dev.jsonl"),)))
        >>> dev.name, dev.data.sources[0].path
        ('dev', 'dev.jsonl')
    """

    name: str
    """Name of the set; metrics are logged as NAME/METRIC."""
    data: DataConfig
    """Recordings; each utterance is evaluated once, in order of length."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training run: L = alpha · L_pre + (1 − alpha) · L_task, from scratch or from a checkpoint.

    Example:
        >>> from speech_jax.config import TrainConfig
        >>> from speech_jax.core.config_dict import from_dict, to_dict
        >>> from speech_jax.data.config import DataConfig, SourceConfig
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.objectives.config import AlphaConfig
        >>> from speech_jax.tasks.ctc import CTCTaskConfig
        >>> config = TrainConfig(
        ...     out_dir="runs/small",
        ...     data=DataConfig(sources=(SourceConfig(path="new.jsonl"),)),
        ...     pre=DataConfig(sources=(SourceConfig(path="old.jsonl"),)),
        ...     task=CTCTaskConfig(model=ConformerConfig(width=64, layers=4)),
        ...     alpha=AlphaConfig(start=0.3),  # fine-tune on new.jsonl, with 30 % of the loss on old.jsonl
        ... )
        >>> from_dict(TrainConfig, to_dict(config)) == config
        True
    """

    out_dir: str
    """Folder of the run: checkpoints, logs, resolved config. A run that is there is resumed, if its settings allow."""
    data: DataConfig
    """Recordings of L_task."""
    task: CTCTaskConfig | PretrainTaskConfig | Tacotron2TaskConfig | WaveNetTaskConfig | TaskConfig | None = None
    """Task: a recognizer, an encoder pre-trained without text, a voice, or a vocoder. None takes the task of the
    checkpoint in `init_from`."""
    pre: DataConfig | None = None
    """Recordings of the old domain for L_pre; None trains on `data` alone."""
    pre_task: PretrainTaskConfig | None = None
    """Unsupervised loss of the recognizer's encoder as L_pre, on `pre`; without `pre` on the recordings of `data`, in
    the same forward pass. None uses the task's own loss as L_pre."""
    alpha: AlphaConfig = AlphaConfig()
    """Weight of L_pre over the steps."""
    evaluate: tuple[EvalConfig, ...] = ()
    """Evaluation sets."""
    init_from: str = ""
    """Checkpoint folder to start from: its weights and tokenizer are taken (see `start`), and `task` must fit it. Empty
    starts from scratch."""
    start: StartConfig = StartConfig()
    """Parts of the `init_from` checkpoint that are kept or reinitialized."""
    adapter: AdapterConfig = AdapterConfig()
    """Low-rank adapters, trained instead of the whole network."""
    teacher: TeacherConfig = TeacherConfig()
    """Teacher: a recognizer whose outputs the trained model imitates."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer, learning rate, weight decay, frozen parameters."""
    mesh: MeshConfig = MeshConfig()
    """Arrangement of the devices."""
    hosts: HostsConfig = new_field(HostsConfig())
    """Rendezvous of the processes of a run on several hosts."""
    trainer: TrainerConfig = TrainerConfig()
    """Steps, evaluation, checkpoints, logging."""
    seed: int = 0
    """Seed of initialization, order of the data, dropout, augmentation and noise, of both `data` and `pre`."""


def load_config_file(path: str) -> TrainConfig:
    """Run a Python file and return its variable `config`. The file can import modules that lie in its folder.

    Raises UserError if the file fails, or if `config` is not a TrainConfig.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such config file")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides nothing; for good, as worker processes import from there too
    try:
        config = runpy.run_path(path).get("config")
    except UserError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = f"{path}:{frames[-1].lineno}" if frames else f"{path}:{getattr(error, 'lineno', 1)}"
        raise UserError(f"{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise UserError(f"{path}: found config = {type(config).__name__}, expected a TrainConfig called `config`")
    return config


def parse_config(argv: Sequence[str]) -> TrainConfig:
    """Parse `--config FILE` and flags that change single fields, such as `--optimizer.peak-lr 1e-3`.

    Args:
        argv: The command line without the program's name.

    Returns:
        The config.

    Raises:
        UserError: If there is no `--config`, or the file cannot be used.
    """
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
    parse = functools.partial(
        tyro.cli,
        _with_task_of(default),
        prog="python -m speech_jax.train --config FILE",
        description=(TrainConfig.__doc__ or "").partition("\n")[0],
        config=(tyro.conf.AvoidSubcommands,),
    )
    parsed = _parse_in_private(parse, default, argv)
    return TrainConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(TrainConfig)})


def _parse_in_private(parse: Callable, default: TrainConfig, argv: list[str]) -> TrainConfig:
    """Call `parse`, and show no password in its help, which has the defaults, and in its errors, which have flags."""
    shown, words = mask_config(default), list(mask_config(tuple(argv)))
    if shown is default and words == argv:
        return parse(default=default, args=argv)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return parse(default=default, args=argv)
    except SystemExit:
        parse(default=shown, args=words)  # ends in the same way
        raise


def _with_task_of(default: TrainConfig | Any) -> type[TrainConfig]:
    """Return TrainConfig with its `task` declared as the default's own type, which need not be one of the union."""
    if getattr(default, "task", None) is None:
        return TrainConfig
    body = {"__annotations__": {"task": type(default.task)}, "task": default.task, "__doc__": TrainConfig.__doc__}
    body["__module__"] = TrainConfig.__module__
    return dataclasses.dataclass(frozen=True)(type("TrainConfig", (TrainConfig,), body))


def config_from_assets(assets: dict) -> TrainConfig:
    """Return the resolved config of a checkpoint folder."""
    return from_dict(TrainConfig, assets["config"])


def make_assets(config: TrainConfig, tokenizer: Reader | None, speakers: tuple[str, ...] = ()) -> dict:
    """Return the JSON that a checkpoint folder holds in addition to the parameters.

    Args:
        config: The resolved config.
        tokenizer: Tokenizer or front end; None where no text is read.
        speakers: Names of the speakers, for a voice or vocoder of several.

    Returns:
        Config without passwords, tokenizer, speakers, fingerprint of the audio settings, and library versions.
    """
    optional = ({} if tokenizer is None else {"tokenizer": tokenizer.to_json()}) | (
        {"speakers": list(speakers)} if speakers else {}
    )
    task = config.task
    assert task is not None  # that of a resolved config
    return optional | {
        "config": to_saved_dict(config),
        "audio_fingerprint": fingerprint(task.audio),
        "versions": {"speech_jax": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
