"""Connectionist temporal classification (Graves et al. 2006).

`optax.ctc_loss`, made safe for utterances whose labels do not fit and for garbage (NaN) in the padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.arrays import check_array, check_class


def is_feasible(
    frames: Int[Array, " batch"], labels: Int[Array, "batch label"], label_lengths: Int[Array, " batch"]
) -> Bool[Array, " batch"]:
    """Return, per utterance, whether a CTC alignment exists.

    An alignment needs one frame per label and one blank between two equal neighboring labels.

    Args:
        frames: number of valid frames of each utterance.
        labels: label ids, padded with anything after `label_lengths` entries.
        label_lengths: number of labels of each utterance.

    Returns:
        bool [batch]. Without a valid frame it is False.
    """
    index = jnp.arange(labels.shape[1])[None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (index[:, 1:] < label_lengths[:, None])).sum(-1)
    return (frames > 0) & (label_lengths + repeats <= frames)


def count_nonblank(
    logits: Float[Array, "batch time vocab"], mask: Bool[Array, "batch time"], *, blank_id: int = 0
) -> Float[Array, ""]:
    """Return the number of valid frames whose best class is not the blank: 0 where nothing would be recognized.

    Args:
        logits: unnormalized scores of any float type.
        mask: True on valid frames of rows that are no fillers.
        blank_id: class of the blank.
    """
    logits = jax.lax.stop_gradient(logits)
    return jnp.sum(mask & (logits[..., blank_id] < jnp.max(logits, axis=-1))).astype(jnp.float32)


def ctc_loss(
    logits: Float[Array, "batch time vocab"],
    mask: Bool[Array, "batch time"],
    labels: Int[Array, "batch label"],
    label_lengths: Int[Array, " batch"],
    *,
    row_mask: Bool[Array, " batch"] | None = None,
    blank_id: int = 0,
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """Return the CTC loss -log p(labels | logits) per utterance, in nats, and which utterances are feasible.

    Args:
        logits: unnormalized scores of any float type; computed in float32. Values in masked frames (NaN, inf) change
            neither the loss nor a gradient.
        mask: True on valid frames, which come first.
        labels: label ids, padded with anything after `label_lengths` entries.
        label_lengths: number of labels of each utterance; 0 is legal and costs -log p(only blanks).
        row_mask: False for filler rows of the batch; None if there are none.
        blank_id: class of the blank.

    Returns:
        (nll, feasible), both [batch]. `nll` is never negative. Where `feasible` is False, nll and its gradient are 0:
        the labels do not fit in the frames (labels + repeats > frames), there is no valid frame, or the row is filler.
        Divide by the number of feasible utterances or of their labels for a mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.objectives.ctc import ctc_loss
        >>> logits = jnp.zeros((2, 5, 4))  # uniform over a blank and three labels
        >>> mask = jnp.arange(5)[None] < jnp.array([[5], [1]])
        >>> nll, feasible = ctc_loss(logits, mask, jnp.array([[1, 2], [3, 3]]), jnp.array([2, 2]))
        >>> [f"{value:.2f}" for value in nll], feasible.tolist()  # one frame is too short for two labels
        (['3.38', '0.00'], [True, False])
    """
    check_array("logits", logits, "float", "batch", "time", "vocab")
    check_array("mask", mask, "bool", *logits.shape[:2])
    check_array("labels", labels, "int", logits.shape[0], "label")
    check_array("label_lengths", label_lengths, "int", logits.shape[0])
    check_class("blank_id", blank_id, logits.shape[2])
    feasible = is_feasible(mask.sum(-1), labels, label_lengths)
    if row_mask is not None:
        feasible = feasible & row_mask
    # Masked frames and infeasible rows are replaced before the loss, not after it: otherwise a NaN would come back
    # through 0 * NaN in the gradient.
    live = mask & feasible[:, None]
    logits = jnp.where(live[..., None], logits.astype(jnp.float32), 0.0)
    label_live = (jnp.arange(labels.shape[1])[None] < label_lengths[:, None]) & feasible[:, None]
    labels = jnp.where(label_live, labels, blank_id)
    nll = optax.ctc_loss(
        logits, 1.0 - live.astype(jnp.float32), labels, 1.0 - label_live.astype(jnp.float32), blank_id=blank_id
    )
    return jnp.where(feasible, jnp.maximum(nll, 0.0), 0.0), feasible
