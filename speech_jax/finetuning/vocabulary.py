"""Another vocabulary on the same network: what stands for a token moves with its string, never with its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speech_jax.core.errors import UserError


class VocabularyChange(NamedTuple):
    """Tokens of the new vocabulary that were known, that are new, and tokens of the old one that are gone."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def describe(self, what: str = "vocabulary", shown: int = 8) -> str:
        """One line on the vocabulary, or on the speakers, with the first few of each list."""
        parts = []
        for fate, tokens in zip(("kept", "new", "dropped"), self, strict=True):
            more = f" … and {len(tokens) - shown} more" if len(tokens) > shown else ""
            named = f" ({' '.join(map(repr, tokens[:shown]))}{more})" if tokens and fate != "kept" else ""
            parts.append(f"{len(tokens)} {fate}{named}")
        return f"{what}: " + ", ".join(parts)


def compare_vocabularies(old: Sequence[str], new: Sequence[str]) -> VocabularyChange:
    """What becomes of the tokens."""
    before, after = set(old), set(new)
    return VocabularyChange(
        tuple(t for t in new if t in before),
        tuple(t for t in new if t not in before),
        tuple(t for t in old if t not in after),
    )


def move_tokens(
    old: np.ndarray, fresh: np.ndarray, old_tokens: Sequence[str], new_tokens: Sequence[str], axis: int = -1
) -> np.ndarray:
    """A leaf one of whose axes is the vocabulary, a head's last or an embedding's first: that of the old tokens and
    initial values for the new ones -> the latter with what was learned for the tokens that both have.

    Raises UserError if a shape does not fit its vocabulary.
    """
    old, fresh = np.moveaxis(old, axis, -1), np.moveaxis(fresh, axis, -1)
    for leaf, tokens, what in ((old, old_tokens, "old"), (fresh, new_tokens, "new")):
        if leaf.shape[-1] != len(tokens):
            raise UserError(f"vocabulary: found {leaf.shape[-1]} for the {len(tokens)} {what} tokens, expected as many")
    place = {token: i for i, token in enumerate(old_tokens)}
    known = [(j, place[token]) for j, token in enumerate(new_tokens) if token in place]
    result = np.array(fresh)
    if known:
        to, source = map(list, zip(*known, strict=True))
        result[..., to] = np.asarray(old)[..., source]
    return np.moveaxis(result, -1, axis)
