"""Distillation losses: zero for equals, blind to the padding, right by a plain loop, no gradient to the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.objectives.distill import posterior_loss, similarity_loss

RNG = np.random.default_rng(0)
STUDENT, TAUGHT = (RNG.normal(size=(2, 5, 4)).astype(np.float32) for _ in range(2))
MASK = np.arange(5)[None] < np.array([[5], [3]])


def test_posteriors_by_a_plain_loop():
    for temperature in (1.0, 2.0):
        expected = 0.0
        for b, t in np.argwhere(MASK):
            s, p = (x[b, t].astype(np.float64) / temperature for x in (STUDENT, TAUGHT))
            s, p = (x - np.log(np.exp(x).sum()) for x in (s, p))
            expected += temperature**2 * np.sum(np.exp(p) * (p - s))
        total, count = posterior_loss(STUDENT, TAUGHT, MASK, temperature=temperature)
        assert float(total) == pytest.approx(expected, rel=1e-5) and float(count) == 8


def test_similarities_by_a_plain_loop():
    wide = RNG.normal(size=(2, 5, 7)).astype(np.float32)
    expected = 0.0
    for b in range(2):
        n = MASK[b].sum()
        ours, theirs = (x[b, :n] / np.linalg.norm(x[b, :n], axis=-1, keepdims=True) for x in (STUDENT, wide))
        expected += ((ours @ ours.T - theirs @ theirs.T) ** 2).sum() / n
    total, count = similarity_loss(STUDENT, wide, MASK)
    assert float(total) == pytest.approx(expected, rel=1e-4) and float(count) == 8


@pytest.mark.parametrize("loss", [posterior_loss, similarity_loss])
def test_equals_cost_nothing_and_padding_is_not_seen(loss):
    assert float(loss(STUDENT, STUDENT, MASK)[0]) == pytest.approx(0.0, abs=1e-6)
    garbage = [np.where(MASK[..., None], x, np.nan) for x in (STUDENT, TAUGHT)]

    def value(student, teacher):
        return loss(student, teacher, MASK)[0]

    for x, y in ((STUDENT, TAUGHT), garbage):
        ours, theirs = jax.grad(value, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(y))
        assert np.isfinite(ours).all() and np.abs(ours[MASK]).max() > 1e-3
        assert not np.any(ours[~MASK]) and not np.any(theirs)
    assert float(value(*garbage)) == float(value(STUDENT, TAUGHT))
