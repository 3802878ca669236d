"""`CTCRecognizer`: transcribe recordings with a CTC checkpoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features
from speech_jax.audio.io import LOUD, read_audio
from speech_jax.audio.segments import Span, speech_spans
from speech_jax.core.claims import check_claims
from speech_jax.core.errors import UserError
from speech_jax.core.types import Model, PyTree
from speech_jax.decoding.beam import BeamSearch, search_batch
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.ctc import BestPath, best_frames, collapse
from speech_jax.decoding.language_model import load_language_model
from speech_jax.decoding.longform import encode_windows, extract_long_features
from speech_jax.decoding.words import Transcript, join_transcripts, to_words
from speech_jax.inference.config import SegmentBy, WindowConfig
from speech_jax.objectives.ctc import ctc_loss
from speech_jax.tasks.ctc_task import recognize
from speech_jax.text.tokenizer import Tokenizer

_LONGER = 1.25  # times the usual length in training: a recording up to this length is recognized in one pass
_SEGMENT = 8.0  # seconds: a longer stretch of speech is cut at short pauses too, sooner if training had shorter ones

Recording = Float[np.ndarray, " samples"] | str | Path
"""Samples at the recognizer's rate, or a file, which is read at this rate."""


class _Shape(NamedTuple):
    """Static shape of a window: rows, samples."""

    rows: int
    samples: int


def _samples(audio: Any) -> np.ndarray:
    """Return a recording's samples as an array, or raise UserError if they are none."""
    audio, expected = np.asarray(audio), "expected a path, or finite float samples [time] in [-1, 1]"
    if audio.ndim != 1 or audio.dtype.kind != "f":
        raise UserError(f"recording: found {audio.dtype} of shape {audio.shape}, {expected}")
    if not np.isfinite(audio).all():
        raise UserError(f"recording: found NaN or infinity, {expected}")
    if (peak := float(np.abs(audio).max(initial=0.0))) > LOUD:  # such as int16 samples that were only cast
        raise UserError(f"recording: found samples up to {peak:g}, {expected}")
    return audio


