"""Word language models for a tokenizer: read, and compared with the words that the tokenizer can write."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.text.characters import lower
from speech_jax.text.ngram import END, START, UNKNOWN, NGramModel, Words, read_arpa
from speech_jax.text.scripts import has_unspaced, split_words
from speech_jax.text.tokenizer import WORD_START, Tokenizer

LEAST_SHARE = 0.2  # of the words' probability that the tokenizer must be able to write
MOST_LETTERS = 0.5  # share of the words' probability that single letters may have, in scripts with spaces
_SHOWN = 3  # words
_SHOWN_LETTERS = 12


class Spelling(NamedTuple):
    """Words of a language model that a tokenizer can write.

    Attributes:
        words: number of words.
        others: words that it cannot write, sorted.
        share: probability of the words that it can write, of the probability of all words.
    """

    words: int
    others: list[str]
    share: float


def load_language_model(path: str | Path, tokenizer: Tokenizer, *, fold_case: bool = False) -> NGramModel:
    """Read an ARPA file for a tokenizer; words that it cannot write, and letters that no word has, are said.

    Args:
        path: the ARPA file.
        tokenizer: the recognizer's tokenizer.
        fold_case: read words in the tokenizer's case, see `fold_words`.

    Raises:
        UserError: the file cannot be read; or the tokenizer cannot write its words, for example capitals.
    """
    model = read_arpa(path)
    letters = frozenset("".join(tokenizer.texts)) - {WORD_START, " "}
    fold = _case_of(letters, tokenizer.language)
    if fold_case:
        if fold is None:
            raise UserError("beam.lm-fold-case: found a tokenizer without a case, or with both, expected one case")
        model = fold_words(model, fold)
    vocabulary = _vocabulary(model)
    if not vocabulary:
        raise UserError(f"beam.lm: found no words in {path}, expected a language model of words")
    _check_words(path, vocabulary)
    spelling = compare_words(vocabulary, letters)
    if spelling.others:
        examples = ", ".join(map(repr, spelling.others[:_SHOWN])) + (" …" if len(spelling.others) > _SHOWN else "")
        folded = {} if fold is None or fold_case else {fold(word): 1.0 for word in spelling.others}
        helps = bool(folded) and compare_words(folded, letters).share > 0
        remedy = "; --beam.lm-fold-case reads its words in the tokenizer's case" if helps else ""
        count = spelling.words - len(spelling.others)
        if spelling.share < LEAST_SHARE:
            written = "".join(sorted(letters))
            raise UserError(
                f"beam.lm: found {count} of {spelling.words} words of {path} in the tokenizer's characters (others: "
                f"{examples}), expected words of {written[:60]!r}{'…' * (len(written) > 60)}{remedy}"
            )
        log.warning(
            "%s: %d of %d words, %.1f %% by probability, are in the tokenizer's characters (others: %s)%s",
            path, count, spelling.words, 100 * spelling.share, examples, remedy,
        )  # fmt: skip
    _check_signs(path, vocabulary, tokenizer)
    if unused := unused_letters(vocabulary, letters):
        shown = " ".join(unused[:_SHOWN_LETTERS]) + (" …" if len(unused) > _SHOWN_LETTERS else "")
        count = sum(letter.isalpha() for letter in letters)
        log.warning("%s: no word has these %d of the tokenizer's %d letters: %s", path, len(unused), count, shown)
    return model


def compare_words(vocabulary: dict[str, float], letters: frozenset[str]) -> Spelling:
    """Compare words, with their probabilities, with the characters of which a tokenizer's texts consist."""
    others = sorted(word for word in vocabulary if not letters.issuperset(word))
    total = sum(vocabulary.values())
    lost = sum(vocabulary[word] for word in others)
    return Spelling(len(vocabulary), others, 1 - lost / total if len(others) < len(vocabulary) else 0.0)


