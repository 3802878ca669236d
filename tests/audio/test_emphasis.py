"""What a vocoder's waveform goes through: the order of r9y9's preprocessing, padding that is not heard, and back."""

import dataclasses

import numpy as np
import pytest
from scipy.signal import lfilter

from speech_jax.audio.emphasis import apply_emphasis, undo_emphasis
from speech_jax.audio.mel import high_pass_taps
from speech_jax.audio.presets import nvidia_tacotron2, r9y9_master

LENGTHS = np.array([900, 500])


def audio(filler: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = np.full((2, 1000), filler, np.float32)
    for row, n in enumerate(LENGTHS):
        x[row, :n] = 0.2 * rng.normal(size=n)
    return x


def test_high_pass_then_gain_then_pre_emphasis_and_padding_is_not_heard():
    found = np.asarray(apply_emphasis(audio(np.nan), LENGTHS, r9y9_master(), 0.55, 0.85))
    for row, n in enumerate(LENGTHS):
        x = 0.55 * lfilter(high_pass_taps(r9y9_master()), [1.0], audio(0.0)[row, :n])
        np.testing.assert_allclose(found[row, :n], lfilter([1.0, -0.85], [1.0], x), atol=1e-5)
        assert (found[row, n:] == 0).all()


@pytest.mark.parametrize("gain, coefficient", [(1.0, 0.0), (0.5, 0.9)])
def test_back_again_in_chunks_of_any_length(gain, coefficient):
    config = dataclasses.replace(nvidia_tacotron2(), high_pass=0.0)
    x = audio(0.0)
    made = np.asarray(apply_emphasis(x, LENGTHS, config, gain, coefficient))[0, :900]
    for cut in (900, 7):
        chunks = [made[i : i + cut] for i in range(0, 900, cut)]
        back = np.concatenate(list(undo_emphasis(chunks, gain, coefficient)))
        np.testing.assert_allclose(back, np.clip(x[0, :900], -1, 1), atol=1e-5)
        assert back.dtype == np.float32
