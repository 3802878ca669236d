"""Audio output: pick a vocoder, write WAV files, stream PCM to standard output."""

from __future__ import annotations

import contextlib
import functools
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float, Int16

from speech_jax.audio.config import AudioConfig, check_same_audio
from speech_jax.audio.griffin_lim import mel_to_wave
from speech_jax.audio.griffin_lim_stream import stream_wave
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.data.speakers import find_speaker
from speech_jax.decoding.config import Cores, Dtype
from speech_jax.inference.config import EngineName
from speech_jax.inference.vocoder import load_vocoder

GRIFFIN_LIM = "griffin-lim"
Wave = Float[np.ndarray, " time"]
Mel = Float[np.ndarray, "frames mels"]
Write = Callable[[Wave], None]
_ENDLESS = 0xFFFFFFFF  # length field of a WAV header whose length is not known yet


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
    if not Path(name).is_dir():
        raise UserError(f"--vocoder: found {name!r}, expected {GRIFFIN_LIM} or a vocoder's checkpoint folder")
    loaded = load_vocoder(name, engine=engine, dtype=dtype, cores=cores, temperature=temperature)
    check_same_audio(loaded.audio, audio, name, voice)
    number = find_speaker(speaker, loaded.speakers, len(loaded.speakers)) if loaded.speakers else 0
    options = {"seed": seed, "speaker": number}
    return Vocoder(functools.partial(loaded.wave, **options), functools.partial(loaded.stream, **options))


@contextlib.contextmanager
def wav_file(path: str | Path, rate: int, to: Write | None = None) -> Iterator[Write]:
    """Open a 16-bit WAV file for writing; it appears under its name only once it is complete.

    Args:
        path: The file.
        rate: Sample rate in Hz.
        to: Write samples there instead, and no file.

    Yields:
        A function that writes samples in [-1, 1].
    """
    if to is not None:
        yield to
        return
    with open_atomic(path, "wb") as file, soundfile.SoundFile(file, "w", rate, 1, "PCM_16", format="WAV") as sound:
        yield lambda wave: sound.write(samples16(wave))


@contextlib.contextmanager
def stdout_sound(rate: int, kind: Literal["wav", "raw"], *, enabled: bool) -> Iterator[Write | None]:
    """Stream audio to standard output; until the block ends, `print` and libraries write to standard error instead.

    Args:
        rate: Sample rate in Hz.
        kind: "wav" writes a header of open length first; "raw" writes 16-bit samples alone.
        enabled: False yields None and redirects nothing.

    Yields:
        A function that writes samples in [-1, 1] and flushes.
    """
    if not enabled:
        yield None
        return
    out = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "wav":
            out.write(wav_header(rate))

        def write(wave: Wave) -> None:
            out.write(samples16(wave).astype("<i2").tobytes())
            out.flush()

        yield write
        out.flush()


def samples16(wave: Wave) -> Int16[np.ndarray, " time"]:
    """Return samples in [-1, 1] as 16-bit integers, rounded to the nearest (libsndfile rounds down)."""
    return np.rint(np.clip(np.asarray(wave, np.float64), -1.0, 1.0) * 32767).astype(np.int16)


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """Return the 44-byte WAV header of 16-bit mono samples; without `samples` its length is left open, for a pipe."""
    size = _ENDLESS if samples is None else 2 * samples
    whole = _ENDLESS if samples is None else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )
