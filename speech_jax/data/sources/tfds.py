"""Source: speech sets of tensorflow-datasets, read through `tfds.data_source` without TensorFlow.

The set must be prepared already (`download_and_prepare(file_format="array_record")`); nothing is downloaded.
An utterance's audio is `tfds:NAME|SPLIT|DATA_DIR#INDEX`. NAME may end in `@RATE`, such as `common_voice@48000`: the
samples per second of a set whose Audio feature names none.
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
from tqdm import tqdm

from speech_jax.audio.io import MAX_RATE, MAX_SECONDS, MIN_RATE, Decoded, decode, decode_array
from speech_jax.core.errors import UserError, install_extra
from speech_jax.data.utterances import Utterance, Utterances

_TEXT = ("text_normalized", "text", "transcript", "sentence", "transcription")
_SPEAKER = ("speaker_id", "speaker", "client_id")


def read_tfds(name: str, split: str, data_dir: str | Path) -> Utterances:
    """Read the utterances of a prepared set. All of its audio is read, because lengths are stored nowhere else.

    Args:
        name: name of the set, for example "librispeech", or with the sample rate that the set does not name,
            "common_voice@48000".
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
        recording = _decoded(example[audio_key], None, features, reference)
        result.append(
            Utterance(
                id=identity,
                audio=reference,
                text=_text(example[text_key]),
                speaker=_text(example[speaker_key]) if speaker_key else "",
                seconds=len(recording.samples) / recording.rate,
                where=reference,
            )
        )
    return Utterances.of(result)


def read(reference: str, sample_rate: int, *, max_seconds: float, channel: str = "mean") -> Decoded:
    """Read the audio of one reference.

    Args:
        reference: `tfds:NAME|SPLIT|DATA_DIR#INDEX`.
        sample_rate: Hz of the result.
        max_seconds: longer audio is an error.
        channel: "mean" of all channels, "left", "right", or a channel's number from 1.

    Returns:
        The samples, mono, in [-1, 1], and what is wrong with a recording that can be read.

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
    options = {"max_seconds": max_seconds, "channel": channel}
    return _decoded(_example(source, int(index), name)[key], sample_rate, features, reference, **options)


@functools.lru_cache(maxsize=16)
def _source(name: str, split: str, data_dir: str) -> Any:
    """Open a data source; cached, because opening reads the set's metadata."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.features import audio_feature
    except ImportError as error:
        raise UserError(f"tfds {name!r}: {error}; expected {install_extra('tfds')}") from error
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
        builder: Any = tfds.builder(name.partition("@")[0], data_dir=data_dir)
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


def _decoded(
    value: Any,
    sample_rate: int | None,
    features: Mapping[str, Any],
    reference: str,
    *,
    max_seconds: float = MAX_SECONDS,
    channel: str = "mean",
) -> Decoded:
    """Decode an example's audio. Integers of any dtype are 16-bit samples in tfds."""
    options = {"max_seconds": max_seconds, "channel": channel, "name": reference}
    if isinstance(value, bytes):  # lazy_decode: the file as it was
        return decode(io.BytesIO(value), sample_rate, **options)
    name = reference.removeprefix("tfds:").split("|")[0]
    _, feature = _audio_feature(features, name)
    rate = int(feature.sample_rate or _rate_of(name) or 0)
    if not rate:
        raise UserError(
            f"tfds {name!r}: found an Audio feature without a sample rate, expected --audio-rate (of prepare), or the "
            f"rate in the source's name, such as {name + '@48000'!r}"
        )
    samples = np.asarray(value)
    if samples.size == 0:
        raise UserError(f"{reference}: found no samples, expected audio")
    scale = np.float32(32768 if samples.dtype.kind in "iu" else 1)
    return decode_array(samples.astype(np.float32) / scale, rate, sample_rate, **options)


def _rate_of(name: str) -> int:
    """Return the sample rate at the end of a set's name, 0 if there is none."""
    _, _, rate = name.partition("@")
    if rate and not (rate.isdecimal() and MIN_RATE <= int(rate) <= MAX_RATE):
        raise UserError(f"tfds {name!r}: found the sample rate {rate!r}, expected {MIN_RATE} to {MAX_RATE}")
    return int(rate or 0)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
