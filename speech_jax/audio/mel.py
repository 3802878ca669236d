"""Constant matrices of the features: windows, Fourier, mel, cosine. Float64 NumPy, built when a function is traced.

`check_mel` checks the frames that they give.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError


def check_mel(mel: np.ndarray, bands: int, where: str) -> Float[np.ndarray, "frames mels"]:
    """Return mel frames as float32 [frames, bands].

    Args:
        mel: the frames.
        bands: number of bands that they must have.
        where: their name in messages.

    Raises:
        UserError: they are not floats of this shape, not finite, or empty.
    """
    mel = np.asarray(mel)
    if mel.ndim != 2 or mel.shape[1] != bands or not np.issubdtype(mel.dtype, np.floating):
        raise UserError(f"{where}: found {mel.dtype} {mel.shape}, expected float frames of {bands} bands")
    if not len(mel):
        raise UserError(f"{where}: found no frames, expected at least one")
    if not np.isfinite(mel).all():
        frame = int(np.flatnonzero(~np.isfinite(mel).all(axis=1))[0])
        raise UserError(f"{where}: found a number in frame {frame} that is not finite, expected mel frames")
    return np.asarray(mel, np.float32)


def checked_mels(
    mels: Iterable[Float[np.ndarray, "_frames mels"]], bands: int, *, least: int = 0
) -> Iterator[Float[np.ndarray, "_frames mels"]]:
    """Yield chunks of mel frames, checked as by `check_mel`, without empty ones.

    Raises UserError for fewer than `least` frames in all, too.
    """
    total = 0
    for mel in mels:
        if len(mel):
            yield check_mel(mel, bands, f"the mel frames from {total} on")
            total += len(mel)
    if total < least:
        raise UserError("the mel frames: found no frames, expected at least one")


def window_values(config: AudioConfig) -> np.ndarray:
    """Return the analysis window, [window]."""
    size, shape = config.window, config.window_shape
    if shape == "sine":
        return np.sin(np.pi * (np.arange(size) + 0.5) / size)
    period = size if shape in ("hann", "hamming") else size - 1
    cosine = np.cos(2 * np.pi * np.arange(size) / period)
    if shape == "rectangular":
        return np.ones(size)
    if shape.startswith("hamming"):
        return 0.54 - 0.46 * cosine
    hann = 0.5 - 0.5 * cosine
    return hann**0.85 if shape == "povey" else hann


def high_pass_taps(config: AudioConfig, taps: int = 255) -> np.ndarray:
    """Return the taps of a high-pass filter with cutoff `config.high_pass` hertz, [taps].

    An impulse minus a Hamming-windowed sinc, with gain 1 at half the sample rate. The design is that of
    scipy.signal.firwin, which r9y9's wavenet_vocoder uses (audio.low_cut_filter).
    """
    time = np.arange(taps) - (taps - 1) / 2
    cutoff = 2 * config.high_pass / config.sample_rate
    impulse = np.sinc(time) - cutoff * np.sinc(cutoff * time)
    values = impulse * np.hamming(taps)
    return values / np.sum(values * np.cos(np.pi * time))


@functools.lru_cache(maxsize=16)
def fourier_matrices(length: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines and sines of a real frame's DFT, each [length, n_fft//2 + 1], with phase 0 at its middle.

    About the middle, the cosines are even and the sines odd, which `features.spectrum` uses.
    """
    time = np.arange(length) - (length - 1) / 2
    angle = 2 * np.pi / n_fft * np.outer(time, np.arange(n_fft // 2 + 1))
    return np.cos(angle), np.sin(angle)


def mel_matrix(config: AudioConfig) -> np.ndarray:
    """Return the triangular mel bands, [n_fft//2 + 1, num_mels], as librosa.filters.mel or Kaldi computes them.

    Kaldi's bands (mel-computations.cc) are triangular over mel, librosa's over hertz.
    """
    hertz = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)
    to_mel, to_hertz = _SCALES["slaney" if config.mel_scale == "slaney" else "htk"]
    edges = np.linspace(to_mel(config.fmin), to_mel(config.highest), config.num_mels + 2)
    edges_hertz = to_hertz(edges)
    if config.mel_scale == "kaldi":
        position = to_mel(hertz)
    else:
        position, edges = hertz, edges_hertz
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (position[:, None] - lower) / (center - lower)
    falling = (upper - position[:, None]) / (upper - center)
    bands = np.maximum(0.0, np.minimum(rising, falling))
    if config.mel_norm == "slaney":
        bands *= 2.0 / (edges_hertz[2:] - edges_hertz[:-2])
    return bands


def cosine_matrix(bands: int, cepstra: int) -> np.ndarray:
    """Return the orthonormal type-II cosine transform, [bands, cepstra]."""
    i, k = np.arange(bands)[:, None], np.arange(cepstra)[None, :]
    matrix = np.sqrt(2.0 / bands) * np.cos(np.pi / bands * (i + 0.5) * k)
    matrix[:, 0] = np.sqrt(1.0 / bands)
    return matrix


def lifter_values(config: AudioConfig) -> np.ndarray:
    """Return the liftering weight of each MFCC, [num_cepstra]."""
    i = np.arange(config.num_cepstra) + config.lifter_offset
    if config.lifter == 0:
        return np.ones(config.num_cepstra)
    return 1 + config.lifter / 2 * np.sin(np.pi * i / config.lifter)


def _hertz_to_htk(hertz):
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


def _htk_to_hertz(mel):
    return 700.0 * np.expm1(np.asarray(mel, np.float64) / 1127.0)


def _hertz_to_slaney(hertz):
    """Linear below 1 kHz (15 mel), logarithmic above (27 mel for a factor of 6.4)."""
    hertz = np.asarray(hertz, np.float64)
    return np.where(hertz < 1000.0, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000.0) / np.log(6.4))


def _slaney_to_hertz(mel):
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15) * np.log(6.4) / 27))


_SCALES = {"htk": (_hertz_to_htk, _htk_to_hertz), "slaney": (_hertz_to_slaney, _slaney_to_hertz)}
