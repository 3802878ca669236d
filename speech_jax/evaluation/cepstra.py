"""Mel cepstra and the distortion between two recordings of the same sentence (MCD)."""

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
    """The distance of frames, in samples: 5 ms."""
    return max(1, round(HOP_SECONDS * rate))


def centered_frames(audio: Float[np.ndarray, "samples"], size: int, hop: int) -> Float[np.ndarray, "frames size"]:
    """Frame t lies around sample t·hop, with zeros beyond both ends; samples // hop + 1 frames. A view, not a copy."""
    padded = np.pad(np.asarray(audio, np.float64), (size // 2, size))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: len(audio) // hop + 1]


def log_mel(audio: Float[np.ndarray, "samples"], rate: int) -> Float[np.ndarray, "frames bands"]:
    """Natural logarithms of the power in 80 bands (Slaney's scale, 0 Hz to half the rate), 25 ms Hann, every 5 ms.

    What lies more than 80 dB below the recording's loudest band is lifted to there: the distortion then does not depend
    on how loud a recording is, and digital silence in one of two is no difference without bound.
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
    """c1 … c_order of log-mel power: ln |H| = c0 + Σ c_k cos(π k (band + ½) / bands), c0 left out.

    Scaled like that, and not orthonormally as MFCCs mostly are, MCD's usual constant makes the distortion what its unit
    says: the root mean square, in dB, of the difference between two smoothed log-mel spectra. (MCD computed with
    orthonormal MFCCs is greater by the square root of bands / 2, with 80 bands 6.3 times.)
    """
    bands = log_power.shape[1]
    angle = np.pi / bands * np.outer(np.arange(bands) + 0.5, np.arange(1, order + 1))
    return 0.5 * log_power @ (2 / bands * np.cos(angle))  # half: an amplitude's logarithm from a power's


def warped_cepstra(
    power: Float[np.ndarray, "frames bins"], alpha: float, order: int = 13
) -> Float[np.ndarray, "frames order"]:
    """c1 … c_order of a power spectrum over a warped frequency: SPTK's mel-cepstra (Tokuda et al. 1994).

    alpha: of the all-pass filter that warps, `warping(rate)` for the mel scale.

    For spectral envelopes from another program, WORLD's for example (pyworld.cheaptrick, [frames, n_fft//2 + 1]), so
    that published figures on such cepstra can be compared with. `mel_cepstra` needs no such program.
    """
    n_fft = 2 * (power.shape[1] - 1)
    cepstrum = np.fft.irfft(0.5 * np.log(power), n_fft)[:, : n_fft // 2 + 1]
    cepstrum[:, 1:-1] *= 2  # of the minimum-phase spectrum: ln |H| = Σ c_k cos(k ω)
    return cepstrum @ _all_pass(n_fft // 2, order, alpha)[:, 1:]


def warping(rate: int) -> float:
    """The all-pass coefficient whose frequency scale is nearest (least squares) Fant's mel, log(1 + f / 1000 Hz).

    SPTK's choice: 0.41 at 16 kHz, 0.455 at 22.05 kHz, 0.544 at 44.1 kHz.
    """
    omega = np.linspace(0, np.pi, 513)
    mel = np.log1p(omega / np.pi * rate / 2 / 1000)
    target = mel / mel[-1] * np.pi
    candidates = np.arange(0.1, 0.9, 0.001)[:, None]
    warped = omega + 2 * np.arctan2(candidates * np.sin(omega), 1 - candidates * np.cos(omega))
    return float(candidates[np.argmin(((warped - target) ** 2).sum(axis=1)), 0])


def _all_pass(length: int, order: int, alpha: float) -> Float[np.ndarray, "quefrencies order"]:
    """[length + 1, order + 1] what each cepstral coefficient gives to those over the warped frequency.

    Row k is the series of (z^-1)^k = ((z̃^-1 + α) / (1 + α z̃^-1))^k in z̃^-1 (Oppenheim and Johnson 1972), cut off.
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
    """Mel-cepstral distortion in dB: (10 √2 / ln 10) · √Σ (c_k - c'_k)², the mean over the pairs of the path.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment". The path is `dtw.warp`'s,
    or `dtw.diagonal`'s for recordings that run in parallel.
    """
    difference = reference[path[:, 0]] - other[path[:, 1]]
    return float(MCD_DB * np.mean(np.sqrt(np.sum(difference**2, axis=1))))
