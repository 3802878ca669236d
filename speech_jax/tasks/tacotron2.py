"""Config of the text-to-mel task with Tacotron 2; its functions are in tasks/tacotron2_task.py."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.command_line import Range
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
    """Voice: text front end, network, and training losses.

    Example:
        >>> import jax
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.models.config import AttentionConfig, Tacotron2Config
        >>> from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
        >>> network = Tacotron2Config(
        ...     embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
        ...     postnet_layers=2, postnet=8, attention=AttentionConfig(width=8, filters=2, filter_length=3),
        ... )
        >>> config = Tacotron2TaskConfig(model=network)
        >>> task = config.build(config.make_reader(lambda: ["to be or not to be"]))
        >>> batch = task.batch_spec(Bucket(rows=2, samples=22050, labels=20))
        >>> params, state = jax.eval_shape(task.model.init, jax.random.key(0), batch)
        >>> outputs, state = jax.eval_shape(task.model.apply, params, state, batch)
        >>> outputs["mel_post"].shape, outputs["weights"].shape  # rows, frames, mel bands; rows, steps, symbols
        ((2, 87, 80), (2, 87, 20))
    """

    model: Tacotron2Config = Tacotron2Config()
    """The network."""
    audio: AudioConfig = dataclasses.field(default_factory=nvidia_tacotron2)
    """Waveform to target mel frames; the vocoder's audio settings must be the same."""
    frontend: FrontEndConfig = FrontEndConfig()
    """Text to symbols."""
    frames: Literal["l1", "l2"] = "l2"
    """Loss of the mel frames, before and after the post-net: absolute or squared error."""
    stop_weight: Annotated[float, Range(0, 1e6)] = 5.0
    """Weight of the last frame in the loss of the stop token; other frames weigh 1."""
    guided: Annotated[float, Range(0, 1e6)] = 0.0
    """Weight of the guided-attention loss, which keeps attention near the diagonal. 0 is off; 1 suits little data."""
    guided_sigma: Annotated[float, Range(1e-3, 1e3)] = 0.4
    """Width of the band around the diagonal that the guided-attention loss tolerates, as a share of the utterance."""
    reduction: tuple[tuple[int, int], ...] = ()
    """Gradual training: (step, frames per decoder step from there on), for example ((0, 5), (5000, 3), (10000, 2)),
    as a flag: 0 5 5000 3 10000 2. Empty uses the model's `reduction` from the start. Evaluation and synthesis always
    use the last entry's, so their results before that step are of a setting not trained yet."""
    speakers: Literal["one", "data"] = new_field("one")
    """one: a single voice for all recordings. data: a learned vector per speaker named in the manifest; the names are
    saved in the checkpoint, and fine-tuning can add speakers, also to a voice of one."""
    speak: int = new_field(0)
    """Utterances per evaluation set, of all lengths, also synthesized without teacher forcing; 0 is none. Their
    alignments are scored (`free_focus`, `free_coverage`, `free_failures`), and the first is logged as audio."""

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
                f"task.reduction: found {frames} frames per step, expected 1 to model.reduction, {self.model.reduction}"
            )

    kind: ClassVar[str] = "voice"
    next_command: ClassVar[str] = 'python -m speech_jax.synthesize --checkpoint {run} --text "Hello." --out hello.wav'
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

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = {} if self.guided else {"guided_sigma": "with {guided}"}
        if self.speakers == "one":
            idle["model.speaker_width"] = "with {speakers}"
        if self.model.num_mels != self.audio.width:
            idle["model.num_mels"] = "with {audio.width}"
        return idle | ({"audio.dither": "in a voice"} if self.audio.dither else {})  # it trains on features without
