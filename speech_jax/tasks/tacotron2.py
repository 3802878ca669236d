"""Text to mel with Tacotron 2: waveform → target frames → teacher forcing → losses, as one jitted function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.core.types import (
    Batch,
    Bucket,
    Checkpointed,
    LossOut,
    Model,
    Program,
    PyTree,
    StartRules,
    StreamOptions,
    Task,
    TaskConfig,
)
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import GeneratedMels, generate_mels
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.tacotron2 import init_params, tacotron2, with_speaker_inputs
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.objectives.tts import focus_rate, frame_loss, guided_attention_loss, stop_loss
from speech_jax.tasks.ctc import batch_spec
from speech_jax.tasks.tacotron2_report import make_evaluate
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd, make_front_end


@dataclasses.dataclass(frozen=True)
class Tacotron2TaskConfig(TaskConfig):
    """A voice: how it reads, the network, and what it is trained for."""

    model: Tacotron2Config = Tacotron2Config()
    """The network."""
    audio: AudioConfig = dataclasses.field(default_factory=nvidia_tacotron2)
    """Waveform to target frames; the vocoder's must be the same."""
    frontend: FrontEndConfig = FrontEndConfig()
    """How text becomes symbols."""
    frames: Literal["l1", "l2"] = "l2"
    """The loss of frames, before and after the post-net."""
    stop_weight: float = 5.0
    """How much the last frame weighs in the loss of the stop token, against one that is not the last."""
    guided: float = 0.0
    """Weight of the loss that keeps the attention near the diagonal; 1 where there is little data."""
    guided_sigma: float = 0.4
    """How far from the diagonal is free."""
    reduction: tuple[tuple[int, int], ...] = ()
    """Gradual training: (step, frames a decoder step makes from there on), for example ((0, 5), (5000, 3), (10000, 2)).
    Empty is the model's `reduction` from the start. Evaluation and synthesis take the last one's: what they say earlier
    is of a model that has not learned that yet."""
    speakers: Literal["one", "data"] = new_field("one")
    """one: whoever speaks is the same voice. data: a learned vector for each speaker that the recordings name; the
    table of names goes with the checkpoint, and more can be added in fine-tuning, also to a table of one."""
    speak: int = new_field(0)
    """Utterances, spread over the lengths of a set, that an evaluation also speaks freely, without the right frames:
    their alignments are scored (`free_focus`, `free_coverage`, `free_failures`), and one is heard. 0 is none."""

    def __post_init__(self) -> None:
        if self.speak < 0 or (self.model.speakers and self.speakers == "one"):
            raise UserError(
                f"task: found speak {self.speak}, model.speakers {self.model.speakers} with speakers "
                f"{self.speakers!r}, expected speak >= 0, and 'data' for several speakers"
            )
        steps, frames = [s for s, _ in self.reduction], [r for _, r in self.reduction]
        if self.reduction and (steps[0] != 0 or steps != sorted(set(steps))):
            raise UserError(f"task.reduction: found steps {steps}, expected 0 first and then larger ones")
        if any(not 1 <= r <= self.model.reduction for r in frames):
            raise UserError(
                f"task.reduction: found {frames} frames a step, expected 1 to model.reduction, {self.model.reduction}"
            )


    kind: ClassVar[str] = "voice"
    named_speakers: ClassVar[bool] = True

    def build(self, reader: FrontEnd, teacher: None = None) -> Task:
        """Return the text-to-mel task."""
        return tacotron2_task(self, reader)

    def make_reader(self, texts: Callable[[], Iterable[str]]) -> FrontEnd:
        """Return a front end whose symbols are those of the training texts."""
        return make_front_end(self.frontend, texts())

    def load_reader(self, value: Mapping[str, Any]) -> FrontEnd:
        """Return the front end that a checkpoint holds as JSON."""
        return FrontEnd.from_json(value)

    def placeholder_reader(self, vocab_size: int) -> FrontEnd:
        """Return a front end of the alphabet; a voice has as many symbols as its units, not `vocab_size`."""
        return make_front_end(self.frontend, ["abcdefghijklmnopqrstuvwxyz"])

    def with_speakers(self, count: int) -> Tacotron2TaskConfig:
        """Return the config for `count` speakers."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, speakers=count))

    def stream_options(self) -> StreamOptions:
        """Leave out texts with more symbols than their recording has frames."""
        return StreamOptions(
            max_labels=lambda seconds: seconds * (self.audio.sample_rate / self.audio.hop), misfits="leave_out"
        )

    def start_rules(self, old: Checkpointed) -> StartRules:
        """Keep the symbols of a voice of the same units and language; add inputs for several speakers to one of one."""
        if old.task.kind != self.kind:
            return StartRules()
        conflict = ""
        units = [{"units": c.units, "language": c.language} for c in (old.reader.config, self.frontend)]
        if units[0] != units[1]:
            conflict = f"found a voice that reads {units[0]}, the config's task.frontend has {units[1]}"
        if self.model.speakers and not old.speakers:
            grow = functools.partial(with_speaker_inputs, network_config(self))
            return StartRules(True, conflict, grow=grow, fresh=("^speakers$",))
        return StartRules(True, conflict)

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return synthesis of mel frames from texts of `bucket.labels` symbols, until each has ended."""
        parts = make_parts(network_config(self))
        shape = (bucket.rows, bucket.labels)
        batch = {
            "text": jax.ShapeDtypeStruct(shape, jnp.int32),
            "text_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
            "seeds": jax.ShapeDtypeStruct((bucket.rows, 2), jnp.uint32),
        }
        if parts.config.speakers:
            batch["speaker"] = jax.ShapeDtypeStruct((bucket.rows,), jnp.int32)

        def function(weights: PyTree, batch: Batch) -> GeneratedMels:
            text = {name: leaf for name, leaf in batch.items() if name != "seeds"}
            return generate_mels(parts, DecodeConfig(), *weights, text, batch["seeds"])

        return Program("speech", function, network_shapes(self, vocab_size), batch)


