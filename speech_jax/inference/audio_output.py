"""Audio output: pick a vocoder, write sound files, stream PCM to standard output."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16

from speech_jax.audio.config import AudioConfig, check_same_audio
from speech_jax.audio.griffin_lim import mel_to_wave
from speech_jax.audio.griffin_lim_stream import stream_wave
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.data.speakers import find_speaker
from speech_jax.decoding.config import Cores, Dtype
from speech_jax.inference.config import EngineName
from speech_jax.inference.vocoder import load_vocoder

GRIFFIN_LIM = "griffin-lim"
Wave = Float[np.ndarray, " time"]
Mel = Float[np.ndarray, "frames mels"]
Write = Callable[[Wave], None]
_ENDLESS = 0xFFFFFFFF  # length field of a WAV header whose length is not known yet


class _Format(NamedTuple):
    """Format of a sound file: libsndfile's names, and the sample rates that it has (none: all)."""

    major: str
    subtype: str
    rates: tuple[int, ...] = ()


_FORMATS = {
    ".wav": _Format("WAV", "PCM_16"),
    ".flac": _Format("FLAC", "PCM_16"),
    ".mp3": _Format("MP3", "MPEG_LAYER_III", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)),
    ".ogg": _Format("OGG", "VORBIS"),
    ".opus": _Format("OGG", "OPUS", (8000, 12000, 16000, 24000, 48000)),
}
_BLOCK = 1 << 14  # samples per call: libsndfile's Vorbis encoder keeps a call's samples on the stack


class Vocoder(NamedTuple):
    """Vocoder as two functions of log-mel frames; samples are in [-1, 1].

    Attributes:
        wave: (mel of a whole utterance) -> its samples.
        stream: (chunks of mel frames, of any lengths) -> chunks of samples, each as soon as its frames are there.
    """

    wave: Callable[[Mel], Wave]
    stream: Callable[[Iterable[Mel]], Iterator[Wave]]


def find_vocoder(
    name: str,
    audio: AudioConfig,
    voice: str,
    *,
    iterations: int = 60,
    seed: int = 0,
    speaker: str = "",
    engine: EngineName = "auto",
    dtype: Dtype = "float32",
    cores: Cores = 1,
    temperature: float = 1.0,
) -> Vocoder:
    """Return Griffin-Lim, or the vocoder in a checkpoint folder.

    Args:
        name: "griffin-lim", or the folder of a vocoder.
        audio: Audio settings of the mel frames.
        voice: Folder of the voice that makes the frames, named in errors.
        iterations: Iterations of Griffin-Lim.
        seed: Seed of the vocoder's samples.
        speaker: Speaker's name, for a vocoder of several.
        engine: See `WaveNetVocoder`, as for the arguments below.
        dtype: Type of the engine's weights.
        cores: Processor cores of the native engine.
        temperature: Sampling temperature.

    Returns:
        The vocoder.

    Raises:
        UserError: If there is no vocoder in the folder, if its audio settings are not the voice's (each setting that
            differs is named), or if it has no such speaker.
    """
    if name == GRIFFIN_LIM:
        options = {"config": audio, "iterations": iterations}
        return Vocoder(functools.partial(mel_to_wave, **options), functools.partial(stream_wave, **options))
    if not name or not Path(name).is_dir():
        raise UserError(f"--vocoder: found {name!r}, expected {GRIFFIN_LIM} or a vocoder's checkpoint folder")
    loaded = load_vocoder(name, engine=engine, dtype=dtype, cores=cores, temperature=temperature)
    check_same_audio(loaded.audio, audio, name, voice)
    number = find_speaker(speaker, loaded.speakers, len(loaded.speakers)) if loaded.speakers else 0
    options = {"seed": seed, "speaker": number}
    return Vocoder(functools.partial(loaded.wave, **options), functools.partial(loaded.stream, **options))


def is_sound_file(out: str) -> bool:
    """Return True if `--out` names a sound file, False if it names a folder.

    Raises:
        UserError: If its ending is that of no format that can be written. A folder with such an ending has a slash at
            the end of its name, or exists.
    """
    ending = Path(out).suffix.lower()
    if not out:
        raise UserError("--out: found '', expected a sound file or a folder")
    if out.endswith(("/", os.sep)) or Path(out).is_dir() or not ending:
        return False
    if ending not in _FORMATS:
        endings = ", ".join(_FORMATS)
        raise UserError(f"--out: found {out!r}, expected a name that ends in {endings} or, for a folder, in /")
    return True


