"""Long recordings in overlapping windows, joined without a seam.

1. Features are computed over the whole recording, block by block with enough samples around each block that its frames
   are those of one pass, and normalized with the statistics of the whole recording: windows do not differ in level.
2. The encoder runs on windows of one static shape, core + 2 · context frames. Window starts are multiples of the
   encoder's subsampling, so that its frames lie on one grid whichever window they come from.
3. Of each window the middle is kept, where the encoder has heard `context` on both sides; the middles, side by side,
   are decoded once, so that no word is cut and none is heard twice.

For an encoder that looks at most `context` to each side the result is that of one pass; attention over the whole
utterance sees the window instead. What no windows mend: a network that was trained on clips of a few seconds, each
normalized by itself, is weaker on minutes of changing speakers and levels, in one pass as in many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.audio.mel import high_pass_taps
from speech_jax.audio.normalize import normalize
from speech_jax.core.types import PyTree


class Window(NamedTuple):
    """start: first feature frame. keep_from, keep_to: which of its own output frames are kept (None: to the end)."""

    start: int
    keep_from: int
    keep_to: int | None


def plan_windows(frames: int, core: int, context: int, factor: int) -> list[Window]:
    """Windows of core + 2 · context feature frames over a recording of `frames`; all but the last are full.

    core and context are multiples of `factor`, the feature frames an output frame stands for.
    """
    if core % factor or context % factor or core <= 0 or context < 0:
        raise ValueError(f"core {core} and context {context} must be multiples of {factor}")
    width = core + 2 * context
    if frames <= width:
        return [Window(0, 0, None)]
    windows, place = [Window(0, 0, (core + context) // factor)], core + context
    while place - context + width < frames:
        windows.append(Window(place - context, context // factor, (context + core) // factor))
        place += core
    last = -(-(frames - width) // factor) * factor  # as late as possible: the most context
    windows.append(Window(last, (place - last) // factor, None))
    return windows


def encode_windows(
    features: Float[np.ndarray, "frames features"],
    encode: Callable,
    *,
    core: int,
    context: int,
    factor: int,
    rows: int,
) -> PyTree:
    """Runs `encode` over the windows, `rows` at a time, and joins what it makes of their middles.

    encode: (features [rows, width, features], mask [rows, width]) -> (tree of arrays [rows, width / factor, …],
    mask [rows, width / factor]); called with one shape only. Returns the tree with NumPy arrays [frames', …].
    """
    width = core + 2 * context
    windows = plan_windows(len(features), core, context, factor)
    parts = []
    for first in range(0, len(windows), rows):
        group = windows[first : first + rows]
        batch = np.zeros((rows, width, features.shape[1]), np.float32)
        mask = np.zeros((rows, width), bool)
        for row, window in enumerate(group):
            piece = features[window.start : window.start + width]
            batch[row, : len(piece)], mask[row, : len(piece)] = piece, True
        outputs, real = jax.device_get(encode(batch, mask))
        for row, window in enumerate(group):
            end = int(real[row].sum()) if window.keep_to is None else window.keep_to
            parts.append(jax.tree.map(lambda x, row=row, a=window.keep_from, b=end: x[row, a:b], outputs))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)


def whole_features(
    audio: Float[np.ndarray, " samples"], config: AudioConfig, *, block_seconds: float = 60.0
) -> Float[np.ndarray, "frames features"]:
    """`extract_features` of one recording in blocks of one static shape: memory for one block, whatever the length.

    The same frames as one pass, to rounding; the normalization is over the whole recording.
    """
    frames, hop = num_frames(len(audio), config), config.hop
    if frames == 0:
        return np.zeros((0, num_features(config)), np.float32)
    # What a frame can depend on: its window, the filters before it, the derivatives beside it.
    filtered = len(high_pass_taps(config)) if config.high_pass else 0
    margin = -(-(config.n_fft + filtered) // hop) + 1 + config.deltas * config.delta_window
    block = max(1, round(block_seconds * config.sample_rate / hop))
    if config.top_range > 0 or frames <= block:  # that floor depends on the loudest frame of all
        block = -(-frames // block) * block
    raw = dataclasses.replace(config, normalize="none", mean=(), std=())
    samples = (block + 2 * margin) * hop + config.window
    total = np.zeros((-(-frames // block) * block, num_features(config)), np.float32)
    for start in range(0, frames, block):
        first = max(0, start - margin)
        piece = audio[first * hop : first * hop + samples]
        padded = np.zeros((1, samples), np.float32)
        padded[0, : len(piece)] = piece
        found = np.asarray(_extract(padded, np.array([len(piece)], np.int32), raw))[0]
        stop = min(start + block, frames)
        total[start:stop] = found[start - first : stop - first]
    return np.asarray(_normalize(total, np.int32(frames), config))[:frames]


def _jit_per_config(function):
    return jax.jit(function, static_argnames="config")


@_jit_per_config
def _extract(audio, lengths, config):
    return extract_features(audio, lengths, config)[0]


@_jit_per_config
def _normalize(features, frames, config):
    return normalize(features[None], jnp.arange(len(features))[None] < frames, config)[0]
