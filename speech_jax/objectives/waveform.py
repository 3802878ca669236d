"""Negative log likelihood of samples under a WaveNet's outputs, in nats.

All are exact: the density of a Gaussian; the probability of a sample's level under a mixture of discretized logistics
(PixelCNN++, Salimans et al. 2017), without its approximations; the probability of a µ-law class.
kernels/wavenet/draw.py draws from the same distributions.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from speech_jax.audio.mulaw import mulaw_encode


def gaussian_nll(
    y: Float[Array, "*shape 2"], target: Float[Array, "*shape"], min_log_scale: float
) -> Float[Array, "*shape"]:
    """Return -log of a Gaussian's density per sample, in nats; it may be negative.

    Args:
        y: mean and log scale of each sample.
        target: samples in [-1, 1].
        min_log_scale: lower bound of the log scale.
    """
    log_scale = jnp.maximum(y[..., 1], min_log_scale)
    deviations = (target - y[..., 0]) * jnp.exp(-log_scale)
    return 0.5 * jnp.square(deviations) + log_scale + 0.5 * math.log(2 * math.pi)


def logistics_nll(
    y: Float[Array, "*shape outputs"], target: Float[Array, "*shape"], min_log_scale: float, levels: int = 65536
) -> Float[Array, "*shape"]:
    """Return -log p per sample under a mixture of discretized logistics, in nats.

    The level of a sample is an interval of 2/(levels - 1) around it; the lowest and the highest reach to infinity, so
    that the probabilities of all levels add up to 1. The difference of two sigmoids,
    σ(a) - σ(b) = σ(a) · σ(-b) · (1 - e^(b - a)), is computed in logarithms, so that no interval is too small for
    float32 and the density is never needed instead.

    Args:
        y: logits, means and log scales of the mixture, concatenated.
        target: samples in [-1, 1].
        min_log_scale: lower bound of the log scales.
        levels: number of levels in [-1, 1].
    """
    logits, means, log_scales = jnp.split(y, 3, axis=-1)
    inverse = jnp.exp(-jnp.maximum(log_scales, min_log_scale))
    half = 1.0 / (levels - 1)
    centered = target[..., None] - means
    upper, lower = (centered + half) * inverse, (centered - half) * inverse
    below_upper, above_lower = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    width = jnp.minimum(2 * half * inverse, 80.0)  # beyond that the factor is 1 in float32
    inside = below_upper + above_lower + jnp.log(-jnp.expm1(-width))
    # A sample within half a level of -1 or 1, in float32, belongs to that end's level.
    lowest, highest = (target <= -1.0 + half)[..., None], (target >= 1.0 - half)[..., None]
    log_p = jnp.where(lowest, below_upper, jnp.where(highest, above_lower, inside))
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1) + log_p, axis=-1)


def mulaw_nll(y: Float[Array, "*shape classes"], target: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return -log p per sample of its µ-law class, in nats. `y` holds the logits of the classes."""
    return -jnp.take_along_axis(jax.nn.log_softmax(y, axis=-1), target[..., None], axis=-1)[..., 0]


def waveform_nll(
    output: Literal["gaussian", "logistics", "mulaw"],
    y: Float[Array, "batch samples outputs"],
    target: Array,
    *,
    min_log_scale: float,
    levels: int = 65536,
) -> Float[Array, "batch samples"]:
    """Return the negative log likelihood per sample, in nats.

    Args:
        output: distribution of the network's outputs.
        y: outputs of the network; see `gaussian_nll`, `logistics_nll` and `mulaw_nll`.
        target: samples in [-1, 1], or for "mulaw" their classes, as from `as_target`.
        min_log_scale: lower bound of log scales ("gaussian", "logistics").
        levels: number of levels in [-1, 1] ("logistics").
    """
    if output == "gaussian":
        return gaussian_nll(y, target, min_log_scale)
    if output == "logistics":
        return logistics_nll(y, target, min_log_scale, levels)
    return mulaw_nll(y, target)


def as_target(output: str, audio: Float[Array, "*shape"], classes: int) -> Array:
    """Return a waveform as training targets: samples clipped to [-1, 1], or for "mulaw" their classes."""
    return mulaw_encode(audio, classes) if output == "mulaw" else jnp.clip(audio, -1.0, 1.0)
