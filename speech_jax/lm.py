"""Build a word n-gram model from transcripts: `python -m speech_jax.lm --manifest train.jsonl --out lm.arpa`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import read_manifest
from speech_jax.text.ngram import NGramModel, train_ngrams, write_arpa
from speech_jax.text.normalize import check_language, normalize


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
    order: int = 3
    """Order of the model: words in the longest n-gram."""
    language: str = "en"
    """Language of text normalization, the same as the recognizer's; empty does not normalize."""


def main(argv: Sequence[str]) -> int:
    """Count n-grams, write the model, and print its perplexity. Returns exit code 0."""
    config = tyro.cli(LanguageModelConfig, prog="python -m speech_jax.lm", args=list(argv))
    if not config.manifest and not config.text:
        raise UserError("found neither --manifest nor --text, expected texts to count")
    if config.language:
        check_language(config.language)
    model = train_ngrams(_sentences(config), config.order)
    write_arpa(config.out, model)
    sizes = [sum(len(gram) == n for gram in model.log_probs) for n in range(1, model.order + 1)]
    print(f"{config.out}: {' + '.join(f'{n:,}' for n in sizes)} n-grams up to {model.order} words", file=sys.stderr)
    for path in config.heldout:
        print(f"{path}: {describe(model, [words for words in _texts(path, config.language)])}", file=sys.stderr)
    return 0


def describe(model: NGramModel, sentences: Sequence[Sequence[str]]) -> str:
    """Return the perplexity and the share of unknown words as text."""
    count = sum(len(words) for words in sentences)
    unknown = sum(not model.has_word(word) for words in sentences for word in words)
    perplexity = math.exp(-sum(map(model.score_text, sentences)) / (count + len(sentences)))
    return f"perplexity {perplexity:.1f}, {unknown} of {count} words unknown ({unknown / count:.1%})"


def _sentences(config: LanguageModelConfig) -> Iterator[list[str]]:
    for path in config.manifest:
        yield from _texts(path, config.language)
    for path in config.text:
        for _, line in read_lines(Path(path), "text, one sentence per line"):
            yield (normalize(line, config.language) if config.language else line).split()


def _texts(path: str, language: str) -> Iterator[list[str]]:
    for utterance in read_manifest(path):
        yield (normalize(utterance.text, language) if language else utterance.text).split()


if __name__ == "__main__":
    run_front_door(main)
