"""A WaveNet's outputs and noise → the next sample: the drawing half of objectives/waveform.py's distributions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from speech_jax.audio.mulaw import mulaw_decode
from speech_jax.kernels.wavenet.step import StepShape, noise_width

_TINY = 2.0**-24  # uniforms lie in [_TINY, 1 - _TINY]: their logarithms are finite


def draw(shape: StepShape, y: Float[Array, "batch outputs"], noise: Float[Array, "batch n"]) -> Array:
    """The sample that the outputs and the noise make: float32 [batch] in [-1, 1], or for "mulaw" the class, int32.

    gaussian:  mean + exp(log scale) · noise, noise being normal.
    logistics: the mixture by the Gumbel trick with the first uniforms, then the logistic's inverse CDF of the last one
               (PixelCNN++, Salimans et al. 2017).
    mulaw:     the inverse CDF: how many cumulative probabilities are at most the uniform.
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
    """What was drawn as a waveform in [-1, 1]."""
    return mulaw_decode(drawn, shape.classes) if shape.output == "mulaw" else drawn


def make_noise(
    shape: StepShape, seeds: UInt32[Array, "batch 2"], start: Int[Array, " batch"], time: int
) -> Float[Array, "batch time n"]:
    """Noise of the samples start to start + time of each row, start not below 0.

    It depends on the row's key (key data, uint32) and the sample's number alone, so that neither chunks nor batch mates
    can change it.
    """
    width = noise_width(shape)

    def of_row(seed: Array, first: Array) -> Array:
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")

        def of_sample(number: Array) -> Array:
            key_of_sample = jax.random.fold_in(key, number)
            if shape.output == "gaussian":
                return jax.random.normal(key_of_sample, (width,))
            return jax.random.uniform(key_of_sample, (width,), minval=_TINY, maxval=1 - _TINY)

        return jax.vmap(of_sample)(first + jnp.arange(time))

    return jax.vmap(of_row)(seeds, start)
