"""Input letters and output phonemes of the letter-to-sound network, for its training (tasks/g2p.py) and its use."""

from __future__ import annotations

from collections.abc import Sequence

from speech_jax.text.symbols import PHONES

LETTERS = ("", *"abcdefghijklmnopqrstuvwxyz'")  # id 0 is the padding
CLASSES = ("", *PHONES)  # id 0 is CTC's blank
_LETTER_IDS = {letter: i for i, letter in enumerate(LETTERS)}
_CLASS_IDS = {phone: i for i, phone in enumerate(CLASSES)}


def is_pronounceable(word: str) -> bool:
    """Return True if the network's alphabet has every letter of the word."""
    return bool(word) and all(letter in _LETTER_IDS for letter in word)


def letter_ids(word: str) -> list[int]:
    """Return the ids of a word's letters, all of them in `LETTERS`."""
    return [_LETTER_IDS[letter] for letter in word]


def class_ids(phones: Sequence[str]) -> list[int]:
    """Return the class ids of phonemes with stress (`PHONES`)."""
    return [_CLASS_IDS[phone] for phone in phones]
