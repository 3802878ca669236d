"""What a run is about and what it starts from: its task and tokenizer, a checkpoint, a teacher, adapters."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax

from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.audio.config import check_same_audio, fingerprint
from speech_jax.config import TrainConfig, config_from_assets
from speech_jax.core.errors import UserError
from speech_jax.core.types import Objective, PyTree, Task
from speech_jax.data.sources import load_sources
from speech_jax.data.speakers import named, speaker_table
from speech_jax.finetuning.adapters import ADAPTER, BASE, adapter_groups, init_adapters, with_adapters
from speech_jax.finetuning.restore import SPEAKERS, Start, start_from
from speech_jax.models.tacotron2 import with_speaker_inputs
from speech_jax.objectives.mix import mix
from speech_jax.objectives.schedules import make_alpha
from speech_jax.tasks.ctc import CTCTaskConfig, Teacher, build_model, ctc_task, output_frames, own_state
from speech_jax.tasks.pretrain import PretrainTaskConfig, pretrain_task, shared_objective, with_pretext
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig, network_config, tacotron2_task
from speech_jax.tasks.wavenet import WaveNetTaskConfig, wavenet_task
from speech_jax.text.frontend import FrontEnd, make_front_end
from speech_jax.text.tokenizer import Tokenizer, train_tokenizer
from speech_jax.training.checkpoint import FOLDER, load_assets, saved_steps
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.training.state import init_shapes, init_values

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
        raise UserError("pre_task: found one beside a task that is no recogniser, expected a CTCTaskConfig in task")
    if config.teacher.checkpoint and config.task is not None and not isinstance(config.task, CTCTaskConfig):
        raise UserError("teacher: found one beside a task that is no recogniser, expected a CTCTaskConfig in task")
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


def read_start(config: TrainConfig, spec: PyTree, tokenizer: Reader | None, speakers: tuple[str, ...] = ()) -> Start:
    """What the run starts from: the checkpoint in `init_from`, as `start` says. spec: the shapes of a batch."""
    task = make_task(config, tokenizer)
    shapes = init_shapes(task.model, spec, config.seed)
    assets = load_assets(config.init_from, config.start.which)
    old = tokenizer_in(assets)
    fresh, drop = config.start.fresh, config.start.drop
    # From pre-training to recognition, or back: the head, or the pretext, is new, and the other one stays behind.
    had = {"head": isinstance(old, Tokenizer), "pretext": has_pretext(config_from_assets(assets))}
    for part in ("head", "pretext"):
        if part in shapes[0] and not had[part]:
            fresh = (*fresh, f"^{part}/")
        if part not in shapes[0] and had[part]:
            drop = (*drop, f"^{part}/")
    grow = {}
    if speakers and not assets.get("speakers"):  # a voice of one becomes one of several
        fresh = (*fresh, f"^{SPEAKERS}$")
        grow = {"grow": functools.partial(with_speaker_inputs, network_config(config.task))}
    return start_from(
        config.init_from,
        *shapes,
        which=config.start.which,
        fresh=fresh,
        drop=drop,
        init=lambda: init_values(task.model, spec, config.seed),
        tokens=None if old is None or tokenizer is None else (tokens_of(old), tokens_of(tokenizer)),
        speakers=(tuple(assets["speakers"]), speakers) if speakers and "speakers" in assets else None,
        own_state=own_state,
        **grow,
    )


def tokens_of(reader: Reader) -> tuple[str, ...]:
    """What each id stands for."""
    return reader.pieces if isinstance(reader, Tokenizer) else reader.symbols.names


def has_pretext(config: TrainConfig) -> bool:
    """Whether a run with this config has the parameters of an unsupervised loss."""
    return isinstance(config.task, PretrainTaskConfig) or config.pre_task is not None


def adapt(config: TrainConfig, task: Task, init: tuple | None) -> tuple[Task, OptimizerConfig, tuple | None]:
    """(the task, the optimizer's settings, what to start from) with adapters in place of the whole network."""
    if init is not None:
        params, model_state = init
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        init = {BASE: params, ADAPTER: init_adapters(key, params, config.adapter)}, model_state
    optimizer = dataclasses.replace(config.optimizer, groups=adapter_groups(config.adapter))
    return with_adapters(task, config.adapter), optimizer, init
