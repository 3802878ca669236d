"""Change of vocabulary: weights of a token move with its string, never with its index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speech_jax.core.errors import UserError


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
