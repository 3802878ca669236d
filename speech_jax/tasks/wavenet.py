"""Mel to wave with WaveNet: random crops of recordings, the network, and the samples' negative log likelihood."""

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
    """Frames at the beginning of a crop whose samples are heard and not learned: the network would look beyond it."""
    return -(-(network.receptive_field - 1) // network.hop)


@dataclasses.dataclass(frozen=True)
class WaveNetTaskConfig(TaskConfig):
    """A vocoder: what it hears, the network, and how recordings are cut for training."""

    model: WaveNetConfig = WaveNetConfig()
    """The network."""
    audio: AudioConfig = dataclasses.field(default_factory=nvidia_tacotron2)
    """Waveform to mel frames; those of the acoustic model that it will speak for."""
    crop_frames: int = 32
    """Frames of a crop. Its first samples, as many as the network looks back, are heard and not learned."""
    mels: Literal["audio", "manifest"] = "audio"
    """Frames computed from the recordings, or those that the manifest's rows name in "mel": what an acoustic model
    makes of the same recordings (`python -m speech_jax.synthesize --teacher-forced`)."""
    pre_emphasis: float = 0.0
    """Coefficient c of y[n] = x[n] - c·x[n-1]: the network learns y, and its sound is filtered back, which takes its
    noise out of the high bands. 0.85 is usual; 0 turns it off."""
    gain: float = 1.0
    """The waveform is multiplied by this first, and what is synthesized divided by it."""
    input_noise: float = 0.0
    """In training, white noise is added to the samples that the network hears, not to those it learns; its deviation is
    drawn for each crop between 0 and this. Without it a network that has learned to predict from true samples can lose
    its way among its own (exposure bias; Valin & Skoglund 2019, LPCNet). Not for µ-law classes, which are noisy."""
    speakers: Literal["one", "data"] = "one"
    """one: whoever speaks is the same voice. data: a learned vector for each speaker that the recordings name; the
    table of names goes with the checkpoint, and more can be added in fine-tuning."""
    clip_seconds: float = 1.0
    """An evaluation synthesizes so much of its first recording again, and measures how far the mel frames are apart;
    0 does without."""

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
        heard = history_frames(dataclasses.replace(self.model, hop=self.audio.hop))
        if self.crop_frames <= heard:
            raise UserError(
                f"task.crop_frames: found {self.crop_frames}, expected more than {heard}: the network looks back "
                f"{self.model.receptive_field} samples"
            )

    kind: ClassVar[str] = "vocoder"
    named_speakers: ClassVar[bool] = True

    def build(self, reader: None = None, teacher: None = None) -> Task:
        """Return the mel-to-waveform task."""
        from speech_jax.tasks.wavenet_task import wavenet_task

        return wavenet_task(self)

    def with_speakers(self, count: int) -> WaveNetTaskConfig:
        """Return the config for `count` speakers."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, speakers=count))

    def stream_options(self) -> StreamOptions:
        """Read the rows' own mel files where `mels` says so."""
        return StreamOptions(mels=self.audio if self.mels == "manifest" else None)

    def start_rules(self, old: Checkpointed) -> StartRules:
        """Give a vocoder of one speaker inputs for several."""
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
