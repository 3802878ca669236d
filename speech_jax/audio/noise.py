"""Noise: synthetic colors or given recordings, added at a drawn ratio of signal to noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.audio import rows
from speech_jax.audio.convolution import convolve

_PINK_TAPS = 2048  # pink down to 8 Hz at 16 kHz, flat below


def colored_noise(keys: jax.Array, samples: int, colors: tuple[str, ...]) -> Float[Array, "batch samples"]:
    """A row of noise of a drawn color for each key. "white" is flat, "pink" falls by 3 dB an octave."""
    color = rows.choice(rows.fold(keys, 0), len(colors))
    white = rows.normal(rows.fold(keys, 1), samples + _PINK_TAPS)
    noise = jnp.zeros((keys.shape[0], samples))
    for number, name in enumerate(colors):
        made = white if name == "white" else pink(white)
        noise = jnp.where((color == number)[:, None], made[:, _PINK_TAPS:], noise)
    return noise


def pink(white: Float[Array, "batch samples"]) -> Float[Array, "batch samples"]:
    """White noise through the half integral, 1/sqrt(1 - 1/z), whose power falls as 1/f (Kasdin 1995, eq. 104).

    The first _PINK_TAPS samples lack low frequencies that later ones have.
    """
    steps = np.arange(1, _PINK_TAPS)
    response = np.concatenate([[1.0], np.cumprod((steps - 0.5) / steps)])
    return convolve(white, jnp.broadcast_to(jnp.asarray(response, jnp.float32), (white.shape[0], _PINK_TAPS)))


def recorded_noise(
    keys: jax.Array, samples: int, recordings: Float[Array, "recordings noise_samples"]
) -> Float[Array, "batch samples"]:
    """A drawn recording from a drawn place on, repeated as often as needed, for each key."""
    which = rows.choice(rows.fold(keys, 0), recordings.shape[0])
    start = rows.choice(rows.fold(keys, 1), recordings.shape[1])
    repeats = 1 + -(-samples // recordings.shape[1])

    def cut(row, at):
        return jax.lax.dynamic_slice(jnp.tile(row, repeats), (at,), (samples,))

    return jax.vmap(cut)(recordings[which].astype(jnp.float32), start)


def add_noise(
    audio: Float[Array, "batch samples"],
    noise: Float[Array, "batch samples"],
    inside: Bool[Array, "batch samples"],
    snr_db: Float[Array, " batch"],
) -> Float[Array, "batch samples"]:
    """audio + noise, scaled so that the powers over the utterance have the ratio snr_db. Silence stays silence."""
    noise = jnp.where(inside, noise, 0.0)
    signal_power, noise_power = jnp.sum(audio**2, axis=1), jnp.sum(noise**2, axis=1)
    scale = jnp.sqrt(signal_power / jnp.maximum(noise_power, 1e-20) * 10 ** (-snr_db / 10))
    return audio + scale[:, None] * noise
