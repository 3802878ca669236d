"""Reading recordings: any file → mono float32 in [-1, 1] at the wanted rate.

WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, SPH and the rest of libsndfile by soundfile; headerless G.722 by PyAV;
resampling by soxr. Nothing is ever allocated by a header's word: audio is decoded in blocks until it ends or passes
the cap, so neither a header that lies nor a decompression bomb costs more memory than an honest recording as long as
the cap.
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
G722_RATE = 16_000  # samples a second, in 8,000 bytes
_BLOCK = 1 << 19  # decoded numbers (frames × channels) a block: 2 MB
_LOUD = 4.0  # a decoder may overshoot 1.0; a float file beyond this is scaled wrong


class AudioInfo(NamedTuple):
    """What a header says (a claim, not a measurement)."""

    seconds: float
    rate: int
    channels: int


def is_reference(audio: str) -> bool:
    """Whether an utterance's `audio` is not a plain file: a Kaldi pipe, a record of a shard, an example of tfds."""
    return audio.endswith("|") or audio.startswith("tfds:") or ".array_record#" in audio


def probe(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header, without decoding. Raises UserError naming the file."""
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
    """Decodes a recording, or the part from `start` to `end` (seconds), to mono float32 in [-1, 1] at `sample_rate`.

    Channels are averaged. 8-bit to 32-bit, A-law and float files are scaled to [-1, 1]; what overshoots is clipped.
    `name` is for messages where `path` is an open file.

    Raises UserError naming the file when it is missing, empty, not audio, damaged, cut off, longer than `max_seconds`,
    when it holds NaN, Inf or numbers far outside [-1, 1], or ends before `end`.
    """
    name = name or (os.fspath(path) if isinstance(path, str | os.PathLike) else "audio")
    if isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(".g722"):
        rate, blocks = G722_RATE, _g722_blocks(os.fspath(path), start)
        return _collect(name, rate, blocks, sample_rate, start, end, max_seconds)
    with _open(path, name) as file:
        wanted = (file.frames / file.samplerate if end is None else end) - start
        if wanted > max_seconds:
            raise UserError(f"{name}: found {wanted:.1f} s of audio, expected at most {max_seconds:.0f} s")
        blocks = _sound_blocks(file, name, start, end)
        return _collect(name, file.samplerate, blocks, sample_rate, start, end, max_seconds)


def _collect(
    name: str, rate: int, blocks: Iterator[np.ndarray], sample_rate: int, start: float, end: float | None, cap: float
) -> Float[np.ndarray, "time"]:
    """Mono blocks at `rate` → checked, resampled, clipped, in one array."""
    resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    limit = None if end is None else max(1, round(end * rate) - round(start * rate))
    pieces: list[np.ndarray] = []
    frames, loudest = 0, 0.0
    for block in blocks:
        if limit is not None:
            block = block[: limit - frames]
        frames += len(block)
        if frames > cap * rate + 1:
            raise UserError(f"{name}: found more than {cap:.0f} s of audio, expected at most that")
        high, low = block.max(initial=0.0), block.min(initial=0.0)  # NumPy's, so NaN where there is one
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
        found = start + frames / rate
        raise UserError(f"{name}: found {found:.3f} s of audio, expected at least {end:.3f} s")
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    audio = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(audio) == 0:
        raise UserError(f"{name}: found {frames} samples at {rate} Hz, which are none at {sample_rate} Hz")
    return np.clip(audio, -1.0, 1.0) if loudest > 1 or resampler is not None else np.ascontiguousarray(audio)


def _sound_blocks(
    file: soundfile.SoundFile, name: str, start: float, end: float | None
) -> Iterator[Float[np.ndarray, "time"]]:
    """Mono blocks from `start` on. Raises UserError when the file ends before its header says."""
    size = max(1, _BLOCK // file.channels)
    position = round(start * file.samplerate)
    try:
        if position:
            if position >= file.frames:
                return
            file.seek(position)
        # A short segment should not decode a whole block; MP3 and Vorbis decoders read ahead by themselves.
        remaining = None if end is None else round(end * file.samplerate) - position
        while remaining is None or remaining > 0:
            block = file.read(size if remaining is None else min(size, remaining), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            position += len(block)
            remaining = None if remaining is None else remaining - len(block)
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    except (RuntimeError, OSError) as error:  # soundfile.LibsndfileError is a RuntimeError
        at = position / file.samplerate
        raise UserError(f"{name}: damaged or cut off after {at:.3f} s ({_reason(error)}), expected audio") from error
    # Lossy formats state their length only roughly.
    if end is None and position < file.frames - 1 and file.format not in ("MP3", "OGG"):
        found, expected = position / file.samplerate, file.frames / file.samplerate
        raise UserError(f"{name}: cut off: found {found:.3f} s, expected the {expected:.3f} s of its header")


def _g722_blocks(path: str, start: float) -> Iterator[Float[np.ndarray, "time"]]:
    """Mono blocks of a headerless G.722 file. The codec is adaptive, so decoding begins at the beginning."""
    import av  # a large library that only this format needs

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
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: damaged ({_reason(error)}), expected G.722 audio") from error


def _open(path: str | os.PathLike | BinaryIO, name: str) -> soundfile.SoundFile:
    """Opens and checks what can be checked before decoding."""
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
    elif file.frames >= 1 << 62:  # libsndfile's word for FLAC that was written to a pipe; it cannot seek in it
        problem = "found FLAC that does not know its length, expected it in the header (flac -d, then flac, repairs it)"
    elif file.format in ("WAV", "WAVEX", "RF64") and isinstance(path, str | os.PathLike):
        problem = _wav_cut_off(path)
    if problem:
        file.close()
        raise UserError(f"{name}: {problem}")
    return file


def _wav_cut_off(path: str | os.PathLike) -> str:
    """libsndfile silently clamps a WAV's data to the file's end; this says so. "" if nothing is wrong."""
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
                there = size - file.tell()
                # Programs that write to a pipe do not know the length and put 0 or a number near 2^31 or 2^32.
                unknown = length == 0 or length >= 0x7FFF0000
                if length > there and not unknown:
                    return f"cut off: found {there} bytes of samples, expected the {length} of its header"
                return ""
            file.seek(length + length % 2, io.SEEK_CUR)
    return ""


def _size(path: str | os.PathLike) -> int:
    try:
        if not os.path.isfile(path):
            found = "a folder" if os.path.isdir(path) else "no such file"
            raise UserError(f"{os.fspath(path)}: {found}, expected a recording")
        return os.path.getsize(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{os.fspath(path)!r}: {_reason(error)}, expected a recording") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:120] or type(error).__name__
