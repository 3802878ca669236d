"""Config of the mel-to-waveform task with WaveNet; its functions are in tasks/wavenet_task.py."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2
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
from speech_jax.models.config import WaveNetConfig, check_hop


def history_frames(network: WaveNetConfig) -> int:
    """Return the frames at the start of a crop that are context only: the receptive field, rounded up to frames."""
    return -(-(network.receptive_field - 1) // network.hop)


@dataclasses.dataclass(frozen=True)
class WaveNetTaskConfig(TaskConfig):
    """Vocoder: features, network, and the crops of recordings that it is trained on.

    Example:
        >>> import jax
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.models.config import WaveNetConfig
        >>> from speech_jax.tasks.wavenet import WaveNetTaskConfig
        >>> network = WaveNetConfig(layers=4, cycles=2, residual=8, gate=8, skip=8)
        >>> task = WaveNetTaskConfig(model=network, crop_frames=4).build()
        >>> batch = task.batch_spec(Bucket(rows=2, samples=22050, labels=1))
        >>> params, state = jax.eval_shape(task.model.init, jax.random.key(0), batch)
        >>> outputs, state = jax.eval_shape(task.model.apply, params, state, batch)
        >>> outputs["nll"].shape  # rows, samples of a crop of 4 frames; nats
        (2, 1024)
    """

    model: WaveNetConfig = WaveNetConfig()
    """The network."""
    audio: AudioConfig = dataclasses.field(default_factory=nvidia_tacotron2)
    """Waveform to mel frames; must be the acoustic model's audio settings."""
    crop_frames: int = 32
    """Frames per crop. Its first samples, as many as the receptive field, are context and not in the loss."""
    mels: Literal["audio", "manifest"] = "audio"
    """audio: mel frames computed from the recordings. manifest: those of the files that the rows name in "mel", such as
    an acoustic model's predictions for the same recordings (`python -m speech_jax.synthesize --teacher-forced`)."""
    pre_emphasis: float = 0.0
    """Coefficient c of y[n] = x[n] - c·x[n-1]: the network models y, and its output is filtered back to x, which
    reduces noise in the high bands. 0.85 is usual; 0 is off."""
    gain: float = 1.0
    """Factor of the waveform before pre-emphasis; synthesized audio is divided by it."""
    input_noise: float = 0.0
    """Largest standard deviation of the white noise that training adds to the network's input samples (not to the
    targets); drawn per crop between 0 and this. It makes sampling robust to the network's own errors (exposure bias;
    Valin and Skoglund 2019, LPCNet). 0 is off; must be 0 for µ-law classes, which are noisy already."""
    speakers: Literal["one", "data"] = "one"
    """one: a single voice for all recordings. data: a learned vector per speaker named in the manifest; the names are
    saved in the checkpoint, and fine-tuning can add speakers."""
    clip_seconds: float = 1.0
    """Seconds of the first recording that an evaluation resynthesizes, to measure the distance of the mel frames and to
    log the audio; 0 is off."""

    def __post_init__(self) -> None:
        if not 0 <= self.pre_emphasis < 1 or self.gain <= 0 or self.clip_seconds < 0:
            raise UserError(
                f"task: found pre_emphasis {self.pre_emphasis}, gain {self.gain}, clip_seconds {self.clip_seconds}, "
                "expected 0 up to 1, a number above 0, and 0 or more"
            )
        if self.input_noise < 0 or (self.input_noise and self.model.output == "mulaw"):
            raise UserError(
                f"task.input_noise: found {self.input_noise} with model.output {self.model.output!r}, expected 0 or "
                "more, and 0 with mulaw"
            )
        if self.model.speakers and self.speakers == "one":
            raise UserError(
                f"task: found model.speakers {self.model.speakers}, expected task.speakers 'data' for several"
            )
        if self.audio.features != "log_mel":
            raise UserError(f"task.audio.features: found {self.audio.features!r}, expected log_mel")
        check_hop(self.model.condition, self.audio.hop)
        context = history_frames(dataclasses.replace(self.model, hop=self.audio.hop))
        if self.crop_frames <= context:
            raise UserError(
                f"task.crop_frames: found {self.crop_frames}, expected more than {context}: the receptive field is "
                f"{self.model.receptive_field} samples"
            )

    kind: ClassVar[str] = "vocoder"
    next_command: ClassVar[str] = (
        'python -m speech_jax.synthesize --checkpoint VOICE --vocoder {run} --text "Hello." --out hello.wav'
    )
    reads_text: ClassVar[bool] = False
    named_speakers: ClassVar[bool] = True

    def build(self, reader: None = None, teacher: None = None) -> Task:
        """Return the mel-to-waveform task."""
        from speech_jax.tasks.wavenet_task import wavenet_task

        return wavenet_task(self)

    def with_speakers(self, count: int) -> WaveNetTaskConfig:
        """Return the config for `count` speakers."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, speakers=count))

    def stream_options(self) -> StreamOptions:
        """Read the mel files that the manifest's rows name if `mels` is "manifest"."""
        return StreamOptions(mels=self.audio if self.mels == "manifest" else None)

    def start_rules(self, old: Checkpointed) -> StartRules:
        """Add inputs for several speakers to a vocoder of one."""
        rules = super().start_rules(old)
        if rules.keeps_reader and self.model.speakers and not old.speakers:
            from speech_jax.models.wavenet import with_speaker_inputs
            from speech_jax.tasks.wavenet_task import network_config

            grow = functools.partial(with_speaker_inputs, network_config(self))
            return rules._replace(grow=grow, fresh=("^speakers$",))
        return rules

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return one chunk of a waveform, with `bucket.rows` folds drawn side by side by the scan."""
        from speech_jax.tasks.wavenet_task import waveform_program

        return waveform_program(self, bucket)

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = {} if self.speakers != "one" else {"model.speaker_width": "with {speakers}"}
        if self.model.num_mels != self.audio.width:
            idle["model.num_mels"] = "with {audio.width}"
        if self.model.hop != self.audio.hop:
            idle["model.hop"] = "with {audio.hop}"
        return idle | ({"audio.dither": "in a vocoder"} if self.audio.dither else {})  # it trains on features without
