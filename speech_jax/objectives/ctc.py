"""Connectionist temporal classification (Graves et al. 2006), made safe around `optax.ctc_loss`."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def is_feasible(
    frames: Int[Array, " batch"], labels: Int[Array, "batch label"], label_lengths: Int[Array, " batch"]
) -> Bool[Array, " batch"]:
    """True where an alignment exists: a frame for each label and one blank between each pair of equal neighbors."""
    place = jnp.arange(labels.shape[1])[None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (place[:, 1:] < label_lengths[:, None])).sum(-1)
    return (frames > 0) & (label_lengths + repeats <= frames)


def ctc_loss(
    logits: Float[Array, "batch time vocab"],
    mask: Bool[Array, "batch time"],
    labels: Int[Array, "batch label"],
    label_lengths: Int[Array, " batch"],
    *,
    row_mask: Bool[Array, " batch"] | None = None,
    blank_id: int = 0,
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """-log p(labels | logits) for each utterance, in nats, and which utterances count.

    Args:
      logits: unnormalized scores; float32 is computed in, whatever comes in. What lies in masked frames (NaN, inf)
        changes neither the loss nor a gradient.
      mask: True on valid frames, which come first.
      labels: ids, padded with anything after `label_lengths` entries.
      row_mask: False for filler rows.
      blank_id: the class that stands for "no label".

    Returns:
      (nll, feasible). Where `feasible` is False nll and its gradient are 0: the labels do not fit in the frames (labels
      + repeats > frames), there is no valid frame, or the row is filler. The caller counts them. An utterance without
      labels is legal: it costs -log p(only blanks). nll is never negative.
    """
    feasible = is_feasible(mask.sum(-1), labels, label_lengths)
    if row_mask is not None:
        feasible = feasible & row_mask
    # Both kinds of garbage are replaced before the loss and not after it, so that no NaN can come back through 0 * NaN
    # in the gradient: masked frames, and rows that do not count.
    live = mask & feasible[:, None]
    logits = jnp.where(live[..., None], logits.astype(jnp.float32), 0.0)
    label_live = (jnp.arange(labels.shape[1])[None] < label_lengths[:, None]) & feasible[:, None]
    labels = jnp.where(label_live, labels, blank_id)
    nll = optax.ctc_loss(
        logits, 1.0 - live.astype(jnp.float32), labels, 1.0 - label_live.astype(jnp.float32), blank_id=blank_id
    )
    return jnp.where(feasible, jnp.maximum(nll, 0.0), 0.0), feasible
