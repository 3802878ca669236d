"""Mel frames in, audio out, in chunks of one size: one program for any length, and memory that does not grow.

A stream keeps the frames that the conditioning network still needs and the engine's state, and nothing else. What is
drawn for a sample depends on the row's seed and the sample's number alone, so the audio does not depend on how the
frames were cut into chunks. `folded` makes overlapping segments of one recording at once, as rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.core.types import PyTree
from speech_jax.decoding.wavenet import scan
from speech_jax.decoding.wavenet.engines import Engine, scan_engine
from speech_jax.kernels.wavenet.draw import make_noise, to_audio
from speech_jax.kernels.wavenet.step import StepShape, StepWeights
from speech_jax.models.wavenet import WaveNetConfig
from speech_jax.models.wavenet_condition import condition, reach, rows_per_frame

COND_BYTES = 32 << 20  # of conditioning that one chunk may take
FOLD_FRAMES = 3  # of cross-fade between neighboring folds


class Net(NamedTuple):
    """A network made ready to be sampled from."""

    config: WaveNetConfig
    params: PyTree
    shape: StepShape
    weights: StepWeights


def make_net(config: WaveNetConfig, params: PyTree) -> Net:
    """params: of models/wavenet.py."""
    params = jax.tree.map(jnp.asarray, params)
    return Net(config, params, *scan.step_weights(config, params))


def chunk_frames(config: WaveNetConfig, rows: int = 1, most: int = 16) -> int:
    """Frames of a chunk: 16, or as many as keep the conditioning within 32 MB, which networks that upsample by learned
    filters need for every sample."""
    frame = rows * rows_per_frame(config.condition, config.hop) * config.layers * config.gate * 4
    return int(min(most, max(1, COND_BYTES // frame)))


def warm_up_frames(config: WaveNetConfig) -> int:
    """Frames after which a network that began with zeros depends on its own samples alone."""
    return -(-(config.receptive_field - 1) // config.hop)


@partial(jax.jit, static_argnums=0)
def _condition(config: WaveNetConfig, params: PyTree, frames: Array, own: Array, speaker: Array | None) -> Array:
    vectors = condition(config.condition, params["condition"], frames, own, config.hop)
    return scan.layers_condition(config, params, vectors, speaker)


_noise = jax.jit(make_noise, static_argnums=(0, 3))


# ---- one after the other


def windows(
    mels: Iterable[Float[np.ndarray, "frames mels"]], count: int, back: int, ahead: int
) -> Iterator[tuple[Float[np.ndarray, "window mels"], Bool[np.ndarray, " window"], int]]:
    """(back + count + ahead frames, which of them are the recording's own, how many of the `count` are) for each chunk,
    as soon as its frames have come. Beyond the ends the first and the last frame repeat."""
    kept, first, position, total = None, 0, 0, 0  # `first`: number of the first frame that is kept
    for mel in mels:
        kept = mel if kept is None else np.concatenate([kept, mel])
        total += len(mel)
        while total >= position + count + ahead:
            yield _window(kept, first, total, position, count, back, ahead)
            position += count
            drop = max(position - back - first, 0)
            kept, first = kept[drop:], first + drop
    while position < total:
        yield _window(kept, first, total, position, count, back, ahead)
        position += count


def _window(kept: np.ndarray, first: int, total: int, position: int, count: int, back: int, ahead: int) -> tuple:
    number = np.arange(position - back, position + count + ahead)
    own = (number >= 0) & (number < total)
    return kept[np.clip(number, 0, total - 1) - first], own, min(count, total - position)


def stream(
    net: Net,
    mels: Iterable[Float[np.ndarray, "frames mels"]],
    seed: int = 0,
    *,
    engine: Engine | None = None,
    speaker: int = 0,
    frames: int | None = None,
) -> Iterator[Float[np.ndarray, " samples"]]:
    """The audio of one recording, hop samples for each frame, in chunks of `frames` frames (by default
    `chunk_frames`), by the scan or another engine. The first chunk comes once its frames, and those that the
    conditioning looks ahead, have come."""
    config, count = net.config, frames or chunk_frames(net.config)
    back, ahead = reach(config.condition, config.hop)
    share = config.hop // rows_per_frame(config.condition, config.hop)
    seeds, voice = _seeds(seed, 1), _speakers(config, speaker, 1)
    engine = engine or scan_engine(net.shape, net.weights)
    state, position = engine.start(1), 0
    for window, own, real in windows(mels, count, back, ahead):
        cond = _condition(config, net.params, window[None], own[None], voice)
        noise = _noise(net.shape, seeds, jnp.full(1, position, jnp.int32), count * config.hop)
        drawn, state = engine.sample(state, cond, share, noise)
        yield np.asarray(to_audio(net.shape, jnp.asarray(drawn)))[0, : real * config.hop]
        position += count * config.hop


def _seeds(seed: int, rows: int) -> Array:
    return jnp.tile(jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))[None], (rows, 1))


def _speakers(config: WaveNetConfig, speaker: int, rows: int) -> Array | None:
    return jnp.full(rows, speaker, jnp.int32) if config.speakers else None


# ---- many segments at once


def folded(
    net: Net,
    mel: Float[np.ndarray, "frames mels"],
    seed: int = 0,
    *,
    folds: int = 16,
    engine: Engine | None = None,
    speaker: int = 0,
    frames: int | None = None,
) -> Float[np.ndarray, " samples"]:
    """The audio of one recording, made as `folds` segments at once.

    Each begins from zeros `warm_up_frames` before its first sample that is used; by then it depends on samples of its
    own alone. Neighbors overlap by `FOLD_FRAMES` more and are cross-faded. All hear the conditioning and, as noise
    belongs to a sample's number, the noise that they would hear in the whole. Nothing promises that two histories meet
    under the same noise, but in a trained network they may: those of the quickstart's made `stream`'s samples again
    (correlation 1.00; 0.08 with another seed). Where the first segment is alone the samples are `stream`'s anyway.
    """
    config, total = net.config, len(mel)
    count = frames or chunk_frames(config, folds)
    warm, used = fold_frames(config, total, folds)
    length = warm + used + FOLD_FRAMES
    back, ahead = reach(config.condition, config.hop)
    share = config.hop // rows_per_frame(config.condition, config.hop)
    begins = used * np.arange(folds)
    seeds, voice = _seeds(seed, folds), _speakers(config, speaker, folds)
    engine = engine or scan_engine(net.shape, net.weights)
    state, made = engine.start(folds), []
    for place in range(0, length, count):
        number = begins[:, None] + np.arange(place - back, place + count + ahead)
        own = (number >= 0) & (number < total)
        cond = _condition(config, net.params, mel[np.clip(number, 0, total - 1)], own, voice)
        starts = jnp.asarray((begins + place) * config.hop, jnp.int32)
        noise = _noise(net.shape, seeds, starts, count * config.hop)
        drawn, state = engine.sample(state, cond, share, noise)
        made.append(np.asarray(to_audio(net.shape, jnp.asarray(drawn))))
    segments = np.concatenate(made, axis=1)[:, : length * config.hop]
    return join(segments, used * config.hop, warm * config.hop, FOLD_FRAMES * config.hop)[: total * config.hop]


def fold_frames(config: WaveNetConfig, total: int, folds: int) -> tuple[int, int]:
    """(frames in which each fold warms up, frames that each adds) of `total`; after both come FOLD_FRAMES to fade."""
    warm = warm_up_frames(config)
    return warm, max(-(-(total - warm - FOLD_FRAMES) // folds), 1)


def join(
    segments: Float[np.ndarray, "folds samples"], used: int, warm: int, fade: int
) -> Float[np.ndarray, " samples"]:
    """Segments of warm + used + fade samples, `used` apart, as one: each takes over from the one before within `fade`
    samples after its warm-up.

    The gains keep the power: they are divided by that of the sum, which depends on how alike the two are there.
    """
    folds, length = segments.shape
    out = np.zeros((folds - 1) * used + length, np.float32)
    out[:length] = segments[0]
    rise = ((np.arange(fade) + 0.5) / fade).astype(np.float32)
    for fold in range(1, folds):
        begin = fold * used
        before, now = out[begin + warm : begin + warm + fade], segments[fold, warm : warm + fade]
        power = float(np.sqrt(np.sum(before**2) * np.sum(now**2)))
        alike = max(float(np.sum(before * now)) / power, 0.0) if power > 0 else 1.0
        gain = np.sqrt(rise**2 + (1 - rise) ** 2 + 2 * alike * rise * (1 - rise))
        out[begin + warm : begin + warm + fade] = (rise * now + (1 - rise) * before) / gain
        out[begin + warm + fade : begin + length] = segments[fold, warm + fade :]
    return out
