"""Cutting waveforms into overlapping frames without a gather: hop-sized chunks by a reshape, put side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from speech_jax.audio.config import AudioConfig


def num_frames(samples, config: AudioConfig):
    """Number of frames of an utterance of `samples` samples: an int for an int, else an array (NumPy or JAX) alike.

    An utterance of no samples has no frames. The formula for each framing is in AudioConfig.framing.
    """
    if config.framing == "center":
        # written so that 0 samples give 0 frames in plain arithmetic, for ints and arrays alike
        return (samples + config.hop) // config.hop - 1 * (samples <= 0)
    if config.framing == "center_even":
        return samples // config.hop
    if config.framing == "kaldi":
        return (samples + config.hop // 2) // config.hop
    if config.framing == "full":
        return (samples > 0) * (-(-samples // config.hop) + hops_per_window(config) - 1)
    fits = samples >= config.window
    return fits * ((samples - config.window) // config.hop + 1)


def num_samples(frames, config: AudioConfig):
    """Number of samples that `frames` frames stand for, for an int or an array: num_frames of it is `frames` again,
    except that a single frame of framing "center" and few of "full" stand for none. What synthesis makes of them."""
    extra = {"center": -1, "center_even": 0, "kaldi": 0, "full": 1 - hops_per_window(config)}
    if config.framing == "snip_edges":
        return (frames > 0) * ((frames - 1) * config.hop + config.window)
    hops = frames + extra[config.framing]
    return (hops > 0) * hops * config.hop


def hops_per_window(config: AudioConfig) -> int:
    """How many hops a window spans, a broken one as a whole."""
    return -(-config.window // config.hop)


def time_mask(lengths: Int[Array, " batch"], time: int) -> Bool[Array, "batch time"]:
    """True where t < length."""
    return jnp.arange(time)[None, :] < lengths[:, None]


def chunked_frames(
    x: Float[Array, "batch samples"], count: int, length: int, hop: int
) -> Float[Array, "batch count length"]:
    """Frame t is x[t·hop : t·hop + length], zeros beyond the end. A reshape and a few shifted slices.

    A gather in its place was 80 times slower on a TPU v5p (apple/axlearn, audio/frontend_benchmark.py).
    """
    if count == 0:
        return jnp.zeros((x.shape[0], 0, length), x.dtype)
    spanned = -(-length // hop)
    need = (count + spanned - 1) * hop
    x = jnp.pad(x, ((0, 0), (0, max(0, need - x.shape[1]))))[:, :need]
    chunks = x.reshape(x.shape[0], count + spanned - 1, hop)
    return jnp.concatenate([chunks[:, i : i + count] for i in range(spanned)], axis=-1)[..., :length]


def overlap_add(frames: Float[Array, "batch count length"], hop: int) -> Float[Array, "batch samples"]:
    """The sum of the frames, frame t laid at t·hop: the transpose of `chunked_frames`.

    (count + ceil(length/hop) - 1)·hop samples.
    """
    batch, count, length = frames.shape
    spanned = -(-length // hop)
    frames = jnp.pad(frames, ((0, 0), (0, 0), (0, spanned * hop - length)))
    chunks = frames.reshape(batch, count, spanned, hop)
    places = [jnp.pad(chunks[:, :, i], ((0, 0), (i, spanned - 1 - i), (0, 0))) for i in range(spanned)]
    return sum(places).reshape(batch, -1)


def frame(
    x: Float[Array, "batch samples"], lengths: Int[Array, " batch"], config: AudioConfig, count: int
) -> Float[Array, "batch frames window"]:
    """The first `count` frames of each row, its ends padded as the config says. x must be zero beyond each length."""
    left = samples_before_first(config)
    if config.framing == "snip_edges":
        padded = x
    elif config.padding == "zero":
        padded = jnp.pad(x, ((0, 0), (left, 0)))
    else:
        padded = _mirror_ends(x, lengths, left, config.window - left, edge=config.padding == "symmetric")
    return chunked_frames(padded, count, config.window, config.hop)


def samples_before_first(config: AudioConfig) -> int:
    """How far the window of frame 0 reaches to the left of sample 0."""
    if config.framing == "kaldi":
        return config.window // 2 - config.hop // 2
    if config.framing == "snip_edges":
        return 0
    if config.framing == "full":
        return (hops_per_window(config) - 1) * config.hop
    # torch and librosa pad the window by (n_fft - window)//2 on the left, and center the padded one on t·hop
    return config.n_fft // 2 - (config.n_fft - config.window) // 2


def _mirror_ends(x, lengths, left: int, right: int, edge: bool):
    """x with `left` mirrored samples before it and `right` after each row's own length.

    The right end is a different place in each row: one short slice a row is cut out, reversed and put back.
    """
    reach = max(left, right) + 1
    skip = 0 if edge else 1  # whether the edge sample is repeated
    padded = jnp.pad(x, ((0, 0), (reach, reach)))
    head = padded[:, reach + skip : reach + skip + left][:, ::-1]

    def mirror_tail(row, length):
        tail = jax.lax.dynamic_slice(row, (length + reach - skip - right,), (right,))
        return jax.lax.dynamic_update_slice(row, tail[::-1], (length + reach,))

    padded = jax.vmap(mirror_tail)(padded, lengths)
    return jnp.concatenate([head, padded[:, reach:]], axis=1)
