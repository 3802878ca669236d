"""Overlapping frames of waveforms without a gather: hop-sized chunks from a reshape, concatenated side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from speech_jax.audio.config import AudioConfig


def num_frames(samples, config: AudioConfig):
    """Return the number of frames of `samples` samples, as an int or an array (NumPy or JAX) like the input.

    Zero samples give zero frames. The formula of each framing is given at `AudioConfig.framing`.
    """
    if config.framing == "center":
        # plain arithmetic that gives 0 frames for 0 samples, for ints and arrays
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
    """Return the number of samples synthesized from `frames` frames, as an int or an array like the input.

    Inverse of `num_frames`, except that one frame of framing "center", and fewer frames of "full" than a window spans,
    give no samples.
    """
    extra = {"center": -1, "center_even": 0, "kaldi": 0, "full": 1 - hops_per_window(config)}
    if config.framing == "snip_edges":
        return (frames > 0) * ((frames - 1) * config.hop + config.window)
    hops = frames + extra[config.framing]
    return (hops > 0) * hops * config.hop


def hops_per_window(config: AudioConfig) -> int:
    """Return ceil(window / hop)."""
    return -(-config.window // config.hop)


def time_mask(lengths: Int[Array, " batch"], time: int) -> Bool[Array, "batch time"]:
    """Return the mask [batch, time] that is True where t < length."""
    return jnp.arange(time)[None, :] < lengths[:, None]


def chunked_frames(
    x: Float[Array, "batch samples"], count: int, length: int, hop: int
) -> Float[Array, "batch count length"]:
    """Cut frames x[t·hop : t·hop + length] for t < `count`, with zeros beyond the end of x.

    A reshape and a few shifted slices: a gather was 80 times slower on a TPU v5p (apple/axlearn,
    audio/frontend_benchmark.py).
    """
    if count == 0:
        return jnp.zeros((x.shape[0], 0, length), x.dtype)
    spanned = -(-length // hop)
    need = (count + spanned - 1) * hop
    x = jnp.pad(x, ((0, 0), (0, max(0, need - x.shape[1]))))[:, :need]
    chunks = x.reshape(x.shape[0], count + spanned - 1, hop)
    return jnp.concatenate([chunks[:, i : i + count] for i in range(spanned)], axis=-1)[..., :length]


def overlap_add(frames: Float[Array, "batch count length"], hop: int) -> Float[Array, "batch samples"]:
    """Sum the frames, frame t starting at sample t·hop: the transpose of `chunked_frames`.

    The result has (count + ceil(length/hop) - 1)·hop samples.
    """
    batch, count, length = frames.shape
    spanned = -(-length // hop)
    frames = jnp.pad(frames, ((0, 0), (0, 0), (0, spanned * hop - length)))
    chunks = frames.reshape(batch, count, spanned, hop)
    shifted = [jnp.pad(chunks[:, :, i], ((0, 0), (i, spanned - 1 - i), (0, 0))) for i in range(spanned)]
    return sum(shifted[1:], start=shifted[0]).reshape(batch, -1)


def frame(
    x: Float[Array, "batch samples"], lengths: Int[Array, " batch"], config: AudioConfig, count: int
) -> Float[Array, "batch frames window"]:
    """Cut the first `count` frames of each row, both ends of its utterance padded as `config.padding` says.

    Args:
        x: waveforms, zero beyond their lengths.
        lengths: valid samples per row.
        config: settings of window, hop, framing and padding.
        count: number of frames to cut.
    """
    left = samples_before_first(config)
    if config.framing == "snip_edges":
        padded = x
    elif config.padding == "zero":
        padded = jnp.pad(x, ((0, 0), (left, 0)))
    else:
        padded = _mirror_ends(x, lengths, left, config.window - left, edge=config.padding == "symmetric")
    return chunked_frames(padded, count, config.window, config.hop)


def samples_before_first(config: AudioConfig) -> int:
    """Return the number of samples by which the window of frame 0 extends left of sample 0."""
    if config.framing == "kaldi":
        return config.window // 2 - config.hop // 2
    if config.framing == "snip_edges":
        return 0
    if config.framing == "full":
        return (hops_per_window(config) - 1) * config.hop
    # torch and librosa pad the window by (n_fft - window)//2 on the left, and center the padded one on t·hop
    return config.n_fft // 2 - (config.n_fft - config.window) // 2


def _mirror_ends(x, lengths, left: int, right: int, edge: bool):
    """Return x with `left` mirrored samples before it and `right` after the end of each row's utterance.

    The right end differs per row, so one short slice per row is cut out, reversed and written back.
    """
    reach = max(left, right) + 1
    skip = 0 if edge else 1  # `edge`: the edge sample is repeated
    padded = jnp.pad(x, ((0, 0), (reach, reach)))
    head = padded[:, reach + skip : reach + skip + left][:, ::-1]

    def mirror_tail(row, length):
        tail = jax.lax.dynamic_slice(row, (length + reach - skip - right,), (right,))
        return jax.lax.dynamic_update_slice(row, tail[::-1], (length + reach,))

    padded = jax.vmap(mirror_tail)(padded, lengths)
    return jnp.concatenate([head, padded[:, reach:]], axis=1)
