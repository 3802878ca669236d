"""Fundamental frequency by autocorrelation, and differences between pitch tracks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from speech_jax.evaluation.cepstra import HOP_SECONDS, centered_frames, hop_samples
from speech_jax.evaluation.config import CEILING, FLOOR

# Boersma's values (table 1 and section 3), which Praat still uses.
_VOICING, _SILENCE = 0.45, 0.03  # relative to the largest autocorrelation, to the largest amplitude
_OCTAVE, _JUMP, _CHANGE = 0.01, 0.35, 0.14  # costs: low candidate; jump of an octave and change of voicing, per 10 ms
_CANDIDATES = 14
_LAGS_PER_SAMPLE = 4


def pitch(
    audio: Float[np.ndarray, "samples"], rate: int, floor: float = FLOOR, ceiling: float = CEILING
) -> Float[np.ndarray, "frames"]:
    """Estimate F0 every 5 ms, in the frames of `cepstra.log_mel`.

    Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound": the autocorrelation of a windowed frame is divided by that of the window; its highest peaks are
    candidates, and a Viterbi search penalizes jumps between them. Lags between samples come from the zero-padded
    spectrum, which interpolates exactly. A frame covers three periods of the floor (40 ms by default).

    Args:
        audio: samples.
        rate: sample rate in Hz.
        floor: lowest F0 in Hz.
        ceiling: highest F0 in Hz.

    Returns:
        F0 in Hz, 0 where unvoiced.

    Raises:
        ValueError: the range is empty or exceeds half the sample rate.
    """
    if not 0 < floor < ceiling <= rate / 2:
        raise ValueError(f"found a pitch range of {floor} to {ceiling} Hz at {rate} Hz, expected less than half of it")
    size = round(3 * rate / floor)
    frames = centered_frames(audio, size, hop_samples(rate))
    peak = np.abs(np.asarray(audio, np.float64) - np.mean(audio)).max(initial=0.0)
    if peak == 0:
        return np.zeros(len(frames))
    parts = [_candidates(frames[i : i + 256], rate, floor, ceiling, peak) for i in range(0, len(frames), 256)]
    frequency, strength = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _best_path(frequency, strength)


def _candidates(
    frames: np.ndarray, rate: int, floor: float, ceiling: float, peak: float
) -> tuple[Float[np.ndarray, "frames candidates"], Float[np.ndarray, "frames candidates"]]:
    """Return (Hz, strength) of each frame's candidates; candidate 0 is unvoiced, with 0 Hz."""
    size = frames.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    frames = frames - frames.mean(axis=1, keepdims=True)
    longest = int(np.ceil(rate / floor)) + 2
    n_fft = 1 << (size + longest).bit_length()

    def autocorrelation(x):
        fine = np.fft.irfft(np.abs(np.fft.rfft(x, n_fft)) ** 2, n_fft * _LAGS_PER_SAMPLE)[
            ..., : longest * _LAGS_PER_SAMPLE
        ]
        return fine / np.maximum(fine[..., :1], 1e-30)

    r = autocorrelation(frames * window) / autocorrelation(window)
    left, middle, right = r[:, :-2], r[:, 1:-1], r[:, 2:]
    curvature = left - 2 * middle + right
    is_peak = (middle > left) & (middle >= right) & (middle > 0.5 * _VOICING)
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(is_peak, curvature, 1.0), 0.0)
    height = np.minimum(middle - 0.25 * (left - right) * shift, 1.0)
    lag = (np.arange(1, r.shape[1] - 1) + shift) / (_LAGS_PER_SAMPLE * rate)
    hertz = 1 / lag
    is_peak &= (hertz >= floor) & (hertz <= ceiling)
    strength = np.where(is_peak, height - _OCTAVE * np.log2(np.maximum(floor * lag, 1e-9)), -np.inf)
    best = np.argsort(-strength, axis=1, kind="stable")[:, :_CANDIDATES]
    hertz, strength = np.take_along_axis(hertz, best, 1), np.take_along_axis(strength, best, 1)
    loudness = np.abs(frames[:, (size - size // 3) // 2 : (size + size // 3) // 2]).max(axis=1) / peak
    unvoiced = _VOICING + np.maximum(0.0, 2 - loudness / (_SILENCE / (1 + _VOICING)))
    hertz = np.concatenate([np.zeros((len(frames), 1)), hertz], axis=1)
    return hertz, np.concatenate([unvoiced[:, None], strength], axis=1)


def _best_path(
    hertz: Float[np.ndarray, "frames candidates"], strength: Float[np.ndarray, "frames candidates"]
) -> Float[np.ndarray, "frames"]:
    """Return the path with the largest strength minus the costs of jumps and changes of voicing (Viterbi)."""
    per_hop = 0.01 / HOP_SECONDS
    voiced = hertz > 0
    octaves = np.log2(np.where(voiced, hertz, 1.0))
    total = strength[0]
    back = np.zeros(hertz.shape, np.int64)
    for t in range(1, len(hertz)):
        both = voiced[t - 1][:, None] & voiced[t][None]
        jump = _JUMP * np.abs(octaves[t - 1][:, None] - octaves[t][None])
        change = _CHANGE * (voiced[t - 1][:, None] != voiced[t][None])
        arriving = total[:, None] - per_hop * np.where(both, jump, change)
        back[t] = np.argmax(arriving, axis=0)
        total = arriving[back[t], np.arange(hertz.shape[1])] + strength[t]
    candidate, track = int(np.argmax(total)), np.zeros(len(hertz))
    for t in range(len(hertz) - 1, -1, -1):
        track[t] = hertz[t, candidate]
        candidate = back[t, candidate]
    return track


class PitchErrors(NamedTuple):
    """Differences between a pitch track and its reference; NaN where a value is not defined.

    Attributes:
        rmse_hertz: root mean square difference over the frames that are voiced in both.
        rmse_cents: the same in hundredths of a semitone.
        correlation: Pearson correlation of log F0 over the frames that are voiced in both.
        voicing_error: percentage of frames that are voiced in one only (Nakatani et al. 2008).
        gross_error: percentage of the frames voiced in both whose F0 differs by more than 20 % (Rabiner et al. 1976).
    """

    rmse_hertz: float
    rmse_cents: float
    correlation: float
    voicing_error: float
    gross_error: float


def pitch_errors(reference: Float[np.ndarray, "frames"], other: Float[np.ndarray, "frames"]) -> PitchErrors:
    """Compare two aligned pitch tracks.

    Args:
        reference: F0 in Hz, 0 where unvoiced; index it with a DTW path first.
        other: the same for the other recording.

    Raises:
        ValueError: the tracks differ in length.
    """
    if len(reference) != len(other):
        raise ValueError(f"found {len(reference)} and {len(other)} frames, expected tracks along one path")
    if len(reference) == 0:
        return PitchErrors(*[float("nan")] * 5)
    both: Bool[np.ndarray, "frames"] = (reference > 0) & (other > 0)
    voicing = 100 * float(np.mean((reference > 0) != (other > 0)))
    if not both.any():
        return PitchErrors(float("nan"), float("nan"), float("nan"), voicing, float("nan"))
    a, b = np.asarray(reference[both], np.float64), np.asarray(other[both], np.float64)
    cents = 1200 * np.log2(b / a)
    return PitchErrors(
        rmse_hertz=float(np.sqrt(np.mean((b - a) ** 2))),
        rmse_cents=float(np.sqrt(np.mean(cents**2))),
        correlation=_correlation(np.log(a), np.log(b)),
        voicing_error=voicing,
        gross_error=100 * float(np.mean(np.abs(b / a - 1) > 0.2)),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt(np.sum(a**2) * np.sum(b**2))
    # A constant track has no correlation; rounding errors must not produce one.
    return float(np.sum(a * b) / size) if size > 1e-9 * len(a) else float("nan")
