"""Text to mel with Tacotron 2: waveform → target frames → teacher forcing → losses, as one jitted function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.core.types import (
    Bucket,
    Checkpointed,
    Program,
    StartRules,
    StreamOptions,
    Task,
    TaskConfig,
)
from speech_jax.models.config import Tacotron2Config
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
        from speech_jax.tasks.tacotron2_task import tacotron2_task

        return tacotron2_task(self, reader)

    def make_reader(self, texts: Callable[[], Iterable[str]]) -> FrontEnd:
        """Return a front end whose symbols are those of the training texts."""
        return make_front_end(self.frontend, texts())

    def load_reader(self, value: Mapping[str, Any]) -> FrontEnd:
        """Return the front end that a checkpoint holds as JSON."""
        return FrontEnd.from_json(dict(value))

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
        assert isinstance(old.reader, FrontEnd)  # a voice reads with one
        units = [{"units": c.units, "language": c.language} for c in (old.reader.config, self.frontend)]
        if units[0] != units[1]:
            conflict = f"found a voice that reads {units[0]}, the config's task.frontend has {units[1]}"
        if self.model.speakers and not old.speakers:
            from speech_jax.models.tacotron2 import with_speaker_inputs
            from speech_jax.tasks.tacotron2_task import network_config

            grow = functools.partial(with_speaker_inputs, network_config(self))
            return StartRules(True, conflict, grow=grow, fresh=("^speakers$",))
        return StartRules(True, conflict)

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return synthesis of mel frames from texts of `bucket.labels` symbols, until each has ended."""
        from speech_jax.tasks.tacotron2_task import speech_program

        return speech_program(self, bucket, vocab_size)
