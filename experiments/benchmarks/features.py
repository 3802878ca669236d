"""Seconds of audio per second of features and augmentation, compared with librosa and kaldi-native-fbank.

    python experiments/benchmarks/features.py [--batch 8] [--seconds 10] [--rounds 12]

Each round times every contestant once, so that a busy machine is busy for all; the best round counts. Processor time is
what a busy machine lengthens least. The peers work on one recording after the other, as they do in a data loader, and
are skipped where they are not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio import presets
from speech_jax.audio.augment import augment_audio, spec_augment
from speech_jax.audio.config import AugmentConfig
from speech_jax.audio.features import extract_features
from speech_jax.audio.framing import frame
from speech_jax.audio.mel import mel_matrix, window_values


def ours(audio, lengths) -> dict:
    """name -> function without arguments, compiled."""
    audio, lengths, key = jnp.asarray(audio), jnp.asarray(lengths), jax.random.key(0)
    plain = dataclasses.replace(presets.nemo(), normalize="none")

    def by_fft(audio, lengths):
        """The same log-mel through an rfft, which gathers a batch that is sharded over devices."""
        frames = frame(audio, lengths, plain, audio.shape[1] // plain.hop) * window_values(plain).astype(np.float32)
        spectrum = jnp.fft.rfft(frames, plain.n_fft)
        power = spectrum.real**2 + spectrum.imag**2
        return jnp.log(jnp.dot(power, mel_matrix(plain).astype(np.float32), precision="highest") + plain.floor)

    contestants = {
        "log-mel": (extract_features, dict(config=plain)),
        "log-mel, NeMo": (extract_features, dict(config=presets.nemo())),
        "log-mel, NeMo, with dither": (functools.partial(extract_features, key=key), dict(config=presets.nemo())),
        "fbank, Kaldi": (extract_features, dict(config=presets.kaldi())),
        "MFCC with deltas, Kaldi": (extract_features, dict(config=dataclasses.replace(presets.kaldi_mfcc(), deltas=2))),
        "log-mel by rfft, for comparison": (by_fft, {}),
    }
    effects = dict(speed=(0.9, 1.0, 1.1)), dict(noise=1.0), dict(reverb=1.0), dict(gain=1.0)
    for fields in effects:
        augment = functools.partial(augment_audio, key)
        contestants[f"augmentation: {', '.join(fields)}"] = (augment, dict(config=AugmentConfig(**fields)))
    contestants["augmentation: all of them"] = (
        functools.partial(augment_audio, key),
        dict(config=presets.full_augment()),
    )
    compiled = {}
    for name, (function, options) in contestants.items():
        compiled[name] = jax.jit(functools.partial(function, **options)).lower(audio, lengths).compile()
    calls = {name: functools.partial(_run, c, audio, lengths) for name, c in compiled.items()}
    features, mask = extract_features(audio, lengths, presets.nemo())
    spec = jax.jit(functools.partial(spec_augment, config=presets.spec_augment_only(10)))
    calls["augmentation: SpecAugment"] = functools.partial(_run, spec, key, features, mask)
    return calls


def _run(function, *arguments):
    return jax.block_until_ready(function(*arguments))


def peers(audio) -> dict:
    """name -> function without arguments, for the libraries that are installed."""
    calls = {}
    try:
        import librosa

        options = dict(sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80)
        calls["librosa"] = lambda: [np.log(librosa.feature.melspectrogram(y=w, **options) + 1e-6) for w in audio]
    except ImportError:
        pass
    try:
        import kaldi_native_fbank as knf

        settings = knf.FbankOptions()
        settings.mel_opts.num_bins = 80
        settings.frame_opts.dither = 0

        def fbank():
            for wave in audio:
                computer = knf.OnlineFbank(settings)
                computer.accept_waveform(16000, wave * 32768)
                computer.input_finished()
                np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])

        calls["kaldi-native-fbank"] = fbank
    except ImportError:
        pass
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="recordings in the batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each")
    parser.add_argument("--rounds", type=int, default=12, help="how often each is timed")
    options = parser.parse_args()
    samples = int(options.seconds * 16000)
    audio = (0.1 * np.random.default_rng(0).standard_normal((options.batch, samples))).astype(np.float32)
    lengths = np.full(options.batch, samples, np.int32)
    calls = {**ours(audio, lengths), **peers(audio)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wall, used = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, float("inf"))
    for _ in range(options.rounds + 1):  # the first round warms up
        for name, call in calls.items():
            start, start_used = time.perf_counter(), time.process_time()
            call()
            wall[name] = min(wall[name], time.perf_counter() - start)
            used[name] = min(used[name], time.process_time() - start_used)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{jax.devices()[0].device_kind}, {cores} cores{load}; {options.batch} × {options.seconds:g} s")
    print("| what | ms | × real time | processor ms | × real time, were all cores free | processor time, log-mel = 1 |")
    print("|---|---:|---:|---:|---:|---:|")
    audio_seconds = options.batch * options.seconds
    for name in calls:
        rates = f"{wall[name] * 1e3:.1f} | {audio_seconds / wall[name]:,.0f} | {used[name] * 1e3:.1f} | "
        rates += f"{audio_seconds * cores / used[name]:,.0f} | {used[name] / used['log-mel']:.2f}"
        print(f"| {name} | {rates} |")


if __name__ == "__main__":
    main()
