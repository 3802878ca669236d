"""Read audio files of any format as mono float32 in [-1, 1] at a given sample rate.

WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, SPH and the other formats of libsndfile are read by soundfile, headerless
G.722 by PyAV; soxr resamples. No allocation depends on a size stated in a header: audio is decoded in blocks until it
ends or exceeds the limit, so a wrong header or a decompression bomb costs no more memory than a recording of maximum
length.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from speech_jax.core.errors import UserError

MAX_SECONDS = 3600.0
MIN_RATE, MAX_RATE = 2_000, 768_000
MAX_CHANNELS = 64
G722_RATE = 16_000  # samples per second, in 8,000 bytes
_BLOCK = 1 << 19  # decoded values (frames × channels) per block: 2 MB
_LOUD = 4.0  # a decoder may overshoot 1.0; a float file beyond this is scaled wrong


class AudioInfo(NamedTuple):
    """Properties stated in a file's header, not measured.

    Attributes:
        seconds: duration in seconds.
        rate: samples per second.
        channels: number of channels.
    """

    seconds: float
    rate: int
    channels: int


def is_reference(audio: str) -> bool:
    """Return True unless `audio` is a plain path: a Kaldi pipe, a record of a shard, or an example of tfds."""
    return audio.endswith("|") or audio.startswith("tfds:") or ".array_record#" in audio


def probe(path: str | Path) -> AudioInfo:
    """Read duration, sample rate and channels from the header, without decoding. Raise UserError naming the file."""
    path = os.fspath(path)
    if path.lower().endswith(".g722"):
        size = _size(path)
        if size == 0:
            raise UserError(f"{path}: found an empty file, expected audio")
        return AudioInfo(2 * size / G722_RATE, G722_RATE, 1)
    with _open(path, path) as file:
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def read_audio(
    path: str | Path | BinaryIO,
    sample_rate: int,
    *,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = MAX_SECONDS,
    name: str = "",
) -> Float[np.ndarray, "time"]:
    """Decode a recording, or a part of it, to mono samples.

    Channels are averaged. 8-bit to 32-bit, A-law and float files are scaled to [-1, 1]; overshoot is clipped.

    Args:
        path: file name or open binary file.
        sample_rate: samples per second of the result.
        start: beginning of the part, in seconds.
        end: end of the part, in seconds; None is the end of the recording.
        max_seconds: longest accepted duration, in seconds.
        name: name in error messages, if `path` is an open file.

    Returns:
        float32 samples in [-1, 1].

    Raises:
        UserError: the file is missing, empty, not audio, damaged, cut off, longer than `max_seconds`, ends before
            `end`, or has NaN, infinite or far too large samples. The message names the file.

    Example:
        >>> import io
        >>> import numpy as np, soundfile
        >>> from speech_jax.audio.io import read_audio
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(8000), 8000, format="WAV")
        >>> _ = file.seek(0)
        >>> read_audio(file, 16000).shape
        (16000,)
    """
    name = name or (os.fspath(path) if isinstance(path, str | os.PathLike) else "audio")
    if isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(".g722"):
        rate, blocks = G722_RATE, _g722_blocks(os.fspath(path), start)
        return _collect(name, blocks, rate, sample_rate, start=start, end=end, max_seconds=max_seconds)
    with _open(path, name) as file:
        seconds = (file.frames / file.samplerate if end is None else end) - start
        if seconds > max_seconds:
            raise UserError(f"{name}: found {seconds:.1f} s of audio, expected at most {max_seconds:.0f} s")
        blocks = _sound_blocks(file, name, start, end)
        return _collect(name, blocks, file.samplerate, sample_rate, start=start, end=end, max_seconds=max_seconds)


def _collect(
    name: str,
    blocks: Iterator[np.ndarray],
    rate: int,
    sample_rate: int,
    *,
    start: float,
    end: float | None,
    max_seconds: float,
) -> Float[np.ndarray, "time"]:
    """Check, resample, clip and concatenate mono blocks at `rate`."""
    resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    limit = None if end is None else max(1, round(end * rate) - round(start * rate))
    pieces: list[np.ndarray] = []
    frames, loudest = 0, 0.0
    for block in blocks:
        if limit is not None:
            block = block[: limit - frames]
        frames += len(block)
        if frames > max_seconds * rate + 1:
            raise UserError(f"{name}: found more than {max_seconds:.0f} s of audio, expected at most that")
        high, low = block.max(initial=0.0), block.min(initial=0.0)  # NaN if any sample is
        if not (np.isfinite(high) and np.isfinite(low)):
            raise UserError(f"{name}: found NaN or infinite samples, expected numbers in [-1, 1]")
        peak = max(high, -low)
        loudest = max(loudest, peak)
        if peak > _LOUD:
            raise UserError(f"{name}: found float samples up to {peak:.6g}, expected numbers in [-1, 1]")
        pieces.append(block if resampler is None else resampler.resample_chunk(block))
        if limit is not None and frames >= limit:
            break
    if frames == 0:
        raise UserError(f"{name}: found no samples" + (f" after {start:.3f} s" if start else "") + ", expected audio")
    # One frame and 10 ms of slack: ends in manifests are rounded, and lossy codecs pad.
    if limit is not None and frames < limit - 1 - 0.01 * rate:
        raise UserError(f"{name}: found {start + frames / rate:.3f} s of audio, expected at least {end:.3f} s")
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    audio = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(audio) == 0:
        raise UserError(f"{name}: found {frames} samples at {rate} Hz, too few for one sample at {sample_rate} Hz")
    return np.clip(audio, -1.0, 1.0) if loudest > 1 or resampler is not None else np.ascontiguousarray(audio)


def _sound_blocks(
    file: soundfile.SoundFile, name: str, start: float, end: float | None
) -> Iterator[Float[np.ndarray, "time"]]:
    """Yield mono blocks from `start` on. Raise UserError if the file is shorter than its header states."""
    size = max(1, _BLOCK // file.channels)
    position = round(start * file.samplerate)
    try:
        if position:
            if position >= file.frames:
                return
            file.seek(position)
        # A short segment should not decode a whole block; MP3 and Vorbis decoders read ahead on their own.
        remaining = None if end is None else round(end * file.samplerate) - position
        while remaining is None or remaining > 0:
            block = file.read(size if remaining is None else min(size, remaining), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            position += len(block)
            remaining = None if remaining is None else remaining - len(block)
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    except (RuntimeError, OSError) as error:  # soundfile.LibsndfileError is a RuntimeError
        seconds = position / file.samplerate
        raise UserError(
            f"{name}: damaged or cut off after {seconds:.3f} s ({_reason(error)}), expected audio"
        ) from error
    # Lossy formats state their length only roughly.
    if end is None and position < file.frames - 1 and file.format not in ("MP3", "OGG"):
        seconds, stated = position / file.samplerate, file.frames / file.samplerate
        raise UserError(f"{name}: cut off: found {seconds:.3f} s, expected the {stated:.3f} s of its header")


def _g722_blocks(path: str, start: float) -> Iterator[Float[np.ndarray, "time"]]:
    """Yield mono blocks of a headerless G.722 file. The codec is adaptive, so decoding starts at sample 0."""
    import av  # a large library that only this format needs
    from av.error import FFmpegError

    if _size(path) == 0:
        raise UserError(f"{path}: found an empty file, expected audio")
    skip = round(start * G722_RATE)
    try:
        with av.open(path, format="g722") as container:
            for frame in container.decode(audio=0):
                block = frame.to_ndarray().reshape(-1)
                block = block.astype(np.float32) / 32768 if block.dtype == np.int16 else block.astype(np.float32)
                cut = min(skip, len(block))
                skip -= cut
                if cut < len(block):
                    yield block[cut:]
    except (FFmpegError, OSError) as error:
        raise UserError(f"{path}: damaged ({_reason(error)}), expected G.722 audio") from error


def _open(path: str | os.PathLike | BinaryIO, name: str) -> soundfile.SoundFile:
    """Open an audio file and check everything that can be checked before decoding."""
    stream = path
    if isinstance(path, str | os.PathLike):
        if _size(path) == 0:
            raise UserError(f"{name}: found an empty file, expected audio")
        stream = os.fspath(path)
    try:
        file = soundfile.SoundFile(stream)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{name}: not readable as audio ({_reason(error)}), expected WAV, FLAC, OGG or MP3") from error
    problem = ""
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        problem = f"found a sample rate of {file.samplerate}, expected {MIN_RATE} to {MAX_RATE}"
    elif not 1 <= file.channels <= MAX_CHANNELS:
        problem = f"found {file.channels} channels, expected 1 to {MAX_CHANNELS}"
    elif file.frames >= 1 << 62:  # libsndfile's value for FLAC that was written to a pipe; it cannot seek in it
        problem = "found FLAC without a length in its header, expected one (flac -d, then flac, repairs it)"
    elif file.format in ("WAV", "WAVEX", "RF64") and isinstance(path, str | os.PathLike):
        problem = _wav_cut_off(path)
    if problem:
        file.close()
        raise UserError(f"{name}: {problem}")
    return file


def _wav_cut_off(path: str | os.PathLike) -> str:
    """Describe a WAV file whose data chunk is cut off, which libsndfile accepts silently; "" if it is complete."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return ""
        file.seek(12)
        for _ in range(64):  # chunks before the data
            head = file.read(8)
            if len(head) < 8:
                return ""
            length = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                present = size - file.tell()
                # Programs that write to a pipe cannot state the length and write 0 or a number near 2^31 or 2^32.
                unknown = length == 0 or length >= 0x7FFF0000
                if length > present and not unknown:
                    return f"cut off: found {present} bytes of samples, expected the {length} of its header"
                return ""
            file.seek(length + length % 2, io.SEEK_CUR)
    return ""


def _size(path: str | os.PathLike) -> int:
    try:
        if not os.path.isfile(path):
            problem = "a folder" if os.path.isdir(path) else "no such file"
            raise UserError(f"{os.fspath(path)}: {problem}, expected a recording")
        return os.path.getsize(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{os.fspath(path)!r}: {_reason(error)}, expected a recording") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:120] or type(error).__name__
