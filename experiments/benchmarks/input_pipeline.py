"""Padding of the plan and speed of reading recordings: `python -m experiments.benchmarks.input_pipeline`

Two tables. The first: share of padding on LibriSpeech-like lengths, for the plan's chosen buckets, for equal-width and
for quantile buckets, and for one fixed length. The second: hours of audio decoded, resampled to 16 kHz and checked per
hour of one core's processor time, by format, beside librosa.load where librosa is installed, and the whole pipeline
(plan, reading, padding) by threads and by worker processes, in wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from speech_jax.audio.io import read_audio
from speech_jax.data import shards
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import make_plan
from speech_jax.data.recordings import read_recording
from speech_jax.data.utterances import Utterance
from tests.support.lengths import librispeech_like

RATE = 16_000
FORMATS = {
    "WAV 16 kHz": ("wav", 16_000),
    "FLAC 16 kHz": ("flac", 16_000),
    "FLAC 44.1 kHz": ("flac", 44_100),
    "OGG 22.05 kHz": ("ogg", 22_050),
    "MP3 11.025 kHz": ("mp3", 11_025),
}


def padding_table(count: int) -> None:
    """Prints the share of padding by the way in which buckets are chosen."""
    seconds, labels = librispeech_like(count)
    print(
        f"{count:,} LibriSpeech-like lengths: mean {seconds.mean():.2f} s, {seconds.min():.2f} to {seconds.max():.2f} s"
    )
    print(f"{'buckets':34} {'audio':>8} {'labels':>8} {'shapes':>7} {'steps':>7}")
    top = float(np.ceil(seconds.max()))
    quantiles = tuple(sorted({float(q) for q in np.quantile(seconds, np.linspace(0, 1, 9)[1:-1]).round(2)} | {top}))
    ways = {
        "one fixed length": PlanConfig(bucket_seconds=(top,)),
        "8 of equal width": PlanConfig(bucket_seconds=tuple(np.linspace(0, top, 9)[1:].tolist())),
        "8 quantiles": PlanConfig(bucket_seconds=quantiles),
        "chosen, at most 4": PlanConfig(num_buckets=4),
        "chosen, at most 8": PlanConfig(num_buckets=8),
        "chosen, at most 8, of 128 frames": PlanConfig(num_buckets=8, seconds_multiple=1.28),
        "chosen, at most 8, 480 s a batch": PlanConfig(num_buckets=8, seconds_per_batch=480),
    }
    for name, config in ways.items():
        began = time.perf_counter()
        plan = make_plan(seconds, labels, config, seed=0)
        took = time.perf_counter() - began
        print(
            f"{name:34} {plan.padding_share:8.1%} {plan.label_padding_share:8.1%} {len(plan.buckets):7d} "
            f"{plan.steps():7d}   made in {took * 1e3:.0f} ms"
        )


def speech_like(seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with the spectrum and the syllables of speech, so that the codecs work as hard as on speech."""
    n = round(seconds * rate)
    noise = np.cumsum(rng.normal(size=n)) * 0.02  # -6 dB an octave
    noise -= np.convolve(noise, np.ones(64) / 64, "same")
    syllables = np.maximum(0, np.sin(2 * np.pi * 3.5 * np.arange(n) / rate + rng.uniform(0, 6)))
    return np.clip(noise * syllables * 0.5, -1, 1)


def write_set(folder: Path, ending: str, rate: int, hours: float) -> list[Utterance]:
    """Recordings of LibriSpeech-like lengths."""
    rng = np.random.default_rng(0)
    seconds, _ = librispeech_like(max(1, round(hours * 3600 / 12.3)))
    result = []
    for i, length in enumerate(seconds):
        path = folder / f"{rate}-{i}.{ending}"
        soundfile.write(path, speech_like(length, rate, rng), rate)
        length = soundfile.info(path).duration
        result.append(Utterance(str(i), str(path), text="a" * int(length * 14), seconds=length))
    return result


def rate_of(read: Callable[[Utterance], np.ndarray], utterances: list[Utterance]) -> float:
    """Hours of audio per hour of processor time, the better of two passes."""
    best = 0.0
    for _ in range(2):
        began = time.process_time()
        samples = sum(len(read(u)) for u in utterances)
        best = max(best, samples / RATE / (time.process_time() - began))
    return best


def reading_table(hours: float) -> None:
    """Prints the speed of decoding, and of the whole pipeline."""
    try:
        import librosa
    except ImportError:
        librosa = None
    print(f"\n{'reading, one core':34} {'h of audio/h':>13} {'librosa.load':>13} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {label: write_set(folder, *kind, hours) for label, kind in FORMATS.items()}
        path = folder / shards.shard_name("train", 0, 1)
        sets["shards (FLAC 16 kHz)"] = shards.write_shard(
            path, sets["WAV 16 kHz"], lambda u: read_audio(u.audio, RATE), RATE
        )
        for label, utterances in sets.items():
            ours = rate_of(lambda u: read_recording(u, RATE), utterances)
            if librosa is None or label.startswith("shards"):
                print(f"{label:34} {ours:13,.0f}")
                continue
            peer = rate_of(lambda u: librosa.load(u.audio, sr=RATE)[0], utterances)
            print(f"{label:34} {ours:13,.0f} {peer:13,.0f} {ours / peer:6.2f}")
        print(
            f"\n{'whole pipeline, FLAC 16 kHz':34} {'h of audio/h':>13}   (wall time, 2 epochs, after the first batch)"
        )
        for label, workers, cache in (("2 threads", 0, 0), ("2 threads, cached", 0, 2048), ("2 workers", 2, 0)):
            print(f"{label:34} {pipeline_rate(sets['FLAC 16 kHz'], workers, cache):13,.0f}")


class Letters:
    """A tokenizer that costs nothing."""

    def encode(self, text: str) -> list[int]:
        return [1] * len(text)


def pipeline_rate(utterances: list[Utterance], workers: int, cache_mb: int) -> float:
    """Hours of audio per hour of wall time."""
    seconds = np.array([u.seconds for u in utterances])
    labels = np.array([len(u.text) for u in utterances])
    plan = make_plan(seconds, labels, PlanConfig(), seed=0)
    config = DataConfig(cache_mb=cache_mb, workers=workers)
    with batches(utterances, plan, Letters(), config) as stream:
        next(stream)  # worker processes take seconds to start
        began, found = time.perf_counter(), 0
        for _ in range(2 * plan.steps()):
            found += int(next(stream)["audio_lengths"].sum())
        return found / RATE / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--utterances", type=int, default=280_000, help="lengths that are simulated (LibriSpeech: 281 k)"
    )
    parser.add_argument("--hours", type=float, default=0.5, help="hours of recordings that are made and read, a format")
    options = parser.parse_args()
    padding_table(options.utterances)
    reading_table(options.hours)


if __name__ == "__main__":
    main()
