"""CTC scores to token ids: the best path, collapsed on the device, with every token's frames and confidence."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class BestPath(NamedTuple):
    """Tokens packed to the left of each row; what lies at and after `lengths` is 0.

    ids:        token ids, blanks and repeats removed
    lengths:    number of tokens of each row
    starts:     first frame of each token
    ends:       one past its last frame
    confidence: geometric mean, over its frames, of the token's probability, in (0, 1]
    """

    ids: Int[Array, "batch time"]
    lengths: Int[Array, " batch"]
    starts: Int[Array, "batch time"]
    ends: Int[Array, "batch time"]
    confidence: Float[Array, "batch time"]


def greedy_decode(
    logits: Float[Array, "batch time vocab"], mask: Bool[Array, "batch time"], *, blank_id: int = 0
) -> tuple[Int[Array, "batch time"], Int[Array, " batch"]]:
    """The best path of CTC without blanks and repeats (Graves et al. 2006, section 3.2): ids [B, T] and lengths [B]."""
    path = best_path(logits, mask, blank_id=blank_id)
    return path.ids, path.lengths


def best_path(
    logits: Float[Array, "batch time vocab"], mask: Bool[Array, "batch time"], *, blank_id: int = 0
) -> BestPath:
    """`greedy_decode` with the frames and the confidence of every token. Padding may hold anything, NaN too. Jit-able."""
    return collapse(*best_frames(logits), mask, blank_id=blank_id)


def best_frames(
    logits: Float[Array, "batch time vocab"],
) -> tuple[Int[Array, "batch time"], Float[Array, "batch time"]]:
    """The best token of every frame and its log-probability: all of the scores that the best path needs."""
    score = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1).max(axis=-1)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), score


def collapse(
    best: Int[Array, "batch time"],
    score: Float[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    *,
    blank_id: int = 0,
) -> BestPath:
    """Merges repeats, then drops blanks. best, score: as `best_frames` returns them."""
    best = jnp.where(mask, best, blank_id).astype(jnp.int32)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=blank_id)[:, :-1]
    real = best != blank_id
    first = real & (best != before)
    run = jnp.cumsum(first, axis=1) - 1  # which token a frame belongs to
    frames = best.shape[1]
    row = jnp.arange(best.shape[0])[:, None]
    place = jnp.where(real, run, frames)  # frames of blanks are scattered out of bounds, and dropped there
    time = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), best.shape)
    empty = jnp.zeros(best.shape, jnp.int32)
    ids = empty.at[row, jnp.where(first, run, frames)].set(best, mode="drop")
    starts = empty.at[row, jnp.where(first, run, frames)].set(time, mode="drop")
    ends = empty.at[row, place].max(time + 1, mode="drop")
    total = jnp.zeros(best.shape, jnp.float32).at[row, place].add(jnp.where(real, score, 0.0), mode="drop")
    lengths = first.sum(axis=1).astype(jnp.int32)
    used = jnp.arange(frames)[None] < lengths[:, None]
    confidence = jnp.where(used, jnp.exp(total / jnp.maximum(ends - starts, 1)), 0.0)
    return BestPath(ids, lengths, starts, ends, confidence)
