"""Griffin-Lim while the frames are still being made: chunks of mel frames in, chunks of waveform out, without a seam.

A block of frames is inverted together with the few that follow, and with the samples before it, which have gone out
and stay as they are (real-time iterative spectrogram inversion with look-ahead, Zhu, Beauregard and Wyse 2007). So the
phases of a block go on where those before it ended. Its first hop is cross-faded with what the look-ahead had made of
it.

What it costs beside the whole at once: a delay of BLOCK + ceil(window/hop) + 1 frames, more transforms by
(BLOCK + twice that many) / BLOCK, and phases that cannot be mended later. Measured, in
experiments/benchmarks/griffin_lim_stream.txt, it is next to nothing.
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
from speech_jax.audio.mel import window_values
from speech_jax.core.errors import UserError

BLOCK = 16  # frames that are inverted at a time


def frames_ahead(config: AudioConfig) -> int:
    """Frames beyond a block that have to be there before it can become sound."""
    return hops_per_window(config)


def stream_wave(
    chunks: Iterable[Float[np.ndarray, "frames mels"]],
    config: AudioConfig,
    *,
    iterations: int = 60,
    momentum: float = 0.99,
) -> Iterator[Float[np.ndarray, " samples"]]:
    """The waveform of log-mel frames that come in chunks of any length, in [-1, 1], as soon as it can be made.

    Put together it has num_samples(frames, config) samples, and does not depend on how the frames were cut. It is not
    the waveform of `mel_to_wave`, whose phases see the whole utterance. Raises UserError for a config whose features do
    not keep the magnitudes.
    """
    if not keeps_magnitudes(config):
        raise UserError("AudioConfig: found features that lose the magnitudes, expected log_mel without deltas")
    yield from undo_emphasis(_blocks(chunks, config, iterations, momentum), config.scale, config.pre_emphasis)


def _blocks(
    chunks: Iterable[Float[np.ndarray, "frames mels"]], config: AudioConfig, iterations: int, momentum: float
) -> Iterator[Float[np.ndarray, " samples"]]:
    """The samples that the features were made of, scaled and pre-emphasized as the config says."""
    ahead, left = frames_ahead(config), samples_before_first(config)
    waiting = past = None  # features: of frames that are not sound yet, and of the last ones that are
    # The samples already emitted, then an estimate of those that follow.
    signal = np.zeros((2 * ahead + BLOCK + hops_per_window(config) - 1) * config.hop, np.float32)
    taken = 0  # frames that are sound
    for chunk in itertools.chain(chunks, (None,)):
        if chunk is not None:
            chunk = np.asarray(chunk, np.float32)
            past = np.zeros((ahead, chunk.shape[1]), np.float32) if past is None else past
            waiting = chunk if waiting is None else np.concatenate([waiting, chunk])
        while waiting is not None and len(waiting) > (BLOCK + ahead if chunk is not None else 0):
            final = len(waiting) <= BLOCK + ahead
            count = len(waiting) if final else BLOCK
            now = waiting[: BLOCK + ahead]
            window = np.zeros((2 * ahead + BLOCK, now.shape[1]), np.float32)
            window[:ahead], window[ahead : ahead + len(now)] = past, now
            place = np.arange(len(window)) - ahead + taken  # of each row among all frames
            valid = (place >= 0) & (place < taken + len(now))
            made = np.asarray(_invert(window, valid, signal, taken == 0, config, iterations, momentum))
            begin = taken * config.hop  # in samples, those before the first one of the recording counted
            end = num_samples(taken + count, config) + left if final else begin + count * config.hop
            sound = made[ahead * config.hop :][max(left - begin, 0) : max(end - begin, 0)]
            taken, past, waiting = taken + count, window[count : count + ahead], waiting[count:]
            signal = np.pad(made[count * config.hop :], (0, count * config.hop))
            if len(sound):
                yield sound


@functools.partial(jax.jit, static_argnames=("config", "iterations", "momentum"))
def _invert(
    features: Float[Array, "frames mels"],
    valid: Bool[Array, " frames"],
    signal: Float[Array, " samples"],
    first: Bool[Array, ""],
    config: AudioConfig,
    iterations: int,
    momentum: float,
) -> Float[Array, " samples"]:
    """The samples under a window of frames: those of the frames before the block as `signal` has them, the others by
    fast Griffin-Lim, from the phases that `signal` has there."""
    window = jnp.asarray(window_values(config), jnp.float32)[None]
    count, ahead = features.shape[0], frames_ahead(config)
    before = (config.n_fft - config.window) // 2
    features = jnp.where(valid[:, None], features, 0.0)
    magnitude = jnp.where(valid[:, None], mel_to_magnitude(features[None], config)[0], 0.0)
    weight = overlap_add(jnp.where(valid[:, None], window**2, 0.0)[None], config.hop)[0]
    least = 1e-3 * np.sum(window_values(config) ** 2) / config.hop
    known = jnp.arange(len(signal)) < ahead * config.hop

    def spectra(x: Array) -> Array:
        framed = chunked_frames(x[None], count, config.window, config.hop)[0] * window
        return jnp.fft.rfft(jnp.pad(framed, ((0, 0), (before, config.n_fft - config.window - before))))

    def samples(guess: Array) -> Array:
        framed = jnp.fft.irfft(guess, config.n_fft)[:, before : before + config.window] * window
        made = overlap_add(jnp.where(valid[:, None], framed, 0.0)[None], config.hop)[0]
        return jnp.where(known, signal, made / jnp.maximum(weight, least))

    def sized(found: Array) -> Array:
        size = jnp.abs(found)
        return jnp.where(size > 0, found / jnp.where(size > 0, size, 1.0), 1.0) * magnitude

    lag = momentum / (1 + momentum)

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        guess, old = state
        found = spectra(samples(guess))
        return sized(found - lag * old), found

    guess = sized(spectra(signal))
    guess, _ = jax.lax.fori_loop(0, iterations, step, (guess, jnp.zeros_like(guess)))
    made = samples(guess)
    rise = jnp.clip((jnp.arange(len(signal)) - ahead * config.hop + 0.5) / config.hop, 0.0, 1.0)
    return jnp.where(first, made, rise * made + (1 - rise) * signal)
