"""The negative log likelihood of samples under a WaveNet's outputs, in nats; kernels/wavenet/draw.py draws from them.

All are exact: a Gaussian's density; the probability of a sample's level under a mixture of discretised logistics
(PixelCNN++, Salimans et al. 2017), without its approximations; the probability of a µ-law class.
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
    """y: mean and log scale. The density's, so it may be below 0."""
    log_scale = jnp.maximum(y[..., 1], min_log_scale)
    away = (target - y[..., 0]) * jnp.exp(-log_scale)
    return 0.5 * jnp.square(away) + log_scale + 0.5 * math.log(2 * math.pi)


def logistics_nll(
    y: Float[Array, "*shape outputs"], target: Float[Array, "*shape"], min_log_scale: float, levels: int = 65536
) -> Float[Array, "*shape"]:
    """y: logits, means and log scales of the mixture. A sample's level is an interval of 2/(levels - 1) around it; the
    lowest and the highest reach to infinity, so that the probabilities of all levels add up to 1.

    The difference of two sigmoids, σ(a) - σ(b) = σ(a) · σ(-b) · (1 - e^(b - a)), is taken in logarithms, so no interval
    is too small and none needs the density in its place.
    """
    logits, means, log_scales = jnp.split(y, 3, axis=-1)
    inverse = jnp.exp(-jnp.maximum(log_scales, min_log_scale))
    half = 1.0 / (levels - 1)
    away = target[..., None] - means
    upper, lower = (away + half) * inverse, (away - half) * inverse
    below_upper, above_lower = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    width = jnp.minimum(2 * half * inverse, 80.0)  # beyond that the factor is 1 in float32
    inside = below_upper + above_lower + jnp.log(-jnp.expm1(-width))
    # within half a level of an end, in float32, a sample is of that end's level
    lowest, highest = (target <= -1.0 + half)[..., None], (target >= 1.0 - half)[..., None]
    each = jnp.where(lowest, below_upper, jnp.where(highest, above_lower, inside))
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1) + each, axis=-1)


def mulaw_nll(y: Float[Array, "*shape classes"], target: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """y: logits of the classes."""
    return -jnp.take_along_axis(jax.nn.log_softmax(y, axis=-1), target[..., None], axis=-1)[..., 0]


def waveform_nll(
    output: Literal["gaussian", "logistics", "mulaw"],
    y: Float[Array, "batch samples outputs"],
    target: Array,
    *,
    min_log_scale: float,
    levels: int = 65536,
) -> Float[Array, "batch samples"]:
    """Of each sample. target: samples in [-1, 1], or for "mulaw" classes."""
    if output == "gaussian":
        return gaussian_nll(y, target, min_log_scale)
    if output == "logistics":
        return logistics_nll(y, target, min_log_scale, levels)
    return mulaw_nll(y, target)


def as_target(output: str, audio: Float[Array, "*shape"], classes: int) -> Array:
    """A waveform as what the network predicts: samples clipped to [-1, 1], or their µ-law classes."""
    return mulaw_encode(audio, classes) if output == "mulaw" else jnp.clip(audio, -1.0, 1.0)
