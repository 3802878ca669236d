"""Augmentation of waveforms and features: pure, batched functions of a random key, with static shapes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from speech_jax.audio import rows
from speech_jax.audio.config import AugmentConfig
from speech_jax.audio.framing import time_mask
from speech_jax.audio.noise import add_noise, colored_noise, recorded_noise
from speech_jax.audio.reverb import given_responses, reverberate, simulate_responses
from speech_jax.audio.speed import change_speed, perturbed_length


def augmented_samples(samples: int, config: AugmentConfig) -> int:
    """Return the output width of `augment_audio` for `samples` input samples: enough for the slowest speed."""
    return max((perturbed_length(samples, f) for f in config.speed), default=samples)


def augment_audio(
    key: jax.Array,
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    config: AugmentConfig,
    *,
    index: Int[Array, " batch"] | None = None,
    sample_rate: int = 16000,
    noise: Float[Array, "recordings noise_samples"] | None = None,
    responses: Float[Array, "responses taps"] | None = None,
) -> tuple[Float[Array, "batch output"], Int[Array, " batch"]]:
    """Apply speed perturbation, reverberation, additive noise and gain, in this order.

    All draws for an utterance depend on `key` and its index alone, so it is changed in the same way whatever it is
    batched with. Samples above 1 are not clipped.

    Args:
        key: random key of the step.
        audio: waveforms in [-1, 1].
        lengths: valid samples per row.
        config: probabilities and ranges of each effect.
        index: number of each utterance in its manifest; by default the row number.
        sample_rate: samples per second, for simulated rooms.
        noise: recordings to draw noise from instead of synthetic colors, each row filled to its end.
        responses: impulse responses to draw from instead of simulated rooms.

    Returns:
        The augmented waveforms [batch, augmented_samples(samples, config)], zero beyond each row's length, and the new
        lengths [batch].
    """
    batch = audio.shape[0]
    audio = jnp.where(time_mask(lengths, audio.shape[1]), audio.astype(jnp.float32), 0.0)

    if config.speed:
        choices = rows.choice(rows.row_keys(key, batch, index, rows.SPEED), len(config.speed))
        audio, lengths = change_speed(audio, lengths, choices, config.speed)
    inside = time_mask(lengths, audio.shape[1])

    if config.reverb > 0:
        keys = rows.row_keys(key, batch, index, rows.REVERB)
        if responses is None:
            taps = math.ceil(config.reverb_length * sample_rate)
            rooms = simulate_responses(keys, taps, sample_rate, config.reverb_seconds, config.reverb_direct)
        else:
            rooms = given_responses(keys, responses)
        audio = jnp.where(_happens(keys, config.reverb), reverberate(audio, rooms, inside), audio)

    if config.noise > 0:
        keys = rows.row_keys(key, batch, index, rows.NOISE)
        if noise is None:
            noise_rows = colored_noise(keys, audio.shape[1], config.noise_colors)
        else:
            noise_rows = recorded_noise(keys, audio.shape[1], noise)
        snr = rows.uniform(rows.fold(keys, _AMOUNT), *config.noise_snr)
        audio = jnp.where(_happens(keys, config.noise), add_noise(audio, noise_rows, inside, snr), audio)

    if config.gain > 0:
        keys = rows.row_keys(key, batch, index, rows.GAIN)
        level = 10 ** (rows.uniform(rows.fold(keys, _AMOUNT), *config.gain_db) / 20)
        audio = jnp.where(_happens(keys, config.gain), audio * level[:, None], audio)
    return audio, lengths


_HAPPENS, _AMOUNT = 100, 101  # fold-in numbers that no effect uses for its own draws


def _happens(keys: jax.Array, probability: float) -> Bool[Array, "batch 1"]:
    return (rows.uniform(rows.fold(keys, _HAPPENS)) < probability)[:, None]


def spec_augment(
    key: jax.Array,
    features: Float[Array, "batch frames features"],
    mask: Bool[Array, "batch frames"],
    config: AugmentConfig,
    *,
    index: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch frames features"]:
    """Apply SpecAugment (Park et al. 2019) without time warping: masked bands and spans become `config.mask_value`.

    For each mask, a width is drawn uniformly from 0 to its maximum, then a start among all that keep the mask inside
    the utterance.

    Args:
        key: random key of the step.
        features: features to mask.
        mask: True for real frames; padding frames are returned unchanged.
        config: number and size of the masks.
        index: as in `augment_audio`.

    Returns:
        The masked features, same shape and dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.audio.augment import spec_augment
        >>> from speech_jax.audio.config import AugmentConfig
        >>> features, mask = jnp.ones((2, 50, 80)), jnp.ones((2, 50), bool)
        >>> config = AugmentConfig(freq_masks=2, time_masks=5)
        >>> masked = spec_augment(jax.random.key(0), features, mask, config)
        >>> masked.shape, bool((masked == 0).any())
        ((2, 50, 80), True)
    """
    batch, frames, width = features.shape
    keys = rows.row_keys(key, batch, index, rows.SPEC_AUGMENT)
    count = jnp.sum(mask, axis=1)
    hidden = jnp.zeros((batch, frames, width), bool)
    if config.freq_masks:
        size, greatest = jnp.full(batch, width), jnp.full(batch, min(config.freq_width, width))
        hidden |= _spans(rows.fold(keys, 0), size, greatest, config.freq_masks, width)[:, None, :]
    if config.time_masks:
        greatest = jnp.maximum(1, (count * config.time_width).astype(jnp.int32))
        if config.time_width_max:
            greatest = jnp.minimum(greatest, config.time_width_max)
        greatest = jnp.minimum(greatest, count)
        hidden |= _spans(rows.fold(keys, 1), count, greatest, config.time_masks, frames)[:, :, None]
    return jnp.where(hidden & mask[..., None], jnp.asarray(config.mask_value, features.dtype), features)


def _spans(keys, size: Int[Array, " batch"], greatest: Int[Array, " batch"], count: int, length: int):
    """[batch, length]: True inside any of `count` random spans per row, each up to `greatest` long, within `size`."""
    draws = rows.uniform(keys, count=2 * count)
    width = jnp.floor(draws[:, :count] * (greatest[:, None] + 1))
    start = jnp.floor(draws[:, count:] * (size[:, None] - width + 1))
    place = jnp.arange(length)[None, None, :]
    return jnp.any((place >= start[..., None]) & (place < (start + width)[..., None]), axis=1)
