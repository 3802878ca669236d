"""Fundamental frequency by autocorrelation, and how two pitch tracks differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from speech_jax.evaluation.cepstra import HOP_SECONDS, centered_frames, hop_samples

FLOOR, CEILING = 75.0, 600.0  # hertz

# Boersma's values (table 1 and section 3), which Praat still has.
_VOICING, _SILENCE = 0.45, 0.03  # of the greatest autocorrelation, of the greatest amplitude
_OCTAVE, _JUMP, _CHANGE = 0.01, 0.35, 0.14  # costs: of a low candidate; of an octave's leap and of voicing, per 10 ms
_CANDIDATES = 14
_FINER = 4  # how many times finer than a sample the lags are


def pitch(
    audio: Float[np.ndarray, "samples"], rate: int, floor: float = FLOOR, ceiling: float = CEILING
) -> Float[np.ndarray, "frames"]:
    """Hertz every 5 ms, 0 where unvoiced. Frames lie where `cepstra.log_mel` has them.

    Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound": the autocorrelation of a windowed frame, divided by the window's own; its greatest peaks are
    candidates, and the best path through them has few leaps. The lags between samples come from the zero-padded
    spectrum, which is the exact interpolation of what is sampled. A frame hears three periods of the floor (40 ms).

    Raises ValueError on a range that the rate does not hold.
    """
    if not 0 < floor < ceiling <= rate / 2:
        raise ValueError(f"found a pitch range of {floor} to {ceiling} Hz at {rate} Hz, expected less than half of it")
    size = round(3 * rate / floor)
    frames = centered_frames(audio, size, hop_samples(rate))
    peak = np.abs(np.asarray(audio, np.float64) - np.mean(audio)).max(initial=0.0)
    if peak == 0:
        return np.zeros(len(frames))
    found = [_candidates(frames[i : i + 256], rate, floor, ceiling, peak) for i in range(0, len(frames), 256)]
    frequency, strength = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _best_path(frequency, strength)


def _candidates(
    frames: np.ndarray, rate: int, floor: float, ceiling: float, peak: float
) -> tuple[Float[np.ndarray, "frames candidates"], Float[np.ndarray, "frames candidates"]]:
    """(hertz, strength) of each frame's candidates; number 0 is to be unvoiced, with hertz 0."""
    size = frames.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    frames = frames - frames.mean(axis=1, keepdims=True)
    longest = int(np.ceil(rate / floor)) + 2
    n_fft = 1 << (size + longest).bit_length()

    def autocorrelation(x):
        fine = np.fft.irfft(np.abs(np.fft.rfft(x, n_fft)) ** 2, n_fft * _FINER)[..., : longest * _FINER]
        return fine / np.maximum(fine[..., :1], 1e-30)

    r = autocorrelation(frames * window) / autocorrelation(window)
    left, middle, right = r[:, :-2], r[:, 1:-1], r[:, 2:]
    curvature = left - 2 * middle + right
    is_peak = (middle > left) & (middle >= right) & (middle > 0.5 * _VOICING)
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(is_peak, curvature, 1.0), 0.0)
    height = np.minimum(middle - 0.25 * (left - right) * shift, 1.0)
    lag = (np.arange(1, r.shape[1] - 1) + shift) / (_FINER * rate)
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
    """Viterbi: the most strength, less what leaps and changes of voicing cost."""
    per_hop = 0.01 / HOP_SECONDS
    voiced = hertz > 0
    octaves = np.log2(np.where(voiced, hertz, 1.0))
    total = strength[0]
    back = np.zeros(hertz.shape, np.int64)
    for t in range(1, len(hertz)):
        both = voiced[t - 1][:, None] & voiced[t][None]
        leap = _JUMP * np.abs(octaves[t - 1][:, None] - octaves[t][None])
        change = _CHANGE * (voiced[t - 1][:, None] != voiced[t][None])
        arriving = total[:, None] - per_hop * np.where(both, leap, change)
        back[t] = np.argmax(arriving, axis=0)
        total = arriving[back[t], np.arange(hertz.shape[1])] + strength[t]
    place, track = int(np.argmax(total)), np.zeros(len(hertz))
    for t in range(len(hertz) - 1, -1, -1):
        track[t] = hertz[t, place]
        place = back[t, place]
    return track


class PitchErrors(NamedTuple):
    """How a pitch track differs from a reference. NaN where there is nothing to measure."""

    rmse_hertz: float
    """Root mean square difference over the frames that are voiced in both."""
    rmse_cents: float
    """The same in hundredths of a semitone."""
    correlation: float
    """Pearson's correlation of the logarithms over the frames that are voiced in both."""
    voicing_error: float
    """Percent of all frames that are voiced in one only (Nakatani et al. 2008)."""
    gross_error: float
    """Percent of the frames voiced in both that are more than 20 % off (Rabiner et al. 1976)."""


def pitch_errors(reference: Float[np.ndarray, "frames"], other: Float[np.ndarray, "frames"]) -> PitchErrors:
    """The errors of a track against another whose frames belong to its own: index both with a path of `dtw` first."""
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
    # A track that does not move has no correlation; rounding must not make one up.
    return float(np.sum(a * b) / size) if size > 1e-9 * len(a) else float("nan")
