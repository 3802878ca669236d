"""Noise for augmentation: synthetic colors or recordings, added at a given signal-to-noise ratio."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.audio import rows
from speech_jax.audio.convolution import convolve

_PINK_TAPS = 2048  # pink down to 8 Hz at 16 kHz, flat below


def colored_noise(keys: jax.Array, samples: int, colors: tuple[str, ...]) -> Float[Array, "batch samples"]:
    """Draw one row of noise per key, of a color drawn from `colors`: "white" is flat, "pink" falls 3 dB per octave."""
    color = rows.choice(rows.fold(keys, 0), len(colors))
    white = rows.normal(rows.fold(keys, 1), samples + _PINK_TAPS)
    noise = jnp.zeros((keys.shape[0], samples))
    for number, name in enumerate(colors):
        colored = white if name == "white" else pink(white)
        noise = jnp.where((color == number)[:, None], colored[:, _PINK_TAPS:], noise)
    return noise


def pink(white: Float[Array, "batch samples"]) -> Float[Array, "batch samples"]:
    """Filter white noise by 1/sqrt(1 - 1/z), so that its power falls as 1/f (Kasdin 1995, eq. 104).

    The first 2,048 samples lack some low frequencies.
    """
    steps = np.arange(1, _PINK_TAPS)
    response = np.concatenate([[1.0], np.cumprod((steps - 0.5) / steps)])
    return convolve(white, jnp.broadcast_to(jnp.asarray(response, jnp.float32), (white.shape[0], _PINK_TAPS)))


def recorded_noise(
    keys: jax.Array, samples: int, recordings: Float[Array, "recordings noise_samples"]
) -> Float[Array, "batch samples"]:
    """Draw a recording and a start in it for each key, repeating the recording to fill the row."""
    chosen = rows.choice(rows.fold(keys, 0), recordings.shape[0])
    start = rows.choice(rows.fold(keys, 1), recordings.shape[1])
    repeats = 1 + -(-samples // recordings.shape[1])

    def cut(row, begin):
        return jax.lax.dynamic_slice(jnp.tile(row, repeats), (begin,), (samples,))

    return jax.vmap(cut)(recordings[chosen].astype(jnp.float32), start)


def add_noise(
    audio: Float[Array, "batch samples"],
    noise: Float[Array, "batch samples"],
    inside: Bool[Array, "batch samples"],
    snr_db: Float[Array, " batch"],
) -> Float[Array, "batch samples"]:
    """Add noise at a given signal-to-noise ratio. Silence stays silence.

    Args:
        audio: waveforms, zero beyond their lengths.
        noise: one row of noise per waveform, of any level.
        inside: True for the samples of the utterance.
        snr_db: ratio of signal to noise power over the utterance, in dB, per row.
    """
    noise = jnp.where(inside, noise, 0.0)
    signal_power, noise_power = jnp.sum(audio**2, axis=1), jnp.sum(noise**2, axis=1)
    scale = jnp.sqrt(signal_power / jnp.maximum(noise_power, 1e-20) * 10 ** (-snr_db / 10))
    return audio + scale[:, None] * noise
