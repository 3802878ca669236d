"""Seconds of audio per second of fast Griffin-Lim from mel spectrograms, compared with librosa's, and its quality.

    python experiments/benchmarks/griffin_lim.py [--batch 1 8] [--seconds 5] [--iterations 32 60] [--rounds 5]

The mel spectrograms are NVIDIA's Tacotron 2's, of synthetic vowels. Each round times every contestant once, so that a
busy machine is busy for all; the best round counts. librosa works on one recording after the other and is skipped where
it is not installed. "of it bands" is the share of the inversion of the mel bands. Spectral convergence, in dB, is that
of the waveform to the magnitudes that Griffin-Lim was given: lower is better.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio import presets
from speech_jax.audio.features import extract_features
from speech_jax.audio.griffin_lim import griffin_lim, mel_to_audio, mel_to_magnitude, spectral_convergence

CONFIG = presets.nvidia_tacotron2()


def vowels(samples: int, seed: int) -> np.ndarray:
    """A gliding pitch through resonances that move, with pauses."""
    random = np.random.default_rng(seed)
    time_ = np.arange(samples) / CONFIG.sample_rate
    pitch = 120 + 60 * np.sin(2 * np.pi * 0.7 * time_ + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / CONFIG.sample_rate
    wave = np.zeros(samples)
    for harmonic in range(1, 40):
        resonance = sum(
            np.exp(-(((harmonic * pitch - center * (1 + 0.3 * np.sin(2 * np.pi * speed * time_))) / 150) ** 2))
            for center, speed in ((600, 1.1), (1500, 1.7), (2600, 0.6))
        )
        wave += (resonance + 0.01) * np.sin(harmonic * phase)
    wave = wave / np.abs(wave).max() * 0.5 * (np.sin(2 * np.pi * 0.9 * time_) > -0.8)
    return (wave + 0.001 * random.standard_normal(samples)).astype(np.float32)


def contestants(batch: int, samples: int, iterations: int) -> tuple[dict, dict]:
    """(name -> function without arguments, compiled; name -> spectral convergence in dB)"""
    audio = jnp.asarray(np.stack([vowels(samples, seed) for seed in range(batch)]))
    features, mask = jax.jit(functools.partial(extract_features, config=CONFIG))(audio, jnp.full(batch, samples))
    frames = jnp.sum(mask, axis=1)
    magnitude = jax.jit(functools.partial(mel_to_magnitude, config=CONFIG))
    size = magnitude(features)
    calls, quality = {}, {}
    for name, momentum in (("fast, momentum 0.99", 0.99), ("plain", 0.0)):
        run = jax.jit(functools.partial(griffin_lim, config=CONFIG, iterations=iterations, momentum=momentum))
        quality[name] = float(jnp.mean(spectral_convergence(run(size, frames)[0], size, frames, CONFIG)))
        whole = functools.partial(mel_to_audio, config=CONFIG, iterations=iterations, momentum=momentum)
        calls[name] = functools.partial(_run, whole, features, frames)
    calls["of it bands"] = functools.partial(_run, magnitude, features)
    try:
        import librosa
    except ImportError:
        return calls, quality
    sizes = [np.asarray(row).T for row in size]
    options = dict(n_iter=iterations, hop_length=CONFIG.hop, momentum=0.99, pad_mode="reflect", random_state=0)
    calls["librosa, without the bands"] = lambda: [librosa.griffinlim(row, **options) for row in sizes]
    made = jnp.asarray(np.stack(calls["librosa, without the bands"]()))
    quality["librosa, without the bands"] = float(jnp.mean(spectral_convergence(made, size, frames, CONFIG)))
    return calls, quality


def _run(function, *arguments):
    return jax.block_until_ready(function(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="recordings in the batch")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each")
    parser.add_argument("--iterations", type=int, nargs="+", default=[32, 60])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    options = parser.parse_args()
    samples = int(options.seconds * CONFIG.sample_rate)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{jax.devices()[0].device_kind}, {cores} cores{load}; recordings of {options.seconds:g} s at 22,050 Hz")
    print("| batch | iterations | what | ms | × real time | processor ms | × real time a core | convergence dB |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for batch in options.batch:
        for iterations in options.iterations:
            calls, quality = contestants(batch, samples, iterations)
            wall, used = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, float("inf"))
            for _ in range(options.rounds + 1):  # the first round warms up
                for name, call in calls.items():
                    start, start_used = time.perf_counter(), time.process_time()
                    call()
                    wall[name] = min(wall[name], time.perf_counter() - start)
                    used[name] = min(used[name], time.process_time() - start_used)
            seconds = batch * options.seconds
            for name in calls:
                rates = f"{wall[name] * 1e3:.0f} | {seconds / wall[name]:.1f} | {used[name] * 1e3:.0f}"
                rates += f" | {seconds / used[name]:.1f}"
                found = f"{quality[name]:.1f}" if name in quality else ""
                print(f"| {batch} | {iterations} | {name} | {rates} | {found} |", flush=True)


if __name__ == "__main__":
    main()
