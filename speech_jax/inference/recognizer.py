"""A checkpoint folder as something that hears: recordings in, words with times out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from speech_jax.artifacts.recognizer import RecognizerParts, load_recognizer_parts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features
from speech_jax.core.errors import UserError
from speech_jax.core.types import Model, PyTree
from speech_jax.decoding.beam import BeamSearch, search_batch
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.ctc import BestPath, best_frames, collapse
from speech_jax.decoding.longform import encode_windows, extract_long_features
from speech_jax.decoding.words import Transcript, to_words
from speech_jax.tasks.ctc import build_model, recognize
from speech_jax.text.ngram import read_arpa
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checkpoint import (
    Which,
)


@dataclass(frozen=True)
class WindowConfig:
    """How recordings are cut for the recognizer."""

    core_seconds: float = 20.0
    """Of a long recording, what each window contributes."""
    context_seconds: float = 4.0
    """What a window hears before and after that. Recordings up to core + 2 · context are recognized in one pass."""
    batch_seconds: float = 0.0
    """Seconds of audio recognized at a time; 0 takes one window on a CPU and about 240 s on an accelerator."""

    def __post_init__(self):
        for name, value in (("core_seconds", self.core_seconds - 0.1), ("context_seconds", self.context_seconds)):
            if not 0 <= value <= 3600:
                least = "0.1" if name == "core_seconds" else "0"
                raise UserError(f"windows.{name}: found {getattr(self, name)}, expected {least} to 3600")


class _Shape(NamedTuple):
    """Static shape of a window: rows, samples."""

    rows: int
    samples: int


@dataclass(frozen=True)
class CTCRecognizer:
    """A CTC network with all that it needs to turn recordings into text. `load_recognizer` makes one from a folder."""

    network: Model
    params: PyTree
    model_state: PyTree
    tokenizer: Tokenizer
    audio: AudioConfig
    windows: WindowConfig = WindowConfig()
    name: str = ""
    search: BeamSearch | None = None
    """Looks for text with a beam, and a language model; None takes the best path."""

    @functools.cached_property
    def factor(self) -> int:
        """Feature frames an output frame stands for."""
        frames = 57_600  # 2^8 · 3^2 · 5^2, which 4, 8 and wav2vec 2.0's 320 divide; only shapes are computed
        spec = {
            "features": jax.ShapeDtypeStruct((1, frames, num_features(self.audio)), np.float32),
            "mask": jax.ShapeDtypeStruct((1, frames), np.bool_),
        }
        found = jax.eval_shape(self._network, self.params, self.model_state, spec)["logits"].shape[1]
        if found == 0 or frames % found:
            raise UserError(
                f"{self.name}: found {found} outputs of {frames} frames, expected a whole subsampling factor"
            )
        return frames // found

    @property
    def frame_seconds(self) -> float:
        """Seconds an output frame stands for."""
        return self.factor * self.audio.hop / self.audio.sample_rate

    @functools.cached_property
    def core(self) -> int:
        """Feature frames that a window contributes: a multiple of the subsampling."""
        return max(1, round(self.windows.core_seconds / self.frame_seconds)) * self.factor

    @functools.cached_property
    def context(self) -> int:
        """Feature frames of context on each side: a multiple of the subsampling."""
        return round(self.windows.context_seconds / self.frame_seconds) * self.factor

    @property
    def longest(self) -> int:
        """Samples up to which a recording is recognized in one pass."""
        return (self.core + 2 * self.context) * self.audio.hop

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
        """The tokens of every row of a padded batch, in NumPy. Compiled once a shape."""
        if self.search is None:
            return jax.device_get(self._forward(*self._on_device, audio, lengths))
        return search_batch(self.search, *self.log_probs(audio, lengths))

    def log_probs(
        self, audio: Float[np.ndarray, "rows samples"], lengths: np.ndarray
    ) -> tuple[Float[np.ndarray, "rows frames vocab"], np.ndarray]:
        """(log-probabilities of the tokens, frames of each row), in NumPy. Compiled once a shape."""
        scores, mask = jax.device_get(self._score(*self._on_device, audio, lengths))
        return scores, mask.sum(axis=1)

    def recognize_long(self, audio: Float[np.ndarray, " samples"]) -> BestPath:
        """The tokens (one row) of a recording of any length, in overlapping windows."""
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

    def transcribe(self, audio: Float[np.ndarray, " samples"]) -> Transcript:
        """What is said in a recording at the model's sample rate."""
        return next(self.transcribe_many([audio]))

    def transcribe_many(self, recordings: Iterable[Float[np.ndarray, " samples"]]) -> Iterator[Transcript]:
        """A transcript for each recording, in their order; short ones are recognized together."""
        group: list[np.ndarray] = []
        seconds = 0.0
        for audio in recordings:
            group.append(audio)
            seconds += len(audio) / self.audio.sample_rate
            if seconds >= 2 * self._group_seconds:
                yield from self._transcribe_group(group)
                group, seconds = [], 0.0
        yield from self._transcribe_group(group)

    def to_transcript(self, path: BestPath, row: int, samples: int) -> Transcript:
        """One row of a best path as text."""
        length = int(path.lengths[row])
        columns = (column[row, :length] for column in (path.ids, path.starts, path.ends, path.confidence))
        seconds = samples / self.audio.sample_rate
        words = to_words(*columns, self.tokenizer, self.frame_seconds)
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
        """The smallest of three window lengths that holds so many samples."""
        length = next(n for n in (self.longest // 4, self.longest // 2, self.longest) if samples <= n)
        return _Shape(self._rows(length / self.audio.sample_rate), length)

    def _transcribe_group(self, group: Sequence[np.ndarray]) -> Iterator[Transcript]:
        found: dict[int, Transcript] = {}
        by_shape: dict[_Shape, list[int]] = {}
        for place, audio in enumerate(group):
            if len(audio) == 0:
                found[place] = Transcript("", (), 0.0)
            elif len(audio) > self.longest:
                found[place] = self.to_transcript(self.recognize_long(audio), 0, len(audio))
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
                    found[place] = self.to_transcript(path, row, len(group[place]))
        yield from (found[place] for place in range(len(group)))


_collapse = jax.jit(collapse)


def load_recognizer(
    path: str | Path,
    which: Which = "best",
    windows: WindowConfig | None = None,
    beam: BeamConfig | None = None,
    adapter: str = "",
) -> CTCRecognizer:
    """`load_recognizer_parts` and `make_recognizer`, with the language model that `beam` names."""
    parts = load_recognizer_parts(path, which, adapter)
    return make_recognizer(parts, Path(path).resolve().name, windows, beam)


def make_recognizer(
    parts: RecognizerParts, name: str = "", windows: WindowConfig | None = None, beam: BeamConfig | None = None
) -> CTCRecognizer:
    """What was loaded, put together."""
    return CTCRecognizer(
        network=build_model(parts.task, parts.tokenizer.vocab_size),
        params=parts.params,
        model_state=parts.model_state,
        tokenizer=parts.tokenizer,
        audio=parts.task.audio,
        windows=windows or WindowConfig(),
        name=name,
        search=make_search(parts.tokenizer, beam or BeamConfig()),
    )


def make_search(tokenizer: Tokenizer, config: BeamConfig) -> BeamSearch | None:
    """The search that `config` asks for; None is the best path."""
    if not config.width:
        return None
    return BeamSearch(tokenizer, config, read_arpa(config.lm) if config.lm else None)


