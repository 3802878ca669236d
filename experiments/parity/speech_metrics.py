"""Make tests/evaluation/golden/speech_metrics.npz: what other programs measure of the same recordings.

    pip install -e '.[speech-parity]'; pip install --no-deps pysepm-evo   # in an environment of their own
    python experiments/parity/speech_metrics.py

librosa (DTW, mel cepstra, trimming), pystoi (STOI, ESTOI), fast_bss_eval (SI-SDR), mir_eval (SNR as the SDR of
bss_eval_images, voicing and gross pitch errors), pysepm_evo (segmental SNR), Praat (F0), SciPy (correlation), SPTK
(warped cepstra), WORLD (envelope). None of speech_jax is imported. Recordings are kept as int16, so that the tests hear
what these programs heard.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path

import fast_bss_eval.numpy
import librosa
import mir_eval
import numpy as np
import parselmouth
import pysptk
import pystoi
import pyworld
import scipy.fft
import scipy.signal
import scipy.stats
from features import RATE, speech_like

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "evaluation" / "golden" / "speech_metrics.npz"
HOP = 80  # 5 ms


def recordings() -> dict[str, np.ndarray]:
    """name -> int16: two utterances that differ, a noisy copy, and speech with pauses."""
    random = np.random.default_rng(11)
    one, two = speech_like(16000, 1), speech_like(14000, 2)
    noisy = one + 0.02 * random.standard_normal(len(one))
    loudness = np.repeat(random.uniform(0, 1, 32) ** 3, 1000)
    noise = 0.3 * random.standard_normal(32000) * loudness
    waves = {"one": one, "two": two, "noisy": noisy, "bursts": noise}
    waves["worse"] = 0.6 * noise + 0.02 * random.standard_normal(32000)
    waves["glide"] = voice(2.0)
    waves |= {"vowels": vowels(1.0), "slower": vowels(1.25)}
    quiet = 1e-4 * random.standard_normal(5000)
    waves["ends"] = np.concatenate([quiet[:3000], one, quiet[3000:]])
    return {name: np.round(np.clip(w, -1, 1 - 2**-15) * 32768).astype(np.int16) for name, w in waves.items()}


def voice(seconds: float) -> np.ndarray:
    """Harmonics of a gliding pitch with a pause in the middle."""
    time = np.arange(int(seconds * RATE)) / RATE
    hertz = 160 * 2 ** (0.6 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 12))
    pause = (time > 0.45 * seconds) & (time < 0.55 * seconds)
    noise = np.random.default_rng(3).standard_normal(len(time))
    return 0.2 * np.where(pause, 0.01 * noise, wave) + 1e-4 * noise


def vowels(slowness: float) -> np.ndarray:
    """Seven vowels of a falling voice; slowness stretches them and leaves pitch and resonances as they are."""
    formants = ((730, 1090), (270, 2290), (300, 870), (530, 1840), (570, 840), (660, 1720), (490, 1350))
    seconds = slowness * np.array((0.20, 0.10, 0.25, 0.12, 0.15, 0.09, 0.30))
    size = int(seconds.sum() * RATE)
    place = np.arange(size) / size
    hertz = 180 - 60 * place
    phase = np.cumsum(hertz) / RATE
    vowel = np.searchsorted(np.cumsum(seconds) / seconds.sum(), place)
    wave = np.zeros(size)
    for k in range(1, 30):
        gain = sum(1 / (1 + ((k * hertz - np.array(formants)[vowel, i]) / 90) ** 2) for i in (0, 1))
        wave += gain * np.sin(2 * np.pi * k * phase)
    return 0.2 * wave / np.abs(wave).max() + 1e-4 * np.random.default_rng(6).standard_normal(size)


def mel_cepstra(wave: np.ndarray) -> np.ndarray:
    """c1 … c13 by librosa and SciPy, scaled so that ln |H| is their cosine series."""
    power = librosa.feature.melspectrogram(
        y=wave, sr=RATE, n_fft=512, win_length=400, hop_length=HOP, n_mels=80, pad_mode="constant"
    )
    decibel = librosa.power_to_db(power, ref=np.max, amin=1e-20, top_db=80)
    log_amplitude = decibel * np.log(10) / 20
    return scipy.fft.dct(log_amplitude.T, type=2, axis=1)[:, 1:14] / 80


def distortion(a: np.ndarray, b: np.ndarray, path: np.ndarray) -> float:
    """MCD in dB by its formula, pair by pair."""
    terms = [10 / np.log(10) * np.sqrt(2 * sum((x - y) ** 2 for x, y in zip(a[i], b[j], strict=True))) for i, j in path]
    return sum(terms) / len(terms)


def segmental_snr(a: np.ndarray, b: np.ndarray) -> float:
    """pysepm's, without the packages that its other measures import. It leaves out the last frame."""
    if "pysepm_evo" not in sys.modules:
        package = types.ModuleType("pysepm_evo")
        package.__path__ = list(importlib.util.find_spec("pysepm_evo").submodule_search_locations)
        sys.modules["pysepm_evo"] = package
    scipy.signal.kaiser = scipy.signal.windows.kaiser  # where it was in 2022
    return importlib.import_module("pysepm_evo.qualityMeasures").SNRseg(a, b, RATE)


