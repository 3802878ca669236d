"""Weight averaging after training: interpolation between the start model and the fine-tuned one (arXiv 2210.15282)."""

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
    """Compute (1 - ratio) · start + ratio · end for every parameter.

    Also used for batch statistics: the averaged variance ignores the distance of the two means, which is small wherever
    averaging works at all.

    Args:
        start: parameters before fine-tuning.
        end: parameters after fine-tuning.
        ratio: 0 to 1; 0 and 1 return the trees themselves, bit for bit.

    Raises:
        UserError: for a ratio outside [0, 1] or trees of different shapes.
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


def convert_vocabulary(
    start: PyTree, end: PyTree, start_tokens: tuple[str, ...], end_tokens: tuple[str, ...]
) -> PyTree:
    """Convert the start model's head to the end model's vocabulary.

    Args:
        start: parameters of the start model.
        end: parameters of the end model; tokens that the start model lacks get its weights.
        start_tokens: vocabulary of the start model.
        end_tokens: vocabulary of the end model.

    Returns:
        Parameters like `start`, with a head like that of `end`.
    """
    if start_tokens == end_tokens:
        return start
    end_leaves = named_leaves(end)

    def converted(path: tuple, leaf: np.ndarray) -> np.ndarray:
        name = leaf_name(path)
        axis = vocabulary_axis(name)
        if axis is None:
            return leaf
        return move_tokens(np.asarray(leaf), np.asarray(end_leaves[name]), start_tokens, end_tokens, axis)

    return jax.tree_util.tree_map_with_path(converted, start)
