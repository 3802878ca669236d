"""`Recognizer`, the interface of speech to text, and `load_recognizer`, which loads one from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from speech_jax.artifacts.recognizer import RecognizerParts, load_recognizer_parts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.vad import load_detector
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.words import Transcript
from speech_jax.inference.config import SegmentBy, WindowConfig
from speech_jax.inference.ctc_recognizer import CTCRecognizer, Recording, make_search
from speech_jax.tasks.ctc_task import build_model
from speech_jax.training.checkpoint import OpenCheckpoint, Which, open_checkpoint


class Recognizer(Protocol):
    """Interface of speech to text with any network, used by `transcribe`, `evaluate` and `average`.

    Recordings are float32 in [-1, 1], mono, at `audio.sample_rate`. `transcribe` and `transcribe_many` also read files.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.recognizer import RecognizerParts, save_recognizer
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.recognizer import Recognizer, load_recognizer
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.tasks.ctc import CTCTaskConfig
        >>> config = CTCTaskConfig(model=ConformerConfig(width=16, layers=1, heads=2, kernel_size=3))
        >>> tokenizer = config.make_reader(lambda: ["no", "one"])
        >>> weights = config.program(Bucket(rows=1, samples=16000, labels=1), tokenizer.vocab_size).weights
        >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_recognizer(folder, RecognizerParts(config, tokenizer, params, state))
        ...     recognizer: Recognizer = load_recognizer(folder)
        >>> recognizer.longest // recognizer.audio.sample_rate  # seconds that fit in one pass
        28
    """

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def audio(self) -> AudioConfig:
        """Audio settings, with the sample rate of its inputs."""
        ...

    @property
    def language(self) -> str:
        """Language by which its texts were normalized; empty if they were not."""
        ...

    @property
    def longest(self) -> int:
        """Samples up to which a recording is recognized in one pass; a longer one is cut at pauses, or into windows."""
        ...

    def transcribe(self, audio: Recording) -> Transcript:
        """Return the text of one recording of any length, with word times."""
        ...

    def transcribe_many(self, recordings: Iterable[Recording]) -> Iterator[Transcript]:
        """Yield a transcript per recording, in their order; short ones share a batch."""
        ...

    def transcribe_long(self, audio: Float[np.ndarray, " samples"]) -> Transcript:
        """Return the text of a recording that does not fit in one pass, in bounded memory."""
        ...

    def transcribe_batch(
        self, audio: Float[np.ndarray, "rows samples"], lengths: Int[np.ndarray, " rows"]
    ) -> list[Transcript]:
        """Return the text of each row of a padded batch."""
        ...

    def score(self, audio: Float[np.ndarray, " samples"], text: str) -> float:
        """Return the log-probability in nats of a text given a recording."""
        ...


def load_recognizer(
    path: str | Path | OpenCheckpoint,
    which: Which = "best",
    windows: WindowConfig | None = None,
    beam: BeamConfig | None = None,
    adapter: str = "",
    segment: SegmentBy = "energy",
) -> CTCRecognizer:
    """Load the recognizer in a run's folder.

    Args:
        path: The folder of a run, or of one of its steps; or an open checkpoint.
        which: The run's best or last checkpoint, or a step.
        windows: Windows of recordings that do not fit in one pass.
        beam: Beam search, with the language model that it names; None takes the best path.
        adapter: Adapter file to apply to the checkpoint; empty is none.
        segment: Detector of the pauses at which recordings longer than `longest` are cut; "none" cuts none.

    Returns:
        The recognizer.

    Raises:
        UserError: If there is no whole checkpoint, or not a recognizer's, or if the language model does not fit.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.recognizer import RecognizerParts, save_recognizer
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.recognizer import load_recognizer
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.tasks.ctc import CTCTaskConfig
        >>> config = CTCTaskConfig(model=ConformerConfig(width=16, layers=1, heads=2, kernel_size=3))
        >>> tokenizer = config.make_reader(lambda: ["no", "one"])
        >>> weights = config.program(Bucket(rows=1, samples=16000, labels=1), tokenizer.vocab_size).weights
        >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_recognizer(folder, RecognizerParts(config, tokenizer, params, state))
        ...     recognizer = load_recognizer(folder)
        >>> transcript = recognizer.transcribe(np.zeros(16000, np.float32))  # one second of silence
        >>> transcript.text, transcript.seconds
        ('', 1.0)
    """
    checkpoint = open_checkpoint(path, which)
    parts = load_recognizer_parts(checkpoint, adapter=adapter)
    return make_recognizer(parts, Path(checkpoint.path).resolve().name, windows, beam, segment)


def make_recognizer(
    parts: RecognizerParts,
    name: str = "",
    windows: WindowConfig | None = None,
    beam: BeamConfig | None = None,
    segment: SegmentBy = "energy",
) -> CTCRecognizer:
    """Return a recognizer of parts in memory.

    Args:
        parts: Task, tokenizer, parameters and state.
        name: Name in reports.
        windows: Windows of recordings that do not fit in one pass.
        beam: Beam search; None takes the best path.
        segment: Detector of the pauses at which recordings longer than `longest` are cut; "none" cuts none.

    Returns:
        The recognizer.
    """
    if segment == "vad":
        load_detector()  # an error of a missing package comes before the first recording
    return CTCRecognizer(
        network=build_model(parts.task, parts.tokenizer.vocab_size),
        params=parts.params,
        model_state=parts.model_state,
        tokenizer=parts.tokenizer,
        audio=parts.task.audio,
        windows=windows or WindowConfig(),
        segment=segment,
        row_seconds=parts.row_seconds,
        name=name,
        search=make_search(parts.tokenizer, beam or BeamConfig()),
    )
