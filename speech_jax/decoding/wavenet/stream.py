"""WaveNet vocoding, mel frames → audio in chunks of one size: one program for any length, and constant memory.

A stream keeps only the frames that the conditioning network still needs and the engine's state. The noise of a sample
depends only on the row's seed and the sample's index, so the audio does not depend on how the frames were cut into
chunks. `folded_audio` samples overlapping segments of one recording at once, as rows of a batch.
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
from speech_jax.models.config import WaveNetConfig
from speech_jax.models.wavenet_condition import condition, reach, rows_per_frame

COND_BYTES = 32 << 20  # largest conditioning of a chunk
FOLD_FRAMES = 3  # length of the cross-fade between neighboring folds


class Net(NamedTuple):
    """A network prepared for sampling.

    Attributes:
        config: the network.
        params: its parameters (the conditioning network is run from these).
        shape: static sizes for the engines.
        weights: weights for the engines.
    """

    config: WaveNetConfig
    params: PyTree
    shape: StepShape
    weights: StepWeights


def make_net(config: WaveNetConfig, params: PyTree) -> Net:
    """Return a `Net` of the parameters that `models/wavenet.py` initializes."""
    params = jax.tree.map(jnp.asarray, params)
    return Net(config, params, *scan.step_weights(config, params))


def chunk_frames(config: WaveNetConfig, rows: int = 1, limit: int = 16) -> int:
    """Return the frames per chunk: `limit`, or fewer where the conditioning would exceed 32 MB.

    Networks that upsample by learned filters need conditioning for every sample.

    Args:
        config: the network.
        rows: rows that are sampled at once.
        limit: largest number of frames.
    """
    frame_bytes = rows * rows_per_frame(config.condition, config.hop) * config.layers * config.gate * 4
    return int(min(limit, max(1, COND_BYTES // frame_bytes)))


def warm_up_frames(config: WaveNetConfig) -> int:
    """Return the frames after which a network that started from zeros depends only on its own samples."""
    return -(-(config.receptive_field - 1) // config.hop)


@partial(jax.jit, static_argnums=0)
def _condition(config: WaveNetConfig, params: PyTree, frames: Array, mask: Array, speaker: Array | None) -> Array:
    vectors = condition(config.condition, params["condition"], frames, mask, config.hop)
    return scan.stack_layer_conditions(config, params, vectors, speaker)


_noise = jax.jit(make_noise, static_argnums=(0, 3))


# ---- Streaming


def frame_windows(
    mels: Iterable[Float[np.ndarray, "_frames mels"]], count: int, back: int, ahead: int
) -> Iterator[tuple[Float[np.ndarray, "window mels"], Bool[np.ndarray, " window"], int]]:
    """Yield the window of each chunk as soon as its frames have arrived.

    Args:
        mels: pieces of the recording's mel frames, of any length.
        count: frames per chunk.
        back: frames of context before the chunk.
        ahead: frames of context after it.

    Yields:
        back + count + ahead frames, with the first and the last frame repeated beyond the ends; a mask, False where
        they are repeated; and the number of the chunk's frames that lie in the recording.
    """
    kept, first, position, total = None, 0, 0, 0  # `first`: index of the first frame that is kept
    for mel in mels:
        kept = mel if kept is None else np.concatenate([kept, mel])
        total += len(mel)
        while total >= position + count + ahead:
            yield _window(kept, first, total, position, count=count, back=back, ahead=ahead)
            position += count
            drop = max(position - back - first, 0)
            kept, first = kept[drop:], first + drop
    while kept is not None and position < total:
        yield _window(kept, first, total, position, count=count, back=back, ahead=ahead)
        position += count


def _window(kept: np.ndarray, first: int, total: int, position: int, *, count: int, back: int, ahead: int) -> tuple:
    index = np.arange(position - back, position + count + ahead)
    mask = (index >= 0) & (index < total)
    return kept[np.clip(index, 0, total - 1) - first], mask, min(count, total - position)


def stream_audio(
    net: Net,
    mels: Iterable[Float[np.ndarray, "_frames mels"]],
    seed: int = 0,
    *,
    engine: Engine | None = None,
    speaker: int = 0,
    frames: int | None = None,
) -> Iterator[Float[np.ndarray, " _samples"]]:
    """Generate the audio of one recording in chunks, `hop` samples per frame.

    A chunk is yielded once its frames, and those that the conditioning network looks ahead, have arrived.

    Args:
        net: the network.
        mels: pieces of the recording's mel frames, of any length.
        seed: of the noise.
        engine: sampling engine; None for the scan.
        speaker: speaker id, for a network with several speakers.
        frames: frames per chunk; None for `chunk_frames(net.config)`.

    Yields:
        Samples in [-1, 1].
    """
    config, count = net.config, frames or chunk_frames(net.config)
    back, ahead = reach(config.condition, config.hop)
    share = config.hop // rows_per_frame(config.condition, config.hop)
    seeds, speakers = _seeds(seed, 1), _speakers(config, speaker, 1)
    engine = engine or scan_engine(net.shape, net.weights)
    state, position = engine.start(1), 0
    for window, mask, real in frame_windows(mels, count, back, ahead):
        cond = _condition(config, net.params, window[None], mask[None], speakers)
        noise = _noise(net.shape, seeds, jnp.full(1, position, jnp.int32), count * config.hop)
        drawn, state = engine.sample(state, cond, share, noise)
        yield np.asarray(to_audio(net.shape, jnp.asarray(drawn)))[0, : real * config.hop]
        position += count * config.hop


def _seeds(seed: int, rows: int) -> Array:
    return jnp.tile(jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))[None], (rows, 1))


def _speakers(config: WaveNetConfig, speaker: int, rows: int) -> Array | None:
    return jnp.full(rows, speaker, jnp.int32) if config.speakers else None


# ---- Overlapping segments at once


def folded_audio(
    net: Net,
    mel: Float[np.ndarray, "frames mels"],
    seed: int = 0,
    *,
    folds: int = 16,
    engine: Engine | None = None,
    speaker: int = 0,
    frames: int | None = None,
) -> Float[np.ndarray, " samples"]:
    """Generate the audio of one recording as `folds` overlapping segments at once.

    Each segment starts from zeros `warm_up_frames` before its first used sample; from there on it depends only on its
    own samples. Neighbors overlap by `FOLD_FRAMES` more and are cross-faded. Every segment gets the conditioning and,
    as noise depends on the sample's index, the noise that it would get in one pass. It is not guaranteed that two
    histories converge under the same noise, but in a trained network they may: those of the quickstart's network
    reproduced the samples of `stream_audio` (correlation 1.00; 0.08 with another seed). The samples that only the first
    segment covers equal those of `stream_audio` in any case.

    Args:
        net: the network.
        mel: mel frames of the recording.
        seed: of the noise.
        folds: number of segments.
        engine: sampling engine; None for the scan.
        speaker: speaker id, for a network with several speakers.
        frames: frames per chunk; None for `chunk_frames(net.config, folds)`.

    Returns:
        Samples in [-1, 1], hop · frames of them.
    """
    config, total = net.config, len(mel)
    count = frames or chunk_frames(config, folds)
    warm, used = fold_frames(config, total, folds)
    length = warm + used + FOLD_FRAMES
    back, ahead = reach(config.condition, config.hop)
    share = config.hop // rows_per_frame(config.condition, config.hop)
    begins = used * np.arange(folds)
    seeds, speakers = _seeds(seed, folds), _speakers(config, speaker, folds)
    engine = engine or scan_engine(net.shape, net.weights)
    state, chunks = engine.start(folds), []
    for offset in range(0, length, count):
        index = begins[:, None] + np.arange(offset - back, offset + count + ahead)
        mask = (index >= 0) & (index < total)
        cond = _condition(config, net.params, mel[np.clip(index, 0, total - 1)], mask, speakers)
        starts = jnp.asarray((begins + offset) * config.hop, jnp.int32)
        noise = _noise(net.shape, seeds, starts, count * config.hop)
        drawn, state = engine.sample(state, cond, share, noise)
        chunks.append(np.asarray(to_audio(net.shape, jnp.asarray(drawn))))
    segments = np.concatenate(chunks, axis=1)[:, : length * config.hop]
    return crossfade(segments, used * config.hop, warm * config.hop, FOLD_FRAMES * config.hop)[: total * config.hop]


def fold_frames(config: WaveNetConfig, total: int, folds: int) -> tuple[int, int]:
    """Return (warm-up frames per fold, frames that each fold contributes); FOLD_FRAMES of cross-fade follow.

    Args:
        config: the network.
        total: frames of the recording.
        folds: number of segments.
    """
    warm = warm_up_frames(config)
    return warm, max(-(-(total - warm - FOLD_FRAMES) // folds), 1)


def crossfade(
    segments: Float[np.ndarray, "folds segment"], used: int, warm: int, fade: int
) -> Float[np.ndarray, " samples"]:
    """Join overlapping segments; each replaces the one before within `fade` samples after its warm-up.

    The power stays constant: the weighted sum is divided by its gain, which depends on the correlation of the two
    segments in the overlap.

    Args:
        segments: each has warm + used + fade samples and starts `used` samples after the one before.
        used: samples that each segment contributes.
        warm: samples at the start of each segment but the first that are discarded.
        fade: samples of cross-fade.
    """
    folds, length = segments.shape
    out = np.zeros((folds - 1) * used + length, np.float32)
    out[:length] = segments[0]
    rise = ((np.arange(fade) + 0.5) / fade).astype(np.float32)
    for fold in range(1, folds):
        begin = fold * used
        before, after = out[begin + warm : begin + warm + fade], segments[fold, warm : warm + fade]
        power = float(np.sqrt(np.sum(before**2) * np.sum(after**2)))
        correlation = max(float(np.sum(before * after)) / power, 0.0) if power > 0 else 1.0
        gain = np.sqrt(rise**2 + (1 - rise) ** 2 + 2 * correlation * rise * (1 - rise))
        out[begin + warm : begin + warm + fade] = (rise * after + (1 - rise) * before) / gain
        out[begin + warm + fade : begin + length] = segments[fold, warm + fade :]
    return out
