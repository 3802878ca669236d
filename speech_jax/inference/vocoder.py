"""A checkpoint as something that makes sound: mel frames → audio, whole or as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from speech_jax.artifacts.vocoder import VocoderParts, load_vocoder_parts
from speech_jax.audio.config import AudioConfig, check_same_audio
from speech_jax.audio.emphasis import undo_emphasis
from speech_jax.core.errors import UserError
from speech_jax.data.mels import check_mel, read_mel
from speech_jax.decoding.config import Cores, Dtype
from speech_jax.decoding.wavenet.engines import make_engine
from speech_jax.decoding.wavenet.stream import folded_audio, make_net, stream_audio
from speech_jax.inference.config import EngineName
from speech_jax.kernels.wavenet.step import tempered
from speech_jax.models.wavenet_condition import rows_per_frame
from speech_jax.tasks.wavenet_task import frame_offset, network_config
from speech_jax.training.checkpoint import Which

FOLDS = 16  # of the engine "fold"


def load_vocoder(
    path: str | Path,
    which: Which = "best",
    engine: EngineName = "auto",
    *,
    dtype: Dtype = "float32",
    folds: int = 0,
    cores: Cores = 1,
    temperature: float = 1.0,
) -> WaveNetVocoder:
    """The vocoder in a run's folder, ready to be heard."""
    options = {"dtype": dtype, "folds": folds, "cores": cores, "temperature": temperature}
    return WaveNetVocoder(load_vocoder_parts(path, which), engine, name=str(path), **options)


class WaveNetVocoder:
    """Makes sound of log-mel frames, in [-1, 1] at `audio.sample_rate`: hop samples a frame.

    engine: "auto", "scan", "native" or "pallas" (see decoding/wavenet/engines.py); "fold" is the scan over 16 segments
    of a recording at once. folds: segments that `wave` makes at once with any engine; 0 makes one sample after the
    other. dtype: of the weights in the engines that know others than float32. cores: that the native engine takes.
    temperature: of what is drawn: below 1 there is less noise, and less breath. See `wavenet_weights.tempered`.
    """

    def __init__(
        self,
        parts: VocoderParts,
        engine: EngineName = "auto",
        *,
        dtype: Dtype = "float32",
        folds: int = 0,
        cores: Cores = 1,
        temperature: float = 1.0,
        name: str = "the vocoder",
    ):
        self.task, self.audio, self.name, self.speakers = parts.task, parts.task.audio, name, parts.speakers
        net = make_net(network_config(parts.task), jax.device_put(parts.params))
        self.net = net._replace(weights=tempered(net.shape, net.weights, temperature))
        self.folds = folds or (FOLDS if engine == "fold" else 0)
        config = self.net.config
        share = config.hop // rows_per_frame(config.condition, config.hop)
        kind = "scan" if engine == "fold" else engine
        rows = max(self.folds, 1)
        self.engine = make_engine(kind, self.net.shape, self.net.weights, share, batch=rows, dtype=dtype, cores=cores)

    def check_audio(self, audio: AudioConfig, name: str) -> None:
        """UserError unless `name`'s mel frames are those that this vocoder hears: it names each setting in which they
        differ, on both sides."""
        check_same_audio(audio, self.audio, name, self.name)

    def read(self, path: str | Path) -> Float[np.ndarray, "frames mels"]:
        """The frames of a file of data/mels.py. Raises UserError where they are another contract's."""
        return read_mel(path, self.audio)

    def wave(
        self, mel: Float[np.ndarray, "frames mels"], *, seed: int = 0, speaker: int = 0
    ) -> Float[np.ndarray, " samples"]:
        """The audio of all frames of a recording. The same seed makes the same audio.

        Raises UserError for frames with another number of bands, none, or with numbers that are not finite.
        """
        mel = check_mel(mel, self.audio.width, "the mel frames")
        if not self.folds:
            return np.concatenate(list(self.stream([mel], seed=seed, speaker=speaker)))
        self._check_speaker(speaker)
        made = folded_audio(self.net, mel, seed, folds=self.folds, engine=self.engine, speaker=speaker)
        return np.concatenate(list(self._plain(iter([made]))))

    def stream(
        self, mels: Iterable[Float[np.ndarray, "frames mels"]], *, seed: int = 0, speaker: int = 0
    ) -> Iterator[Float[np.ndarray, " samples"]]:
        """The audio as the frames come, in chunks of any lengths; put together it is the audio of `wave` without folds,
        however the frames were cut. Raises UserError as `wave` does."""
        self._check_speaker(speaker)
        return self._plain(stream_audio(self.net, self._checked(mels), seed, engine=self.engine, speaker=speaker))

    def _check_speaker(self, speaker: int) -> None:
        count = max(self.net.config.speakers, 1)
        if not 0 <= speaker < count:
            raise UserError(f"{self.name}: found speaker {speaker}, expected 0 to {count - 1}")

    def _checked(self, mels: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        total = 0
        for mel in mels:
            if len(mel):
                yield check_mel(mel, self.audio.width, f"the mel frames from {total} on")
                total += len(mel)
        if not total:
            raise UserError("the mel frames: found no frames, expected at least one")

    def _plain(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Without gain and pre-emphasis, and without what lies before a recording's first sample."""
        left = frame_offset(self.audio) * self.audio.hop
        for chunk in undo_emphasis(chunks, self.task.gain, self.task.pre_emphasis):
            yield chunk[left:]
            left = max(left - len(chunk), 0)
