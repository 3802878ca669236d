"""No setting of TrainConfig can be given and reach nothing: each field is read by the code that uses it, or refused."""

import contextlib
import dataclasses
import inspect
import sys
import types
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from speech_jax.audio import presets
from speech_jax.config import TrainConfig
from speech_jax.core.claims import join
from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.models.config import (
    AttentionConfig,
    ConditionConfig,
    ConformerConfig,
    CRNNConfig,
    PlainConformerConfig,
    StyleConfig,
    Tacotron2Config,
    Wav2Vec2Config,
    WaveNetConfig,
)
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.claims import check_run
from speech_jax.runs.resolve import check_settings
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.config import FrontEndConfig, TokenizerConfig
from speech_jax.training.config import GuardConfig
from speech_jax.training.hosts import find_hosts
from speech_jax.training.optimizer import make_optimizer
from tests.support import domains

replace = dataclasses.replace
ITEMS = {int: 1, float: 0.5, str: "x", GuardConfig: GuardConfig("A/wer")}  # for a field whose tuple is empty

# Fields whose use is not in a run of one process on a CPU.
ELSEWHERE = {
    "hosts.timeout": "speech_jax/training/hosts.py:start_hosts",
    "hosts.heartbeat": "speech_jax/training/hosts.py:start_hosts",
    "trainer.force_resume": "speech_jax/runs/resume.py, for a run that resumes",
    "task.speakers": "speech_jax/runs/resolve.py, for a task with named speakers",
    "task.audio.padding": "of presets.kaldi, which serves for framing kaldi too",
    "data.sources.0.domain": "a label of the rows, for reports on manifests",
    "pre.sources.0.domain": "a label of the rows, for reports on manifests",
    "evaluate.0.data.sources.0.domain": "a label of the rows, for reports on manifests",
}
CHECKS = {"__post_init__", "idle"}  # they read, but use nothing
REFUSE = ("core/config_dict.py", "core/claims.py", "runs/claims.py", "runs/resume.py", "dataclasses.py", "<string>")


@contextlib.contextmanager
def reads():
    """Yield a set that collects (class name, field) of every config field that is read to be used."""
    found: set[tuple[str, str]] = set()
    classes = [c for module in list(sys.modules.values()) if (module.__name__ or "").startswith("speech_jax.")
               for c in vars(module).values()
               if inspect.isclass(c) and c.__module__.startswith("speech_jax.") and dataclasses.is_dataclass(c)
               and c.__dataclass_params__.frozen]  # fmt: skip

    def read(self, name):
        if not name.startswith("_"):
            code = sys._getframe(1).f_code
            check = code.co_name in CHECKS or code.co_name.lstrip("_").startswith("check")
            if not check and not code.co_filename.endswith(REFUSE):
                found.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        for cls in set(classes):
            patch.setattr(cls, "__getattribute__", read, raising=False)
        yield found


