"""Losses and measures of text-to-speech, each as (sum over valid units, number of units).

Their quotient is a mean per frame, or per decoder step for the attention. Padding may hold anything, NaN too. With a
reduction factor every frame counts, not every decoder step.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Pair = tuple[Float[Array, ""], Float[Array, ""]]
_TINY = 1e-8


def frame_loss(
    predicted: Float[Array, "batch frames mels"],
    target: Float[Array, "batch frames mels"],
    mask: Bool[Array, "batch frames"],
    kind: Literal["l1", "l2"] = "l2",
) -> Pair:
    """Return the absolute ("l1") or squared ("l2") error of mel frames.

    Args:
        predicted: mel frames of the network.
        target: mel frames of the recording.
        mask: True on valid frames.
        kind: "l1" or "l2".

    Returns:
        (sum over valid frames of the mean over bands, number of valid frames).
    """
    difference = jnp.where(mask[..., None], predicted - target, 0.0).astype(jnp.float32)
    errors = jnp.abs(difference) if kind == "l1" else jnp.square(difference)
    return jnp.sum(jnp.mean(errors, axis=-1)), jnp.sum(mask).astype(jnp.float32)


def stop_loss(
    logits: Float[Array, "batch frames"], mask: Bool[Array, "batch frames"], positive_weight: float = 5.0
) -> Pair:
    """Return the binary cross-entropy of the stop logits, whose target is True on an utterance's last frame.

    Args:
        logits: stop logit of each frame.
        mask: True on valid frames.
        positive_weight: weight of the last frame; it is one among hundreds of others of weight 1.

    Returns:
        (sum over valid frames in nats, number of valid frames).
    """
    last = mask & ~jnp.pad(mask, ((0, 0), (0, 1)))[:, 1:]
    logits = jnp.where(mask, logits, 0.0).astype(jnp.float32)
    losses = jnp.where(last, positive_weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))
    return jnp.sum(jnp.where(mask, losses, 0.0)), jnp.sum(mask).astype(jnp.float32)


def guided_attention_loss(
    weights: Float[Array, "batch steps symbols"],
    step_mask: Bool[Array, "batch steps"],
    text_mask: Bool[Array, "batch symbols"],
    sigma: float = 0.4,
) -> Pair:
    """Return the guided attention loss, which penalizes attention far from the diagonal (Tachibana et al. 2018).

    The weight on symbol n of N at decoder step t of T costs 1 - exp(-(n/N - t/T)² / 2 sigma²).

    Args:
        weights: attention weights.
        step_mask: True on valid decoder steps.
        text_mask: True on valid symbols.
        sigma: width of the band around the diagonal that costs little, as a share of the text.

    Returns:
        (sum over valid steps and symbols, number of valid steps).

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.objectives.tts import guided_attention_loss
        >>> valid = jnp.ones((1, 4), bool)
        >>> diagonal, backwards = jnp.eye(4)[None], jnp.eye(4)[None, ::-1]
        >>> for weights in (diagonal, backwards):
        ...     total, steps = guided_attention_loss(weights, valid, valid)
        ...     print(f"{total / steps:.3f}")
        0.000
        0.503
    """

    def relative_position(mask: Bool[Array, "batch n"]) -> Float[Array, "batch n"]:
        count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
        return jnp.arange(mask.shape[-1])[None] / count

    distance = relative_position(text_mask)[:, None] - relative_position(step_mask)[:, :, None]
    penalty = 1.0 - jnp.exp(-jnp.square(distance) / (2 * sigma**2))
    valid = step_mask[:, :, None] & text_mask[:, None]
    return jnp.sum(jnp.where(valid, weights * penalty, 0.0)), jnp.sum(step_mask).astype(jnp.float32)


def focus_rate(weights: Float[Array, "batch steps symbols"], step_mask: Bool[Array, "batch steps"]) -> Pair:
    """Return the largest attention weight of each step as (sum over valid steps, number of valid steps).

    The mean is 1 where the attention is on one symbol, and near 1/N for N symbols where it has not aligned (the focus
    rate of FastSpeech, Ren et al. 2019).
    """
    greatest = jnp.max(weights, axis=-1)
    return jnp.sum(jnp.where(step_mask, greatest, 0.0)), jnp.sum(step_mask).astype(jnp.float32)


def si_sdr(
    estimate: Float[Array, "batch time"], reference: Float[Array, "batch time"], mask: Bool[Array, "batch time"]
) -> Float[Array, " batch"]:
    """Return the scale-invariant signal-to-distortion ratio per utterance, in dB (Le Roux et al. 2019).

    It compares waveforms sample by sample, so it suits copy synthesis and vocoders only, where the phase is given. As a
    loss take its negative.

    Args:
        estimate: waveforms to judge; means are removed.
        reference: the true waveforms; means are removed.
        mask: True on valid samples.
    """
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)

    def centered(x: Array) -> Array:
        x = jnp.where(mask, x, 0.0).astype(jnp.float32)
        return jnp.where(mask, x - jnp.sum(x, axis=-1, keepdims=True) / count, 0.0)

    estimate, reference = centered(estimate), centered(reference)
    power = jnp.sum(jnp.square(reference), axis=-1, keepdims=True)
    target = jnp.sum(estimate * reference, axis=-1, keepdims=True) / (power + _TINY) * reference
    signal, noise = (jnp.sum(jnp.square(x), axis=-1) for x in (target, estimate - target))
    return 10 * (jnp.log10(signal + _TINY) - jnp.log10(noise + _TINY))
