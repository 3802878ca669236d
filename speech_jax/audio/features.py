"""Waveforms to features on the device: log-mel, MFCC, derivatives, normalization, or the normalized samples alone.
Pure functions of a padded batch.

Nothing here gathers over the batch: frames are reshapes, transforms are matrix products (an rfft of a batch that is
sharded over devices makes XLA gather all of it).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from speech_jax.audio import rows
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.convolution import convolve_fixed
from speech_jax.audio.framing import frame, num_frames, time_mask
from speech_jax.audio.mel import (
    cosine_matrix,
    fourier_matrices,
    high_pass_taps,
    lifter_values,
    mel_matrix,
    window_values,
)
from speech_jax.audio.normalize import normalize

__all__ = ["extract_features", "num_features", "num_frames"]


# XLA on a CPU adds up the products of matrices with fewer than 64 rows in another order. With no fewer rows than this,
# an utterance has the same features in every bucket, to the last bit.
_LEAST_FRAMES = 128


def num_features(config: AudioConfig) -> int:
    """Width of the features, derivatives included."""
    return config.width


def extract_features(
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    config: AudioConfig,
    *,
    key: jax.Array | None = None,
    index: Int[Array, " batch"] | None = None,
) -> tuple[Float[Array, "batch frames features"], Bool[Array, "batch frames"]]:
    """Features (float32) and their mask; zero where the mask is False.

    audio: in [-1, 1] at config.sample_rate; whatever lies beyond a row's length, NaN too, has no influence.
    lengths: samples in each row.
    key: adds the dither, for training. Row i then draws from fold_in(key, index[i]), by default index[i] = i.

    The number of frames is num_frames(samples, config), static; row i has num_frames(lengths[i], config) real ones.
    """
    samples = audio.shape[1]
    inside = time_mask(lengths, samples)
    x = jnp.where(inside, audio.astype(jnp.float32) * config.scale, 0.0)
    if key is not None and config.dither > 0:
        noise = rows.normal(rows.row_keys(key, audio.shape[0], index, rows.DITHER), samples)
        x = jnp.where(inside, x + config.dither * noise, 0.0)
    if config.high_pass:
        x = jnp.where(inside, convolve_fixed(x, high_pass_taps(config)), 0.0)
    if config.pre_emphasis and config.pre_emphasis_by == "utterance":
        before = jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]
        x = jnp.where(inside, x - config.pre_emphasis * before, 0.0)

    if config.features == "waveform":
        return normalize(x[..., None], inside, config), inside

    count = num_frames(samples, config)
    frames = frame(x, lengths, config, max(count, _LEAST_FRAMES))
    mask = time_mask(num_frames(lengths, config), frames.shape[1])
    if config.remove_dc:
        frames = frames - jnp.mean(frames, axis=-1, keepdims=True)
    energy = _log(jnp.sum(frames**2, axis=-1, keepdims=True), config) if config.log_energy else None
    if config.pre_emphasis and config.pre_emphasis_by == "frame":
        before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
        frames = frames - config.pre_emphasis * before
    frames = frames * jnp.asarray(window_values(config), jnp.float32)[None, None]

    features = _dot(spectrum(frames, config), mel_matrix(config))
    features = _log(features, config)
    if config.top_range > 0:
        greatest = jnp.max(jnp.where(mask[..., None], features, -jnp.inf), axis=(1, 2), keepdims=True)
        features = jnp.maximum(features, greatest - config.top_range)
    if config.features == "mfcc":
        features = _dot(features, cosine_matrix(config.num_mels, config.num_cepstra) * lifter_values(config))
        if energy is not None:
            features = jnp.concatenate([energy, features[..., 1:]], axis=-1)
    features = append_deltas(features, mask, config)
    return normalize(features, mask, config)[:, :count], mask[:, :count]


def spectrum(frames: Float[Array, "batch frames window"], config: AudioConfig) -> Float[Array, "batch frames bins"]:
    """|DFT|^power of windowed frames.

    On a CPU the halves of the frame are first folded upon each other, since the cosines are even about the middle and
    the sines odd: half the multiplications. Accelerators have multiplications to spare and dislike the reversal.
    """
    frames = jnp.pad(frames, ((0, 0), (0, 0), (0, frames.shape[-1] % 2)))
    power = jax.lax.platform_dependent(frames, cpu=_folded(config.n_fft), default=_direct(config.n_fft))
    if config.power == 2:
        return power
    # the square root has no finite slope at 0; silence gets slope 0
    return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)


def _direct(n_fft):
    def power(frames):
        cosines, sines = fourier_matrices(frames.shape[-1], n_fft)
        real, imaginary = jnp.split(_dot(frames, np.concatenate([cosines, sines], axis=1)), 2, axis=-1)
        return real**2 + imaginary**2

    return power


def _folded(n_fft):
    def power(frames):
        cosines, sines = fourier_matrices(frames.shape[-1], n_fft)
        half = frames.shape[-1] // 2
        first, second = frames[..., :half], frames[..., half:][..., ::-1]
        return _dot(first + second, cosines[:half]) ** 2 + _dot(first - second, sines[:half]) ** 2

    return power


def append_deltas(
    features: Float[Array, "batch frames features"], mask: Bool[Array, "batch frames"], config: AudioConfig
) -> Float[Array, "batch frames all"]:
    """Kaldi's add-deltas (feature-functions.cc): order n is the nth self-convolution of the regression filter, applied
    to features that repeat their first and last frame beyond the ends."""
    if config.deltas == 0:
        return features
    steps = np.arange(-config.delta_window, config.delta_window + 1)
    base = steps / np.sum(steps**2)
    count = jnp.sum(mask, axis=1)
    is_last = jnp.arange(mask.shape[1])[None, :] == count[:, None] - 1
    last = jnp.sum(jnp.where(is_last[..., None], features, 0.0), axis=1, keepdims=True)
    reach = config.delta_window * config.deltas
    body = jnp.where(mask[..., None], features, last)
    padded = jnp.concatenate([jnp.repeat(body[:, :1], reach, 1), body, jnp.repeat(last, reach, 1)], axis=1)
    orders, kernel = [features], np.ones(1)
    for _ in range(config.deltas):
        kernel = np.convolve(kernel, base)
        start = reach - len(kernel) // 2
        taps = [(start + i, float(weight)) for i, weight in enumerate(kernel) if weight]
        orders.append(sum(weight * padded[:, at : at + mask.shape[1]] for at, weight in taps))
    return jnp.concatenate(orders, axis=-1)


def _dot(x, matrix: np.ndarray):
    # "highest", because the default of a TPU rounds the factors to bfloat16 and that of a GPU to TF32
    return jnp.dot(x, jnp.asarray(matrix, jnp.float32), precision="highest", preferred_element_type=jnp.float32)


def _log(energy, config: AudioConfig):
    energy = energy + config.floor if config.floor_by == "add" else jnp.maximum(energy, config.floor)
    if config.ceiling:
        energy = jnp.minimum(energy, config.ceiling)
    natural = jnp.log(energy)
    if config.log == "natural":
        return natural
    return natural * ((1.0 if config.log == "log10" else 20.0 / config.power) / np.log(10.0))
