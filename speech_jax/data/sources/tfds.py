"""Source: speech sets of tensorflow-datasets, read through `tfds.data_source` without TensorFlow.

The set must be prepared already (`download_and_prepare(file_format="array_record")`); nothing is downloaded.
An utterance's audio is `tfds:NAME|SPLIT|DATA_DIR#INDEX`.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.audio.io import read_audio
from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance, Utterances

_TEXT = ("text_normalized", "text", "transcript", "sentence", "transcription")
_SPEAKER = ("speaker_id", "speaker", "client_id")


def read_tfds(name: str, split: str, data_dir: str | Path) -> Utterances:
    """Read the utterances of a prepared set. All of its audio is read, because lengths are stored nowhere else.

    Args:
        name: name of the set, for example "librispeech".
        split: name of the split, or a slice of it such as "train[:10]".
        data_dir: folder of the prepared set.

    Returns:
        The rows.

    Raises:
        UserError: tensorflow-datasets is not installed, the set is not prepared there, or has no audio and text.
    """
    source = _source(name, split, str(data_dir))
    features = source.dataset_info.features
    audio_key, _ = _audio_feature(features, name)
    text_key = next((k for k in _TEXT if k in features), None)
    if text_key is None:
        raise UserError(f"tfds {name!r}: found features {sorted(features)}, expected one of {', '.join(_TEXT)}")
    speaker_key = next((k for k in _SPEAKER if k in features), None)
    result = []
    for index in tqdm(range(len(source)), desc=f"{name}/{split}", unit="utt", disable=not sys.stderr.isatty()):
        example = _example(source, index, name)
        reference = f"tfds:{name}|{split}|{data_dir}#{index}"
        identity = _text(example["id"]) if "id" in example else f"{name}-{split}-{index}"
        audio, rate = _decoded(example[audio_key], features, name, reference)
        result.append(
            Utterance(
                id=identity,
                audio=reference,
                text=_text(example[text_key]),
                speaker=_text(example[speaker_key]) if speaker_key else "",
                seconds=len(audio) / rate,
                where=reference,
            )
        )
    return Utterances.of(result)


def read(reference: str, sample_rate: int, *, max_seconds: float) -> Float[np.ndarray, "time"]:
    """Read the audio of one reference.

    Args:
        reference: `tfds:NAME|SPLIT|DATA_DIR#INDEX`.
        sample_rate: Hz of the result.
        max_seconds: longer audio is an error.

    Returns:
        float32 [time], mono, in [-1, 1].

    Raises:
        UserError: it cannot be read; the message names it.
    """
    place, _, index = reference.removeprefix("tfds:").rpartition("#")
    name, split, data_dir = (place.split("|", 2) + ["", ""])[:3]
    source = _source(name, split, data_dir)
    if not index.isdecimal() or int(index) >= len(source):
        raise UserError(f"{reference}: found example {index!r}, expected 0 to {len(source) - 1}")
    features = source.dataset_info.features
    key, _ = _audio_feature(features, name)
    audio, rate = _decoded(_example(source, int(index), name)[key], features, name, reference)
    if len(audio) > max_seconds * rate:
        raise UserError(f"{reference}: found {len(audio) / rate:.1f} s, expected at most {max_seconds:.0f} s")
    return audio if rate == sample_rate else np.clip(soxr.resample(audio, rate, sample_rate), -1.0, 1.0)


@functools.lru_cache(maxsize=16)
def _source(name: str, split: str, data_dir: str) -> Any:
    """Open a data source; cached, because opening reads the set's metadata."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.features import audio_feature
    except ImportError as error:
        raise UserError(f"tfds {name!r}: {error}; expected `pip install speech_jax[tfds]`") from error
    if importlib.util.find_spec("tensorflow") is None:
        # The Audio feature uses TensorFlow for the names of dtypes at construction, and for nothing else.
        audio_feature.tf = SimpleNamespace(
            dtypes=SimpleNamespace(as_dtype=np.dtype),
            uint8=np.dtype(np.uint8),
            int16=np.dtype(np.int16),
            int32=np.dtype(np.int32),
            string=np.object_,
        )
        audio_feature._tfio_decode_fn = dict  # used by the lazy decoder only; its bytes are decoded here
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir)
        if split not in builder.info.splits:
            base = split.split("[")[0]
            if base not in builder.info.splits:
                splits = ", ".join(sorted(builder.info.splits)) or "none: the set is not prepared there"
                raise UserError(f"tfds {name!r} in {data_dir}: found no split {split!r}; the splits are {splits}")
        features = builder.info.features
        key, _ = _audio_feature(features, name)
        return builder.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding()})
    except UserError:
        raise
    except Exception as error:  # tfds raises many types: NotImplementedError, AssertionError, its own types
        reason = " ".join(str(error).split())[:200]
        expected = "expected a set prepared with file_format='array_record'"
        raise UserError(f"tfds {name!r} in {data_dir}: {type(error).__name__}: {reason}; {expected}") from error


def _audio_feature(features: Mapping[str, Any], name: str) -> tuple[str, Any]:
    from tensorflow_datasets.core.features import audio_feature

    for key, feature in features.items():
        if isinstance(feature, audio_feature.Audio):
            return key, feature
    raise UserError(f"tfds {name!r}: found features {sorted(features)}, expected an Audio feature")


def _example(source: Any, index: int, name: str) -> dict:
    try:
        return source[index]
    except Exception as error:  # whatever a damaged record makes the protobuf parser or array_record raise
        raise UserError(f"tfds {name!r} example {index}: {' '.join(str(error).split())[:200]}") from error


def _decoded(value: Any, features: Mapping[str, Any], name: str, reference: str) -> tuple[np.ndarray, int]:
    """Return (float32 [time] in [-1, 1], sample rate). Integers of any dtype are 16-bit samples in tfds."""
    _, feature = _audio_feature(features, name)
    rate = int(feature.sample_rate or 16_000)
    if isinstance(value, bytes):  # lazy_decode: the file as it was
        return read_audio(io.BytesIO(value), rate, name=reference), rate
    samples = np.asarray(value)
    if samples.size == 0:
        raise UserError(f"{reference}: found no samples, expected audio")
    is_integer = samples.dtype.kind in "iu"
    samples = samples.astype(np.float32) / np.float32(32768 if is_integer else 1)
    samples = samples.mean(axis=1) if samples.ndim == 2 else samples
    if not np.isfinite(samples).all() or np.abs(samples).max() > 4:
        raise UserError(f"{reference}: found samples up to {np.abs(samples).max():.6g}, expected 16-bit or [-1, 1]")
    return np.clip(samples, -1.0, 1.0), rate


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