def _check_words(path: str | Path, vocabulary: dict[str, float]) -> None:
    """Raise UserError for a model over a tokenizer's pieces, or over the letters of a script with spaces."""
    pieces = [w for w in vocabulary if WORD_START in w or w.endswith("@@") or w.startswith("##")]
    letters = [w for w in vocabulary if len(w) == 1 and w.isalpha() and not has_unspaced(w)]
    total = sum(vocabulary.values())
    for kind, words, share in (("pieces of a tokenizer", pieces, LEAST_SHARE), ("letters", letters, MOST_LETTERS)):
        if sum(vocabulary[word] for word in words) > share * total:
            examples = ", ".join(map(repr, sorted(words)[:_SHOWN]))
            raise UserError(f"beam.lm: found {kind} ({examples} …) in {path}, expected a language model of words")


def counts_signs(model: NGramModel, tokenizer: Tokenizer) -> bool:
    """Return True if the tokenizer writes signs of a script without spaces, and the model's words are such signs.

    Words of several signs come from a model of segmented or whole sentences; those of the smaller share of probability
    do not count.
    """
    return any(map(has_unspaced, tokenizer.texts)) and _are_signs(_vocabulary(model))


def _are_signs(vocabulary: dict[str, float]) -> bool:
    one = several = 0.0
    for word in filter(has_unspaced, vocabulary):
        if len(split_words(word)) == 1:
            one += vocabulary[word]
        else:
            several += vocabulary[word]
    return one > several


def _check_signs(path: str | Path, vocabulary: dict[str, float], tokenizer: Tokenizer) -> None:
    """Check that words of several signs can be written: their ends are the tokenizer's spaces."""
    if not any(map(has_unspaced, tokenizer.texts)) or _are_signs(vocabulary):
        return
    word = next((word for word in vocabulary if has_unspaced(word) and len(split_words(word)) > 1), None)
    if word is None:
        return
    found = f"words of several signs in {path}, such as {word[:20]!r}"
    remedy = "`lm` makes a model whose words are signs"
    if not any(piece.isspace() or piece.startswith(WORD_START) for piece in tokenizer.pieces):
        raise UserError(f"beam.lm: found {found}, expected single signs: the tokenizer writes no spaces; {remedy}")
    log.warning("beam.lm: found %s: they count only between spaces that the recognizer writes; %s", found, remedy)


def unused_letters(words: Iterable[str], letters: frozenset[str]) -> list[str]:
    """Return the letters, of the scripts that the words are written in, that occur in no word, sorted.

    Texts that were normalized for another language lack the accents of this one.
    """
    used = frozenset("".join(words))
    scripts = {_script(letter) for letter in used & letters}
    return sorted(c for c in letters - used if c.isalpha() and _script(c) in scripts)


def fold_words(model: NGramModel, fold: Callable[[str], str]) -> NGramModel:
    """Return a model of folded words, for example in small letters.

    The probabilities of words that become the same are added. Where histories become the same, each counts by its
    words' part of the folded words' unigram probability.
    """
    vocabulary = _vocabulary(model)
    folded = {word: fold(word) for word in vocabulary}
    totals: defaultdict[str, float] = defaultdict(float)
    for word, probability in vocabulary.items():
        totals[folded[word]] += probability
    part = {word: math.log(p / totals[folded[word]]) for word, p in vocabulary.items()}

    def joined(table: dict[Words, float], history: Callable[[Words], Words]) -> dict[Words, float]:
        sums: dict[Words, float] = {}
        for gram, value in table.items():
            value += sum(part.get(word, 0.0) for word in history(gram))
            gram = tuple(folded.get(word, word) for word in gram)
            other = sums.get(gram)
            if other is not None:
                value = max(value, other) + math.log1p(math.exp(-abs(value - other)))
            sums[gram] = value
        return sums

    log_probs = joined(model.log_probs, lambda gram: gram[:-1])
    return NGramModel(model.order, log_probs, joined(model.backoffs, lambda gram: gram))


def _vocabulary(model: NGramModel) -> dict[str, float]:
    """Return the words, without the marks, with their unigram probabilities."""
    marks = {START, END, UNKNOWN}
    return {g[0]: math.exp(p) for g, p in model.log_probs.items() if len(g) == 1 and g[0] not in marks}


def _case_of(letters: Iterable[str], language: str) -> Callable[[str], str] | None:
    """Return the function that brings words to the case of some letters; None if they have none or both."""
    letters = list(letters)
    small, capital = any(c.islower() for c in letters), any(c.isupper() for c in letters)
    return None if small == capital else functools.partial(lower, language=language) if small else str.upper


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
