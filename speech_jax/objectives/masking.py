"""Which frames are hidden from an encoder in unsupervised pre-training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def hidden_frames(
    keys: jax.Array, mask: Bool[Array, "batch time"], *, share: float, span: int
) -> Bool[Array, "batch time"]:
    """True where an encoder frame is hidden: every valid frame starts a span of `span` with a chance that hides about
    `share` of all. An utterance in which nothing would be hidden has one span from a drawn frame.

    keys: one for each row, so that what is hidden depends on the utterance alone, not on its batch mates or bucket.
    """
    start = 1.0 - (1.0 - share) ** (1.0 / span)
    time = mask.shape[1]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (time + 1,)))(keys)
    starts = (draws[:, 1:] < start) & mask
    count = mask.sum(axis=1)
    first = (draws[:, :1] * jnp.maximum(count[:, None], 1)).astype(jnp.int32)
    place = jnp.arange(time)[None, :]
    starts |= ~starts.any(axis=1, keepdims=True) & (place == first) & mask
    # Hidden where a span began at most span - 1 frames before.
    since = jnp.cumsum(starts, axis=1)
    before = jnp.pad(since, ((0, 0), (span, 0)))[:, :time]
    return (since > before) & mask


def hide_features(
    keys: jax.Array,
    features: Float[Array, "batch frames d"],
    hidden: Bool[Array, "batch time"],
    factor: int,
    *,
    deviation: float = 0.1,
) -> Float[Array, "batch frames d"]:
    """Features whose hidden frames are white noise (BEST-RQ, arXiv 2202.01855); each encoder frame is `factor` of
    them."""
    frames, width = features.shape[1:]
    wide = jnp.repeat(hidden, factor, axis=1)[:, :frames]
    wide = jnp.pad(wide, ((0, 0), (0, max(0, frames - wide.shape[1]))))
    noise = jax.vmap(lambda key: jax.random.normal(key, (frames, width)))(keys)
    return jnp.where(wide[..., None], (deviation * noise).astype(features.dtype), features)


def stack_frames(
    features: Float[Array, "batch frames d"], mask: Bool[Array, "batch frames"], factor: int, time: int
) -> Float[Array, "batch time factor*d"]:
    """`factor` feature frames side by side for each of `time` encoder frames; zero beyond the utterance."""
    batch, frames, width = features.shape
    features = jnp.where(mask[..., None], features, 0.0)
    short = time * factor - frames
    features = jnp.pad(features, ((0, 0), (0, max(0, short)), (0, 0)))[:, : time * factor]
    return features.reshape(batch, time, factor * width)


def code_perplexity(codes: Int[Array, "batch time"], mask: Bool[Array, "batch time"], size: int) -> Float[Array, ""]:
    """exp(entropy) of how often each code occurs: `size` if all are used alike, 1 if all frames share one."""
    counts = jnp.zeros(size).at[jnp.where(mask, codes, size)].add(1.0, mode="drop")
    p = counts / jnp.maximum(counts.sum(), 1.0)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))


def spread(encoded: Float[Array, "batch time d"], mask: Bool[Array, "batch time"]) -> Float[Array, ""]:
    """Mean over the channels of their standard deviation over all valid frames; near 0 the encoder has collapsed."""
    weight = mask[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    x = jnp.where(mask[..., None], encoded, 0.0).astype(jnp.float32)
    mean = x.sum((0, 1)) / count
    return jnp.mean(jnp.sqrt((jnp.square(x - mean[None, None]) * weight).sum((0, 1)) / count))
