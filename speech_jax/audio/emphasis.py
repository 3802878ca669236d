"""Transform of a vocoder's target waveform and its inverse: high-pass, gain, pre-emphasis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.convolution import convolve_fixed
from speech_jax.audio.framing import time_mask
from speech_jax.audio.mel import high_pass_taps


def apply_emphasis(
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    config: AudioConfig,
    gain: float,
    pre_emphasis: float,
) -> Float[Array, "batch samples"]:
    """Transform waveforms as a vocoder is trained to predict them.

    Args:
        audio: waveforms in [-1, 1].
        lengths: valid samples per row.
        config: audio settings; the high-pass is applied if `config.high_pass` is set.
        gain: factor on the samples.
        pre_emphasis: coefficient c of y[n] = x[n] - c·x[n-1], applied last; 0 turns it off.

    Returns:
        The transformed waveforms, zero beyond each length.
    """
    inside = time_mask(lengths, audio.shape[1])
    x = jnp.where(inside, audio.astype(jnp.float32), 0.0)
    if config.high_pass:
        x = jnp.where(inside, convolve_fixed(x, high_pass_taps(config)), 0.0)
    x = x * gain
    if pre_emphasis:
        x = jnp.where(inside, x - pre_emphasis * jnp.pad(x, ((0, 0), (1, 0)))[:, :-1], 0.0)
    return x


def undo_emphasis(
    chunks: Iterable[Float[np.ndarray, " samples"]], gain: float, pre_emphasis: float
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Invert gain and pre-emphasis over the successive chunks of one recording, clipped to [-1, 1].

    The high-pass is not inverted: it removed that part of the signal.
    """
    from scipy.signal import lfilter  # slow to import, and few runs need it

    state = np.zeros(1)
    for chunk in chunks:
        if pre_emphasis:
            chunk, state = lfilter([1.0], [1.0, -pre_emphasis], chunk, zi=state)
        yield np.clip(chunk / gain, -1.0, 1.0).astype(np.float32)
