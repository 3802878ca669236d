"""Waveforms from mel spectrograms without a network: the fast Griffin-Lim algorithm (Perraudin et al. 2013).

The magnitudes within each band are estimated by a non-negative inverse of the mel matrix, the phases by alternating
between spectrogram and waveform until they agree. The result sounds metallic but needs no training. It works for every
log-mel config that preserves the magnitudes (not for normalize = "utterance", not for MFCCs).

The transforms are FFTs, for which a batch sharded over devices would be gathered (use jax.shard_map there).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from speech_jax.audio import rows
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.framing import frame, num_samples, overlap_add, samples_before_first, time_mask
from speech_jax.audio.mel import check_mel, mel_matrix, window_values
from speech_jax.core.errors import UserError

FRAMES_MULTIPLE = 128  # spectrograms are padded to multiples of this, so that few programs are compiled
_UPDATES = 30  # multiplicative updates in mel_to_magnitude


@functools.partial(jax.jit, static_argnames=("config", "iterations", "momentum"))
def mel_to_audio(
    features: Float[Array, "*batch frames mels"],
    frames: Int[Array, " batch"] | None = None,
    config: AudioConfig | None = None,
    *,
    iterations: int = 60,
    momentum: float = 0.99,
    key: jax.Array | None = None,
    index: Int[Array, " batch"] | None = None,
) -> tuple[Float[Array, "*batch samples"], Int[Array, "*batch"]]:
    """Invert log-mel features, as `features.extract_features` computes them, by Griffin-Lim.

    The config's scale and pre-emphasis are inverted; what its high-pass removed is lost. The function can be called
    under `jax.jit`; `mel_to_wave` is for one utterance on the host, and refuses frames that are not finite.

    Args:
        features: log-mel features [batch, frames, mels], or those of one utterance [frames, mels]. Values beyond
            `frames`, NaN too, have no influence.
        frames: number of real frames per row; None if all are real.
        config: settings of the features; must be given.
        iterations: Griffin-Lim iterations.
        momentum: as in `griffin_lim`.
        key: as in `griffin_lim`.
        index: as in `griffin_lim`.

    Returns:
        Waveforms, not clipped, and their lengths num_samples(frames, config); without the batch axis for one utterance.

    Raises:
        UserError: the config's features do not preserve the magnitudes, or the features have another shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from speech_jax.audio.griffin_lim import mel_to_audio
        >>> from speech_jax.audio.presets import nvidia_tacotron2
        >>> audio, samples = mel_to_audio(jnp.full((20, 80), -5.0), config=nvidia_tacotron2(), iterations=2)
        >>> audio.shape, int(samples)
        ((4864,), 4864)
        >>> @jax.jit
        ... def loudness(mel):
        ...     return jnp.abs(mel_to_audio(mel, config=nvidia_tacotron2(), iterations=2)[0]).mean()
        >>> loudness(jnp.full((2, 20, 80), -5.0)).shape
        ()
    """
    if config is None:
        raise UserError("mel_to_audio: found no config, expected the settings of the features")
    features = jnp.asarray(features)
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise UserError(f"mel_to_audio: found features of {features.dtype}, expected floating point")
    if features.ndim not in (2, 3) or (keeps_magnitudes(config) and features.shape[-1] != config.width):
        raise UserError(
            f"mel_to_audio: found features of shape {features.shape}, expected [batch, frames, {config.width}], or "
            f"[frames, {config.width}] for one utterance"
        )
    single = features.ndim == 2
    features = features[None] if single else features
    frames = jnp.full(features.shape[0], features.shape[1]) if frames is None else jnp.reshape(jnp.asarray(frames), -1)
    if frames.shape[0] != features.shape[0]:
        raise UserError(f"mel_to_audio: found {frames.shape[0]} counts of frames for {features.shape[0]} utterances")
    inside = time_mask(frames, features.shape[1])[..., None]
    magnitude = mel_to_magnitude(jnp.where(inside, features.astype(jnp.float32), 0.0), config)
    audio, lengths = griffin_lim(
        magnitude, frames, config, iterations=iterations, momentum=momentum, key=key, index=index
    )
    if config.pre_emphasis:
        audio = jnp.where(time_mask(lengths, audio.shape[1]), de_emphasize(audio, config.pre_emphasis), 0.0)
    audio = audio / config.scale
    return (audio[0], lengths[0]) if single else (audio, lengths)


def mel_to_wave(
    features: Float[np.ndarray, "frames mels"], config: AudioConfig, *, iterations: int = 60
) -> Float[np.ndarray, " samples"]:
    """Invert the log-mel features of one utterance by Griffin-Lim, on the host.

    Args:
        features: log-mel features of one utterance, without padding.
        config: settings of the features.
        iterations: Griffin-Lim iterations.

    Returns:
        Samples in [-1, 1], num_samples(frames, config) of them.

    Raises:
        UserError: the config's features do not preserve the magnitudes; the frames are not finite, or there are none.

    Example:
        >>> import numpy as np
        >>> from speech_jax.audio.griffin_lim import mel_to_wave
        >>> from speech_jax.audio.presets import nvidia_tacotron2
        >>> mel = np.full((20, 80), -5.0, np.float32)
        >>> mel_to_wave(mel, nvidia_tacotron2(), iterations=2).shape
        (4864,)
    """
    features = check_mel(np.asarray(features, np.float32), config.width, "the mel frames")
    # padded to a multiple of FRAMES_MULTIPLE, so that few programs are compiled
    size = -(-max(len(features), 1) // FRAMES_MULTIPLE) * FRAMES_MULTIPLE
    padded = np.zeros((1, size, features.shape[1]), np.float32)
    padded[0, : len(features)] = features
    wave, lengths = mel_to_audio(padded, np.array([len(features)]), config, iterations=iterations)
    return np.clip(np.asarray(wave)[0, : int(lengths[0])], -1.0, 1.0)


def mel_to_magnitude(
    features: Float[Array, "batch frames mels"], config: AudioConfig
) -> Float[Array, "batch frames bins"]:
    """Estimate the magnitude spectrum |DFT| (n_fft//2 + 1 bins) behind log-mel features.

    Inverts the logarithm, then the mel matrix: starting from its pseudo-inverse, clamped to a small share of the
    frame's mean, multiplicative updates for the Kullback-Leibler divergence (Lee and Seung 2001) keep every bin
    positive and bring the spectrum's bands to the given ones. Bins outside all bands are 0.
    """
    energy = mel_energy(features, config)
    bands = mel_matrix(config)
    inverse, weight = np.linalg.pinv(bands), np.sum(bands, axis=1)
    start = _dot(energy, inverse)
    least = 1e-3 * jnp.mean(jnp.maximum(start, 0.0), axis=-1, keepdims=True)
    start = jnp.where((weight > 0)[None, None], jnp.maximum(start, least), 0.0)
    per_weight = bands / np.where(weight > 0, weight, 1.0)[:, None]

    def update(_, spectrum):
        estimate = _dot(spectrum, bands)
        ratio = jnp.where(estimate > 0, energy / jnp.where(estimate > 0, estimate, 1.0), 0.0)
        return spectrum * _dot(ratio, per_weight.T)

    spectrum = jax.lax.fori_loop(0, _UPDATES, update, start)
    return spectrum if config.power == 1 else jnp.sqrt(spectrum)


def keeps_magnitudes(config: AudioConfig) -> bool:
    """Return True if a waveform can be recovered from such features."""
    return config.features == "log_mel" and not config.deltas and config.normalize in ("none", "global")


def mel_energy(features: Float[Array, "batch frames mels"], config: AudioConfig) -> Float[Array, "batch frames mels"]:
    """Return each mel band's magnitude, or power if config.power is 2, by inverting normalization and logarithm."""
    if not keeps_magnitudes(config):
        kind = f"features = {config.features}, deltas = {config.deltas}, normalize = {config.normalize}"
        raise UserError(f"AudioConfig: found {kind}, which lose the magnitudes; expected log_mel, 0, none or global")
    if config.normalize == "global":
        mean, std = (jnp.asarray(v, jnp.float32)[None, None] for v in (config.mean, config.std))
        features = features * std + mean
    base = {"natural": 1.0, "log10": np.log(10.0), "decibel": np.log(10.0) * config.power / 20}[config.log]
    energy = jnp.exp(features * base)
    return jnp.maximum(energy - config.floor, 0.0) if config.floor_by == "add" else energy


def griffin_lim(
    magnitude: Float[Array, "batch frames bins"],
    frames: Int[Array, " batch"],
    config: AudioConfig,
    *,
    iterations: int = 60,
    momentum: float = 0.99,
    key: jax.Array | None = None,
    index: Int[Array, " batch"] | None = None,
    phase: Float[Array, "batch frames bins"] | None = None,
) -> tuple[Float[Array, "batch samples"], Int[Array, " batch"]]:
    """Estimate waveforms with the given magnitude spectra by (fast) Griffin-Lim.

    Args:
        magnitude: magnitude spectra, with the config's window and framing.
        frames: number of real frames per row; the rest has no influence.
        config: settings of window and framing.
        iterations: number of iterations.
        momentum: 0 is plain Griffin-Lim (1984); above 0, each step is extrapolated by this share (the fast variant).
        key: draws random initial phases, from fold_in(key, index[i]) for row i; without a key they are 0.
        index: number of each utterance; by default the row number.
        phase: initial phases in radians, of frames that begin at the first sample of n_fft, instead of `key`.

    Returns:
        Waveforms and their lengths num_samples(frames, config).
    """
    inside = time_mask(frames, magnitude.shape[1])
    magnitude = jnp.where(inside[..., None], magnitude.astype(jnp.float32), 0.0)
    if phase is None:
        phase = jnp.zeros_like(magnitude) if key is None else _random_phase(key, index, magnitude.shape)
    lengths = num_samples(frames, config)
    lag = momentum / (1 + momentum)

    def step(_, state):
        guess, before = state
        spectra = stft(istft(guess, frames, config), lengths, config, magnitude.shape[1])
        ahead = spectra - lag * before
        size = jnp.abs(ahead)
        return jnp.where(size > 0, ahead / jnp.where(size > 0, size, 1.0), 1.0) * magnitude, spectra

    guess = magnitude * jnp.exp(1j * phase)
    guess, _ = jax.lax.fori_loop(0, iterations, step, (guess, jnp.zeros_like(guess)))
    return istft(guess, frames, config), lengths


def stft(
    audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"], config: AudioConfig, count: int
) -> Complex[Array, "batch count bins"]:
    """Compute the complex spectra of a batch, with the config's window, framing and padding.

    Args:
        audio: waveforms, zero beyond their lengths.
        lengths: valid samples per row.
        config: settings.
        count: number of frames to compute.
    """
    windowed = frame(audio, lengths, config, count) * jnp.asarray(window_values(config), jnp.float32)[None, None]
    before = (config.n_fft - config.window) // 2
    return jnp.fft.rfft(jnp.pad(windowed, ((0, 0), (0, 0), (before, config.n_fft - config.window - before))))


def istft(
    spectra: Complex[Array, "batch frames bins"], frames: Int[Array, " batch"], config: AudioConfig
) -> Float[Array, "batch samples"]:
    """Compute the waveform whose spectra are closest to the given ones (weighted overlap-add, Griffin and Lim 1984).

    Args:
        spectra: complex spectra, zero beyond `frames`.
        frames: number of real frames per row.
        config: settings of the spectra.

    Returns:
        Waveforms; row i has num_samples(frames[i], config) samples, then zeros.
    """
    count, window = spectra.shape[1], jnp.asarray(window_values(config), jnp.float32)[None, None]
    before = (config.n_fft - config.window) // 2
    windowed = jnp.fft.irfft(spectra, config.n_fft)[..., before : before + config.window] * window
    weight = jnp.where(time_mask(frames, count)[..., None], window**2, 0.0)
    # At the edges of framing "snip_edges" frames overlap only in part: the floor keeps the quotient from blowing up.
    least = 1e-3 * np.sum(window_values(config) ** 2) / config.hop
    whole = overlap_add(windowed, config.hop) / jnp.maximum(overlap_add(weight, config.hop), least)
    left, samples = samples_before_first(config), num_samples(count, config)
    return jnp.where(time_mask(num_samples(frames, config), samples), whole[:, left : left + samples], 0.0)


def spectral_convergence(
    audio: Float[Array, "batch samples"],
    magnitude: Float[Array, "batch frames bins"],
    frames: Int[Array, " batch"],
    config: AudioConfig,
) -> Float[Array, " batch"]:
    """Return the spectral convergence in dB, per row: 20·log10(‖|STFT(audio)| - magnitude‖ / ‖magnitude‖)."""
    inside = time_mask(frames, magnitude.shape[1])[..., None]
    spectra = jnp.abs(stft(audio, num_samples(frames, config), config, magnitude.shape[1]))
    target = jnp.where(inside, magnitude, 0.0)
    error = jnp.sum(jnp.where(inside, spectra - target, 0.0) ** 2, axis=(1, 2))
    return 10 * jnp.log10(error / jnp.sum(target**2, axis=(1, 2)))


def de_emphasize(
    audio: Float[Array, "batch samples"], coefficient: float | Float[Array, ""]
) -> Float[Array, "batch samples"]:
    """Invert pre-emphasis: y[n] = x[n] + coefficient·y[n-1]."""

    def join(first, second):
        return first[0] * second[0], first[1] * second[0] + second[1]

    return jax.lax.associative_scan(join, (jnp.full_like(audio, coefficient), audio), axis=1)[1]


def _random_phase(key, index, shape):
    batch, count, bins = shape
    draws = rows.uniform(rows.row_keys(key, batch, index, rows.PHASE), -np.pi, np.pi, count=count * bins)
    return draws.reshape(shape)


def _dot(x, matrix: np.ndarray):
    return jnp.dot(x, jnp.asarray(matrix, jnp.float32), precision="highest")
