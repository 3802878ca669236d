"""The CTC loss against all alignments, against a float64 forward pass, and against everything that breaks optax's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.decoding.ctc import greedy_decode
from speech_jax.objectives.ctc import count_nonblank, ctc_loss, is_feasible


def test_frames_with_a_symbol_are_counted():
    rng = np.random.default_rng(0)
    logits, mask = rng.integers(0, 3, (4, 30, 5)).astype(np.float32), np.arange(30) < np.array([[30], [7], [1], [0]])
    best = np.argmax(logits, -1)  # with equal scores the first class, the blank, is the best
    garbage = np.where(mask[..., None], logits, np.nan)
    for kind in (jnp.float32, jnp.bfloat16):
        assert count_nonblank(jnp.asarray(garbage, kind), jnp.asarray(mask)) == np.sum((best != 0) & mask)
    blank = jnp.asarray(logits).at[..., 0].set(3.0)
    assert count_nonblank(blank, jnp.asarray(mask)) == 0 and not greedy_decode(blank, jnp.asarray(mask))[1].any()
    assert count_nonblank(blank, jnp.asarray(mask), blank_id=4) == mask.sum()


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def brute_force(logits, labels):
    """-log of the summed probability of every path that collapses to `labels` (blank 0)."""
    log_probs = log_softmax(logits)
    time, vocab = log_probs.shape
    total = 0.0
    for path in itertools.product(range(vocab), repeat=time):
        collapsed = [label for label, _ in itertools.groupby(path) if label != 0]
        if collapsed == list(labels):
            total += np.exp(sum(log_probs[t, label] for t, label in enumerate(path)))
    return -np.log(total) if total > 0 else np.inf


def forward(logits, labels):
    """The textbook forward recursion in float64."""
    log_probs = log_softmax(logits)
    states = [0]
    for label in labels:
        states += [int(label), 0]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_probs[0, states[:2]]
    for t in range(1, len(log_probs)):
        new = alpha.copy()
        new[1:] = np.logaddexp(new[1:], alpha[:-1])
        for s in range(2, len(states)):
            if states[s] != 0 and states[s] != states[s - 2]:
                new[s] = np.logaddexp(new[s], alpha[s - 2])
        alpha = new + log_probs[t, states]
    return -np.logaddexp(alpha[-1], alpha[-2]) if len(states) > 1 else -alpha[-1]


def batch(rows, frames, vocab, max_labels, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, frames, vocab)).astype(np.float32) * 2
    lengths = rng.integers(frames // 2, frames + 1, rows)
    label_lengths = rng.integers(0, max_labels + 1, rows)
    labels = rng.integers(1, vocab, (rows, max_labels))
    return logits, np.arange(frames) < lengths[:, None], labels, label_lengths


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1], [1, 1, 1], [1, 2, 1, 2], [2, 2, 2]])
def test_equals_the_sum_over_all_alignments(labels):
    logits = np.random.default_rng(len(labels)).normal(size=(1, 4, 3)).astype(np.float32)
    padded = np.array([labels + [0] * (4 - len(labels))])
    nll, feasible = ctc_loss(logits, np.ones((1, 4), bool), padded, np.array([len(labels)]))
    want = brute_force(logits[0], labels)
    assert bool(feasible[0]) == np.isfinite(want)
    np.testing.assert_allclose(nll[0], want if np.isfinite(want) else 0.0, rtol=1e-5)


def test_equals_float64_on_long_utterances_with_other_blanks():
    logits, mask, labels, label_lengths = batch(6, 200, 30, 60)
    nll, feasible = jax.jit(ctc_loss)(logits, mask, labels, label_lengths)
    assert bool(feasible.all())
    for b in range(6):
        want = forward(logits[b, mask[b]], labels[b, : label_lengths[b]])
        np.testing.assert_allclose(nll[b], want, rtol=2e-6)
    rolled, _ = ctc_loss(np.roll(logits, -1, -1), mask, labels - 1, label_lengths, blank_id=29)
    np.testing.assert_allclose(rolled, nll, rtol=1e-6)


def test_gradient_equals_finite_differences_in_float64():
    logits, mask, labels, label_lengths = batch(3, 7, 4, 3)
    gradient = jax.grad(lambda x: ctc_loss(x, mask, labels, label_lengths)[0].sum())(jnp.asarray(logits))
    step = 1e-5
    for b, t, v in itertools.product(range(3), range(7), range(4)):
        if not mask[b, t]:
            assert gradient[b, t, v] == 0.0
            continue
        sides = []
        for sign in (1, -1):
            moved = logits[b].astype(np.float64)
            moved[t, v] += sign * step
            sides.append(forward(moved[mask[b]], labels[b, : label_lengths[b]]))
        np.testing.assert_allclose(gradient[b, t, v], (sides[0] - sides[1]) / (2 * step), atol=2e-5)


def test_rows_that_cannot_be_aligned_are_named_and_weigh_nothing():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([5, 3, 5, 0, 5, 5])[:, None]
    labels = np.array([[1, 2, 3, 0], [1, 2, 3, 1], [2, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 0]])
    label_lengths = np.array([3, 4, 3, 0, 0, 3])
    row_mask = np.array([True, True, True, True, True, False])
    # fits; 4 labels in 3 frames; three equal labels in exactly 5 frames; no frame; no label is legal; filler
    want = np.array([True, False, True, False, True, False])
    np.testing.assert_array_equal(is_feasible(jnp.asarray(mask.sum(-1)), labels, label_lengths)[:5], want[:5])
    assert not bool(is_feasible(jnp.array([4]), labels[2:3], label_lengths[2:3])[0])

    def loss(x):
        nll, feasible = ctc_loss(x, mask, labels, label_lengths, row_mask=row_mask)
        return nll.sum(), (nll, feasible)

    (_, (nll, feasible)), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_array_equal(feasible, want)
    np.testing.assert_array_equal(np.asarray(nll)[~want], 0.0)
    np.testing.assert_array_equal(np.asarray(gradient)[~want], 0.0)
    assert (np.abs(np.asarray(gradient)[want]).max((1, 2)) > 0).all()
    np.testing.assert_allclose(nll[4], forward(logits[4], []), rtol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_garbage_in_padding_filler_and_label_padding_changes_nothing(garbage):
    logits, mask, labels, label_lengths = batch(4, 12, 5, 4)
    row_mask = np.array([True, True, True, False])
    label_padding = np.arange(4) >= label_lengths[:, None]

    def loss(x, labels):
        return ctc_loss(x, mask, labels, label_lengths, row_mask=row_mask)[0].sum()

    want = jax.value_and_grad(loss)(jnp.asarray(logits), jnp.asarray(labels))
    dirty = np.where(mask[..., None] & row_mask[:, None, None], logits, np.float32(garbage))
    got = jax.value_and_grad(loss)(jnp.asarray(dirty), jnp.asarray(np.where(label_padding, 999, labels)))
    assert np.isfinite(got[0]) and bool(jnp.isfinite(got[1]).all())
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_is_never_negative_and_a_certain_answer_costs_nothing():
    """Near-certain answers, where float32 rounds either way: optax's own loss is below zero on one of these rows."""
    labels, times = np.tile([[1, 2, 1]], (30, 1)), [50, 150, 250]
    path = np.zeros(300, int)
    path[times] = labels[0]
    logits = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        row = rng.normal(size=(1, 300, 3)).astype(np.float32)[0]
        row[np.arange(300), path] += rng.choice([15, 17, 18, 20])
        logits.append(row)
    nll, _ = ctc_loss(np.stack(logits), np.ones((30, 300), bool), labels, np.full(30, 3))
    assert float(nll.min()) >= 0.0 and float(nll.max()) < 1e-2


