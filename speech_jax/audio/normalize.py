"""Normalization of features: per utterance, or with constants estimated beforehand."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError


def normalize(
    features: Float[Array, "batch frames features"], mask: Bool[Array, "batch frames"], config: AudioConfig
) -> Float[Array, "batch frames features"]:
    """Normalize features as `config.normalize` says; the result is zero where the mask is False.

    "utterance" is NeMo's per_feature: (x - mean) / (std + 1e-5) with the unbiased std over the row's real frames; the
    std of a single frame counts as 0. "unit_variance" is (x - mean) / sqrt(variance + 1e-7) with the biased variance.
    "global" uses `config.mean` and `config.std`.
    """
    real = mask[..., None]
    if config.normalize in ("utterance", "unit_variance"):
        count = jnp.sum(real, axis=1, keepdims=True).astype(jnp.float32)
        mean = jnp.sum(jnp.where(real, features, 0.0), axis=1, keepdims=True) / jnp.maximum(count, 1.0)
        centered = jnp.where(real, features - mean, 0.0)
        squares = jnp.sum(centered**2, axis=1, keepdims=True)
        if config.normalize == "unit_variance":
            return centered * jax.lax.rsqrt(squares / jnp.maximum(count, 1.0) + 1e-7)
        variance = squares / jnp.maximum(count - 1.0, 1.0)
        # a constant feature has variance 0, where the slope of the square root is infinite
        std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        return centered / (std + 1e-5)
    if config.normalize == "global":
        mean, std = (jnp.asarray(v, jnp.float32)[None, None] for v in (config.mean, config.std))
        features = (features - mean) / std
    return jnp.where(real, features, 0.0)


def estimate_statistics(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimate the constants of global normalization.

    Use them as `dataclasses.replace(config, normalize="global", mean=mean, std=std)`. Sums are float64 and merged batch
    by batch (Chan et al. 1979), so that a thousand hours lose no precision.

    Args:
        batches: pairs of features [batch, frames, features] and mask [batch, frames], from a config with
            normalize = "none".

    Returns:
        The mean and the standard deviation of each feature over all real frames.

    Raises:
        UserError: there are fewer than two frames.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for features, mask in batches:
        real = np.asarray(features, np.float64)[np.asarray(mask, bool)]
        if len(real) == 0:
            continue
        batch_count, batch_mean = len(real), real.mean(axis=0)
        total = count + batch_count
        shift = batch_mean - mean
        squares = squares + ((real - batch_mean) ** 2).sum(axis=0) + shift**2 * (count * batch_count / total)
        mean = mean + shift * (batch_count / total)
        count = total
    if count < 2:
        raise UserError(f"estimate_statistics: found {count} frames, expected at least 2")
    std = np.maximum(np.sqrt(squares / (count - 1)), 1e-5)
    return tuple(map(float, mean)), tuple(map(float, std))
