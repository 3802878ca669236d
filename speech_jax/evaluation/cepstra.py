"""Mel cepstra, and the mel-cepstral distortion (MCD) between two recordings of the same sentence."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.mel import mel_matrix

HOP_SECONDS = 0.005
WINDOW_SECONDS = 0.025
BANDS = 80
RANGE_DB = 80.0

# Decibels of the natural logarithm of an amplitude (20 / ln 10), times the root mean square of a cosine.
MCD_DB = 10 * np.sqrt(2) / np.log(10)


def hop_samples(rate: int) -> int:
    """Return the hop, 5 ms, in samples."""
    return max(1, round(HOP_SECONDS * rate))


def centered_frames(audio: Float[np.ndarray, "samples"], size: int, hop: int) -> Float[np.ndarray, "frames size"]:
    """Return samples // hop + 1 frames as a view; frame t is centered at sample t · hop, zeros beyond the ends."""
    padded = np.pad(np.asarray(audio, np.float64), (size // 2, size))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: len(audio) // hop + 1]


def log_mel(audio: Float[np.ndarray, "samples"], rate: int) -> Float[np.ndarray, "frames bands"]:
    """Return natural logarithms of the power in 80 mel bands (Slaney's scale), 25 ms Hann window, every 5 ms.

    Bands reach from 0 Hz to half the rate. Values more than 80 dB below the recording's loudest band are raised to that
    floor: the distortion does not depend on the level, and digital silence in one of two recordings stays finite.

    Args:
        audio: samples.
        rate: sample rate in Hz.
    """
    window, hop = round(WINDOW_SECONDS * rate), hop_samples(rate)
    n_fft = 1 << (window - 1).bit_length()
    config = AudioConfig(sample_rate=rate, window=window, hop=hop, n_fft=n_fft, num_mels=BANDS)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    bands = mel_matrix(config)
    frames = centered_frames(audio, window, hop)
    power = [np.abs(np.fft.rfft(part * hann, n_fft)) ** 2 @ bands for part in _blocks(frames)]
    power = np.concatenate(power)
    return np.log(np.maximum(power, max(power.max(), 1e-30) * 10 ** (-RANGE_DB / 10)))


def _blocks(frames: np.ndarray, size: int = 1024) -> list[np.ndarray]:
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def mel_cepstra(log_power: Float[np.ndarray, "frames bands"], order: int = 13) -> Float[np.ndarray, "frames order"]:
    """Return c_1 … c_order of log-mel power: ln |H| = c_0 + Σ c_k cos(π k (band + ½) / bands).

    With this scale, and not the orthonormal one of most MFCCs, MCD's usual constant makes the distortion the root mean
    square difference of two smoothed log-mel spectra in dB. (MCD of orthonormal MFCCs is larger by √(bands / 2), 6.3
    times with 80 bands.)

    Args:
        log_power: as `log_mel` returns it.
        order: number of coefficients.
    """
    bands = log_power.shape[1]
    angle = np.pi / bands * np.outer(np.arange(bands) + 0.5, np.arange(1, order + 1))
    return 0.5 * log_power @ (2 / bands * np.cos(angle))  # ½: logarithm of the amplitude, not of the power


def warped_cepstra(
    power: Float[np.ndarray, "frames bins"], alpha: float, order: int = 13
) -> Float[np.ndarray, "frames order"]:
    """Return c_1 … c_order of a power spectrum over warped frequency: SPTK's mel-cepstra (Tokuda et al. 1994).

    These are for spectral envelopes of another program, for example WORLD's (pyworld.cheaptrick), to compare with
    published figures on such cepstra. `mel_cepstra` needs no such program.

    Args:
        power: power spectra with n_fft // 2 + 1 bins.
        alpha: coefficient of the all-pass filter that warps; `warping(rate)` for the mel scale.
        order: number of coefficients.
    """
    n_fft = 2 * (power.shape[1] - 1)
    cepstrum = np.fft.irfft(0.5 * np.log(power), n_fft)[:, : n_fft // 2 + 1]
    cepstrum[:, 1:-1] *= 2  # minimum phase: ln |H| = Σ c_k cos(k ω)
    return cepstrum @ _all_pass(n_fft // 2, order, alpha)[:, 1:]


def warping(rate: int) -> float:
    """Return the all-pass coefficient that approximates Fant's mel scale, log(1 + f / 1000 Hz), by least squares.

    This is SPTK's choice: 0.41 at 16 kHz, 0.455 at 22.05 kHz, 0.544 at 44.1 kHz.
    """
    omega = np.linspace(0, np.pi, 513)
    mel = np.log1p(omega / np.pi * rate / 2 / 1000)
    target = mel / mel[-1] * np.pi
    candidates = np.arange(0.1, 0.9, 0.001)[:, None]
    warped = omega + 2 * np.arctan2(candidates * np.sin(omega), 1 - candidates * np.cos(omega))
    return float(candidates[np.argmin(((warped - target) ** 2).sum(axis=1)), 0])


def _all_pass(length: int, order: int, alpha: float) -> Float[np.ndarray, "quefrencies order"]:
    """Return the matrix [length + 1, order + 1] from cepstra to cepstra over the warped frequency.

    Row k is the truncated series of (z^-1)^k = ((z̃^-1 + α) / (1 + α z̃^-1))^k in z̃^-1 (Oppenheim and Johnson 1972).
    """
    section = (1 - alpha**2) * (-alpha) ** np.arange(-1.0, order)
    section[0] = alpha
    rows = np.zeros((length + 1, order + 1))
    rows[0, 0] = 1.0
    for k in range(1, length + 1):
        rows[k] = np.convolve(rows[k - 1], section)[: order + 1]
    return rows


def mcd(
    reference: Float[np.ndarray, "n order"], other: Float[np.ndarray, "m order"], path: Int[np.ndarray, "steps 2"]
) -> float:
    """Return the mel-cepstral distortion in dB: the mean of (10 √2 / ln 10) · √Σ (c_k - c'_k)² along the path.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment".

    Args:
        reference: cepstra.
        other: cepstra.
        path: frame pairs of `dtw.warp`, or of `dtw.diagonal` for recordings that run in parallel.
    """
    difference = reference[path[:, 0]] - other[path[:, 1]]
    return float(MCD_DB * np.mean(np.sqrt(np.sum(difference**2, axis=1))))
