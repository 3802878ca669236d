"""Loudness: pyloudnorm's numbers, the standard's calibration, gains that keep to the peak."""

import math

import numpy as np
import pytest

from speech_jax.audio.loudness import integrated_loudness, k_weighting, loudness_gain, normalize_loudness

# (rate, seconds, what pyloudnorm 0.2's "DeMan" meter says, its default meter): experiments/parity/loudness.py
PYLOUDNORM = [
    (16000, 3.0, -34.722, -34.847),
    (22050, 5.3, -32.829, -32.918),
    (24000, 2.0, -41.933, -42.017),
    (44100, 0.9, -40.229, -40.273),
    (48000, 10.0, -33.394, -33.431),
]


def slanted(rate: int, seconds: float, seed: int) -> np.ndarray:
    """Noise with a random slope of the spectrum, whose level changes and pauses (experiments/parity/loudness.py)."""
    random = np.random.default_rng(seed)
    count = round(rate * seconds)
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum *= (1 + np.arange(len(spectrum)) * rate / count / 100) ** -random.uniform(0, 1.5)
    wave = np.fft.irfft(spectrum, count)
    level = np.repeat(10 ** random.uniform(-3, 0, 8), -(-count // 8))[:count]
    return 0.25 * level * wave / np.abs(wave).max()


@pytest.mark.parametrize("seed", range(5))
def test_equals_pyloudnorm(seed):
    """Its default meter has other filters, which its own documentation calls approximate."""
    rate, seconds, exact, simple = PYLOUDNORM[seed]
    found = integrated_loudness(slanted(rate, seconds, seed), rate)
    assert found == pytest.approx(exact, abs=0.01) and found == pytest.approx(simple, abs=0.15)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_the_standards_calibration(rate):
    """A full-scale sine of 997 Hz in one channel reads -3.01 LUFS; the filters at 48 kHz are the standard's."""
    tone = np.sin(2 * np.pi * 997 * np.arange(3 * rate) / rate)
    assert integrated_loudness(tone, rate) == pytest.approx(-3.01, abs=0.05)
    assert integrated_loudness(0.1 * tone, rate) == pytest.approx(-23.01, abs=0.05)
    shelf, high_pass = k_weighting(48000)
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241,
                                       0.73248077421585], atol=1e-8)  # fmt: skip
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621], atol=1e-8)


def test_pauses_do_not_count():
    tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(32000) / 16000)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(64000)
    alone, among = integrated_loudness(tone, 16000), integrated_loudness(np.concatenate([noise, tone, noise]), 16000)
    assert abs(alone - among) < 0.7 < abs(alone - 10 * math.log10(0.2 * 0.005) + 0.691)


def test_a_short_or_silent_utterance_has_an_answer():
    tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(16000) / 16000)
    assert integrated_loudness(tone[:3200], 16000) == pytest.approx(-23.01, abs=0.5)
    for silence in (np.zeros(8000), np.zeros(10), np.full(8000, 1e-6)):
        assert integrated_loudness(silence, 16000) == -math.inf
        assert loudness_gain(silence, 16000) == 1.0


def test_normalized_to_the_target_unless_the_peak_is_met():
    wave = 0.01 * np.random.default_rng(0).standard_normal(44100)
    loud = normalize_loudness(wave, 22050, target=-30.0)
    assert loud.dtype == np.float32
    assert integrated_loudness(loud, 22050) == pytest.approx(-30.0, abs=0.01)
    limited = normalize_loudness(wave, 22050, target=0.0, peak=-1.0)
    assert np.abs(limited).max() == pytest.approx(10 ** (-1 / 20), rel=1e-5)
