"""Tokens to words with times, words to subtitles."""

import re
from itertools import pairwise

import numpy as np
import pytest

from speech_jax.decoding.words import Transcript, Word, to_cues, to_srt, to_vtt, to_words
from speech_jax.text.scripts import columns
from speech_jax.text.tokenizer import BLANK, Tokenizer

CHAR = Tokenizer("char", (BLANK, " ", "a", "b"))
BPE = Tokenizer("bpe", (BLANK, "\u2581", "\u2581a", "b", "a"), (0.0, -3.0, -1.0, -2.0, -4.0))


def test_characters():
    ids = [1, 2, 3, 1, 1, 3, 1]
    found = to_words(ids, range(0, 14, 2), range(1, 15, 2), [0.9, 0.8, 0.7, 0.1, 0.1, 0.6, 0.1], CHAR, 0.04)
    assert found == [Word("ab", 0.08, 0.2, 0.7), Word("b", 0.4, 0.44, 0.6)]


def test_pieces():
    ids = [2, 3, 1, 3, 2, 4]  # "▁a b ▁ b ▁a a"
    found = to_words(ids, [0, 2, 4, 5, 8, 9], [1, 3, 5, 6, 9, 12], [1.0, 0.5, 0.9, 0.4, 0.8, 0.9], BPE, 0.1)
    assert found == [Word("ab", 0.0, 0.3, 0.5), Word("b", 0.5, 0.6, 0.4), Word("aa", 0.8, 1.2, 0.8)]
    assert to_words([], [], [], [], BPE, 0.1) == []


def test_words_are_the_decoded_text():
    ids = [3, 2, 3, 1, 3, 2]
    words = to_words(ids, range(6), range(1, 7), [1.0] * 6, BPE, 0.1)
    assert " ".join(word.text for word in words) == BPE.decode(ids)


def test_cues_hold_every_word_once_and_are_short():
    words = [
        Word(f"word{i}", 0.4 * i + (5.0 if i > 40 else 0.0), 0.4 * i + 0.3 + (5.0 if i > 40 else 0.0), 1.0)
        for i in range(80)
    ]
    cues = to_cues(words)
    assert " ".join(cue.text.replace("\n", " ") for cue in cues) == " ".join(word.text for word in words)
    for cue in cues:
        assert cue.end - cue.start <= 6.0 and all(len(line) <= 42 for line in cue.text.split("\n"))
        assert cue.text.count("\n") <= 1
    assert all(a.end <= b.start for a, b in zip(cues, cues[1:], strict=False))
    assert any(cue.text.endswith("word40") for cue in cues)  # the pause ends a cue


def test_signs_of_scripts_without_spaces_are_words():
    tokenizer = Tokenizer("bpe", (BLANK, "\u2581你好", "世", "ทำ", "\u2581jax", "界"), (0.0,) * 6)
    ids = [1, 2, 5, 4, 3]  # "你好世界 jaxทำ"
    words = to_words(ids, [0, 4, 6, 8, 10], [4, 6, 7, 10, 12], [0.9, 0.8, 0.7, 0.6, 0.5], tokenizer, 1.0)
    assert words[:3] == [Word("你", 0.0, 2.0, 0.9), Word("好", 2.0, 4.0, 0.9), Word("世", 4.0, 6.0, 0.8)]
    assert words[3:] == [Word("界", 6.0, 7.0, 0.7), Word("jax", 8.0, 10.0, 0.6), Word("ทำ", 10.0, 12.0, 0.5)]
    assert [cue.text for cue in to_cues(words, "你好世界 jaxทำ", max_seconds=60)] == ["你好世界 jaxทำ"]


def random_words(rng, letters, count=400):
    texts = ["".join(rng.choice(list(letters), rng.integers(1, 14))) for _ in range(count)]
    ends = np.cumsum(rng.uniform(0.05, 1.5, count))
    return [Word(t, round(e - 0.04, 3), round(e, 3), 1.0) for t, e in zip(texts, ends, strict=True)]