def network_shapes(config: Tacotron2TaskConfig, symbols: int) -> tuple[PyTree, PyTree]:
    """Return (params, model_state) of the network as shapes."""
    parts = make_parts(network_config(config))
    return jax.eval_shape(lambda key: init_params(parts, symbols, key), jax.random.key(0))


def network_config(config: Tacotron2TaskConfig) -> Tacotron2Config:
    """The network with as many bands as the features have."""
    return dataclasses.replace(config.model, num_mels=num_features(config.audio))


def tacotron2_task(config: Tacotron2TaskConfig, front_end: FrontEnd) -> Task:
    """The task that training/ is handed; batches are those of data/pipeline.py, labels the front end's symbols."""
    network = tacotron2(network_config(config), front_end.vocab_size)
    stages = config.reduction or ((0, config.model.reduction),)

    def inputs(batch: Batch, reduction: int) -> Batch:
        """What the network takes; frames are filled up to a whole number of steps."""
        mel, mask = extract_features(batch["audio"], batch["audio_lengths"], config.audio)
        more = -mel.shape[1] % reduction
        symbols = jnp.arange(batch["labels"].shape[1])[None]
        real = (batch["index"] >= 0)[:, None]
        extra = {"speaker": batch["speaker"]} if "speaker" in batch else {}
        return extra | {
            "text": batch["labels"],
            "text_mask": (symbols < batch["label_lengths"][:, None]) & real,
            "mel": jnp.pad(mel, ((0, 0), (0, more), (0, 0))),
            "mel_mask": jnp.pad(mask & real, ((0, 0), (0, more))),
            "index": batch["index"],
        }

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return network.init(key, batch)

    def apply(params, model_state, batch: Batch, *, key=None, train=False, reduction=stages[-1][1]):
        heard = inputs(batch, reduction)
        outputs, model_state = network.apply(params, model_state, heard, key=key, train=train, reduction=reduction)
        known = {"text_mask": heard["text_mask"], "mel_mask": heard["mel_mask"], "target": heard["mel"]}
        return {**outputs, **known}, model_state

    def at(reduction: int, params, model_state, batch, key) -> LossOut:
        outputs, model_state = apply(params, model_state, batch, key=key, train=True, reduction=reduction)
        value, frames, metrics = losses(config, outputs, reduction)
        return LossOut(value, frames, model_state, metrics)

    def objective(params, model_state, batch, key, step) -> LossOut:
        branches = [functools.partial(at, r) for _, r in stages]
        if len(branches) == 1:
            return branches[0](params, model_state, batch, key)
        out = jax.lax.switch(stage(step, stages), branches, params, model_state, batch, key)
        now = jnp.asarray([r for _, r in stages], jnp.float32)[stage(step, stages)]
        return out._replace(metrics={**out.metrics, "reduction": (now, jnp.ones(()))})

    def spec(bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        people = {"speaker": jax.ShapeDtypeStruct((bucket.rows,), jnp.int32)} if config.model.speakers else {}
        return batch_spec(bucket) | people

    evaluate = make_evaluate(config, front_end, make_parts(network_config(config)), apply, losses, stages[-1][1])
    return Task(Model(init, apply), objective, spec, evaluate)


def stage(step: Int[Array, ""], stages: tuple[tuple[int, int], ...]) -> Int[Array, ""]:
    """Which stage of gradual training the step is in."""
    return sum(jnp.asarray(step >= begin, jnp.int32) for begin, _ in stages) - 1


def losses(config: Tacotron2TaskConfig, outputs: dict[str, Array], reduction: int) -> tuple[Array, Array, dict]:
    """(mean a frame, frames that count, metrics)"""
    mask, step_mask = outputs["mel_mask"], outputs["mel_mask"][:, ::reduction]
    pairs = {
        "before": frame_loss(outputs["mel"], outputs["target"], mask, config.frames),
        "after": frame_loss(outputs["mel_post"], outputs["target"], mask, config.frames),
        "stop": stop_loss(outputs["stop"], mask, config.stop_weight),
    }
    value = sum(total / jnp.maximum(count, 1.0) for total, count in pairs.values())
    if config.guided:
        weights = outputs["weights"], step_mask, outputs["text_mask"]
        pairs["guided"] = total, count = guided_attention_loss(*weights, config.guided_sigma)
        value += config.guided * total / jnp.maximum(count, 1.0)
    pairs["focus"] = focus_rate(outputs["weights"], step_mask)
    return value, jnp.sum(mask).astype(jnp.float32), pairs
