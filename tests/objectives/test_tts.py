"""Losses of synthesis: against plain loops in float64, blind to the padding, means whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.objectives.tts import focus_rate, frame_loss, guided_attention_loss, si_sdr, stop_loss

FRAMES, SYMBOLS = np.array([9, 4, 1, 0]), np.array([5, 3, 2, 0])
MASK = np.arange(11)[None] < FRAMES[:, None]
TEXT = np.arange(7)[None] < SYMBOLS[:, None]
RNG = np.random.default_rng(0)
MADE, TARGET = RNG.normal(size=(2, 4, 11, 6)).astype(np.float32)
LOGITS = 3 * RNG.normal(size=(4, 11)).astype(np.float32)
WEIGHTS = np.where(TEXT[:, None], RNG.random((4, 11, 7)), 0.0).astype(np.float32)


def loops():
    """name -> (function of the padded arrays, what it should give)"""
    square = absolute = stop = guided = focus = 0.0
    for row, (frames, symbols) in enumerate(zip(FRAMES, SYMBOLS, strict=True)):
        for t in range(frames):
            difference = MADE[row, t].astype(np.float64) - TARGET[row, t]
            square, absolute = square + np.mean(difference**2), absolute + np.mean(np.abs(difference))
            x = float(LOGITS[row, t])
            stop += 5 * np.log1p(np.exp(-x)) if t == frames - 1 else np.log1p(np.exp(x))
            for n in range(symbols):
                guided += WEIGHTS[row, t, n] * (1 - np.exp(-((n / symbols - t / frames) ** 2) / (2 * 0.3**2)))
            focus += WEIGHTS[row, t].max()
    return {
        "l2": (lambda p: frame_loss(p(MADE), p(TARGET), MASK, "l2"), square),
        "l1": (lambda p: frame_loss(p(MADE), p(TARGET), MASK, "l1"), absolute),
        "stop": (lambda p: stop_loss(p(LOGITS), jnp.asarray(MASK), 5.0), stop),
        "guided": (lambda p: guided_attention_loss(p(WEIGHTS), jnp.asarray(MASK), jnp.asarray(TEXT), 0.3), guided),
        "focus": (lambda p: focus_rate(p(WEIGHTS), jnp.asarray(MASK)), focus),
    }


def filled(value):
    def fill(x):
        mask = MASK.reshape(MASK.shape + (1,) * (x.ndim - 2))
        return jnp.asarray(np.where(mask, x, np.float32(value)))

    return fill


@pytest.mark.parametrize("name", list(loops()))
def test_a_loss_is_the_plain_loops_whatever_lies_in_the_padding(name):
    function, expected = loops()[name]
    for value in (0.0, 1e4, np.nan):
        total, count = function(filled(value))
        assert count == FRAMES.sum()
        np.testing.assert_allclose(total, expected, rtol=1e-5)
    gradient = jax.grad(lambda x: frame_loss(x, TARGET, MASK)[0])(filled(np.nan)(MADE))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~MASK].any()


def test_a_diagonal_costs_nothing_and_its_mirror_does():
    square = jnp.ones((1, 8), bool)
    diagonal = jnp.eye(8)[None]
    assert float(guided_attention_loss(diagonal, square, square)[0]) == pytest.approx(0, abs=1e-6)
    assert float(guided_attention_loss(diagonal[:, ::-1], square, square)[0]) > 3
    assert float(focus_rate(diagonal, square)[0]) == 8


def test_si_sdr_is_the_definition_and_knows_no_scale():
    rng = np.random.default_rng(1)
    reference, estimate = rng.normal(size=(2, 3, 400))
    estimate = reference + 0.3 * estimate
    lengths = np.array([400, 300, 50])
    mask = np.arange(400)[None] < lengths[:, None]
    found = si_sdr(jnp.asarray(np.where(mask, estimate, np.nan)), jnp.asarray(np.where(mask, reference, np.nan)), mask)
    for row, n in enumerate(lengths):
        e, r = (x[row, :n] - x[row, :n].mean() for x in (estimate, reference))
        target = (e @ r) / (r @ r) * r
        expected = 10 * np.log10((target @ target) / ((e - target) @ (e - target)))
        assert float(found[row]) == pytest.approx(expected, abs=1e-3)
    scaled = si_sdr(jnp.asarray(7 * estimate + 2), jnp.asarray(reference), jnp.ones((3, 400), bool))
    plain = si_sdr(jnp.asarray(estimate), jnp.asarray(reference), jnp.ones((3, 400), bool))
    np.testing.assert_allclose(scaled, plain, atol=1e-3)