@pytest.mark.parametrize("letters", ["abcdef", "你好世界", "กขคง", "ab好", "é́o"])
@pytest.mark.parametrize("space", [" ", ""])
def test_lines_of_subtitles_are_at_most_42_columns(letters, space):
    words = random_words(np.random.default_rng(0), letters)
    text = space.join(word.text for word in words)
    cues = to_cues(words, text)
    assert "".join(cue.text for cue in cues).replace("\n", "").replace(" ", "") == text.replace(" ", "")
    assert max(columns(line) for cue in cues for line in cue.text.split("\n")) <= 42
    assert max(cue.text.count("\n") for cue in cues) <= 1
    assert max(cue.end - cue.start for cue in cues) <= 6.0
    assert all(a.end <= b.start for a, b in pairwise(cues))
    if space:
        assert " ".join(cue.text.replace("\n", " ") for cue in cues) == text


def test_a_break_is_where_both_lines_fit():
    text = "we all went up to the old town with electroencephalographers and then we ran home"
    words = [Word(word, 0.1 * n, 0.1 * n + 0.1, 1.0) for n, word in enumerate(text.split())]
    (first, second) = to_cues(words, text)
    assert max(len(line) for cue in (first, second) for line in cue.text.split("\n")) <= 42


def test_a_word_wider_than_a_subtitle_is_divided():
    (word,) = [Word("x" * 220, 0.0, 44.0, 1.0)]
    cues = to_cues([word])
    assert "".join(cue.text.replace("\n", "") for cue in cues) == word.text
    assert all(len(line) <= 42 for cue in cues for line in cue.text.split("\n"))
    assert cues[-1].end == 44.0 and cues[0].start == 0.0


def test_vtt():
    cues = to_cues([Word("a<b", 0.0, 0.5, 1.0), Word("c&d", 3725.5, 3726.0, 1.0)])
    assert to_vtt(cues) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\na&lt;b\n\n01:02:05.500 --> 01:02:06.000\nc&amp;d\n"
    )
    assert to_vtt([]) == "WEBVTT\n"


def test_srt():
    text = to_srt(to_cues([Word("one", 0.0, 0.5, 1.0), Word("two", 3725.5, 3726.0, 1.0)]))
    assert text == "1\n00:00:00,000 --> 00:00:00,500\none\n\n2\n01:02:05,500 --> 01:02:06,000\ntwo\n"
    assert to_srt([]) == ""
    assert re.fullmatch(r"1\n00:00:59,999 --> .*\nx\n", to_srt(to_cues([Word("x", 59.9994, 61, 1.0)])))


def test_confidence_of_a_transcript():
    assert Transcript("a b", (Word("a", 0, 1, 0.5), Word("b", 1, 2, 1.0)), 2.0).confidence == 0.75
    assert Transcript("", (), 2.0).confidence == 0.0


def test_bytes_of_a_character_are_one_part_of_a_word():
    tokenizer = Tokenizer("bpe", (BLANK, "\u2581", "a", "<0xC3>", "<0xBC>", "<unk>"), (0.0,) * 6)
    words = to_words([1, 2, 3, 4, 5, 2], range(6), range(1, 7), [0.9] * 6, tokenizer, 0.02)
    assert [(w.text, w.start, w.end) for w in words] == [("aüa", 0.02, 0.12)]


def test_special_pieces_are_no_words():
    tokenizer = Tokenizer("char", (BLANK, "<s>", "<unk>", " ", "a", "b"))
    ids, places = [1, 4, 2, 3, 5], [0, 1, 2, 3, 4]
    words = to_words(ids, places, [p + 1 for p in places], [0.9] * 5, tokenizer, 0.02)
    assert [(w.text, w.start, w.end) for w in words] == [("a", 0.02, 0.04), ("b", 0.08, 0.1)]
