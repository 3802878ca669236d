"""Losses of synthesis, each as (sum over valid units, number of units), so that it is a mean per frame.

Padding may hold anything, NaN too. Frames of a decoder with a reduction factor count one by one.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Pair = tuple[Float[Array, ""], Float[Array, ""]]
_TINY = 1e-8


def frame_loss(
    made: Float[Array, "batch frames mels"],
    target: Float[Array, "batch frames mels"],
    mask: Bool[Array, "batch frames"],
    kind: Literal["l1", "l2"] = "l2",
) -> Pair:
    """The mean over the bands of |difference| or its square, frame by frame."""
    difference = jnp.where(mask[..., None], made - target, 0.0).astype(jnp.float32)
    each = jnp.abs(difference) if kind == "l1" else jnp.square(difference)
    return jnp.sum(jnp.mean(each, axis=-1)), jnp.sum(mask).astype(jnp.float32)


def stop_loss(
    logits: Float[Array, "batch frames"], mask: Bool[Array, "batch frames"], positive_weight: float = 5.0
) -> Pair:
    """Cross-entropy of "this is the last frame". The one last frame of an utterance weighs `positive_weight` times as
    much as one of the others, which are hundreds."""
    last = mask & ~jnp.pad(mask, ((0, 0), (0, 1)))[:, 1:]
    logits = jnp.where(mask, logits, 0.0).astype(jnp.float32)
    each = jnp.where(last, positive_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))
    return jnp.sum(jnp.where(mask, each, 0.0)), jnp.sum(mask).astype(jnp.float32)


def guided_attention_loss(
    weights: Float[Array, "batch steps symbols"],
    step_mask: Bool[Array, "batch steps"],
    text_mask: Bool[Array, "batch symbols"],
    sigma: float = 0.4,
) -> Pair:
    """Weight far from the diagonal (Tachibana et al. 2018), summed over the symbols, step by step:
    1 - exp(-(n/N - t/T)² / 2 sigma²) for symbol n of N at step t of T."""

    def place(mask: Bool[Array, "batch n"]) -> Float[Array, "batch n"]:
        count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
        return jnp.arange(mask.shape[-1])[None] / count

    away = place(text_mask)[:, None] - place(step_mask)[:, :, None]
    penalty = 1.0 - jnp.exp(-jnp.square(away) / (2 * sigma**2))
    valid = step_mask[:, :, None] & text_mask[:, None]
    return jnp.sum(jnp.where(valid, weights * penalty, 0.0)), jnp.sum(step_mask).astype(jnp.float32)


def focus_rate(weights: Float[Array, "batch steps symbols"], step_mask: Bool[Array, "batch steps"]) -> Pair:
    """The largest weight of each step: 1 where the attention looks at one symbol, near 1/N where it has not aligned."""
    greatest = jnp.max(weights, axis=-1)
    return jnp.sum(jnp.where(step_mask, greatest, 0.0)), jnp.sum(step_mask).astype(jnp.float32)


def si_sdr(
    estimate: Float[Array, "batch time"], reference: Float[Array, "batch time"], mask: Bool[Array, "batch time"]
) -> Float[Array, " batch"]:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), means removed. Only where the phase is
    known: copy synthesis, a vocoder's output. A loss is its negative."""
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)

    def centered(x: Array) -> Array:
        x = jnp.where(mask, x, 0.0).astype(jnp.float32)
        return jnp.where(mask, x - jnp.sum(x, axis=-1, keepdims=True) / count, 0.0)

    estimate, reference = centered(estimate), centered(reference)
    power = jnp.sum(jnp.square(reference), axis=-1, keepdims=True)
    target = jnp.sum(estimate * reference, axis=-1, keepdims=True) / (power + _TINY) * reference
    signal, noise = (jnp.sum(jnp.square(x), axis=-1) for x in (target, estimate - target))
    return 10 * (jnp.log10(signal + _TINY) - jnp.log10(noise + _TINY))
