"""`WaveNetVocoder`: mel frames → waveform with a WaveNet checkpoint, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from speech_jax.artifacts.vocoder import VocoderParts, load_vocoder_parts
from speech_jax.audio.config import AudioConfig, check_same_audio
from speech_jax.audio.emphasis import undo_emphasis
from speech_jax.audio.mel import check_mel, checked_mels
from speech_jax.core.errors import UserError
from speech_jax.data.mels import read_mel
from speech_jax.decoding.config import Cores, Dtype
from speech_jax.decoding.wavenet.engines import make_engine
from speech_jax.decoding.wavenet.stream import folded_audio, make_net, stream_audio
from speech_jax.inference.config import EngineName
from speech_jax.kernels.wavenet.step import tempered
from speech_jax.models.wavenet_condition import rows_per_frame
from speech_jax.tasks.wavenet_task import frame_offset, network_config
from speech_jax.training.checkpoint import Which

FOLDS = 16  # segments of the engine "fold"


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
    """Load the vocoder in a run's folder.

    Args:
        path: The folder of a run, or of one of its steps.
        which: The run's best or last checkpoint, or a step.
        engine: See `WaveNetVocoder`, as for the arguments below.
        dtype: Type of the engine's weights.
        folds: Segments sampled at once.
        cores: Processor cores of the native engine.
        temperature: Sampling temperature.

    Returns:
        The vocoder.

    Raises:
        UserError: If there is no whole checkpoint, or not a vocoder's.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.vocoder import VocoderParts, save_vocoder
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.vocoder import load_vocoder
        >>> from speech_jax.models.config import WaveNetConfig
        >>> from speech_jax.tasks.wavenet import WaveNetTaskConfig
        >>> network = WaveNetConfig(layers=4, cycles=2, residual=8, gate=8, skip=8, head=8)
        >>> config = WaveNetTaskConfig(model=network, crop_frames=4)
        >>> weights = config.program(Bucket(rows=1, samples=1024, labels=1), vocab_size=0).weights
        >>> params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_vocoder(folder, VocoderParts(config, params))
        ...     vocoder = load_vocoder(folder, engine="scan")
        >>> vocoder.wave(np.zeros((2, 80), np.float32)).shape  # hop samples per frame
        (512,)
    """
    options = {"dtype": dtype, "folds": folds, "cores": cores, "temperature": temperature}
    return WaveNetVocoder(load_vocoder_parts(path, which), engine, name=str(path), **options)


class WaveNetVocoder:
    """WaveNet vocoder: log-mel frames to samples in [-1, 1] at `audio.sample_rate`, hop samples per frame.

    Args:
        parts: Task, parameters and speakers of a checkpoint.
        engine: "auto", "scan", "native" or "pallas" (see decoding/wavenet/engines.py); "fold" is the scan over 16
            segments of a recording at once.
        dtype: Type of the weights, in the engines that support others than float32.
        folds: Segments that `wave` samples at once, with any engine; 0 samples the recording as one sequence.
        cores: Processor cores of the native engine.
        temperature: Sampling temperature; < 1 gives less noise and less breathiness.
        name: Name in errors.

    Attributes:
        task: The task's config.
        audio: Audio settings of the mel frames.
        name: Name in errors.
        speakers: Names of the speakers; empty for one.
        net: Network and weights.
        folds: Segments that `wave` samples at once.
        engine: The loop over samples.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.vocoder import VocoderParts
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.vocoder import WaveNetVocoder
        >>> from speech_jax.models.config import WaveNetConfig
        >>> from speech_jax.tasks.wavenet import WaveNetTaskConfig
        >>> network = WaveNetConfig(layers=4, cycles=2, residual=8, gate=8, skip=8, head=8)
        >>> config = WaveNetTaskConfig(model=network, crop_frames=4)
        >>> weights = config.program(Bucket(rows=1, samples=1024, labels=1), vocab_size=0).weights
        >>> params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> vocoder = WaveNetVocoder(VocoderParts(config, params), engine="scan")
        >>> mels = [np.zeros((frames, 80), np.float32) for frames in (1, 2)]
        >>> sum(len(chunk) for chunk in vocoder.stream(mels))  # three frames of 256 samples
        768
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
        if not 0 <= folds <= 4096:
            raise UserError(f"folds: found {folds}, expected 0 to 4096")
        self.folds = folds or (FOLDS if engine == "fold" else 0)
        config = self.net.config
        share = config.hop // rows_per_frame(config.condition, config.hop)
        kind = "scan" if engine == "fold" else engine
        rows = max(self.folds, 1)
        self.engine = make_engine(kind, self.net.shape, self.net.weights, share, batch=rows, dtype=dtype, cores=cores)

    def check_audio(self, audio: AudioConfig, name: str) -> None:
        """Raise UserError unless `audio`, the settings of `name`, are the vocoder's; each difference is named."""
        check_same_audio(audio, self.audio, name, self.name)

    def read(self, path: str | Path) -> Float[np.ndarray, "frames mels"]:
        """Return the mel frames of a file. Raises UserError if they were made with other audio settings."""
        return read_mel(path, self.audio)

    def wave(
        self, mel: Float[np.ndarray, "frames mels"], *, seed: int = 0, speaker: int = 0
    ) -> Float[np.ndarray, " samples"]:
        """Return the waveform of a whole recording.

        Args:
            mel: All mel frames.
            seed: Seed of the samples; the same seed gives the same waveform.
            speaker: Speaker's number, for a vocoder of several.

        Returns:
            Samples in [-1, 1].

        Raises:
            UserError: If there are no frames, if they have another number of bands, or if a value is not finite.
        """
        mel = check_mel(mel, self.audio.width, "the mel frames")
        if not self.folds:
            return np.concatenate(list(self.stream([mel], seed=seed, speaker=speaker)))
        self._check_speaker(speaker)
        samples = folded_audio(self.net, mel, seed, folds=self.folds, engine=self.engine, speaker=speaker)
        return np.concatenate(list(self._plain(iter([samples]))))

    def stream(
        self, mels: Iterable[Float[np.ndarray, "frames mels"]], *, seed: int = 0, speaker: int = 0
    ) -> Iterator[Float[np.ndarray, " samples"]]:
        """Yield the waveform while the frames arrive.

        Concatenated, the chunks equal `wave` without folds, however the frames are cut.

        Args:
            mels: Chunks of mel frames, of any lengths.
            seed: Seed of the samples.
            speaker: Speaker's number, for a vocoder of several.

        Returns:
            Chunks of samples in [-1, 1].

        Raises:
            UserError: As `wave` does.
        """
        self._check_speaker(speaker)
        mels = checked_mels(mels, self.audio.width, least=1)
        return self._plain(stream_audio(self.net, mels, seed, engine=self.engine, speaker=speaker))

    def _check_speaker(self, speaker: int) -> None:
        count = max(self.net.config.speakers, 1)
        if not 0 <= speaker < count:
            raise UserError(f"{self.name}: found speaker {speaker}, expected 0 to {count - 1}")

    def _plain(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Undo gain and pre-emphasis, and cut what lies before the recording's first sample."""
        to_cut = frame_offset(self.audio) * self.audio.hop
        for chunk in undo_emphasis(chunks, self.task.gain, self.task.pre_emphasis):
            yield chunk[to_cut:]
            to_cut = max(to_cut - len(chunk), 0)
