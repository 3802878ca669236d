"""Features of waveforms on the device: log-mel, MFCC, derivatives, normalization, or the normalized samples alone.

All functions are pure functions of a padded batch. None gathers over the batch: frames are reshapes and transforms are
matrix products (an rfft of a batch that is sharded over devices makes XLA gather all of it).
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
from speech_jax.core.arrays import check_array

__all__ = ["extract_features", "num_features", "num_frames"]


# XLA on a CPU sums matrix products with fewer than 64 rows in another order. With at least this many rows, an
# utterance has the same features in every bucket, to the last bit.
_LEAST_FRAMES = 128


def num_features(config: AudioConfig) -> int:
    """Return the number of features per frame, derivatives included."""
    return config.width


def extract_features(
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    config: AudioConfig,
    *,
    key: jax.Array | None = None,
    index: Int[Array, " batch"] | None = None,
) -> tuple[Float[Array, "batch frames features"], Bool[Array, "batch frames"]]:
    """Compute the features of a batch of waveforms.

    Args:
        audio: waveforms in [-1, 1] at `config.sample_rate`. Values beyond a row's length, NaN too, have no influence.
        lengths: valid samples per row.
        config: kind of features and their settings.
        key: adds dither, for training; row i draws from fold_in(key, index[i]).
        index: number of each utterance in its manifest; by default the row number.

    Returns:
        Features, float32 [batch, num_frames(samples, config), features], zero at padding, and their mask
        [batch, frames]; row i has num_frames(lengths[i], config) real frames.

    Raises:
        ValueError: for samples that are no floating-point numbers, such as int16, or another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.audio.features import extract_features
        >>> from speech_jax.audio.presets import nemo
        >>> features, mask = extract_features(jnp.zeros((2, 16000)), jnp.array([16000, 8000]), nemo())
        >>> features.shape, mask.sum(1).tolist()
        ((2, 100, 80), [100, 50])
    """
    check_array("audio", audio, "float", "batch", "samples")
    check_array("lengths", lengths, "int", audio.shape[0])
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
    """Return |DFT|^power of windowed frames.

    On a CPU the two halves of each frame are first folded onto each other, which halves the multiplications: about the
    middle, the cosines are even and the sines odd. On accelerators the reversal costs more than it saves.
    """
    frames = jnp.pad(frames, ((0, 0), (0, 0), (0, frames.shape[-1] % 2)))
    power = jax.lax.platform_dependent(frames, cpu=_folded(config.n_fft), default=_direct(config.n_fft))
    if config.power == 2:
        return power
    # the square root has an infinite slope at 0; silence gets slope 0
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
    """Append time derivatives as Kaldi's add-deltas does (feature-functions.cc).

    Order n is the nth self-convolution of the regression filter, applied to features whose first and last frame are
    repeated beyond the ends.
    """
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
        first, *others = (weight * padded[:, begin : begin + mask.shape[1]] for begin, weight in taps)
        orders.append(sum(others, start=first))
    return jnp.concatenate(orders, axis=-1)


def _dot(x, matrix: np.ndarray):
    # "highest": the default precision rounds the factors to bfloat16 on a TPU and to TF32 on a GPU
    return jnp.dot(x, jnp.asarray(matrix, jnp.float32), precision="highest", preferred_element_type=jnp.float32)


def _log(energy, config: AudioConfig):
    energy = energy + config.floor if config.floor_by == "add" else jnp.maximum(energy, config.floor)
    if config.ceiling:
        energy = jnp.minimum(energy, config.ceiling)
    natural = jnp.log(energy)
    if config.log == "natural":
        return natural
    return natural * ((1.0 if config.log == "log10" else 20.0 / config.power) / np.log(10.0))
