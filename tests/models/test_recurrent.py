"""LSTMs: the gradient of the loop is the plain scan's, padding changes nothing, and states are held back as said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.models import recurrent
from speech_jax.models.recurrent import Regularizer, keep_at, lstm, lstm_init, seeds_of
from tests.support.contracts import check_layer


def plain(params, x, mask):
    """A loop in float64, forward and backward, as the textbook has it."""
    params = {name: np.asarray(a, np.float64) for name, a in params.items()}
    batch, time, _ = x.shape
    directions, width = params["recurrent_kernel"].shape[:2]
    y = np.zeros((batch, time, directions * width))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    for row in range(batch):
        for d in range(directions):
            h = c = np.zeros(width)
            steps = range(int(mask[row].sum()))
            for t in reversed(steps) if d else steps:
                gates = x[row, t] @ params["input_kernel"][d] + h @ params["recurrent_kernel"][d] + params["bias"][d]
                i, f, g, o = np.split(gates, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
                y[row, t, d * width : (d + 1) * width] = h
    return y


def example(directions, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 9, 5)).astype(np.float32)
    mask = np.arange(9)[None] < np.array([9, 6, 2])[:, None]
    return lstm_init(jax.random.key(1), 5, 4, directions), x, mask


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_is_the_textbooks(directions):
    params, x, mask = example(directions)
    found = jax.jit(lstm)(params, x, mask)
    np.testing.assert_allclose(found, plain(params, x, mask), atol=1e-6)
    assert not np.asarray(found)[~mask].any()


@pytest.mark.parametrize("directions", [1, 2])
def test_padding_and_batch_mates_change_nothing(directions):
    params, x, mask = example(directions)
    check_layer(lambda x, mask: lstm(params, jnp.where(mask[..., None], x, 0.0), mask), x, mask)


@pytest.mark.parametrize("kind", ["zoneout", "dropout"])
def test_the_gradient_is_the_plain_scans(kind, monkeypatch):
    """Every gradient, with the state held back at random, equals that of lax.scan without the detour."""
    params, x, mask = example(2)
    seeds = seeds_of(jax.random.split(jax.random.key(3), 3))
    weight = np.random.default_rng(4).normal(size=(3, 9, 8))

    def loss(params, x):
        return jnp.sum(weight * lstm(params, x, mask, regularizer=Regularizer(kind, 0.3), seeds=seeds))

    def value_and_gradients():  # a new function each time, so that nothing of the other way is remembered
        return jax.jit(jax.value_and_grad(lambda *args: loss(*args), argnums=(0, 1)))(params, x)

    value, gradients = value_and_gradients()

    def direct(body, matrix, consts, carry, xs):
        carry, (ys, _) = recurrent._scan(body, matrix, consts, carry, xs)
        return carry, ys

    monkeypatch.setattr(recurrent, "scan_product", direct)
    want_value, want = value_and_gradients()
    assert value == pytest.approx(float(want_value), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, want)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_what_is_kept_is_a_function_of_utterance_step_and_channel():
    seeds = seeds_of(jax.random.split(jax.random.key(0), 64))
    keep = np.asarray(keep_at(seeds, 5, 256, 0.25))
    assert abs(keep.mean() - 0.75) < 0.02
    np.testing.assert_array_equal(keep[7:8], keep_at(seeds[7:8], 5, 256, 0.25))
    for other in (keep_at(seeds, 6, 256, 0.25), keep_at(seeds, 5, 256, 0.25, 1), keep_at(seeds[::-1], 5, 256, 0.25)):
        assert 0.5 < (np.asarray(other) == keep).mean() < 0.75  # independent: 0.75² + 0.25² = 0.625


def test_zoneout_keeps_the_old_state_and_is_its_mean_in_evaluation():
    rng = np.random.default_rng(0)
    new, old = (tuple(jnp.asarray(rng.normal(size=(8, 500)), jnp.float32) for _ in range(2)) for _ in range(2))
    seeds = seeds_of(jax.random.split(jax.random.key(0), 8))
    zoneout = Regularizer("zoneout", 0.2)
    for n, o, found in zip(new, old, zoneout(new, old, seeds, jnp.int32(3), 0), strict=True):
        assert np.isin(found, np.concatenate([n, o])).all()
        assert np.mean(np.asarray(found) == np.asarray(o)) == pytest.approx(0.2, abs=0.02)
    for n, o, found in zip(new, old, zoneout(new, old, None, jnp.int32(3), 0), strict=True):
        np.testing.assert_allclose(found, 0.2 * o + 0.8 * n, atol=1e-6)
    h, c = Regularizer("dropout", 0.5)(new, old, seeds, jnp.int32(3), 0)
    assert np.isclose(h, 2 * new[0]).mean() == pytest.approx(0.5, abs=0.03) and (np.asarray(c) == new[1]).all()
