"""From a voice's frames to what is heard: the seam to a vocoder, and where the samples go."""

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
_ENDLESS = 0xFFFFFFFF  # the length in a WAV header of which nobody knows the length yet


class Vocoder(NamedTuple):
    """What makes sound of log-mel frames, in [-1, 1].

    wave:   all frames of an utterance -> its samples
    stream: chunks of frames, of any lengths -> chunks of samples, as soon as they can be made
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
    """Griffin-Lim, or the vocoder in a checkpoint folder. audio: the mel settings of the voice in the folder `voice`.
    speaker: who speaks, for a vocoder of several; engine, dtype, cores, temperature: see `vocoder.Vocoder`.

    Raises UserError for a folder without a vocoder, for one whose mel settings are not the voice's (it names each
    setting in which they differ, on both sides), and for one of several speakers that does not know this one.
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
    """A function that takes samples and writes them to a 16-bit WAV file, which is there whole or not at all when the
    block ends; or to `to`, where that is given."""
    if to is not None:
        yield to
        return
    with open_atomic(path, "wb") as file, soundfile.SoundFile(file, "w", rate, 1, "PCM_16", format="WAV") as sound:
        yield lambda wave: sound.write(samples16(wave))


@contextlib.contextmanager
def stdout_sound(rate: int, kind: Literal["wav", "raw"], *, enabled: bool) -> Iterator[Write | None]:
    """A function that writes samples to standard output at once, as WAV whose header leaves the length open or as
    16-bit samples alone. While the block lasts nothing else gets there: `print` and libraries write to stderr."""
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
    """Samples in [-1, 1] as 16-bit integers, to the nearest; libsndfile would round all of them down."""
    return np.rint(np.clip(np.asarray(wave, np.float64), -1.0, 1.0) * 32767).astype(np.int16)


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """The 44 bytes before 16-bit mono samples; None leaves their number open, as for a pipe."""
    size = _ENDLESS if samples is None else 2 * samples
    whole = _ENDLESS if samples is None else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )
