"""Top-level training config; nests every component's config."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro

from speech_jax.audio.config import fingerprint
from speech_jax.core.command_line import parse
from speech_jax.core.config_dict import from_dict, mask_config, new_field, to_saved_dict
from speech_jax.core.config_files import config_names, find_config
from speech_jax.core.config_flags import extend
from speech_jax.core.config_help import overview, print_group
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

PROGRAM = "python -m speech_jax.train"
COMMON = {  # the flags that --help shows first
    "out-dir": "Folder of the run. The same command resumes the run that is in it.",
    "data.sources.0.path": "Recordings to learn: a manifest that `prepare` writes.",
    "pre.sources.0.path": "Recordings of the old domain.",
    "alpha.start": "Weight of the old domain in the loss, 0 to 1.",
    "init-from": "Checkpoint folder to fine-tune; empty starts from scratch.",
    "trainer.steps": "Steps of the run.",
    "trainer.eval-every": "Steps between evaluations.",
    "trainer.checkpoint.metric": "Metric of the best checkpoint, such as new/wer.",
    "optimizer.peak-lr": "Highest learning rate.",
    "data.plan.seconds-per-batch": "Seconds of audio per batch.",
    "seed": "Seed of everything that is random.",
}
NOTES = {  # groups of which --help says this instead of the flags of `data` again
    "pre": "the flags of data, with pre in place of data. Where the config has no pre, --pre.sources.0.path FILE makes "
    "it, with the settings of data; --pre None turns it off.",
    "evaluate": "--evaluate.0.name NAME, and --evaluate.0.data with the flags of data; 1 is the second set. A number "
    "one past the last adds a set: --evaluate.2.name X --evaluate.2.data.sources.0.path X.jsonl; --evaluate None drops "
    "all sets.",
}
NO_TASK = (
    "its flags are those of the config's task: --config NAME --help task. A config without a task takes that of the "
    "checkpoint in init_from, which these flags change."
)
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

    Args:
        path: The file, or its name, see `find_config`.

    Raises:
        UserError: If there is no such file, if it fails, or if `config` is not a TrainConfig.
    """
    path = find_config(path)
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides nothing; for good, as worker processes import from there too
    try:
        config = runpy.run_path(path).get("config")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = f"{path}:{frames[-1].lineno}" if frames else f"{path}:{getattr(error, 'lineno', 1)}"
        raise UserError(f"{line}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(config, TrainConfig):
        raise UserError(f"{path}: found config = {type(config).__name__}, expected a TrainConfig called `config`")
    return config


def parse_config(argv: Sequence[str]) -> TrainConfig:
    """Parse `--config FILE` and flags that change single fields, such as `--optimizer.peak-lr 1e-3`.

    Flags also add to a list and fill what the config leaves out, see `core.config_flags`. `--help` prints an overview,
    `--help GROUP` the flags of one group, with the values of the config if one is given, and exits.

    Args:
        argv: The command line without the program's name.

    Returns:
        The config.

    Raises:
        UserError: If there is no `--config`, or the file cannot be used.
    """
    argv = list(argv)
    path = _take_value(argv, "--config")
    if path and _take_value(list(argv), "--config"):
        raise UserError("--config: found it twice, expected it once")
    example = TrainConfig(out_dir="", data=DataConfig(sources=(SourceConfig(),)))
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--help=") else [word])]
    asks = [word for word in argv if word in ("-h", "--help")]
    if not path and not asks and not any(word.startswith("--tyro-") for word in argv):
        if argv[-1:] == ["--config"]:
            raise UserError("--config: found no value, expected FILE or NAME; `--help` lists the names")
        left = f" in {' '.join(mask_config(tuple(argv)))}" if argv else ""
        raise UserError(f"found no --config{left}, expected --config FILE or NAME; `--help` lists the names")
    default = load_config_file(path) if path else example  # for --help and shell completion
    if asks:
        groups = list(itertools.takewhile(lambda word: not word.startswith("-"), argv[argv.index(asks[0]) + 1 :]))
        if len(groups) > 1:
            raise UserError(f"--help: found {' '.join(groups)}, expected one group")
        _print_help(mask_config(default), "".join(groups))
    default, argv = extend(default, argv, {DataConfig: dataclasses.replace(default.data, sources=())})
    default = _with_task_to_change(default, argv)
    kind = _with_task_of(default)
    prog = f"{PROGRAM} --config FILE"
    parsed = parse(kind, argv, prog=prog, default=default, config=(tyro.conf.AvoidSubcommands,))
    return TrainConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(TrainConfig)})


def _with_task_to_change(default: TrainConfig, argv: Sequence[str]) -> TrainConfig:
    """Return the config with the task of its checkpoint if it has none, and flags change one."""
    flags: list[str] = []
    rest: list[str] = []
    for word in argv:
        if word.startswith("--"):
            words = flags if word.startswith("--task.") else rest
        elif not (flags or rest):
            words = rest
        words.append(word)
    if default.task is not None or not flags:
        return default
    from speech_jax.training.checkpoint import FOLDER, open_checkpoint, saved_steps  # loads JAX

    config = parse(TrainConfig, rest, prog=PROGRAM, default=default, config=(tyro.conf.AvoidSubcommands,))
    resumes = bool(saved_steps(Path(config.out_dir) / FOLDER))
    if not resumes and not config.init_from:
        raise UserError(f"{flags[0].partition('=')[0]}: found it without a task, expected a task, or init_from")
    path, which = (config.out_dir, "last") if resumes else (config.init_from, config.start.which)
    assets = open_checkpoint(path, which).assets
    task: Any = config_from_assets(assets).task if "config" in assets else None
    if task is None:
        raise UserError(f"{path}: found a checkpoint without a task, expected the folder of a training run")
    if config.start.tokenizer == "new" and hasattr(task, "tokenizer"):
        if not any(word.partition("=")[0] == "--task.tokenizer.language" for word in flags):
            raise UserError(
                "--task.tokenizer.language: found other flags of --task without it, expected the language of the texts "
                "that the new tokenizer is made from"
            )
        task = dataclasses.replace(task, tokenizer=dataclasses.replace(task.tokenizer, alphabet=""))
    return dataclasses.replace(default, task=task)


def _take_value(argv: list[str], flag: str) -> str | None:
    """Remove a flag and its value from a command line, and return the value; None if it is not there."""
    for position, word in enumerate(argv):
        if word == flag and position + 1 < len(argv):
            _, value = argv.pop(position), argv.pop(position)
            return value
        if word.startswith(f"{flag}="):
            return argv.pop(position).partition("=")[2]
    return None


def _print_help(config: TrainConfig, group: str) -> NoReturn:
    notes = NOTES | ({"task": NO_TASK} if config.task is None else {})
    if group:
        print_group(config, group, notes, f"{PROGRAM} --config FILE")
    else:
        about = (TrainConfig.__doc__ or "").partition("\n")[0]
        print(f"usage: {PROGRAM} --config FILE [FLAGS]\n\n{about} FILE is a Python file with a")
        print("`config = TrainConfig(…)`, or one of the names below.\n")
        print(overview(config, COMMON, notes, config_names()))
    sys.exit(0)


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
