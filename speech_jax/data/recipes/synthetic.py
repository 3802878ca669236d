"""Synthetic speech by espeak-ng in two domains: a corpus for a first run that needs no download but a wheel.

Domain A: sentences of home, weather and stories, American voices, clean and wide. Domain B: digits and commands,
British, Scottish and Caribbean voices over a telephone: 300 to 3,400 Hz, noise, 8-bit mu-law. Voice, rate and pitch
vary within each. Sentences of train, dev and test differ.

Deterministic for a seed. espeak-ng keeps state from one utterance to the next (noise, pitch jitter), so utterances are
made in fixed blocks, each in a fresh process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError, install_extra
from speech_jax.data.manifest import write_manifest
from speech_jax.data.recipes.clips import write_flac
from speech_jax.data.recipes.sentences import draw_sentences
from speech_jax.data.utterances import Utterance

VOICES = {
    "A": ("en-us+m1", "en-us+m3", "en-us+m7", "en-us+f1", "en-us+f2", "en-us+f4"),
    "B": ("en+m2", "en+f3", "en-gb-scotland+m4", "en-gb-scotland+f5", "en-029+m5", "en-gb-x-rp+m8"),
}
_BLOCK = 128  # utterances per process


@dataclass(frozen=True)
class Options:
    """Options of the recipe `synthetic`."""

    train_a: Annotated[int, Range(0, 10**7)] = 2000
    """Training utterances of domain A."""
    train_b: Annotated[int, Range(0, 10**7)] = 500
    """Training utterances of domain B."""
    dev: Annotated[int, Range(0, 10**7)] = 120
    """Development utterances of each domain."""
    test: Annotated[int, Range(0, 10**7)] = 120
    """Test utterances of each domain."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of sentences, voices and noise."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the written FLAC files in Hz."""
    words_per_minute: Annotated[tuple[int, int], Range(80, 450)] = (175, 225)
    """Slowest and fastest rate of speech."""
    voices: Annotated[int, Range(1, 100)] = 6
    """Voices per domain, up to 6; with fewer, less training gives a recognizer."""
    workers: Annotated[int, Range(0, 1024)] = 0
    """Number of processes; 0 for one per core."""


class Request(NamedTuple):
    """One utterance to synthesize.

    Attributes:
        path: the file to write.
        text: the words.
        domain: "A" or "B".
        voice: espeak's name of the voice.
        rate: words per minute.
        pitch: 0 to 99.
        seed: seed of its channel.
    """

    path: str
    text: str
    domain: str
    voice: str
    rate: int
    pitch: int
    seed: tuple[int, ...]


def prepare(out_dir: Path, options: Options) -> None:
    """Write {A,B}/{train,dev,test}.jsonl and {A,B}/audio/*.flac."""
    slow, fast = options.words_per_minute
    if not 80 <= slow <= fast <= 450:
        raise UserError(f"words_per_minute: found {slow} {fast}, expected two rates from 80 to 450, the slower first")
    if min(options.train_a, options.train_b, options.dev, options.test) < 0:
        raise UserError("train_a, train_b, dev, test: found a negative number, expected utterances")
    if not 1 <= options.voices <= min(map(len, VOICES.values())):
        raise UserError(f"voices: found {options.voices}, expected 1 to {min(map(len, VOICES.values()))}")
    if not 8_000 <= options.sample_rate <= 48_000:
        raise UserError(f"sample_rate: found {options.sample_rate}, expected 8000 to 48000")
    espeak_paths()
    rows: dict[tuple[str, str], list[tuple[str, Request]]] = {}
    for domain, train in (("A", options.train_a), ("B", options.train_b)):
        counts = {"test": options.test, "dev": options.dev, "train": train}
        sentences = iter(draw_sentences(domain, sum(counts.values()), options.seed))
        for part, (split, count) in enumerate(counts.items()):
            rows[domain, split] = [
                _request(out_dir, options, domain, split, part=part, number=number, text=next(sentences))
                for number in range(count)
            ]
    requests = [request for part in rows.values() for _, request in part]
    _make(requests, options)
    for (domain, split), part in rows.items():
        utterances = []
        for name, request in part:
            info = soundfile.info(request.path)
            seconds = info.frames / info.samplerate
            utterances.append(
                Utterance(
                    id=name, audio=request.path, text=request.text, speaker=request.voice, domain=domain,
                    seconds=seconds, language="en",
                )  # fmt: skip
            )
        if utterances:
            write_manifest(out_dir / domain / f"{split}.jsonl", utterances)


def _request(
    out_dir: Path, options: Options, domain: str, split: str, *, part: int, number: int, text: str
) -> tuple[str, Request]:
    seed = (options.seed, ord(domain), part, number)
    generator = np.random.default_rng(seed)
    name = f"{domain}-{split}-{number:05d}"
    slow, fast = options.words_per_minute
    return name, Request(
        path=str(out_dir / domain / "audio" / f"{name}.flac"),
        text=text,
        domain=domain,
        voice=VOICES[domain][generator.integers(options.voices)],
        rate=int(generator.integers(slow, fast + 1)),
        pitch=int(generator.integers(35, 66)),
        seed=seed,
    )


def _make(requests: list[Request], options: Options) -> None:
    """Synthesize the files that do not exist yet, block by block."""
    blocks = [requests[i : i + _BLOCK] for i in range(0, len(requests), _BLOCK)]
    blocks = [block for block in blocks if not all(os.path.exists(r.path) for r in block)]
    workers = min(options.workers or os.cpu_count() or 1, len(blocks))
    if not blocks:
        return
    context = multiprocessing.get_context("spawn")
    total = sum(map(len, blocks))
    with (
        ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool,
        tqdm(total=total, desc="synthetic", unit="clip", disable=None) as bar,
    ):
        futures = [pool.submit(make_block, block, options.sample_rate) for block in blocks]
        try:
            for future, block in zip(futures, blocks, strict=True):
                future.result()
                bar.update(len(block))
        except BrokenProcessPool as error:
            raise UserError(
                "espeak-ng: a process died while speaking, expected it to end; run the command again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def make_block(requests: list[Request], sample_rate: int) -> None:
    """Synthesize a block in this process, which must not have synthesized before, and write the missing files."""
    speak = open_espeak()
    for request in requests:
        audio, rate = speak(request.text, request.voice, request.rate, request.pitch)
        if os.path.exists(request.path):
            continue  # synthesized nonetheless: the next utterance depends on it
        audio = soxr.resample(audio, rate, sample_rate).astype(np.float32)
        write_flac(Path(request.path), channel(audio, sample_rate, request.domain, request.seed), sample_rate)


def channel(
    audio: Float[np.ndarray, "time"], sample_rate: int, domain: str, seed: tuple[int, ...]
) -> Float[np.ndarray, "time"]:
    """Apply the channel of a domain: level, silence at both ends and noise; for domain B also a telephone line.

    Args:
        audio: float32 [time].
        sample_rate: Hz.
        domain: "A" or "B".
        seed: seed of all random numbers.

    Returns:
        float32 [longer time] in [-1, 1].
    """
    generator = np.random.default_rng([*seed, 1])
    before, after = (int(s * sample_rate) for s in generator.uniform(0.02, 0.15, 2))
    audio = np.pad(audio, (before, after)) * (generator.uniform(0.2, 0.7) / max(np.abs(audio).max(), 1e-3))
    decibels = generator.uniform(30, 45) if domain == "A" else generator.uniform(12, 25)
    noise = generator.standard_normal(len(audio))
    level = np.sqrt(np.mean(audio**2)) * 10 ** (-decibels / 20)
    audio = audio + level * noise
    if domain == "B":
        spectrum = np.fft.rfft(audio)
        hertz = np.fft.rfftfreq(len(audio), 1 / sample_rate)
        # Butterworth-like slopes, zero phase.
        spectrum /= np.sqrt((1 + (300 / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / 3400) ** 16))
        audio = np.clip(np.fft.irfft(spectrum, len(audio)), -1, 1)
        code = np.round(127 * np.sign(audio) * np.log1p(255 * np.abs(audio)) / np.log(256))  # mu-law, 8 bits
        audio = np.sign(code) * (256 ** (np.abs(code) / 127) - 1) / 255
    return np.clip(audio, -1, 1).astype(np.float32)


def espeak_paths() -> tuple[str, str]:
    """Return the paths of espeak-ng's library and data in the wheel espeakng-loader; UserError without it."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            f"synthetic speech: found no package espeakng-loader, expected {install_extra('synthetic')}"
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def open_espeak() -> Callable[[str, str, int, int], tuple[Float[np.ndarray, "time"], int]]:
    """Load espeak-ng.

    Constants and signatures are those of espeak-ng's speak_lib.h. The library has global state: one synthesizer per
    process.

    Returns:
        speak(text, voice, words per minute, pitch) -> (audio [time] in [-1, 1], sample rate).
    """
    library_path, data_path = espeak_paths()
    try:
        library = ctypes.CDLL(library_path)
    except OSError as error:
        raise UserError(f"{library_path}: {error}, expected espeak-ng's library") from error
    synchronous, rate_parameter, pitch_parameter, utf8 = 2, 1, 3, 1
    sample_rate = library.espeak_Initialize(synchronous, 0, os.fsencode(data_path), 0)
    if sample_rate <= 0:
        raise UserError(f"{data_path}: espeak-ng found no data there, expected those of the espeakng-loader wheel")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # espeak_Initialize seeds the breath noise from the clock
    pieces: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples, count, events):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(receive)

    def speak(text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int]:
        _ = receive  # kept alive as long as the function that the library calls back through
        pieces.clear()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng: has no voice {voice!r}, expected one of its data's")
        library.espeak_SetParameter(rate_parameter, rate, 0)
        library.espeak_SetParameter(pitch_parameter, pitch, 0)
        content = text.encode()
        size = ctypes.c_size_t(len(content) + 1)
        if library.espeak_Synth(content, size, 0, 1, 0, utf8, None, None) != 0 or not pieces:
            raise UserError(f"espeak-ng: made no sound for {text!r}, expected speech")
        return np.concatenate(pieces).astype(np.float32) / 32768, sample_rate

    return speak