def test_half_precision_logits_are_computed_in_float32():
    logits, mask, labels, label_lengths = batch(2, 50, 5, 8)
    half = jnp.asarray(logits, jnp.bfloat16)
    nll, _ = ctc_loss(half, mask, labels, label_lengths)
    want, _ = ctc_loss(half.astype(jnp.float32), mask, labels, label_lengths)
    assert nll.dtype == jnp.float32
    np.testing.assert_array_equal(nll, want)


@pytest.mark.bad_types
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("logits", np.zeros((10, 5), np.float32)),
        ("mask", np.ones((2, 10), np.float32)),
        ("labels", np.ones((2, 3), np.float32)),
        ("label_lengths", np.ones((2, 3), bool)),
    ],
)
def test_arrays_of_another_kind_or_shape_are_refused_by_name(name, array):
    arrays = {
        "logits": np.zeros((2, 10, 5), np.float32),
        "mask": np.ones((2, 10), bool),
        "labels": np.ones((2, 3), np.int32),
        "label_lengths": np.full(2, 3),
    }
    with pytest.raises(ValueError, match=f"^{name}: found "):
        ctc_loss(**arrays | {name: array})
    with pytest.raises(ValueError, match="^blank_id: found 7, expected 0 to 4"):
        ctc_loss(**arrays, blank_id=7)
    with pytest.raises(ValueError, match="^blank_id: found -1, expected 0 to 4"):
        greedy_decode(arrays["logits"], arrays["mask"], blank_id=-1)
    if name in ("logits", "mask"):
        two = {key: arrays[key] for key in ("logits", "mask")} | {name: array}
        with pytest.raises(ValueError, match=f"^{name}: found "):
            greedy_decode(**two)
