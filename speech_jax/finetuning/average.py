"""Weight averaging after the fact: a point between the start model and the fine-tuned one (arXiv 2210.15282)."""

from __future__ import annotations

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.rules import leaf_name, named_leaves
from speech_jax.core.types import PyTree
from speech_jax.finetuning.restore import vocabulary_axis
from speech_jax.finetuning.vocabulary import move_tokens
from speech_jax.training.state import check_shapes


def interpolate(start: PyTree, end: PyTree, ratio: float) -> PyTree:
    """(1 - ratio) * start + ratio * end, leaf by leaf; ratio 0 and 1 give the trees themselves, bit for bit.

    For batch statistics too: their variance leaves out the distance of the two means, which is small where averaging
    works at all. Raises UserError for a ratio outside [0, 1] or trees of different shapes.
    """
    if not 0 <= ratio <= 1:
        raise UserError(f"ratio: found {ratio}, expected 0 to 1")
    check_shapes(start, end, "the start model")
    if ratio in (0, 1):
        return end if ratio else start

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        mixed = (1 - ratio) * np.asarray(a, np.float64) + ratio * np.asarray(b, np.float64)
        return mixed.astype(np.asarray(b).dtype)

    return jax.tree.map(between, start, end)


def in_vocabulary(start: PyTree, end: PyTree, start_tokens: tuple[str, ...], end_tokens: tuple[str, ...]) -> PyTree:
    """The start model's parameters with a head for the end model's tokens; tokens it does not know get the end's."""
    if start_tokens == end_tokens:
        return start
    theirs = named_leaves(end)

    def one(path: tuple, leaf: np.ndarray) -> np.ndarray:
        name = leaf_name(path)
        axis = vocabulary_axis(name)
        if axis is None:
            return leaf
        return move_tokens(np.asarray(leaf), np.asarray(theirs[name]), start_tokens, end_tokens, axis)

    return jax.tree_util.tree_map_with_path(one, start)
