"""Likelihoods of samples: probabilities that add up to one, in agreement with float64, scipy and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from speech_jax.audio.mulaw import mulaw_decode, mulaw_encode, zero_class
from speech_jax.kernels.wavenet.draw import draw, make_noise, to_audio
from speech_jax.kernels.wavenet.step import StepShape
from speech_jax.objectives.waveform import gaussian_nll, logistics_nll, mulaw_nll, waveform_nll


def test_a_gaussian_is_scipys():
    rng = np.random.default_rng(0)
    y, target = rng.normal(size=(3, 50, 2)).astype(np.float32), rng.uniform(-1, 1, (3, 50)).astype(np.float32)
    want = -norm.logpdf(target, y[..., 0], np.exp(np.maximum(y[..., 1], -0.5)))
    np.testing.assert_allclose(gaussian_nll(y, target, -0.5), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [256, 65536])
def test_the_probabilities_of_all_levels_add_up_to_one(levels):
    rng = np.random.default_rng(1)
    grid = jnp.linspace(-1, 1, levels)
    for log_scale in (-9.0, -4.0, 1.0):  # narrower than a level, as speech is, and wider than all
        y = rng.normal(size=9).astype(np.float32)
        y[6:] = log_scale + 0.3 * rng.normal(size=3)
        nll = logistics_nll(jnp.tile(jnp.asarray(y), (levels, 1)), grid, -12.0, levels)
        assert np.isfinite(nll).all()
        assert float(np.exp(-np.asarray(nll, np.float64)).sum()) == pytest.approx(1.0, abs=2e-3)


def test_logistics_are_the_formula_in_float64():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(400, 9)) * np.array([1] * 3 + [0.3] * 3 + [1.5] * 3) - np.array([0] * 6 + [5] * 3)
    target = np.round(rng.uniform(-1, 1, 400) * 100) / 100
    target[:4] = [-1, 1, -1, 1]
    logits, means, scales = np.split(y, 3, axis=-1)
    scales = np.exp(-np.maximum(scales, -6.0))
    upper, lower = ((target[:, None] - means + sign / 255) * scales for sign in (1, -1))
    cdf = lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700)))  # noqa: E731
    each = np.where(
        target[:, None] == -1, cdf(upper), np.where(target[:, None] == 1, 1 - cdf(lower), cdf(upper) - cdf(lower))
    )
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = (weights * each).sum(-1)
    found = np.exp(
        -np.asarray(logistics_nll(jnp.asarray(y, jnp.float32), jnp.asarray(target, jnp.float32), -6.0, 256), np.float64)
    )
    sure = want > 1e-12  # below, float64's difference of two numbers near 1 is the worse one
    np.testing.assert_allclose(found[sure], want[sure], rtol=2e-3)
    gradient = jax.grad(lambda y: jnp.sum(logistics_nll(y, jnp.asarray(target, jnp.float32), -6.0, 256)))(
        jnp.asarray(y, jnp.float32)
    )
    assert np.isfinite(gradient).all()


def test_mulaw_goes_there_and_back():
    assert zero_class(256) == int(mulaw_encode(jnp.zeros(()))) == 128
    every = jnp.arange(256)
    np.testing.assert_array_equal(mulaw_encode(mulaw_decode(every)), every)
    audio = jnp.linspace(-1, 1, 2001)
    again = mulaw_decode(mulaw_encode(audio))
    assert float(jnp.max(jnp.abs(again - audio))) < 0.025 and float(jnp.abs(again[1000])) < 1e-4
    np.testing.assert_array_equal(mulaw_encode(jnp.array([-3.0, 3.0])), [0, 255])


@pytest.mark.parametrize("output", ["gaussian", "logistics", "mulaw"])
def test_what_is_drawn_has_the_likelihood(output):
    """The mean of the negative log likelihood of draws is the distribution's entropy, found by adding up a grid."""
    shape = StepShape((1,), output, 1.0, 3, 16, -7.0)
    rng = np.random.default_rng(3)
    y = rng.normal(size={"gaussian": 2, "logistics": 9, "mulaw": 16}[output]).astype(np.float32) * 0.5
    if output != "mulaw":
        y[-3 if output == "logistics" else -1 :] = -2.5
        y[3 if output == "logistics" else 0 : -3 if output == "logistics" else 1] *= 0.3
    count = 40_000
    noise = jax.jit(make_noise, static_argnums=(0, 3))(shape, jnp.array([[7, 8]], jnp.uint32), jnp.array([5]), count)[0]
    rows = jnp.tile(jnp.asarray(y), (count, 1))
    drawn = draw(shape, rows, noise)
    assert float(jnp.abs(to_audio(shape, drawn)).max()) <= 1
    nll = waveform_nll(output, rows[None], drawn[None], min_log_scale=-7.0, levels=1024)
    if output == "mulaw":
        p = np.asarray(jax.nn.softmax(jnp.asarray(y)), np.float64)
        entropy = -(p * np.log(p)).sum()
        np.testing.assert_allclose(np.bincount(drawn, minlength=16) / count, p, atol=0.01)
    else:
        grid = jnp.linspace(-1, 1, 1024)
        each = np.asarray(
            waveform_nll(output, jnp.tile(jnp.asarray(y), (1, 1024, 1)), grid[None], min_log_scale=-7.0, levels=1024)[
                0
            ],
            np.float64,
        )
        p = np.exp(-each) * (2 / 1023 if output == "gaussian" else 1)
        entropy = (p * each).sum() / p.sum()
    assert float(nll.mean()) == pytest.approx(entropy, abs=0.02)


def test_noise_belongs_to_the_rows_key_and_the_samples_number():
    for output, width in (("gaussian", 1), ("logistics", 4), ("mulaw", 1)):
        shape = StepShape((1,), output, 1.0, 3, 16, -7.0)
        seeds = jnp.array([[1, 2], [3, 4]], jnp.uint32)
        whole = make_noise(shape, seeds, jnp.array([0, 10]), 30)
        assert whole.shape == (2, 30, width)
        np.testing.assert_array_equal(make_noise(shape, seeds[::-1], jnp.array([25, 7]), 5)[1], whole[0, 7:12])
        assert np.abs(whole[0] - whole[1]).max() > 0.1
        if output != "gaussian":
            assert 0 < float(whole.min()) and float(whole.max()) < 1


def test_the_gaussians_scale_is_bounded_below():
    y = jnp.array([[0.0, -30.0]])
    assert float(gaussian_nll(y, jnp.zeros(1), -7.0)[0]) == pytest.approx(-7 + 0.9189, abs=1e-3)
    shape = StepShape((1,), "gaussian", 1.0, 1, 1, -7.0)
    assert float(draw(shape, y, jnp.ones((1, 1)))[0]) == pytest.approx(np.exp(-7), rel=1e-4)
    assert mulaw_nll(jnp.zeros((1, 4)), jnp.array([2]))[0] == pytest.approx(np.log(4))
