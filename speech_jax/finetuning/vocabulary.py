"""Change of vocabulary: weights of a token move with its string, never with its index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.text.texts import Texts
from speech_jax.text.tokenizer import Tokenizer

MOST_REPEATS = 20  # of texts, to give them their weight in a vocabulary of pieces


class VocabularyChange(NamedTuple):
    """Difference of two vocabularies.

    Attributes:
        kept: tokens of both, in the order of the new one.
        new: tokens of the new one only.
        dropped: tokens of the old one only.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def describe(self, what: str = "vocabulary", shown: int = 8) -> str:
        """Return one line for the log, with the first few tokens of each list."""
        parts = []
        for kind, tokens in zip(("kept", "new", "dropped"), self, strict=True):
            ellipsis = f" … and {len(tokens) - shown} more" if len(tokens) > shown else ""
            names = f" ({' '.join(map(repr, tokens[:shown]))}{ellipsis})" if tokens and kind != "kept" else ""
            parts.append(f"{len(tokens)} {kind}{names}")
        return f"{what}: " + ", ".join(parts)


def compare_vocabularies(old: Sequence[str], new: Sequence[str]) -> VocabularyChange:
    """Return the tokens that are kept, new and dropped."""
    before, after = set(old), set(new)
    return VocabularyChange(
        tuple(t for t in new if t in before),
        tuple(t for t in new if t not in before),
        tuple(t for t in old if t not in after),
    )


def lost_letters(texts: Texts, tokenizer: Tokenizer) -> Counter[str]:
    """Count the letters of texts that no label stands for, with how often each occurs.

    They are those that the tokenizer lacks and, with English normalization, those that lose their accent. Case does not
    count, nor does a letter's other spelling in its own language.
    """
    english = tokenizer.language == "en"
    if english and "".join(texts.characters("").used).isascii():  # most of a large set, which need not be read again
        return Counter()
    language = "none" if english else tokenizer.language
    missing = texts.characters(language).used - tokenizer.characters()
    missing = {c for c in missing if c.isalpha() or not (english or c.isspace())}
    counts: Counter[str] = Counter()
    for text in texts.normalized(language) if missing else ():
        counts.update(c for c in text if c in missing)
    return counts


def weigh_texts(new: Texts, old: Texts, alpha: float) -> Texts:
    """Return the texts of both sets, repeated so that the old ones are about `alpha` of all characters.

    Args:
        new: texts of the new recordings.
        old: texts of the old ones.
        alpha: share of the old ones, above 0. No text is left out, and none repeated more than MOST_REPEATS times.
    """
    sizes = [max(1, int(texts.column.lengths().sum())) for texts in (new, old)]
    wanted = alpha / max(1 - alpha, 1e-6) * sizes[0] / sizes[1]  # repeats of the old texts for one of the new
    times_new = min(MOST_REPEATS, max(1, round(1 / wanted)))
    times_old = min(MOST_REPEATS, max(1, round(wanted)))
    if not 1 / MOST_REPEATS <= wanted <= MOST_REPEATS:
        share = times_old * sizes[1] / (times_old * sizes[1] + times_new * sizes[0])
        log.warning(
            "start.tokenizer: texts are repeated at most %d times, so those of pre are %.1f%% of the new vocabulary's "
            "texts and not alpha, %.1f%%",
            MOST_REPEATS, 100 * share, 100 * alpha,
        )  # fmt: skip
    result = new
    for texts in [new] * (times_new - 1) + [old] * times_old:
        result = result + texts
    return result


def move_tokens(
    old: np.ndarray, fresh: np.ndarray, old_tokens: Sequence[str], new_tokens: Sequence[str], axis: int = -1
) -> np.ndarray:
    """Move the weights of a head or embedding to another vocabulary.

    Args:
        old: trained weights, with the old vocabulary along `axis`.
        fresh: initial weights, with the new vocabulary along `axis`.
        old_tokens: the old vocabulary.
        new_tokens: the new vocabulary.
        axis: the axis of the vocabulary: the last of a head, the first of an embedding.

    Returns:
        `fresh`, with the trained weights of the tokens that both vocabularies have.

    Raises:
        UserError: if a shape does not fit its vocabulary.
    """
    old, fresh = np.moveaxis(old, axis, -1), np.moveaxis(fresh, axis, -1)
    for leaf, tokens, what in ((old, old_tokens, "old"), (fresh, new_tokens, "new")):
        if leaf.shape[-1] != len(tokens):
            raise UserError(f"vocabulary: found {leaf.shape[-1]} for the {len(tokens)} {what} tokens, expected as many")
    index = {token: i for i, token in enumerate(old_tokens)}
    kept = [(j, index[token]) for j, token in enumerate(new_tokens) if token in index]
    result = np.array(fresh)
    if kept:
        to, source = map(list, zip(*kept, strict=True))
        result[..., to] = np.asarray(old)[..., source]
    return np.moveaxis(result, -1, axis)
