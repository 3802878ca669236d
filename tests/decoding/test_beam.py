"""Prefix beam search against a sum over all paths, the alignment against all alignments, and words with times."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.decoding import beam as beam_module
from speech_jax.decoding.beam import BeamSearch, forced_align, search_batch
from speech_jax.decoding.config import BeamConfig
from speech_jax.text.ngram import START, train_ngrams
from speech_jax.text.tokenizer import BLANK, Tokenizer
from tests.support.tones import recognizer, say

LETTERS = Tokenizer("char", (BLANK, "a", "b", " "))
SIGNS = Tokenizer("char", (BLANK, "你", "好", "a"))  # each sign of a script without spaces is a word
PIECES = Tokenizer("bpe", (BLANK, "\u2581a", "b", "\u2581b"), (0.0, -1.0, -2.0, -3.0))


def scores(seed, frames=5, vocab=4, sharp=1.5):
    logits = sharp * np.random.default_rng(seed).normal(size=(frames, vocab))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def collapse(path):
    return tuple(k for k, _ in itertools.groupby(path) if k)


def all_texts(log_probs):
    """{tokens: log-probability}, summed over every path."""
    total = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = sum(log_probs[t, k] for t, k in enumerate(path))
        tokens = collapse(path)
        total[tokens] = np.logaddexp(total.get(tokens, -np.inf), p)
    return total


WIDE = BeamConfig(width=4096, token_min_logp=-100.0, word_insertion_bonus=0.0)


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_likeliest_text(seed):
    log_probs = scores(seed)
    total = all_texts(log_probs)
    assert tuple(BeamSearch(LETTERS, WIDE).search(log_probs)) == max(total, key=total.get)


@pytest.mark.parametrize("tokenizer", [LETTERS, PIECES, SIGNS])
@pytest.mark.parametrize("seed", range(6))
def test_with_a_language_model_it_finds_the_best_sum(tokenizer, seed):
    sentences = [["a", "b"], ["ab", "a"], ["b", "b", "a"], ["ab"]]
    lm = train_ngrams([["你", "好"], ["a", "你", "aa"]] if tokenizer is SIGNS else sentences, 2)
    config = dataclasses.replace(WIDE, lm_weight=0.8, word_insertion_bonus=0.7, unk_score=-0.5)
    log_probs = scores(seed)

    def score(tokens, p):
        if tokenizer is LETTERS:
            words = "".join("?ab "[k] for k in tokens).split()
        elif tokenizer is SIGNS:
            words = "".join(("?", " 你 ", " 好 ", "a")[k] for k in tokens).split()
        else:
            words = "".join(("?", " a", "b", " b")[k] for k in tokens).split()
        history, total = (START,), p
        for word in words:
            total += 0.8 * lm.score(history, word) + 0.7 + (0 if lm.has_word(word) else -0.5)
            history = (*history, word if lm.has_word(word) else "<unk>")
        return total + 0.8 * lm.score(history, "</s>")

    expected = max(all_texts(log_probs).items(), key=lambda item: score(*item))[0]
    assert tuple(BeamSearch(tokenizer, config, lm).search(log_probs)) == expected


def test_a_narrow_beam_is_close_and_no_frames_are_no_text():
    hits = 0
    for seed in range(20):
        log_probs = scores(seed, frames=6, sharp=2.5)
        total = all_texts(log_probs)
        found = tuple(BeamSearch(LETTERS, BeamConfig(width=8, word_insertion_bonus=0.0)).search(log_probs))
        hits += found == max(total, key=total.get)
    assert hits >= 18
    assert BeamSearch(LETTERS, WIDE).search(np.zeros((0, 4))) == []


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 1], [2, 3, 2]])
def test_the_alignment_is_the_best_of_all(tokens):
    log_probs = scores(3)
    paths = [p for p in itertools.product(range(4), repeat=5) if collapse(p) == tuple(tokens)]
    best = max(paths, key=lambda p: sum(log_probs[t, k] for t, k in enumerate(p)))
    starts, ends, total = forced_align(log_probs, tokens)
    assert total == pytest.approx(sum(log_probs[t, k] for t, k in enumerate(best)))
    found = np.zeros(5, int)
    for token, start, end in zip(tokens, starts, ends, strict=True):
        found[start:end] = token
    assert tuple(found) == best


def test_what_does_not_fit_is_an_error():
    for tokens in ([1, 1, 1], [1, 2, 3, 1, 2, 3]):
        with pytest.raises(ValueError, match="do not fit into"):
            forced_align(scores(0, frames=4), tokens)


def test_rows_of_a_batch_do_not_see_their_padding():
    log_probs = np.stack([scores(0), scores(1)])
    search = BeamSearch(LETTERS, dataclasses.replace(WIDE, width=32))
    whole = search_batch(search, log_probs, np.array([5, 3]))
    log_probs[1, 3:] = np.nan
    again = search_batch(search, log_probs, np.array([5, 3]))
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)
    alone = search_batch(search, log_probs[1:, :3], np.array([3]))
    np.testing.assert_array_equal(alone.ids[0], whole.ids[1, :3])
    used = whole.ids > 0
    assert np.all(whole.confidence[used] > 0) and np.all(whole.ends[used] > whole.starts[used])


def test_a_recognizer_with_a_beam_hears_the_same_beeps():
    """Short and long recordings, where the network is sure; and a language model that knows better where it is not."""
    plain = recognizer()
    beam = dataclasses.replace(plain, search=BeamSearch(plain.tokenizer, BeamConfig(width=8, word_insertion_bonus=0.0)))
    for text in ("bad", "cab a"):
        one, other = plain.transcribe(say(text)), beam.transcribe(say(text))
        assert other.text == one.text == text
        for a, b in zip(one.words, other.words, strict=True):
            assert abs(a.start - b.start) <= 0.1 and abs(a.end - b.end) <= 0.1
    long = np.concatenate([say("bad cab"), np.zeros(16000, np.float32)] * 40)
    one, other = plain.recognize_long(long), beam.recognize_long(long)  # more frames than are searched at a time
    n = one.lengths[0]
    assert other.ids.shape[1] > beam_module.MAX_FRAMES and other.lengths[0] == n > 200
    np.testing.assert_array_equal(one.ids[0, :n], other.ids[0, :n])
    assert np.abs(one.starts[0, :n] - other.starts[0, :n]).max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"), [(dict(width=-1), "beam.width"), (dict(lm="x.arpa"), "beam.width 0, expected a width")]
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        BeamConfig(**changes)


def test_unlikely_tokens_are_not_followed():
    log_probs = np.log(np.array([[0.1, 0.8999, 0.0001], [0.9, 0.0999, 0.0001]]))
    tokenizer = Tokenizer("char", (BLANK, "a", "b"))
    search = BeamSearch(tokenizer, BeamConfig(width=8, token_min_logp=math.log(0.001)))
    assert search.search(log_probs) == [1]
