"""Reverberation by simulated or given room impulse responses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.audio import rows
from speech_jax.audio.convolution import convolve


def simulate_responses(
    keys: jax.Array, taps: int, sample_rate: int, seconds: tuple[float, float], direct_db: tuple[float, float]
) -> Float[Array, "batch taps"]:
    """Draw impulse responses from Polack's model: direct sound at tap 0, then exponentially decaying white noise.

    Args:
        keys: one random key per row.
        taps: length of a response, in samples.
        sample_rate: samples per second.
        seconds: lowest and highest reverberation time (decay by 60 dB), in seconds.
        direct_db: lowest and highest direct-to-reverberant energy ratio, in dB.
    """
    decay = rows.uniform(rows.fold(keys, 0), *seconds)[:, None]
    ratio = rows.uniform(rows.fold(keys, 1), *direct_db)
    time = jnp.arange(taps)[None, :] / sample_rate
    echo = rows.normal(rows.fold(keys, 2), taps) * 10 ** (-3 * time / decay) * (time > 0)
    energy = jnp.maximum(jnp.sum(echo**2, axis=1), 1e-20)
    echo = echo * jnp.sqrt(10 ** (-ratio / 10) / energy)[:, None]
    return echo.at[:, 0].set(1.0)


def given_responses(keys: jax.Array, responses: Float[Array, "responses taps"]) -> Float[Array, "batch taps"]:
    """Draw a response for each key, shifted so that its strongest tap comes first, which keeps the timing."""
    chosen = responses[rows.choice(rows.fold(keys, 0), responses.shape[0])].astype(jnp.float32)
    taps = chosen.shape[1]
    padded = jnp.pad(chosen, ((0, 0), (0, taps)))
    peak = jnp.argmax(jnp.abs(chosen), axis=1)
    return jax.vmap(lambda row, begin: jax.lax.dynamic_slice(row, (begin,), (taps,)))(padded, peak)


def reverberate(
    audio: Float[Array, "batch samples"], responses: Float[Array, "batch taps"], inside: Bool[Array, "batch samples"]
) -> Float[Array, "batch samples"]:
    """Convolve each row with its response, cut it at the utterance's end, and restore the utterance's energy."""
    wet = jnp.where(inside, convolve(audio, responses), 0.0)
    energy, wet_energy = jnp.sum(audio**2, axis=1), jnp.sum(wet**2, axis=1)
    return wet * jnp.sqrt(energy / jnp.maximum(wet_energy, 1e-20))[:, None]
