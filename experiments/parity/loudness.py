"""Print what pyloudnorm measures for the signals of tests/audio/test_loudness.py, to be written there.

pip install pyloudnorm; python experiments/parity/loudness.py
"""

from __future__ import annotations

import numpy as np
import pyloudnorm


def signal(rate: int, seconds: float, seed: int) -> np.ndarray:
    """Noise through a random slope of the spectrum, whose level changes and pauses."""
    random = np.random.default_rng(seed)
    count = round(rate * seconds)
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum *= (1 + np.arange(len(spectrum)) * rate / count / 100) ** -random.uniform(0, 1.5)
    wave = np.fft.irfft(spectrum, count)
    level = np.repeat(10 ** random.uniform(-3, 0, 8), -(-count // 8))[:count]
    return 0.25 * level * wave / np.abs(wave).max()


if __name__ == "__main__":
    for seed, (rate, seconds) in enumerate(((16000, 3.0), (22050, 5.3), (24000, 2.0), (44100, 0.9), (48000, 10.0))):
        meter = pyloudnorm.Meter(rate, filter_class="DeMan")
        simple = pyloudnorm.Meter(rate)
        wave = signal(rate, seconds, seed)
        print((rate, seconds, round(meter.integrated_loudness(wave), 3), round(simple.integrated_loudness(wave), 3)))