@contextlib.contextmanager
def sound_file(path: str | Path, rate: int, to: Write | None = None) -> Iterator[Write]:
    """Open a sound file of the format that its name's ending says; it appears under its name only once it is complete.

    WAV and FLAC have 16 bits. A file of a format without the rate is resampled to the next higher one that it has.

    Args:
        path: The file; it ends in .wav, .flac, .mp3, .ogg or .opus.
        rate: Sample rate in Hz.
        to: Write samples there instead, and no file.

    Yields:
        A function that writes samples in [-1, 1].

    Raises:
        UserError: If the file cannot be written, or samples are not finite.
    """
    if to is not None:
        yield to
        return
    major, subtype, rates = _FORMATS[Path(path).suffix.lower()]
    file_rate = rate if not rates or rate in rates else min((r for r in rates if r > rate), default=max(rates))
    if file_rate != rate:
        log.warning("%s: the format has no %d Hz: resampled to %d Hz", path, rate, file_rate)
    resampler = soxr.ResampleStream(rate, file_rate, 1, dtype="float32") if file_rate != rate else None
    with (
        open_atomic(path, "wb") as file,
        soundfile.SoundFile(file, "w", file_rate, 1, subtype, format=major) as sound,
    ):

        def write(wave: Wave, last: bool = False) -> None:
            samples = samples16(wave)
            if resampler:
                resampled = resampler.resample_chunk(samples.astype(np.float32) / 32767, last=last)
                samples = samples16(resampled)
            for start in range(0, len(samples), _BLOCK):
                sound.write(samples[start : start + _BLOCK])

        yield write
        if resampler:
            write(np.zeros(0, np.float32), last=True)


@contextlib.contextmanager
def stdout_sound(rate: int, kind: Literal["wav", "raw"], *, enabled: bool) -> Iterator[Write | None]:
    """Stream audio to standard output; until the block ends, `print` and libraries write to standard error instead.

    Args:
        rate: Sample rate in Hz.
        kind: "wav" writes a header first, whose length is filled in at the end if standard output is a file, and left
            open in a pipe; "raw" writes 16-bit samples alone.
        enabled: False yields None and redirects nothing.

    Yields:
        A function that writes samples in [-1, 1] and flushes.
    """
    if not enabled:
        yield None
        return
    out = sys.stdout.buffer
    count = 0
    with contextlib.redirect_stdout(sys.stderr):
        start = _position(out) if kind == "wav" else None
        if kind == "wav":
            out.write(wav_header(rate))

        def write(wave: Wave) -> None:
            nonlocal count
            out.write(samples16(wave).astype("<i2").tobytes())
            out.flush()
            count += len(wave)

        try:
            yield write
        finally:
            out.flush()
            if start is not None:  # a file: its header gets the length
                end = out.tell()
                out.seek(start)
                out.write(wav_header(rate, count))
                out.seek(end)


def _position(out: BinaryIO) -> int | None:
    """Return the position in a file that can be overwritten; None for a pipe, a terminal and a file opened by `>>`."""
    try:
        return None if fcntl.fcntl(out.fileno(), fcntl.F_GETFL) & os.O_APPEND else out.tell()
    except (OSError, ValueError):
        return None


def samples16(wave: Wave) -> Int16[np.ndarray, " time"]:
    """Return samples in [-1, 1] as 16-bit integers, rounded to the nearest (libsndfile rounds down).

    Raises:
        UserError: If a sample is not finite.
    """
    if not np.isfinite(wave).all():
        raise UserError("found samples that are not finite, expected numbers in [-1, 1]")
    return np.rint(np.clip(np.asarray(wave, np.float64), -1.0, 1.0) * 32767).astype(np.int16)


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """Return the 44-byte WAV header of 16-bit mono samples; without `samples` its length is left open, for a pipe."""
    size = _ENDLESS if samples is None or 2 * samples + 36 > _ENDLESS else 2 * samples
    whole = min(size + 36, _ENDLESS)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )
