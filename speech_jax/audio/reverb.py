"""Reverberation in simulated rooms, or with given impulse responses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.audio import rows
from speech_jax.audio.convolution import convolve


def simulate_responses(
    keys: jax.Array, taps: int, sample_rate: int, seconds: tuple[float, float], direct_db: tuple[float, float]
) -> Float[Array, "batch taps"]:
    """Polack's model of a room: the direct sound at tap 0, then white noise that decays by 60 dB in a drawn time.

    seconds: least and greatest decay time. direct_db: least and greatest ratio of the direct sound's energy to the
    echo's.
    """
    decay = rows.uniform(rows.fold(keys, 0), *seconds)[:, None]
    ratio = rows.uniform(rows.fold(keys, 1), *direct_db)
    time = jnp.arange(taps)[None, :] / sample_rate
    echo = rows.normal(rows.fold(keys, 2), taps) * 10 ** (-3 * time / decay) * (time > 0)
    energy = jnp.maximum(jnp.sum(echo**2, axis=1), 1e-20)
    echo = echo * jnp.sqrt(10 ** (-ratio / 10) / energy)[:, None]
    return echo.at[:, 0].set(1.0)


def given_responses(keys: jax.Array, responses: Float[Array, "responses taps"]) -> Float[Array, "batch taps"]:
    """A drawn response for each key, moved so that its strongest tap comes first: the utterance keeps its timing."""
    chosen = responses[rows.choice(rows.fold(keys, 0), responses.shape[0])].astype(jnp.float32)
    taps = chosen.shape[1]
    padded = jnp.pad(chosen, ((0, 0), (0, taps)))
    peak = jnp.argmax(jnp.abs(chosen), axis=1)
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (at,), (taps,)))(padded, peak)


def reverberate(
    audio: Float[Array, "batch samples"], responses: Float[Array, "batch taps"], inside: Bool[Array, "batch samples"]
) -> Float[Array, "batch samples"]:
    """Each row convolved with its response, cut where the utterance ends, brought back to the utterance's energy."""
    wet = jnp.where(inside, convolve(audio, responses), 0.0)
    energy, wet_energy = jnp.sum(audio**2, axis=1), jnp.sum(wet**2, axis=1)
    return wet * jnp.sqrt(energy / jnp.maximum(wet_energy, 1e-20))[:, None]