def leaves(config, name=""):
    """Yield (dotted name, owner, field) of every leaf below a config."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), join(name, field.name)
        items = enumerate(value) if isinstance(value, tuple) else [("", value)]
        nested = [(join(path, i), item) for i, item in items if dataclasses.is_dataclass(item)]
        if nested:
            for path, item in nested:
                yield from leaves(item, path)
        else:
            yield path, config, field


def other_values(owner, field):
    """Return values that the field could have instead."""
    hint = typing.get_type_hints(type(owner), include_extras=False)[field.name]
    value = getattr(owner, field.name)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    if typing.get_origin(hint) is typing.Literal:
        return [v for v in typing.get_args(hint) if v != value]
    if hint is bool:
        return [not value]
    if hint in (int, float):
        return [(value or 0) + 1, (value or 0) * 0.5 + 0.3] if hint is float else [(value or 0) + 1]
    if hint is str:
        return [f"{value}x"]
    if typing.get_origin(hint) is tuple:
        item, *rest = typing.get_args(hint)
        if rest != [Ellipsis]:  # a range
            return [(*value[:-1], value[-1] + 1)]
        return [value[:-1], value + value[-1:]] if value else [(ITEMS[item],)] if item in ITEMS else []
    return []


def changed(config, path, value):
    """Return the config with another value of the field with this dotted name."""
    first, _, rest = path.partition(".")
    if isinstance(config, tuple):
        number = int(first)
        return config[:number] + (changed(config[number], rest, value),) + config[number + 1 :]
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def is_refused(config, path, value, task):
    try:
        config = changed(config, path, value)
        check_run(config)
        check_settings(replace(config, task=task))
        make_optimizer(config.optimizer, {"w": jnp.ones(1)}, config.trainer.steps)
    except UserError:
        return True
    except (TypeError, ValueError):  # no such value
        return None
    return False


def unclaimed(config, found, prefix="", task=None):
    """Return the fields that are neither read nor refused with every other value."""
    task = task or config.task
    names = []
    for path, owner, field in leaves(config):
        if not path.startswith(prefix) or (type(owner).__name__, field.name) in found or path in ELSEWHERE:
            continue
        outcomes = {is_refused(config, path, value, task) for value in other_values(owner, field)} - {None}
        if outcomes != {True}:
            names.append(path)
    return names


TINY = {"layers": 2, "heads": 2, "kernel_size": 3}
WAV2VEC2 = Wav2Vec2Config(width=8, layers=1, heads=2, hidden=8, conv_width=(4, 4), conv_kernel=(10, 8),
                          conv_stride=(5, 4), position_kernel=4, position_groups=2)  # fmt: skip
VOICE = Tacotron2Config(embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
                        postnet_layers=2, postnet=8, attention=AttentionConfig(width=8))  # fmt: skip
WAVENET = WaveNetConfig(layers=4, cycles=2, residual=8, gate=8, skip=8, head=8)
AUDIO = replace(presets.nemo(), fmin=23.0, fmax=7901.0)  # of no other test: some of it is cached by value
VOICE_AUDIO = replace(presets.nvidia_tacotron2(), fmin=23.0)
TASKS = {
    "conformer": CTCTaskConfig(model=ConformerConfig(width=8, **TINY), audio=AUDIO),
    "conformer_all": CTCTaskConfig(
        model=ConformerConfig(width=16, conv_norm="group", remat=True, **TINY),
        audio=replace(presets.kaldi_mfcc(), fmin=23.0, deltas=1, normalize="utterance"),
        augment=presets.full_augment(),
        tokenizer=TokenizerConfig(alphabet="ab c"),
    ),
    "crnn": CTCTaskConfig(model=CRNNConfig(width=8, layers=1), audio=AUDIO),
    "plain": CTCTaskConfig(model=PlainConformerConfig(width=8, hidden=8, projection=True, **TINY), audio=AUDIO),
    "transformer": CTCTaskConfig(model=replace(WAV2VEC2, mask_channels=0.1), audio=presets.waveform()),
    "wav2vec2_conformer": CTCTaskConfig(
        model=replace(WAV2VEC2, block="conformer", positions="rotary", kernel_size=3), audio=presets.waveform()
    ),
    **{
        method: PretrainTaskConfig(method=method, model=ConformerConfig(width=8, **TINY), audio=AUDIO)
        for method in ("best_rq", "autoencoder", "contrastive")
    },
    "voice": Tacotron2TaskConfig(model=replace(VOICE, style=StyleConfig(tokens=2, width=8, heads=2, channels=(4, 4),
                                 summary=4)), audio=VOICE_AUDIO, guided=1.0),  # fmt: skip
    **{
        f"voice_{kind}": Tacotron2TaskConfig(
            model=replace(VOICE, attention=AttentionConfig(kind=kind, width=8)), audio=VOICE_AUDIO,
            frontend=FrontEndConfig(units="graphemes"),
        )
        for kind in ("dynamic", "gmm", "forward")
    },
    **{
        f"vocoder_{output}": WaveNetTaskConfig(
            model=replace(WAVENET, output=output, condition=ConditionConfig(kind=kind, width=8, scales=(16, 16))
                          if kind != "frames" else ConditionConfig(width=8)),
            audio=VOICE_AUDIO, crop_frames=8,
        )
        for output, kind in (("gaussian", "frames"), ("logistics", "stretch"), ("mulaw", "transposed"))
    },
}  # fmt: skip


def trace(config):
    """Trace a task's reader, batches and objective; nothing is computed."""
    reader = config.make_reader(lambda: ["ab c"])
    if reader is not None:
        with contextlib.suppress(UserError):
            reader.encode("ab \N{SNOWMAN}")
    task = config.build(reader)
    config.stream_options()
    spec = task.batch_spec(Bucket(2, 8000, 4))
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(task.model.init, key, spec)
    jax.eval_shape(task.objective, params, state, spec, key, jax.ShapeDtypeStruct((), jnp.int32))


@pytest.mark.parametrize("name", TASKS)
def test_every_field_of_a_task_is_used_or_refused(name):
    with reads() as found:
        trace(TASKS[name])
    config = TrainConfig("out", DataConfig(sources=(SourceConfig(path="x.jsonl"),)), task=TASKS[name])
    assert not unclaimed(config, found, "task.")


def test_every_other_field_of_a_run_is_used_or_refused(start_models, tmp_path):
    start = start_models()
    corpus = Path(start.data.sources[0].path).parent
    config = domains.finetune(start, tmp_path / "run", steps=1, pre=domains.part(corpus, "A-train"),
                              alpha=AlphaConfig(start=0.5), evaluate=start.evaluate[:1])  # fmt: skip
    with reads() as found:
        result, text = domains.run(config)
        find_hosts(config.hosts, {})
    assert result is not None, text
    assert not unclaimed(config, found, task=start.task)


def test_a_field_that_nothing_reads_is_noticed():
    @dataclasses.dataclass(frozen=True)
    class Wider(TrainConfig):
        knob: int = 0

    config = Wider("out", DataConfig(sources=(SourceConfig(path="x.jsonl"),)))
    everything = {(type(owner).__name__, field.name) for _, owner, field in leaves(config) if field.name != "knob"}
    assert unclaimed(config, everything) == ["knob"]
