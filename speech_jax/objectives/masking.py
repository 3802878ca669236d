"""Masked frames of unsupervised pre-training: drawing them, replacing their features, and statistics of the codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def hidden_frames(
    keys: jax.Array, mask: Bool[Array, "batch time"], *, share: float, span: int
) -> Bool[Array, "batch time"]:
    """Draw the encoder frames that are hidden in pre-training.

    Every valid frame starts a hidden span with the same probability. An utterance in which no span would start gets one
    span from a random frame.

    Args:
        keys: one random key per row, so that the hidden frames depend on the utterance alone, not on its batch or
            bucket.
        mask: True on valid frames.
        share: expected share of hidden frames, in [0, 1).
        span: frames of a span.

    Returns:
        True where a frame is hidden; never in the padding.
    """
    start_probability = 1.0 - (1.0 - share) ** (1.0 / span)
    time = mask.shape[1]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (time + 1,)))(keys)
    starts = (draws[:, 1:] < start_probability) & mask
    count = mask.sum(axis=1)
    fallback = (draws[:, :1] * jnp.maximum(count[:, None], 1)).astype(jnp.int32)
    frame = jnp.arange(time)[None, :]
    starts |= ~starts.any(axis=1, keepdims=True) & (frame == fallback) & mask
    # Hidden where a span began at most span - 1 frames before.
    started = jnp.cumsum(starts, axis=1)
    started_before = jnp.pad(started, ((0, 0), (span, 0)))[:, :time]
    return (started > started_before) & mask


def hide_features(
    keys: jax.Array,
    features: Float[Array, "batch frames d"],
    hidden: Bool[Array, "batch time"],
    factor: int,
    *,
    deviation: float = 0.1,
) -> Float[Array, "batch frames d"]:
    """Replace the features of hidden frames by white noise (BEST-RQ, arXiv 2202.01855).

    Args:
        keys: one random key per row.
        features: feature frames.
        hidden: True where an encoder frame is hidden.
        factor: feature frames per encoder frame.
        deviation: standard deviation of the noise.

    Returns:
        The features, with noise in the `factor` frames of each hidden encoder frame.
    """
    frames, width = features.shape[1:]
    hidden = jnp.repeat(hidden, factor, axis=1)[:, :frames]
    hidden = jnp.pad(hidden, ((0, 0), (0, max(0, frames - hidden.shape[1]))))
    noise = jax.vmap(lambda key: jax.random.normal(key, (frames, width)))(keys)
    return jnp.where(hidden[..., None], (deviation * noise).astype(features.dtype), features)


def stack_frames(
    features: Float[Array, "batch frames d"], mask: Bool[Array, "batch frames"], factor: int, time: int
) -> Float[Array, "batch time factor*d"]:
    """Concatenate the `factor` feature frames of each of `time` encoder frames; zero beyond the utterance."""
    batch, frames, width = features.shape
    features = jnp.where(mask[..., None], features, 0.0)
    missing = time * factor - frames
    features = jnp.pad(features, ((0, 0), (0, max(0, missing)), (0, 0)))[:, : time * factor]
    return features.reshape(batch, time, factor * width)


def code_perplexity(codes: Int[Array, "batch time"], mask: Bool[Array, "batch time"], size: int) -> Float[Array, ""]:
    """Return the perplexity of the codes' frequencies: `size` if all are equally frequent, 1 if one code is used."""
    counts = jnp.zeros(size).at[jnp.where(mask, codes, size)].add(1.0, mode="drop")
    p = counts / jnp.maximum(counts.sum(), 1.0)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))


def spread(encoded: Float[Array, "batch time d"], mask: Bool[Array, "batch time"]) -> Float[Array, ""]:
    """Return the standard deviation over valid frames, averaged over channels; near 0 the encoder has collapsed."""
    weight = mask[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    x = jnp.where(mask[..., None], encoded, 0.0).astype(jnp.float32)
    mean = x.sum((0, 1)) / count
    return jnp.mean(jnp.sqrt((jnp.square(x - mean[None, None]) * weight).sum((0, 1)) / count))
