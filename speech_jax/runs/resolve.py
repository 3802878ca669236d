"""What a run is about and what it starts from: its task and tokenizer, a checkpoint, a teacher, adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from speech_jax.audio.config import check_same_audio
from speech_jax.config import TrainConfig, config_from_assets
from speech_jax.core.errors import UserError
from speech_jax.data.sources import load_sources
from speech_jax.data.speakers import named, speaker_table
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.frontend import FrontEnd, make_front_end
from speech_jax.text.tokenizer import Tokenizer, train_tokenizer
from speech_jax.training.checkpoint import FOLDER, load_assets, saved_steps
from speech_jax.training.optimizer import OptimizerConfig

SPEAKING = (Tacotron2TaskConfig, WaveNetTaskConfig)  # tasks that may know several speakers
Reader = Tokenizer | FrontEnd  # what makes ids of a text


def goes_on(config: TrainConfig) -> bool:
    """Whether there is a checkpoint of this run to go on from."""
    return bool(saved_steps(Path(config.out_dir) / FOLDER))


def check_settings(config: TrainConfig) -> None:
    """UserError for settings that cannot go together, before anything is read."""
    optimizer = config.optimizer
    if optimizer.ewc and (not config.init_from or config.pre is None):
        raise UserError("optimizer.ewc: found no init_from or no pre, expected a start model and its old recordings")
    if config.pre_task is not None and config.task is not None and not isinstance(config.task, CTCTaskConfig):
        raise UserError("pre_task: found one beside a task that is no recognizer, expected a CTCTaskConfig in task")
    if config.teacher.checkpoint and config.task is not None and not isinstance(config.task, CTCTaskConfig):
        raise UserError("teacher: found one beside a task that is no recognizer, expected a CTCTaskConfig in task")
    if config.pre_task is not None and config.pre is None and config.teacher.checkpoint:
        raise UserError("teacher: found one beside a pre_task without pre, expected recordings in pre for it")
    if config.adapter.kind == "none":
        return
    if not config.init_from:
        raise UserError("adapter: found no init_from, expected a checkpoint to adapt")
    if optimizer.groups != OptimizerConfig().groups:
        raise UserError("optimizer.groups: found them beside adapters, expected adapter.train to say what else moves")
    if optimizer.ewc or optimizer.anchor:
        raise UserError("optimizer: found anchor or ewc beside adapters, expected one of the two ways to hold on")


class Resolved(NamedTuple):
    """The config with its task filled in; what reads its texts, None where nothing is read; the names of the speakers
    of a voice that has several."""

    config: TrainConfig
    reader: Reader | None
    speakers: tuple[str, ...] = ()


def resolve(config: TrainConfig) -> Resolved:
    """The task, the reader and the speakers: those of the run, of the checkpoint, or new ones."""
    if goes_on(config):
        assets = load_assets(config.out_dir, "last")
        config = fill_task(config, assets, config.out_dir)
        return with_speakers(config, tokenizer_in(assets), tuple(assets.get("speakers", ())))
    old: tuple[str, ...] = ()
    if config.init_from:
        assets = load_assets(config.init_from, config.start.which)
        config = fill_task(config, assets, config.init_from)
        check_symbols(config, assets)
        old = tuple(assets.get("speakers", ()))
        alike = type(config.task) is type(config_from_assets(assets).task)
        if config.start.tokenizer == "keep" and "tokenizer" in assets and alike:
            return with_speakers(config, tokenizer_in(assets), new_speakers(config, old))
    if config.task is None:
        raise UserError("config.task: found None, expected a task, or a checkpoint to take it from in config.init_from")
    return with_speakers(config, new_reader(config), new_speakers(config, old))


def check_symbols(config: TrainConfig, assets: dict) -> None:
    """UserError where a voice is to keep the symbols of its checkpoint, and its config has others."""
    reader = tokenizer_in(assets)
    if config.start.tokenizer == "new" or not (
        isinstance(reader, FrontEnd) and isinstance(config.task, Tacotron2TaskConfig)
    ):
        return
    found, wanted = ({"units": c.units, "language": c.language} for c in (reader.config, config.task.frontend))
    if found != wanted:
        raise UserError(
            f"{config.init_from}: found a voice that reads {found}, the config's task.frontend has {wanted}; expected "
            'the same, or start.tokenizer "new" to move what was learned to the symbols that both have'
        )


def new_reader(config: TrainConfig) -> Reader | None:
    """What reads the texts of `config.task`, made from the recordings' texts where it has to be."""
    if isinstance(config.task, PretrainTaskConfig | WaveNetTaskConfig):
        return None
    texts = [u.text for u in load_sources(config.data)]
    if config.pre is not None:
        texts += [u.text for u in load_sources(config.pre)]
    if isinstance(config.task, Tacotron2TaskConfig):
        return make_front_end(config.task.frontend, texts)
    return train_tokenizer(texts, config.task.tokenizer)


def new_speakers(config: TrainConfig, old: tuple[str, ...]) -> tuple[str, ...]:
    """The speakers of a voice that takes them from its recordings, `old` those of the checkpoint that it starts from;
    none for every other task."""
    if not isinstance(config.task, SPEAKING):
        return ()
    if config.task.speakers != "data":
        if old:
            found = f"a voice with a table of speakers ({named(old)}) and task.speakers {config.task.speakers!r}"
            raise UserError(f'{config.init_from}: found {found}, expected "data"')
        return ()
    if config.init_from and config.start.speakers == "keep":
        if not old:
            raise UserError(f'{config.init_from}: found no table of speakers, expected start.speakers "add" or "new"')
        return old
    found = speaker_table(load_sources(config.data) + (load_sources(config.pre) if config.pre is not None else []))
    return found if config.start.speakers == "new" else old + tuple(name for name in found if name not in old)


def with_speakers(config: TrainConfig, reader: Reader | None, speakers: tuple[str, ...]) -> Resolved:
    """The network gets a vector for each speaker."""
    if speakers and isinstance(config.task, SPEAKING):
        model = dataclasses.replace(config.task.model, speakers=len(speakers))
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, model=model))
    return Resolved(config, reader, speakers)


def tokenizer_in(assets: dict) -> Reader | None:
    """The tokenizer of a checkpoint, or a voice's front end, if it has one."""
    found = assets.get("tokenizer")
    return None if found is None else FrontEnd.from_json(found) if "units" in found else Tokenizer.from_json(found)


def fill_task(config: TrainConfig, assets: dict, folder: str) -> TrainConfig:
    """`config` with the task of the checkpoint in `folder`, where it names none; else its audio settings must agree."""
    found = config_from_assets(assets).task
    if config.task is None:
        return dataclasses.replace(config, task=found)
    check_audio(found, config.task, folder)
    return config


def check_audio(found: CTCTaskConfig, wanted: CTCTaskConfig, folder: str) -> None:
    """UserError naming the audio settings in which the checkpoint in `folder` differs from the config."""
    check_same_audio(found.audio, wanted.audio, folder, "the config")


def tokens_of(reader: Reader) -> tuple[str, ...]:
    """What each id stands for."""
    return reader.pieces if isinstance(reader, Tokenizer) else reader.symbols.names


def has_pretext(config: TrainConfig) -> bool:
    """Whether a run with this config has the parameters of an unsupervised loss."""
    return isinstance(config.task, PretrainTaskConfig) or config.pre_task is not None


