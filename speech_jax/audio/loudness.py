"""Loudness of a mono recording (ITU-R BS.1770-4), and the gain that brings it to a target loudness.

Host-side NumPy and SciPy. Neither AudioConfig nor a manifest has a gain: to mix recordings of different levels for a
voice, apply `normalize_loudness` when recordings are written to shards or files, so that the acoustic model's mel
spectrogram and the vocoder's waveform have the same level.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

_BLOCK, _STEP = 0.4, 0.1  # seconds
_ABSOLUTE, _RELATIVE = -70.0, -10.0  # gates: in LUFS, and in LU relative to the mean of what passes the first


def integrated_loudness(audio: Float[np.ndarray, " samples"], sample_rate: int) -> float:
    """Return the loudness in LUFS of mono audio in [-1, 1]; -inf for silence (nothing above -70 LUFS).

    K-weighting, then blocks of 0.4 s every 0.1 s, without those below -70 LUFS and those 10 LU below the mean of the
    rest. Audio shorter than a block, which the standard does not define, counts as one block.
    """
    from scipy.signal import sosfilt  # slow to import, and only needed here

    weighted = np.asarray(sosfilt(k_weighting(sample_rate), np.asarray(audio, np.float64)))
    size, step = round(_BLOCK * sample_rate), _STEP * sample_rate
    count = max(1, int((len(weighted) - size) / step + 1e-6) + 1)
    starts = np.round(np.arange(count) * step).astype(int)
    total = np.concatenate([[0.0], np.cumsum(weighted**2)])
    ends = np.minimum(starts + size, len(weighted))
    power = (total[ends] - total[starts]) / np.maximum(ends - starts, 1)
    gated = power[_lufs(power) > _ABSOLUTE]
    if len(gated) == 0:
        return -math.inf
    gated = gated[_lufs(gated) > _lufs(gated.mean()) + _RELATIVE]
    return float(_lufs(gated.mean()))


def loudness_gain(
    audio: Float[np.ndarray, " samples"], sample_rate: int, target: float = -23.0, peak: float = -1.0
) -> float:
    """Return the factor that brings audio to a target loudness; 1 for silence.

    Args:
        audio: mono samples in [-1, 1].
        sample_rate: samples per second.
        target: loudness in LUFS.
        peak: limit on the largest sample, in dB of full scale. Peaks between samples (true peak) are not measured; -1
            leaves room for them.
    """
    loudness = integrated_loudness(audio, sample_rate)
    if not math.isfinite(loudness):
        return 1.0
    gain = 10 ** ((target - loudness) / 20)
    return min(gain, 10 ** (peak / 20) / float(np.abs(audio).max()))


def normalize_loudness(
    audio: Float[np.ndarray, " samples"], sample_rate: int, target: float = -23.0, peak: float = -1.0
) -> Float[np.ndarray, " samples"]:
    """Return the audio multiplied by its `loudness_gain`, float32."""
    return (audio * loudness_gain(audio, sample_rate, target, peak)).astype(np.float32)


def k_weighting(sample_rate: int) -> Float[np.ndarray, "2 6"]:
    """Return the K-weighting filters for any sample rate as second-order sections: a shelf of +4 dB and a high-pass.

    The standard gives coefficients for 48 kHz only. They are the bilinear transform of two analog filters, whose
    frequency, gain and quality were derived by B. De Man (loudness.py, 2014); at 48 kHz the results agree.
    """
    tangent, quality = math.tan(math.pi * 1681.9744509555319 / sample_rate), 0.7071752369554193
    high = 10 ** (3.99984385397 / 20)
    band = high**0.499666774155
    whole = 1 + tangent / quality + tangent**2
    shelf = [
        (high + band * tangent / quality + tangent**2) / whole,
        2 * (tangent**2 - high) / whole,
        (high - band * tangent / quality + tangent**2) / whole,
        1.0,
        2 * (tangent**2 - 1) / whole,
        (1 - tangent / quality + tangent**2) / whole,
    ]
    tangent, quality = math.tan(math.pi * 38.13547087613982 / sample_rate), 0.5003270373253953
    whole = 1 + tangent / quality + tangent**2
    return np.array(
        [shelf, [1.0, -2.0, 1.0, 1.0, 2 * (tangent**2 - 1) / whole, (1 - tangent / quality + tangent**2) / whole]]
    )


def _lufs(power):
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-20))