@dataclass(frozen=True)
class CTCRecognizer:
    """Recognizer with a CTC network; `load_recognizer` loads one from a checkpoint folder.

    Attributes:
        network: Init and apply functions.
        params: Parameters.
        model_state: Batch statistics.
        tokenizer: Tokenizer of the network's outputs.
        audio: Audio settings.
        windows: Windows of recordings that do not fit in one pass.
        name: Name in reports.
        search: Beam search with or without a language model; None takes the best path.
        segment: Detector of the pauses at which recordings longer than `longest` are cut; "none" cuts none.
        row_seconds: Seconds that 95 % of the recordings it learned from do not exceed; 0 if that is unknown.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from speech_jax.artifacts.recognizer import RecognizerParts
        >>> from speech_jax.core.types import Bucket
        >>> from speech_jax.inference.recognizer import make_recognizer
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.tasks.ctc import CTCTaskConfig
        >>> config = CTCTaskConfig(model=ConformerConfig(width=16, layers=1, heads=2, kernel_size=3))
        >>> tokenizer = config.make_reader(lambda: ["no", "one"])
        >>> weights = config.program(Bucket(rows=1, samples=16000, labels=1), tokenizer.vocab_size).weights
        >>> params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
        >>> recognizer = make_recognizer(RecognizerParts(config, tokenizer, params, state))
        >>> log_probs, frames = recognizer.log_probs(np.zeros((1, 16000), np.float32), np.array([16000]))
        >>> log_probs.shape, frames.tolist()  # rows, frames of 40 ms, blank and three letters
        ((1, 25, 4), [25])
    """

    network: Model = field(repr=False)
    params: PyTree = field(repr=False)
    model_state: PyTree = field(repr=False)
    tokenizer: Tokenizer
    audio: AudioConfig
    windows: WindowConfig = WindowConfig()
    name: str = ""
    search: BeamSearch | None = field(default=None, repr=False)
    segment: SegmentBy = "energy"
    row_seconds: float = 0.0

    @property
    def language(self) -> str:
        """Language by which its texts were normalized; empty if they were not."""
        return self.tokenizer.language

    @functools.cached_property
    def factor(self) -> int:
        """Feature frames per output frame."""
        frames = 57_600  # 2^8 · 3^2 · 5^2, which 4, 8 and wav2vec 2.0's 320 divide; only shapes are computed
        spec = {
            "features": jax.ShapeDtypeStruct((1, frames, num_features(self.audio)), np.float32),
            "mask": jax.ShapeDtypeStruct((1, frames), np.bool_),
        }
        outputs = jax.eval_shape(self._network, self.params, self.model_state, spec)["logits"].shape[1]
        if outputs == 0 or frames % outputs:
            raise UserError(
                f"{self.name}: found {outputs} outputs of {frames} frames, expected a whole subsampling factor"
            )
        return frames // outputs

    @property
    def frame_seconds(self) -> float:
        """Seconds per output frame."""
        return self.factor * self.audio.hop / self.audio.sample_rate

    @functools.cached_property
    def core(self) -> int:
        """Feature frames of a window that are kept: a multiple of the subsampling."""
        return max(1, round(self.windows.core_seconds / self.frame_seconds)) * self.factor

    @functools.cached_property
    def context(self) -> int:
        """Feature frames of context on each side: a multiple of the subsampling."""
        return round(self.windows.context_seconds / self.frame_seconds) * self.factor

    @property
    def window(self) -> int:
        """Samples of a window: of the longest input of the network."""
        return (self.core + 2 * self.context) * self.audio.hop

    @property
    def longest(self) -> int:
        """Samples up to which a recording is recognized in one pass; a longer one is cut at pauses, or into windows.

        With `segment`, that is also at most 1.25 times the length of the recordings in training: a network that has
        learned from clips of single sentences fails at the pause between two.
        """
        if self.segment == "none" or not self.row_seconds:
            return self.window
        return min(self.window, round(_LONGER * self.row_seconds * self.audio.sample_rate))

    def _network(self, params, model_state, batch):
        return self.network.apply(params, model_state, batch, key=None, train=False)[0]

    @functools.cached_property
    def _on_device(self) -> tuple[PyTree, PyTree]:
        return jax.device_put((self.params, self.model_state))

    @functools.cached_property
    def _forward(self) -> Callable:
        return jax.jit(functools.partial(recognize, self.network, self.audio))

    @functools.cached_property
    def _score(self) -> Callable:
        def score(params, model_state, audio, lengths):
            features, mask = extract_features(audio, lengths, self.audio)
            outputs = self._network(params, model_state, {"features": features, "mask": mask})
            return jax.nn.log_softmax(outputs["logits"]), outputs["mask"]

        return jax.jit(score)

    @functools.cached_property
    def _encode(self) -> Callable:
        def encode(params, model_state, features, mask):
            outputs = self._network(params, model_state, {"features": features, "mask": mask})
            if self.search is not None:
                return jax.nn.log_softmax(outputs["logits"]), outputs["mask"]
            return best_frames(outputs["logits"]), outputs["mask"]

        return jax.jit(encode)

    def recognize(self, audio: Float[np.ndarray, "rows samples"], lengths: np.ndarray) -> BestPath:
        """Return the tokens of each row of a padded batch, in NumPy. Compiled once per shape."""
        if self.search is None:
            return jax.device_get(self._forward(*self._on_device, audio, lengths))
        return search_batch(self.search, *self.log_probs(audio, lengths))

    def log_probs(
        self, audio: Float[np.ndarray, "rows samples"], lengths: np.ndarray
    ) -> tuple[Float[np.ndarray, "rows frames vocab"], np.ndarray]:
        """Return (log-probabilities of the tokens, frames of each row), in NumPy. Compiled once per shape."""
        scores, mask = jax.device_get(self._score(*self._on_device, audio, lengths))
        return scores, mask.sum(axis=1)

    def recognize_long(self, audio: Float[np.ndarray, " samples"]) -> BestPath:
        """Return the tokens (one row) of a recording of any length, read in overlapping windows."""
        features = extract_long_features(audio, self.audio)
        width = (self.core + 2 * self.context) * self.audio.hop / self.audio.sample_rate
        joined = encode_windows(
            features,
            functools.partial(self._encode, *self._on_device),
            core=self.core,
            context=self.context,
            factor=self.factor,
            rows=self._rows(width),
        )
        if self.search is not None:
            return search_batch(self.search, joined[None], np.array([len(joined)]))
        best, score = joined
        size = 1 << max(10, (len(best) - 1).bit_length())  # few shapes, so few compilations
        mask = (np.arange(size) < len(best))[None]
        pad = (0, size - len(best))
        return jax.device_get(_collapse(np.pad(best, pad)[None], np.pad(score, pad)[None], mask))

    def transcribe(self, audio: Recording) -> Transcript:
        """Return the text of one recording of any length, with word times."""
        return next(self.transcribe_many([audio]))

    def transcribe_many(self, recordings: Iterable[Recording]) -> Iterator[Transcript]:
        """Yield a transcript per recording, in their order; short ones share a batch."""
        if isinstance(recordings, str | Path):
            raise UserError(f"recordings: found {str(recordings)!r} alone, expected a list of recordings")
        group: list[np.ndarray] = []
        seconds = 0.0
        for audio in recordings:
            if isinstance(audio, str | Path):
                audio = read_audio(audio, self.audio.sample_rate)
            else:
                audio = _samples(audio)
            group.append(audio)
            seconds += len(audio) / self.audio.sample_rate
            if seconds >= 2 * self._group_seconds:
                yield from self._transcribe_group(group)
                group, seconds = [], 0.0
        yield from self._transcribe_group(group)

    def transcribe_long(self, audio: Float[np.ndarray, " samples"]) -> Transcript:
        """Return the text of a recording that does not fit in one pass, in bounded memory."""
        return self.to_transcript(self.recognize_long(audio), 0, len(audio))

    def transcribe_batch(
        self, audio: Float[np.ndarray, "rows samples"], lengths: Int[np.ndarray, " rows"]
    ) -> list[Transcript]:
        """Return the text of each row of a padded batch."""
        path = self.recognize(audio, lengths)
        return [self.to_transcript(path, row, int(length)) for row, length in enumerate(lengths)]

    def score(self, audio: Float[np.ndarray, " samples"], text: str) -> float:
        """Return the log-probability in nats of a text given a recording, summed over all alignments.

        Raises UserError for a text that the tokenizer cannot encode. Returns -inf for one with more labels than the
        recording has frames.
        """
        labels = np.array(self.tokenizer.encode(text), np.int32)
        samples = _padded(np.asarray(audio, np.float32))
        log_probs, frames = self.log_probs(samples, np.array([len(audio)], np.int32))
        mask = np.arange(log_probs.shape[1])[None] < frames[:, None]
        padded = np.zeros((1, max(1, len(labels))), np.int32)
        padded[0, : len(labels)] = labels
        arrays = map(jnp.asarray, (log_probs, mask, padded, np.array([len(labels)], np.int32)))
        nll, feasible = ctc_loss(*arrays)
        return -float(nll[0]) if bool(feasible[0]) else -math.inf

    def to_transcript(self, path: BestPath, row: int, samples: int) -> Transcript:
        """Return one row of a best path as text."""
        length = int(path.lengths[row])
        ids, starts, ends, confidence = (
            np.asarray(column[row, :length]) for column in (path.ids, path.starts, path.ends, path.confidence)
        )
        seconds = samples / self.audio.sample_rate
        words = to_words(ids, starts, ends, confidence, self.tokenizer, self.frame_seconds)
        words = tuple(w._replace(start=min(w.start, seconds), end=min(w.end, seconds)) for w in words)
        return Transcript(" ".join(word.text for word in words), words, seconds)

    @property
    def _group_seconds(self) -> float:
        if self.windows.batch_seconds > 0:
            return self.windows.batch_seconds
        return 0.0 if jax.default_backend() == "cpu" else 240.0

    def _rows(self, seconds: float) -> int:
        return max(1, int(self._group_seconds / seconds))

    def _shape(self, samples: int) -> _Shape:
        """Return the shortest of three window lengths that holds `samples`."""
        length = next(n for n in (self.window // 4, self.window // 2, self.window) if samples <= n)
        return _Shape(self._rows(length / self.audio.sample_rate), length)

    def _spans(self, audio: np.ndarray) -> list[Span]:
        """Return the parts of a recording that are recognized, each by itself."""
        if self.segment == "none" or len(audio) <= self.longest:
            return [Span(0, len(audio))]
        usual = min(_SEGMENT, max(1.0, self.row_seconds)) if self.row_seconds else _SEGMENT
        longest = self.windows.segment_seconds or usual
        return speech_spans(audio, self.audio.sample_rate, self.segment, longest=longest)

    def _transcribe_group(self, group: Sequence[np.ndarray]) -> Iterator[Transcript]:
        spans = [self._spans(audio) for audio in group]
        pieces = [audio[start:stop] for audio, parts in zip(group, spans, strict=True) for start, stop in parts]
        transcripts, rate = iter(self._transcribe_pieces(pieces)), self.audio.sample_rate
        for audio, parts in zip(group, spans, strict=True):
            placed = [(start / rate, next(transcripts)) for start, _ in parts]
            yield placed[0][1] if parts == [(0, len(audio))] else join_transcripts(placed, len(audio) / rate)

    def _transcribe_pieces(self, group: Sequence[np.ndarray]) -> list[Transcript]:
        transcripts: dict[int, Transcript] = {}
        by_shape: dict[_Shape, list[int]] = {}
        for place, audio in enumerate(group):
            if len(audio) == 0:
                transcripts[place] = Transcript("", (), 0.0)
            elif len(audio) > self.window:
                transcripts[place] = self.transcribe_long(audio)
            else:
                by_shape.setdefault(self._shape(len(audio)), []).append(place)
        for shape, places in by_shape.items():
            for first in range(0, len(places), shape.rows):
                chosen = places[first : first + shape.rows]
                audio = np.zeros(shape, np.float32)
                lengths = np.zeros(shape.rows, np.int32)
                for row, place in enumerate(chosen):
                    audio[row, : len(group[place])] = group[place]
                    lengths[row] = len(group[place])
                path = self.recognize(audio, lengths)
                for row, place in enumerate(chosen):
                    transcripts[place] = self.to_transcript(path, row, len(group[place]))
        return [transcripts[place] for place in range(len(group))]


_collapse = jax.jit(collapse)


def _padded(audio: np.ndarray) -> np.ndarray:
    """Return one row, padded to a multiple of 16,384 samples, so that few shapes are compiled."""
    row = np.zeros((1, -(-max(len(audio), 1) // 16_384) * 16_384), np.float32)
    row[0, : len(audio)] = audio
    return row


def make_search(tokenizer: Tokenizer, config: BeamConfig) -> BeamSearch | None:
    """Return the beam search that `config` describes; None for the best path."""
    check_claims(config, "beam")
    if not config.width:
        return None
    lm = load_language_model(config.lm, tokenizer, fold_case=config.lm_fold_case) if config.lm else None
    return BeamSearch(tokenizer, config, lm)
