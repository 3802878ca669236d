"""Streaming Griffin-Lim: chunks of mel frames in, chunks of waveform out, without audible seams.

A block of frames is inverted together with a few frames of look-ahead and with the samples before it, which are already
emitted and stay fixed (real-time iterative spectrogram inversion with look-ahead, Zhu, Beauregard and Wyse 2007), so
the phases of a block continue those before it. Its first hop is cross-faded with its estimate from the previous block's
look-ahead.

Compared with inverting the whole utterance at once: a delay of BLOCK + ceil(window/hop) + 1 frames, more transforms
by a factor of (BLOCK + 2·ceil(window/hop)) / BLOCK, and phases that later frames cannot improve. The measured loss, in
experiments/benchmarks/griffin_lim_stream.txt, is almost nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.emphasis import undo_emphasis
from speech_jax.audio.framing import chunked_frames, hops_per_window, num_samples, overlap_add, samples_before_first
from speech_jax.audio.griffin_lim import keeps_magnitudes, mel_to_magnitude
from speech_jax.audio.mel import checked_mels, window_values
from speech_jax.core.errors import UserError

BLOCK = 16  # frames inverted at a time


def frames_ahead(config: AudioConfig) -> int:
    """Return the number of look-ahead frames that a block needs before it can be inverted."""
    return hops_per_window(config)


def stream_wave(
    chunks: Iterable[Float[np.ndarray, "_frames mels"]],
    config: AudioConfig,
    *,
    iterations: int = 60,
    momentum: float = 0.99,
) -> Iterator[Float[np.ndarray, " _samples"]]:
    """Invert log-mel frames that arrive in chunks of any length, emitting audio as early as possible.

    The concatenated output has num_samples(frames, config) samples and does not depend on the chunking. It differs
    from the output of `mel_to_wave`, which estimates phases from the whole utterance.

    Args:
        chunks: log-mel frames of one utterance, in order.
        config: settings of the features.
        iterations: Griffin-Lim iterations per block.
        momentum: as in `griffin_lim.griffin_lim`.

    Yields:
        Samples in [-1, 1].

    Raises:
        UserError: the config's features do not preserve the magnitudes, or the frames are not finite.
    """
    if not keeps_magnitudes(config):
        raise UserError("AudioConfig: found features that lose the magnitudes, expected log_mel without deltas")
    chunks = checked_mels(chunks, config.width)
    yield from undo_emphasis(_blocks(chunks, config, iterations, momentum), config.scale, config.pre_emphasis)


def _blocks(
    chunks: Iterable[Float[np.ndarray, "_frames mels"]], config: AudioConfig, iterations: int, momentum: float
) -> Iterator[Float[np.ndarray, " _samples"]]:
    """Yield the waveform before scale and pre-emphasis are inverted."""
    ahead, left = frames_ahead(config), samples_before_first(config)
    waiting = past = None  # features of the frames not yet emitted, and of the last `ahead` emitted ones
    # The samples already emitted, then an estimate of those that follow.
    signal = np.zeros((2 * ahead + BLOCK + hops_per_window(config) - 1) * config.hop, np.float32)
    taken = 0  # frames already emitted
    for chunk in itertools.chain(chunks, (None,)):
        if chunk is not None:
            chunk = np.asarray(chunk, np.float32)
            past = np.zeros((ahead, chunk.shape[1]), np.float32) if past is None else past
            waiting = chunk if waiting is None else np.concatenate([waiting, chunk])
        while waiting is not None and len(waiting) > (BLOCK + ahead if chunk is not None else 0):
            final = len(waiting) <= BLOCK + ahead
            count = len(waiting) if final else BLOCK
            block = waiting[: BLOCK + ahead]
            window = np.zeros((2 * ahead + BLOCK, block.shape[1]), np.float32)
            window[:ahead], window[ahead : ahead + len(block)] = past, block
            frame_index = np.arange(len(window)) - ahead + taken
            valid = (frame_index >= 0) & (frame_index < taken + len(block))
            inverted = np.asarray(
                _invert(window, valid, signal, taken == 0, config=config, iterations=iterations, momentum=momentum)
            )
            begin = taken * config.hop  # in samples, counting the `left` ones before the recording's first
            end = num_samples(taken + count, config) + left if final else begin + count * config.hop
            emitted = inverted[ahead * config.hop :][max(left - begin, 0) : max(end - begin, 0)]
            taken, past, waiting = taken + count, window[count : count + ahead], waiting[count:]
            signal = np.pad(inverted[count * config.hop :], (0, count * config.hop))
            if len(emitted):
                yield emitted


@functools.partial(jax.jit, static_argnames=("config", "iterations", "momentum"))
def _invert(
    features: Float[Array, "frames mels"],
    valid: Bool[Array, " frames"],
    signal: Float[Array, " samples"],
    first: Bool[Array, ""],
    *,
    config: AudioConfig,
    iterations: int,
    momentum: float,
) -> Float[Array, " samples"]:
    """Invert a window of frames by fast Griffin-Lim, starting from the phases of `signal`.

    The samples of the frames before the block stay as in `signal`.
    """
    window = jnp.asarray(window_values(config), jnp.float32)[None]
    count, ahead = features.shape[0], frames_ahead(config)
    before = (config.n_fft - config.window) // 2
    features = jnp.where(valid[:, None], features, 0.0)
    magnitude = jnp.where(valid[:, None], mel_to_magnitude(features[None], config)[0], 0.0)
    weight = overlap_add(jnp.where(valid[:, None], window**2, 0.0)[None], config.hop)[0]
    least = 1e-3 * np.sum(window_values(config) ** 2) / config.hop
    fixed = jnp.arange(len(signal)) < ahead * config.hop

    def spectra(x: Array) -> Array:
        framed = chunked_frames(x[None], count, config.window, config.hop)[0] * window
        return jnp.fft.rfft(jnp.pad(framed, ((0, 0), (before, config.n_fft - config.window - before))))

    def samples(guess: Array) -> Array:
        framed = jnp.fft.irfft(guess, config.n_fft)[:, before : before + config.window] * window
        summed = overlap_add(jnp.where(valid[:, None], framed, 0.0)[None], config.hop)[0]
        return jnp.where(fixed, signal, summed / jnp.maximum(weight, least))

    def with_magnitude(spectrum: Array) -> Array:
        size = jnp.abs(spectrum)
        return jnp.where(size > 0, spectrum / jnp.where(size > 0, size, 1.0), 1.0) * magnitude

    lag = momentum / (1 + momentum)

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        guess, previous = state
        projected = spectra(samples(guess))
        return with_magnitude(projected - lag * previous), projected

    guess = with_magnitude(spectra(signal))
    guess, _ = jax.lax.fori_loop(0, iterations, step, (guess, jnp.zeros_like(guess)))
    inverted = samples(guess)
    rise = jnp.clip((jnp.arange(len(signal)) - ahead * config.hop + 0.5) / config.hop, 0.0, 1.0)
    return jnp.where(first, inverted, rise * inverted + (1 - rise) * signal)
