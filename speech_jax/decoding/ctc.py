"""Greedy CTC decoding on the device, with the frames and the confidence of every token."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.arrays import check_array, check_class


class BestPath(NamedTuple):
    """Decoded tokens, packed to the left of each row; entries at and after `lengths` are 0.

    Attributes:
        ids: token ids, blanks and repeats removed.
        lengths: number of tokens per row.
        starts: first frame of each token.
        ends: one past the last frame of each token.
        confidence: geometric mean of the token's probability over its frames, in (0, 1].
    """

    ids: Int[Array | np.ndarray, "batch time"]
    lengths: Int[Array | np.ndarray, " batch"]
    starts: Int[Array | np.ndarray, "batch time"]
    ends: Int[Array | np.ndarray, "batch time"]
    confidence: Float[Array | np.ndarray, "batch time"]


def greedy_decode(
    logits: Float[Array, "batch time vocab"], mask: Bool[Array, "batch time"], *, blank_id: int = 0
) -> tuple[Int[Array, "batch time"], Int[Array, " batch"]]:
    """Return the tokens of the best CTC path, blanks and repeats removed (Graves et al. 2006, section 3.2).

    Args:
        logits: network outputs; padding may hold anything, NaN included.
        mask: True at frames that are not padding.
        blank_id: class of the blank.

    Returns:
        ids: int32 [batch, time], token ids packed to the left, then zeros.
        lengths: int32 [batch], tokens per row.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.decoding.ctc import greedy_decode
        >>> best = jnp.array([[1, 1, 0, 2]])  # class 0 is the blank
        >>> ids, lengths = greedy_decode(jnp.eye(3)[best], mask=jnp.ones((1, 4), bool))
        >>> ids.tolist(), lengths.tolist()
        ([[1, 2, 0, 0]], [2])
    """
    check_array("logits", logits, "float", "batch", "time", "vocab")
    check_array("mask", mask, "bool", *logits.shape[:2])
    check_class("blank_id", blank_id, logits.shape[2])
    path = best_path(logits, mask, blank_id=blank_id)
    return jnp.asarray(path.ids), jnp.asarray(path.lengths)


def best_path(
    logits: Float[Array, "batch time vocab"], mask: Bool[Array, "batch time"], *, blank_id: int = 0
) -> BestPath:
    """Return `greedy_decode` with the frames and the confidence of every token; works under `jax.jit`.

    Args:
        logits: network outputs; padding may hold anything, NaN included.
        mask: True at frames that are not padding.
        blank_id: class of the blank.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.decoding.ctc import best_path
        >>> best = jnp.array([[1, 1, 0, 2]])  # class 0 is the blank
        >>> path = best_path(10 * jnp.eye(3)[best], mask=jnp.ones((1, 4), bool))
        >>> path.starts[0, :2].tolist(), path.ends[0, :2].tolist(), path.confidence[0, :2].round(2).tolist()
        ([0, 3], [2, 4], [1.0, 1.0])
    """
    return collapse(*best_frames(logits), mask, blank_id=blank_id)


def best_frames(
    logits: Float[Array, "batch time vocab"],
) -> tuple[Int[Array, "batch time"], Float[Array, "batch time"]]:
    """Return the best token of every frame and its log-probability, which is all that `collapse` needs."""
    score = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1).max(axis=-1)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), score


def collapse(
    best: Int[Array, "batch time"],
    score: Float[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    *,
    blank_id: int = 0,
) -> BestPath:
    """Merge repeated tokens, then drop blanks.

    Args:
        best: token of every frame, as `best_frames` returns it.
        score: log-probability of that token.
        mask: True at frames that are not padding.
        blank_id: class of the blank.
    """
    best = jnp.where(mask, best, blank_id).astype(jnp.int32)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=blank_id)[:, :-1]
    real = best != blank_id
    first = real & (best != before)
    token = jnp.cumsum(first, axis=1) - 1  # index of the token that a frame belongs to
    frames = best.shape[1]
    row = jnp.arange(best.shape[0])[:, None]
    column = jnp.where(real, token, frames)  # frames of blanks are scattered out of bounds, and dropped there
    time = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), best.shape)
    empty = jnp.zeros(best.shape, jnp.int32)
    ids = empty.at[row, jnp.where(first, token, frames)].set(best, mode="drop")
    starts = empty.at[row, jnp.where(first, token, frames)].set(time, mode="drop")
    ends = empty.at[row, column].max(time + 1, mode="drop")
    total = jnp.zeros(best.shape, jnp.float32).at[row, column].add(jnp.where(real, score, 0.0), mode="drop")
    lengths = first.sum(axis=1).astype(jnp.int32)
    used = jnp.arange(frames)[None] < lengths[:, None]
    confidence = jnp.where(used, jnp.exp(total / jnp.maximum(ends - starts, 1)), 0.0)
    return BestPath(ids, lengths, starts, ends, confidence)
