"""Build a word n-gram model from transcripts: `python -m speech_jax.lm --manifest train.jsonl --out lm.arpa`."""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from speech_jax.core.command_line import Range, parse
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import read_manifest
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.normalization import Normalization, choose_normalization
from speech_jax.text.ngram import UNKNOWN, NGramModel, train_ngrams, write_arpa
from speech_jax.text.normalize import normalize
from speech_jax.text.scripts import has_unspaced, split_words

_SENTENCE_MARK = re.compile(r"</?s>", re.IGNORECASE)
_UNKNOWN_MARK = re.compile(r"<unk>", re.IGNORECASE)
_NO_TEXT = re.compile(r'\s*\{\s*"|\\data\\')  # rows of a manifest, an ARPA file


@dataclass(frozen=True)
class LanguageModelConfig:
    """Count word n-grams and write an ARPA file for `--beam.lm` of evaluate and transcribe."""

    out: str
    """ARPA file to write."""
    manifest: tuple[str, ...] = ()
    """Manifests whose texts are counted."""
    text: tuple[str, ...] = ()
    """Text files, one sentence per line."""
    heldout: tuple[str, ...] = ()
    """Manifests to measure the perplexity on."""
    order: Annotated[int, Range(1, 20)] = 3
    """Order of the model: words in the longest n-gram; signs, in scripts that write no spaces."""
    language: str | None = None
    """Language of text normalization, the same as the recognizer's; left out, that of the manifests' rows. `none` only
    removes capitals and punctuation, and '' takes texts as they are."""


def main(argv: Sequence[str]) -> int:
    """Count n-grams, write the model, and print its perplexity. Returns exit code 0."""
    config = parse(LanguageModelConfig, argv, prog="python -m speech_jax.lm")
    if not config.manifest and not config.text:
        raise UserError("found neither --manifest nor --text, expected texts to count")
    if Path(config.out).is_dir():
        raise UserError(f"--out: found the folder {config.out!r}, expected a file to write")
    rows = {path: read_manifest(path) for path in dict.fromkeys((*config.manifest, *config.heldout))}
    normalization = _choose_normalization(config, rows)
    heldout = {path: list(_sentences_of_rows(rows[path], normalization)) for path in config.heldout}
    for path, sentences in heldout.items():
        if not any(sentences):
            raise UserError(f"--heldout: found no words in {path}, expected texts to measure the perplexity on")
    counted = [_sentences_of_rows(rows[path], normalization) for path in config.manifest]
    counted += [_sentences_of_file(path, normalization) for path in config.text]
    model = train_ngrams(itertools.chain(*counted), config.order)
    write_arpa(config.out, model)
    sizes = [sum(len(gram) == n for gram in model.log_probs) for n in range(1, model.order + 1)]
    if normalization is not None:
        print(f"normalized as: {normalization.description}", file=sys.stderr)
    print(f"{config.out}: {' + '.join(f'{n:,}' for n in sizes)} n-grams up to {model.order} words", file=sys.stderr)
    if signs := sum(len(gram) == 1 and has_unspaced(gram[0]) for gram in model.log_probs):
        print(f"{config.out}: each sign of a script without spaces is a word: {signs} of {sizes[0]}", file=sys.stderr)
    for path, sentences in heldout.items():
        print(f"{path}: {describe(model, sentences)}", file=sys.stderr)
    return 0


def describe(model: NGramModel, sentences: Sequence[Sequence[str]]) -> str:
    """Return the perplexity and the share of unknown words as text."""
    count = sum(len(words) for words in sentences)
    unknown = sum(not model.has_word(word) for words in sentences for word in words)
    perplexity = math.exp(-sum(map(model.score_text, sentences)) / (count + len(sentences)))
    return f"perplexity {perplexity:.1f}, {unknown} of {count} words unknown ({unknown / count:.1%})"


def split_sentences(text: str, normalized: Callable[[str], str]) -> list[list[str]]:
    """Return the words of a text's sentences: `<s>` and `</s>` are marks between them, `<unk>` is the unknown word.

    Each sign of a script without spaces is a word, see `speech_jax.text.scripts.split_words`.

    Args:
        text: one sentence, or several with marks.
        normalized: normalization of what is between the marks.

    Example:
        >>> from speech_jax.lm import split_sentences
        >>> split_sentences("<s> Good morning </s> <s> a <UNK> cat </s>", str.lower)
        [['good', 'morning'], ['a', '<unk>', 'cat']]
    """
    parts = _SENTENCE_MARK.split(text)
    sentences = []
    for part in parts:
        known, *others = _UNKNOWN_MARK.split(part)
        sentence = split_words(normalized(known))
        for known in others:
            sentence += [UNKNOWN, *split_words(normalized(known))]
        sentences.append(sentence)
    return [sentence for sentence in sentences if sentence or len(parts) == 1]


def _choose_normalization(config: LanguageModelConfig, rows: Mapping[str, Iterable[Utterance]]) -> Normalization | None:
    """Return the normalization of all texts; None takes them as they are."""
    if config.language == "":
        return None
    every = itertools.chain(*rows.values())
    normalization = choose_normalization(every, config.language or "", texts="the texts of a language model")
    if config.text and not normalization.language:
        raise UserError(f"--language: found {normalization.description}; expected the one of {', '.join(config.text)}")
    return normalization


def _sentences_of_rows(rows: Iterable[Utterance], normalization: Normalization | None) -> Iterator[list[str]]:
    for utterance in rows:
        apply = str if normalization is None else functools.partial(normalization.apply, utterance=utterance)
        yield from split_sentences(utterance.text, apply)


def _sentences_of_file(path: str, normalization: Normalization | None) -> Iterator[list[str]]:
    apply = str if normalization is None else functools.partial(normalize, language=normalization.language)
    marked = 0
    for where, line in read_lines(path, "text, one sentence per line"):
        if _NO_TEXT.match(line):
            raise UserError(f"--text: found {where}: {line[:40]!r}, expected sentences; manifests are for --manifest")
        marked += bool(_SENTENCE_MARK.search(line))
        yield from split_sentences(line, apply)
    if marked:
        print(f"{path}: <s> and </s> in {marked} lines are taken as the marks of sentences", file=sys.stderr)


if __name__ == "__main__":
    run_front_door(main)
