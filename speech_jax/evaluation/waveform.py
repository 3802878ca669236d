"""Measures of recordings that run in parallel, sample by sample: SI-SDR, SNR, segmental SNR, STOI, ESTOI.

They mean something for copy-synthesis, coding and enhancement. A voice that was synthesized from text has phases and
timing of its own, and no sample of it belongs to one of the reference.
"""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

CAP = 100.0  # dB; what is equal has no noise, and reports have no infinity

_STOI_RATE, _STOI_FRAME, _STOI_FFT = 10_000, 256, 512
_STOI_BANDS, _STOI_LOWEST, _STOI_SEGMENT, _STOI_BETA = 15, 150.0, 30, -15.0
_STOI_RANGE = 40.0  # dB below the loudest frame of the reference: what is less is left out as silence


def snr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"]) -> float:
    """Signal-to-noise ratio in dB: energy of the reference over that of the difference; at most ±100. NaN if silent."""
    reference, other = _parallel(reference, other)
    return _decibel(np.sum(reference**2), np.sum((other - reference) ** 2))


def si_sdr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, at most ±100 (Le Roux et al. 2019, with zero means).

    The reference is scaled to what of it lies in the other; the rest is distortion. NaN where either is silent.
    """
    reference, other = _parallel(reference, other)
    reference, other = reference - reference.mean(), other - other.mean()
    energy = np.sum(reference**2)
    if energy == 0 or not other.any():
        return float("nan")
    target = np.sum(reference * other) / energy * reference
    return _decibel(np.sum(target**2), np.sum((other - target) ** 2))


def segmental_snr(reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"], rate: int) -> float:
    """Mean over frames of the signal-to-noise ratio in dB, each frame's limited to -10 … 35.

    30 ms Hann frames every 7.5 ms (Hansen and Pellom 1998, Loizou's Speech Enhancement). NaN for less than a frame.
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
    ratio = np.where(noise == 0, 35.0, ratio)  # a pause that is equal, too
    return float(np.mean(np.clip(ratio, -10.0, 35.0)))


def stoi(
    reference: Float[np.ndarray, "samples"], other: Float[np.ndarray, "samples"], rate: int, *, extended: bool = False
) -> float:
    """Short-time objective intelligibility, up to 1: Taal et al. 2011; `extended`: ESTOI, Jensen and Taal 2016.

    Correlations of third-octave envelopes over 384 ms at 10 kHz, silent frames of the reference left out. NaN where
    less than 384 ms of speech remain.
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
        x, y = (_standard(_standard(e, axis=2), axis=1) for e in (x, y))
        return float(np.sum(x * y) / (_STOI_SEGMENT * len(x)))
    tiny = np.finfo(np.float64).eps
    louder = np.linalg.norm(x, axis=2, keepdims=True) / (np.linalg.norm(y, axis=2, keepdims=True) + tiny)
    y = np.minimum(louder * y, x * (1 + 10 ** (-_STOI_BETA / 20)))
    return float(np.mean(np.sum(_standard(x, axis=2) * _standard(y, axis=2), axis=2)))


def _standard(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean 0 and length 1 along an axis."""
    x = x - x.mean(axis=axis, keepdims=True)
    return x / (np.linalg.norm(x, axis=axis, keepdims=True) + np.finfo(np.float64).eps)


def _hann() -> np.ndarray:
    return np.hanning(_STOI_FRAME + 2)[1:-1]


def _stoi_frames(signal: np.ndarray) -> Float[np.ndarray, "frames size"]:
    """Windowed half-overlapping frames. One that would end with the signal is left out, as in the authors' program."""
    starts = range(0, len(signal) - _STOI_FRAME, _STOI_FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, _STOI_FRAME)[:: _STOI_FRAME // 2]
    return frames[: len(starts)] * _hann()


def _without_silence(reference: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Both signals of the frames in which the reference is not silent, overlapped and added again."""
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
    """1 at the bins of each band, from the bin nearest to its lower edge up to the one before its upper edge's."""
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
