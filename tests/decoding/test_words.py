"""Tokens to words with times, words to subtitles."""

import re

from speech_jax.decoding.words import Transcript, Word, to_cues, to_srt, to_words
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
        assert cue.end - cue.start <= 6.0 and all(len(line) <= 46 for line in cue.text.split("\n"))
        assert cue.text.count("\n") <= 1
    assert all(a.end <= b.start for a, b in zip(cues, cues[1:], strict=False))
    assert any(cue.text.endswith("word40") for cue in cues)  # the pause ends a cue


def test_srt():
    text = to_srt(to_cues([Word("one", 0.0, 0.5, 1.0), Word("two", 3725.5, 3726.0, 1.0)]))
    assert text == "1\n00:00:00,000 --> 00:00:00,500\none\n\n2\n01:02:05,500 --> 01:02:06,000\ntwo\n"
    assert to_srt([]) == ""
    assert re.fullmatch(r"1\n00:00:59,999 --> .*\nx\n", to_srt(to_cues([Word("x", 59.9994, 61, 1.0)])))


def test_confidence_of_a_transcript():
    assert Transcript("a b", (Word("a", 0, 1, 0.5), Word("b", 1, 2, 1.0)), 2.0).confidence == 0.75
    assert Transcript("", (), 2.0).confidence == 0.0


def test_special_pieces_are_no_words():
    tokenizer = Tokenizer("char", (BLANK, "<s>", "<unk>", " ", "a", "b"))
    ids, places = [1, 4, 2, 3, 5], [0, 1, 2, 3, 4]
    words = to_words(ids, places, [p + 1 for p in places], [0.9] * 5, tokenizer, 0.02)
    assert [(w.text, w.start, w.end) for w in words] == [("a", 0.02, 0.04), ("b", 0.08, 0.1)]