def main() -> None:
    arrays: dict[str, np.ndarray] = {f"audio.{name}": wave for name, wave in recordings().items()}
    heard = {name: wave.astype(np.float64) / 32768 for name, wave in recordings().items()}
    random = np.random.default_rng(5)

    for name, (n, m) in {"short": (30, 47), "long": (200, 150)}.items():
        a, b = random.standard_normal((n, 5)).cumsum(0), random.standard_normal((m, 5)).cumsum(0)
        cost, path = librosa.sequence.dtw(a.T, b.T)
        arrays |= {
            f"dtw.{name}.a": a,
            f"dtw.{name}.b": b,
            f"dtw.{name}.cost": cost[-1, -1],
            f"dtw.{name}.path": path[::-1],
        }

    cepstra = {name: mel_cepstra(heard[name]) for name in ("one", "two", "noisy")}
    arrays["cepstra.one"] = cepstra["one"][::20]
    for name in ("two", "noisy"):
        _, path = librosa.sequence.dtw(cepstra["one"].T, cepstra[name].T)
        arrays[f"mcd.{name}"] = distortion(cepstra["one"], cepstra[name], path[::-1])
        shorter = min(len(cepstra["one"]), len(cepstra[name]))
        arrays[f"mcd_frames.{name}"] = distortion(cepstra["one"], cepstra[name], [(t, t) for t in range(shorter)])

    f0, times = pyworld.harvest(heard["one"], RATE)
    envelope = pyworld.cheaptrick(heard["one"], f0, times, RATE)[::20]
    arrays["world.envelope"] = envelope
    for rate in (16000, 22050, 44100):
        arrays[f"warping.{rate}"] = pysptk.util.mcepalpha(rate)
    arrays["world.alpha"] = 0.41
    arrays["world.cepstra"] = pysptk.sp2mc(envelope, 24, 0.41)[:, 1:]

    for name in ("one", "two", "glide", "vowels"):
        track = parselmouth.Sound(heard[name], RATE).to_pitch_ac(
            time_step=HOP / RATE, pitch_floor=75, pitch_ceiling=600
        )
        arrays[f"pitch.{name}.times"] = track.xs()
        arrays[f"pitch.{name}.hertz"] = track.selected_array["frequency"]

    reference = np.where(random.uniform(size=500) < 0.7, 120 * 2 ** random.uniform(0, 1, 500), 0.0)
    higher = np.where(random.uniform(size=500) < 0.7, 120 * 2 ** random.uniform(0, 1, 500), 0.0)
    both = (reference > 0) & (higher > 0)
    higher[both] = reference[both] * 2 ** random.uniform(
        0, 0.5, both.sum()
    )  # upwards only: mir_eval's band is in cents
    recall, false_alarm = mir_eval.melody.voicing_measures(reference > 0, higher > 0)
    voiced = (reference > 0).sum()
    arrays |= {"tracks.reference": reference, "tracks.other": higher}
    arrays["tracks.voicing_error"] = 100 * ((1 - recall) * voiced + false_alarm * (500 - voiced)) / 500
    cents = [mir_eval.melody.hz2cents(x[both]) for x in (reference, higher)]
    voicing = np.ones(both.sum())
    right = mir_eval.melody.raw_pitch_accuracy(voicing, cents[0], voicing, cents[1], 1200 * np.log2(1.2))
    arrays["tracks.gross_error"] = 100 * (1 - right)
    arrays["tracks.correlation"] = scipy.stats.pearsonr(*(np.log(x[both]) for x in (reference, higher))).statistic
    arrays["tracks.rmse_cents"] = np.linalg.norm(cents[0] - cents[1]) / np.sqrt(both.sum())
    arrays["tracks.rmse_hertz"] = np.linalg.norm(reference[both] - higher[both]) / np.sqrt(both.sum())

    for name, (a, b) in {"noisy": ("one", "noisy"), "worse": ("bursts", "worse")}.items():
        a, b = heard[a], heard[b]
        arrays[f"si_sdr.{name}"] = np.squeeze(fast_bss_eval.numpy.si_sdr(a[None], b[None], zero_mean=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            arrays[f"snr.{name}"] = mir_eval.separation.bss_eval_images(a[None, :, None], b[None, :, None])[0][0]
        arrays[f"segmental_snr.{name}"] = segmental_snr(a, b)
        for rate in (10000, 16000):
            arrays[f"stoi.{name}.{rate}"] = pystoi.stoi(a, b, rate)
            arrays[f"estoi.{name}.{rate}"] = pystoi.stoi(a, b, rate, extended=True)

    trimmed, _ = librosa.effects.trim(heard["ends"], top_db=40, frame_length=400, hop_length=HOP)
    arrays["trimmed.ends"] = len(trimmed) / RATE
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN, **{name: np.asarray(value) for name, value in arrays.items()})
    for name, value in arrays.items():
        if np.ndim(value) == 0:
            print(f"{name:24} {float(value):.6f}")
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
