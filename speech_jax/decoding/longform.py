"""Long recordings in overlapping windows, joined without a boundary effect.

1. Features are computed over the whole recording, block by block, with enough samples around each block that its
   frames equal those of one pass, and normalized with the statistics of the whole recording: windows do not differ in
   level.
2. The encoder runs on windows of one static shape, core + 2 · context frames. Window starts are multiples of the
   encoder's subsampling, so that output frames lie on one grid for every window.
3. The middle of each window is kept, where the encoder has `context` on both sides. The middles are concatenated and
   decoded once, so that no word is cut or recognized twice.

For an encoder whose receptive field is at most `context` to each side the result equals that of one pass; attention
over the whole utterance is limited to the window instead. A network trained on clips of a few seconds, each normalized
by itself, is weaker on minutes of changing speakers and levels, in one pass as in windows: so recordings are cut at
their pauses first (audio/segments.py), and windows are for stretches of speech without any.
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
    """A window of a long recording.

    Attributes:
        start: first feature frame.
        keep_from: first output frame of the window that is kept.
        keep_to: one past the last output frame that is kept; None keeps to the end.
    """

    start: int
    keep_from: int
    keep_to: int | None


def plan_windows(frames: int, core: int, context: int, factor: int) -> list[Window]:
    """Return windows of core + 2 · context feature frames that cover a recording; all but the last are full.

    Args:
        frames: feature frames of the recording.
        core: feature frames that each window contributes; a multiple of `factor`.
        context: feature frames on each side of the core; a multiple of `factor`.
        factor: feature frames per output frame.

    Raises:
        ValueError: core or context is not such a multiple.
    """
    if core % factor or context % factor or core <= 0 or context < 0:
        raise ValueError(f"core {core} and context {context} must be multiples of {factor}")
    width = core + 2 * context
    if frames <= width:
        return [Window(0, 0, None)]
    windows, covered = [Window(0, 0, (core + context) // factor)], core + context
    while covered - context + width < frames:
        windows.append(Window(covered - context, context // factor, (context + core) // factor))
        covered += core
    last = -(-(frames - width) // factor) * factor  # as late as possible: the most context
    windows.append(Window(last, (covered - last) // factor, None))
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
    """Run `encode` over the windows and concatenate the outputs of their middles.

    Args:
        features: of the whole recording.
        encode: (features [rows, width, features], mask [rows, width]) -> (tree of arrays [rows, width / factor, …],
            mask [rows, width / factor]); called with one shape only.
        core: feature frames that each window contributes.
        context: feature frames on each side of the core.
        factor: feature frames per output frame.
        rows: windows per call of `encode`.

    Returns:
        The tree that `encode` returns, as NumPy arrays [output frames, …] of the whole recording.
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


def extract_long_features(
    audio: Float[np.ndarray, " samples"], config: AudioConfig, *, block_seconds: float = 60.0
) -> Float[np.ndarray, "frames features"]:
    """Run `extract_features` over one recording in blocks of one static shape, with the memory of one block.

    The frames equal those of one pass up to rounding; normalization statistics are those of the whole recording.

    Args:
        audio: samples in [-1, 1].
        config: audio settings.
        block_seconds: length of a block in seconds.
    """
    frames, hop = num_frames(len(audio), config), config.hop
    if frames == 0:
        return np.zeros((0, num_features(config)), np.float32)
    # A frame depends on its window, the filters before it and the frames that its derivatives are taken over.
    filtered = len(high_pass_taps(config)) if config.high_pass else 0
    margin = -(-(config.n_fft + filtered) // hop) + 1 + config.deltas * config.delta_window
    block = max(1, round(block_seconds * config.sample_rate / hop))
    if config.top_range > 0 or frames <= block:  # the floor depends on the loudest frame of the recording
        block = -(-frames // block) * block
    raw = dataclasses.replace(config, normalize="none", mean=(), std=())
    samples = (block + 2 * margin) * hop + config.window
    total = np.zeros((-(-frames // block) * block, num_features(config)), np.float32)
    for start in range(0, frames, block):
        first = max(0, start - margin)
        piece = audio[first * hop : first * hop + samples]
        padded = np.zeros((1, samples), np.float32)
        padded[0, : len(piece)] = piece
        features = np.asarray(_extract(padded, np.array([len(piece)], np.int32), raw))[0]
        stop = min(start + block, frames)
        total[start:stop] = features[start - first : stop - first]
    return np.asarray(_normalize(total, np.int32(frames), config))[:frames]


def _jit_per_config(function):
    return jax.jit(function, static_argnames="config")


@_jit_per_config
def _extract(audio, lengths, config):
    return extract_features(audio, lengths, config)[0]


@_jit_per_config
def _normalize(features, frames, config):
    return normalize(features[None], jnp.arange(len(features))[None] < frames, config)[0]
