"""Sample-by-sample measures of recordings that run in parallel: SI-SDR, SNR, segmental SNR, STOI, ESTOI.

They are meaningful for copy-synthesis, coding and enhancement. Speech synthesized from text has other phases and timing
than the reference, so its samples do not correspond to the reference's.
"""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

CAP = 100.0  # dB; keeps the ratios of equal signals finite

_STOI_RATE, _STOI_FRAME, _STOI_FFT = 10_000, 256, 512
_STOI_BANDS, _STOI_LOWEST, _STOI_SEGMENT, _STOI_BETA = 15, 150.0, 30, -15.0
_STOI_RANGE = 40.0  # dB below the loudest frame of the reference; quieter frames count as silence


def snr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"]) -> float:
    """Return the signal-to-noise ratio in dB, within ±100; NaN if both recordings are silent.

    The noise is other - reference.
    """
    reference, other = _parallel(reference, other)
    return _decibel(np.sum(reference**2), np.sum((other - reference) ** 2))


def si_sdr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"]) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB, within ±100; NaN if either is silent.

    Le Roux et al. 2019, with means removed: the target is the projection of `other` on `reference`, and the rest is
    distortion.
    """
    reference, other = _parallel(reference, other)
    reference, other = reference - reference.mean(), other - other.mean()
    energy = np.sum(reference**2)
    if energy == 0 or not other.any():
        return float("nan")
    target = np.sum(reference * other) / energy * reference
    return _decibel(np.sum(target**2), np.sum((other - target) ** 2))


def segmental_snr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"], rate: int) -> float:
    """Return the mean over frames of the signal-to-noise ratio in dB, each limited to -10 … 35.

    Hansen and Pellom 1998, as in Loizou's Speech Enhancement: 30 ms Hann frames every 7.5 ms. NaN if the recording is
    shorter than a frame.

    Args:
        reference: samples.
        other: as many samples.
        rate: sample rate in Hz.
    """
    reference, other = _parallel(reference, other)
    size, hop = round(0.030 * rate), round(0.0075 * rate)
    if len(reference) < size:
        return float("nan")
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1))) ** 2
    signal, noise = (
        np.lib.stride_tricks.sliding_window_view(x**2, size)[::hop] @ window for x in (reference, other - reference)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, 35.0, ratio)  # includes frames in which both are silent
    return float(np.mean(np.clip(ratio, -10.0, 35.0)))


def stoi(
    reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"], rate: int, *, extended: bool = False
) -> float:
    """Return the short-time objective intelligibility, at most 1 (STOI, Taal et al. 2011).

    It is the mean correlation of third-octave envelopes over 384 ms at 10 kHz, without the silent frames of the
    reference. NaN where less than 384 ms of speech remain.

    Args:
        reference: samples.
        other: as many samples.
        rate: sample rate in Hz.
        extended: compute ESTOI (Jensen and Taal 2016) instead.
    """
    reference, other = _parallel(reference, other)
    if rate != _STOI_RATE:
        reference, other = (soxr.resample(x, rate, _STOI_RATE) for x in (reference, other))
    if len(reference) < _STOI_FRAME or not reference.any():
        return float("nan")
    bands = _third_octaves()
    x, y = (_envelopes(signal, bands) for signal in _without_silence(reference, other))
    if x.shape[1] < _STOI_SEGMENT:
        return float("nan")
    view = np.lib.stride_tricks.sliding_window_view
    x, y = (np.moveaxis(view(e, _STOI_SEGMENT, axis=1), 1, 0) for e in (x, y))  # [segments, bands, frames]
    if extended:
        x, y = (_standardize(_standardize(e, axis=2), axis=1) for e in (x, y))
        return float(np.sum(x * y) / (_STOI_SEGMENT * len(x)))
    tiny = np.finfo(np.float64).eps
    gain = np.linalg.norm(x, axis=2, keepdims=True) / (np.linalg.norm(y, axis=2, keepdims=True) + tiny)
    y = np.minimum(gain * y, x * (1 + 10 ** (-_STOI_BETA / 20)))
    return float(np.mean(np.sum(_standardize(x, axis=2) * _standardize(y, axis=2), axis=2)))


def _standardize(x: np.ndarray, axis: int) -> np.ndarray:
    """Return `x` with mean 0 and Euclidean norm 1 along an axis."""
    x = x - x.mean(axis=axis, keepdims=True)
    return x / (np.linalg.norm(x, axis=axis, keepdims=True) + np.finfo(np.float64).eps)


def _hann() -> np.ndarray:
    return np.hanning(_STOI_FRAME + 2)[1:-1]


def _stoi_frames(signal: np.ndarray) -> Float[np.ndarray, "frames size"]:
    """Return windowed, half-overlapping frames, without one that ends with the signal, as in the authors' program."""
    starts = range(0, len(signal) - _STOI_FRAME, _STOI_FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, _STOI_FRAME)[:: _STOI_FRAME // 2]
    return frames[: len(starts)] * _hann()


def _without_silence(reference: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Return both signals by overlap-add of the frames in which the reference is not silent."""
    frames = [_stoi_frames(signal) for signal in (reference, other)]
    level = 20 * np.log10(np.linalg.norm(frames[0], axis=1) + np.finfo(np.float64).eps)
    kept = level > level.max(initial=-np.inf) - _STOI_RANGE
    joined = []
    for signal in frames:
        halves = signal[kept].reshape(-1, 2, _STOI_FRAME // 2)
        parts = np.zeros((len(halves) + 1, _STOI_FRAME // 2))
        parts[:-1] += halves[:, 0]
        parts[1:] += halves[:, 1]
        joined.append(parts.reshape(-1))
    return joined


def _envelopes(signal: np.ndarray, bands: np.ndarray) -> Float[np.ndarray, "bands frames"]:
    spectrum = np.fft.rfft(_stoi_frames(signal), _STOI_FFT)
    return np.sqrt(bands @ (np.abs(spectrum) ** 2).T)


def _third_octaves() -> Float[np.ndarray, "bands bins"]:
    """Return 1 at the bins of each band: from the bin nearest its lower edge to the one before its upper edge."""
    hertz = np.arange(_STOI_FFT // 2 + 1) * (_STOI_RATE / _STOI_FFT)
    centers = _STOI_LOWEST * 2.0 ** (np.arange(_STOI_BANDS) / 3)
    low, high = (
        np.abs(hertz - edge[:, None]).argmin(axis=1) for edge in (centers / 2 ** (1 / 6), centers * 2 ** (1 / 6))
    )
    bins = np.arange(len(hertz))
    return ((bins >= low[:, None]) & (bins < high[:, None])).astype(np.float64)


def _parallel(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if reference.shape != other.shape or reference.ndim != 1 or reference.size == 0:
        raise ValueError(f"found shapes {reference.shape} and {other.shape}, expected two recordings of one length")
    return np.asarray(reference, np.float64), np.asarray(other, np.float64)


def _decibel(signal: float, noise: float) -> float:
    if signal == 0 and noise == 0:
        return float("nan")
    if signal == 0 or noise == 0:
        return CAP if noise == 0 else -CAP
    return float(np.clip(10 * np.log10(signal / noise), -CAP, CAP))
