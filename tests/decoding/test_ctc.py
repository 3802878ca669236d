"""The best path against the definition, spelled out in Python."""

import itertools

import jax
import numpy as np
import pytest

from speech_jax.decoding.ctc import best_path, greedy_decode


def by_definition(frames):
    """Collapses repeats, then drops blanks; (token, first frame, one past the last)."""
    found, time = [], 0
    for token, run in itertools.groupby(frames):
        length = len(list(run))
        if token:
            found.append((int(token), time, time + length))
        time += length
    return found


def random_batch(seed, rows=6, time=40, vocab=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, time, vocab)).astype(np.float32)
    # Runs and blanks, as a trained network makes them.
    logits += 4.0 * np.eye(vocab, dtype=np.float32)[np.repeat(rng.integers(0, vocab, (rows, time // 2)), 2, axis=1)]
    lengths = np.array([time, 0, 1, *rng.integers(2, time, rows - 3)])
    return logits, np.arange(time) < lengths[:, None], lengths


@pytest.mark.parametrize("seed", range(5))
def test_is_the_definition(seed):
    logits, mask, lengths = random_batch(seed)
    path = jax.device_get(jax.jit(best_path)(logits, mask))
    log_probs = np.asarray(jax.nn.log_softmax(logits.astype(np.float64)))
    for row, length in enumerate(lengths):
        expected = by_definition(logits[row, :length].argmax(-1))
        count = path.lengths[row]
        assert list(zip(path.ids[row], path.starts[row], path.ends[row], strict=True))[:count] == expected
        assert not path.ids[row, count:].any() and not path.confidence[row, count:].any()
        for k, (token, start, end) in enumerate(expected):
            sure = np.exp(log_probs[row, start:end, token].mean())
            assert path.confidence[row, k] == pytest.approx(sure, abs=1e-5)
    ids, counts = greedy_decode(logits, mask)
    np.testing.assert_array_equal(ids, path.ids)
    np.testing.assert_array_equal(counts, path.lengths)


def test_what_lies_in_the_padding_has_no_influence():
    logits, mask, _ = random_batch(9)
    clean = jax.device_get(best_path(logits, mask))
    for garbage in (np.nan, np.inf, 1e30):
        dirty = jax.device_get(best_path(np.where(mask[..., None], logits, garbage).astype(np.float32), mask))
        jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    longer = jax.device_get(best_path(np.pad(logits, ((0, 0), (0, 9), (0, 0))), np.pad(mask, ((0, 0), (0, 9)))))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, : a.shape[1]] if b.ndim > 1 else b), clean, longer)


def test_another_blank():
    logits, mask, _ = random_batch(3)
    last = best_path(np.roll(logits, -1, axis=-1), mask, blank_id=logits.shape[-1] - 1)
    first = best_path(logits, mask)
    used = np.arange(mask.shape[1]) < np.asarray(first.lengths)[:, None]
    np.testing.assert_array_equal(last.lengths, first.lengths)
    np.testing.assert_array_equal(np.where(used, last.ids, 0), np.where(used, first.ids - 1, 0))
