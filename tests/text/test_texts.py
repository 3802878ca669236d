"""Texts in a column: what is computed of them is the same as text by text, in whatever process, cached or not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.core.cache import ArrayCache
from speech_jax.text import texts as module
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.normalize import normalize
from speech_jax.text.texts import Texts
from speech_jax.text.tokenizer import train_tokenizer

SENTENCES = ["Good morning, Mr. Smith!", "It's 9:30.", "", "$5 million", "naïve café", "tea for 2"] * 20


@settings(max_examples=60, deadline=None)
@given(strings=st.lists(st.text(max_size=12), max_size=8), language=st.sampled_from(["", "en", "cs"]))
def test_equal_to_text_by_text(strings, language):
    expected = [normalize(text, language) if language else text for text in strings]
    texts = Texts.from_strings(strings)
    for _ in range(2):  # before the texts are normalized as a whole, and after
        used, counts = texts.characters(language)
        assert used == frozenset("".join(expected)) and counts.tolist() == [len(text) for text in expected]
        texts._characters.clear()
        assert list(texts.normalized(language)) == expected


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["en", ""])
def test_label_counts(kind, language, monkeypatch):
    config = TokenizerConfig(
        kind=kind, vocab_size={"bpe": 40, "unigram": 38 - 10 * bool(language)}.get(kind, 0), language=language
    )
    tokenizer = train_tokenizer(SENTENCES, config)
    assert train_tokenizer(Texts.from_strings(SENTENCES[:50]) + Texts.from_strings(SENTENCES[50:]), config) == tokenizer
    monkeypatch.setattr(module, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(module, "_JOB_TEXTS", 50)
    texts = Texts.from_strings(SENTENCES)
    assert train_tokenizer(texts, config) == tokenizer
    expected = [len(tokenizer.encode(text)) for text in SENTENCES]
    assert texts.label_counts(tokenizer).tolist() == expected
    texts.forget()
    assert texts.label_counts(tokenizer).tolist() == expected
    # The first text that cannot be encoded, in the second of three jobs.
    wrong = Texts.from_strings([*SENTENCES[:70], "я", *SENTENCES[70:], "я"])
    assert np.flatnonzero(wrong.label_counts(tokenizer) < 0).tolist() == [70]


def test_results_are_cached_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CACHED_TEXTS", 1)
    tokenizer = train_tokenizer(SENTENCES, TokenizerConfig(kind="bpe", vocab_size=40))
    cache = ArrayCache.beside(tmp_path / "m.jsonl")

    def computed(tokenizer, strings=SENTENCES):
        """Whether the texts had to be looked at."""
        calls = []
        monkeypatch.setattr(Texts, "_map", lambda self, f, jobs: calls.append(f) or (f(*job) for job in jobs))
        texts = Texts(Texts.from_strings(strings).column, cache)
        assert texts.label_counts(tokenizer).tolist() == [len(tokenizer.encode(text)) for text in strings]
        assert texts.characters("en").used == Texts.from_strings(strings).characters("en").used
        return len(calls) - 1  # without that of the last line

    assert computed(tokenizer) == 2 and computed(tokenizer) == 0
    assert computed(tokenizer, ["tea", *SENTENCES[1:]]) == 2
    # The same pieces, other scores: the fingerprint is equal and the labels are not.
    other = dataclasses.replace(tokenizer, scores=tuple(reversed(tokenizer.scores)))
    assert other.fingerprint() == tokenizer.fingerprint() and computed(other) == 1
    monkeypatch.setattr(module, "code_version", lambda *_: "of tomorrow")
    assert computed(tokenizer) == 2


def test_what_cannot_be_encoded_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CACHED_TEXTS", 1)
    tokenizer = train_tokenizer(["ab"], TokenizerConfig(language=""))
    texts = Texts(Texts.from_strings(["a", "c"]).column, ArrayCache.beside(tmp_path / "m.jsonl"))
    assert texts.label_counts(tokenizer).tolist() == [1, -1]
    assert [p.name.split("-")[0] for p in tmp_path.iterdir()] == [".m.jsonl.characters"]
