"""Drawing of the next sample from a WaveNet's outputs and noise.

The distributions are those whose likelihoods are in objectives/waveform.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from speech_jax.audio.mulaw import mulaw_decode
from speech_jax.kernels.wavenet.step import StepShape, noise_width

_TINY = 2.0**-24  # uniforms lie in [_TINY, 1 - _TINY]: their logarithms are finite


def draw(shape: StepShape, y: Float[Array, "batch outputs"], noise: Float[Array, "batch n"]) -> Array:
    """Draw one sample per row.

    - gaussian: mean + exp(log scale) · noise, with normal noise.
    - logistics: choose a logistic by the Gumbel trick with all uniforms but the last, then apply its inverse CDF to the
      last one (PixelCNN++, Salimans et al. 2017).
    - mulaw: the inverse CDF: the number of cumulative probabilities that are at most the uniform.

    Args:
        shape: static facts of the network.
        y: outputs of the head.
        noise: the sample's noise, from `make_noise`.

    Returns:
        [batch]: float32 samples in [-1, 1], or for "mulaw" int32 classes.
    """
    if shape.output == "gaussian":
        scale = jnp.exp(jnp.maximum(y[:, 1], shape.min_log_scale))
        return jnp.clip(y[:, 0] + scale * noise[:, 0], -1.0, 1.0)
    if shape.output == "logistics":
        logits, means, scales = jnp.split(y, 3, axis=-1)
        chosen = jnp.argmax(logits - jnp.log(-jnp.log(noise[:, :-1])), axis=-1)[:, None]
        mean = jnp.take_along_axis(means, chosen, axis=-1)[:, 0]
        log_scale = jnp.maximum(jnp.take_along_axis(scales, chosen, axis=-1)[:, 0], shape.min_log_scale)
        u = noise[:, -1]
        return jnp.clip(mean + jnp.exp(log_scale) * (jnp.log(u) - jnp.log1p(-u)), -1.0, 1.0)
    cumulative = jnp.cumsum(jax.nn.softmax(y, axis=-1), axis=-1)
    below = jnp.sum(cumulative <= noise, axis=-1)
    return jnp.minimum(below, shape.classes - 1).astype(jnp.int32)


def to_audio(shape: StepShape, drawn: Array) -> Float[Array, "..."]:
    """Return what `draw` drew as a waveform in [-1, 1]: classes are decoded."""
    return mulaw_decode(drawn, shape.classes) if shape.output == "mulaw" else drawn


def make_noise(
    shape: StepShape, seeds: UInt32[Array, "batch 2"], start: Int[Array, " batch"], time: int
) -> Float[Array, "batch time n"]:
    """Return the noise of samples start … start + time - 1 of each row.

    It depends on the row's seed and the sample's number alone, not on chunks or on the other rows of the batch.

    Args:
        shape: static facts of the network.
        seeds: data of a threefry key per row.
        start: number of the first sample of each row, at least 0.
        time: number of samples.
    """
    width = noise_width(shape)

    def row_noise(seed: Array, first: Array) -> Array:
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")

        def sample_noise(number: Array) -> Array:
            sample_key = jax.random.fold_in(key, number)
            if shape.output == "gaussian":
                return jax.random.normal(sample_key, (width,))
            return jax.random.uniform(sample_key, (width,), minval=_TINY, maxval=1 - _TINY)

        return jax.vmap(sample_noise)(first + jnp.arange(time))

    return jax.vmap(row_noise)(seeds, start)
