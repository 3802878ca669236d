"""Letters to phonemes: the split, the batches, padding, error rates, learning, and the same network in NumPy."""

from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.core.errors import UserError
from speech_jax.models.g2p import G2PConfig
from speech_jax.tasks.g2p import (
    Entry,
    entries,
    error_rates,
    g2p_task,
    network_bytes,
    part_of,
    word_batches,
    word_plan,
)
from speech_jax.text.dictionary import read_dictionary
from speech_jax.text.letter_to_sound import predict_phonemes, read_network
from speech_jax.text.letters import CLASSES, LETTERS

CONFIG = G2PConfig(width=12, embedding=8, dropout=0.0)
DICTIONARY = read_dictionary(
    """cat K AE1 T
cats K AE1 T S
dog D AO1 G
dogs D AO1 G Z
fox F AA1 K S
either IY1 DH ER0
either(2) AY1 DH ER0
ox AA1 K S
x-ray EH1 K S R EY2
www D AH1 B AH0 L Y UW0 D AH1 B AH0 L Y UW0
banana B AH0 N AE1 N AH0""".splitlines(),
    "test",
)
WORDS = [Entry(word, ways[0]) for word, ways in DICTIONARY.items() if "-" not in word]
TASK = g2p_task(CONFIG, WORDS, DICTIONARY)


@pytest.fixture(scope="module")
def batch():
    return next(word_batches(WORDS, word_plan(WORDS, rows=12, shuffle=False)))


@pytest.fixture(scope="module")
def params(batch):
    made, state = TASK.model.init(jax.random.key(0), batch)
    assert state == {}
    leaves, tree = jax.tree.flatten(made)  # moved from their initial values, so that no norm or bias is trivial
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    )


def test_the_split_is_the_words_alone_and_for_ever():
    # Written down: another hash would put words of the test into the training of a network that is already there.
    known = {"hello": "train", "speech": "train", "zebra": "train", "apple": "train"}
    assert {word: part_of(word) for word in known} == known
    parts = [part_of(f"word{i}") for i in range(20_000)]
    assert 0.045 < parts.count("test") / 20_000 < 0.055 and 0.007 < parts.count("dev") / 20_000 < 0.013


def test_entries_of_a_part():
    every = {part: entries(DICTIONARY, part) for part in ("train", "dev", "test")}
    words = [{entry.word for entry in found} for found in every.values()]
    assert set.union(*words) == {w for w in DICTIONARY if "-" not in w} and sum(map(len, words)) == len(DICTIONARY) - 1
    ways = [entry for found in every.values() for entry in found if entry.word == "either"]
    assert len(ways) == (2 if part_of("either") == "train" else 1)


def test_batches_hold_every_word_once_and_can_begin_anywhere():
    plan = word_plan(WORDS, rows=4, shuffle=False)
    rows = [i for b in word_batches(WORDS, plan) for i in b["index"] if i >= 0]
    assert sorted(rows) == list(range(len(WORDS)))
    endless = word_plan(WORDS, rows=4, seed=1)
    later = list(islice(word_batches(WORDS, endless), 9))[5:]
    for a, b in zip(later, word_batches(WORDS, endless, 5), strict=False):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    first = later[0]
    row = int(np.flatnonzero(first["index"] >= 0)[0])
    word, phones = WORDS[first["index"][row]]
    assert "".join(LETTERS[i] for i in first["letters"][row, : first["letter_lengths"][row]]) == word
    assert tuple(CLASSES[i] for i in first["labels"][row, : first["label_lengths"][row]]) == phones


def test_padding_and_batch_mates_change_nothing(batch, params):
    full, _ = TASK.model.apply(params, {}, batch)
    for row in np.flatnonzero(batch["index"] >= 0):
        n = batch["letter_lengths"][row]
        alone = {name: value[row : row + 1] for name, value in batch.items()} | {
            "letters": batch["letters"][row : row + 1, :n]
        }
        found, _ = TASK.model.apply(params, {}, alone)
        frames = n * CONFIG.frames_per_letter
        assert full["mask"][row].sum() == frames
        np.testing.assert_allclose(full["logits"][row, :frames], found["logits"][0], atol=1e-5)


def test_filler_rows_weigh_nothing_and_labels_that_do_not_fit_are_counted(batch, params):
    out = TASK.objective(params, {}, batch, jax.random.key(0), 0)
    misfits, rows = out.metrics["labels_do_not_fit"]
    assert (misfits, rows) == (1, len(WORDS))  # "www" has fourteen phonemes, and six frames
    assert out.weight == sum(len(entry.phones) for entry in WORDS if entry.word != "www")
    frames, labels = out.metrics["nonblank"]
    assert 0 <= frames <= sum(len(entry.word) for entry in WORDS) * CONFIG.frames_per_letter and labels == out.weight
    filler = batch | {"index": np.where(batch["index"] == 0, -1, batch["index"])}
    less = TASK.objective(params, {}, filler, jax.random.key(0), 0)
    assert less.weight == out.weight - len(WORDS[0].phones) and np.isfinite(less.value)


def test_numpy_says_what_jax_says(batch, params):
    rounded = jax.tree.map(lambda p: p.astype(jnp.float16).astype(jnp.float32), params)
    network = read_network(network_bytes(params))
    outputs, _ = TASK.model.apply(rounded, {}, batch)
    report = TASK.evaluate(rounded, {}, [batch])
    assert set(report.metrics) == set(TASK.metrics)
    assert np.asarray(outputs["logits"]).std() > 0.1
    said = {example["id"]: example["hypothesis"] for example in report.examples}
    assert len(said) == 8 and any(said.values())
    for word, phones in said.items():
        assert " ".join(predict_phonemes(word, network)) == phones


def test_it_learns_a_small_dictionary(batch):
    params, _ = TASK.model.init(jax.random.key(0), batch)
    optimizer = optax.adam(0.02)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        gradient = jax.grad(lambda p: TASK.objective(p, {}, batch, key, 0).value)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    before = TASK.evaluate(params, {}, [batch]).metrics
    for i in range(200):
        params, state = step(params, state, jax.random.key(i))
    after = TASK.evaluate(params, {}, [batch]).metrics
    assert after["loss"] < 0.1 < before["loss"]
    assert after["wer"] == pytest.approx(1 / 9)  # all but "www", which has no alignment


def test_error_rates_take_the_nearest_pronunciation():
    said = {"either": ("AY1", "DH", "ER0"), "cat": ("K", "AE2", "T"), "dog": ("D", "AA1", "G", "Z")}
    rates = error_rates(said, DICTIONARY)
    assert rates["per"] == pytest.approx(2 / 9) and rates["wer"] == pytest.approx(1 / 3)
    assert rates["per_stress"] == pytest.approx(3 / 9) and rates["wer_stress"] == pytest.approx(2 / 3)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="G2PConfig.width: found 0"):
        G2PConfig(width=0)
