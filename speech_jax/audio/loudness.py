"""How loud a recording is (ITU-R BS.1770-4, one channel), and the gain that brings it to a wanted loudness.

Host-side NumPy and scipy (which jax brings). Neither AudioConfig nor a manifest knows of a gain: whoever mixes
recordings of different levels for a voice applies `normalize_loudness` where recordings become shards or files, so that
the acoustic model's mel spectrogram and the vocoder's waveform hear the same level.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.signal import sosfilt

_BLOCK, _STEP = 0.4, 0.1  # seconds
_ABSOLUTE, _RELATIVE = -70.0, -10.0  # gates: LUFS, and LU below the mean of what passes the first


def integrated_loudness(audio: Float[np.ndarray, " samples"], sample_rate: int) -> float:
    """Loudness in LUFS of mono audio in [-1, 1]; -inf for silence (nothing above -70 LUFS).

    K-weighting, blocks of 0.4 s every 0.1 s, those below -70 LUFS and those 10 LU below the mean of the rest left out.
    Audio shorter than a block, for which the standard has no word, is one block.
    """
    weighted = sosfilt(k_weighting(sample_rate), np.asarray(audio, np.float64))
    size, step = round(_BLOCK * sample_rate), _STEP * sample_rate
    count = max(1, int((len(weighted) - size) / step + 1e-6) + 1)
    starts = np.round(np.arange(count) * step).astype(int)
    total = np.concatenate([[0.0], np.cumsum(weighted**2)])
    ends = np.minimum(starts + size, len(weighted))
    power = (total[ends] - total[starts]) / np.maximum(ends - starts, 1)
    heard = power[_lufs(power) > _ABSOLUTE]
    if len(heard) == 0:
        return -math.inf
    heard = heard[_lufs(heard) > _lufs(heard.mean()) + _RELATIVE]
    return float(_lufs(heard.mean()))


def loudness_gain(
    audio: Float[np.ndarray, " samples"], sample_rate: int, target: float = -23.0, peak: float = -1.0
) -> float:
    """The factor that brings the audio to `target` LUFS, but no sample beyond `peak` dB of full scale; 1 for silence.

    The peak is that of the samples, not of the curve between them (true peak): -1 leaves room for it.
    """
    found = integrated_loudness(audio, sample_rate)
    if not math.isfinite(found):
        return 1.0
    gain = 10 ** ((target - found) / 20)
    return min(gain, 10 ** (peak / 20) / float(np.abs(audio).max()))


def normalize_loudness(
    audio: Float[np.ndarray, " samples"], sample_rate: int, target: float = -23.0, peak: float = -1.0
) -> Float[np.ndarray, " samples"]:
    """The audio times its loudness_gain, float32."""
    return (audio * loudness_gain(audio, sample_rate, target, peak)).astype(np.float32)


def k_weighting(sample_rate: int) -> Float[np.ndarray, "2 6"]:
    """The standard's two filters for any rate, as second-order sections: a shelf of +4 dB and a high-pass.

    The standard gives numbers for 48 kHz alone. They are the bilinear transform of two analogue filters, whose
    frequency, gain and quality B. De Man found (loudness.py, 2014); at 48 kHz these are the standard's numbers.
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
