"""Autoregressive Tacotron 2 decoding, symbols → mel frames: a jitted `while_loop`, and the same in chunks.

An utterance ends when the stop token fires, when the attention has stayed at the last symbol, or at a limit that
follows from the text's length; `GeneratedMels.ended` tells which of the three it was.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from speech_jax.core.types import Batch, PyTree
from speech_jax.decoding.config import DecodeConfig
from speech_jax.models.tacotron2 import encode, refine
from speech_jax.models.tacotron2_decoder import decoder_step, start_decoder
from speech_jax.models.tacotron2_parts import Parts

RUNNING, STOP, SATURATED, BOUND = range(4)
SYMBOLS_MULTIPLE = 32  # texts are padded to multiples of this, so that few programs are compiled
END_REASONS = ("bound", "stop", "saturated", "bound")  # by code; a running utterance was cut off


class GeneratedMels(NamedTuple):
    """A padded batch of generated utterances; frames and steps after `lengths` are zero.

    Attributes:
        mel: [batch, frames, mels], after the post-net.
        lengths: int [batch], frames.
        weights: [batch, steps, symbols], attention weights.
        ended: int [batch], index into `END_REASONS`.
    """

    mel: Array
    lengths: Array
    weights: Array
    ended: Array


def max_steps(symbols: int, config: DecodeConfig, reduction: int) -> int:
    """Return the largest number of decoder steps for a text of `symbols` symbols."""
    return -(-int(symbols * config.frames_per_symbol + config.frames_more) // reduction)


def text_batch(
    ids: Sequence[Sequence[int] | np.ndarray], *, rows: int | None = None, speakers: Sequence[int] | None = None
) -> Batch:
    """Return the batch that `generate_mels` and `stream_mels` take.

    Args:
        ids: symbol ids per text; padded to a multiple of SYMBOLS_MULTIPLE.
        rows: rows of the batch; rows after the texts are empty. None for one row per text.
        speakers: speaker id per text, for a network with several speakers.
    """
    rows = len(ids) if rows is None else rows
    text = np.zeros((rows, -(-max(map(len, ids)) // SYMBOLS_MULTIPLE) * SYMBOLS_MULTIPLE), np.int32)
    mask = np.zeros(text.shape, bool)
    for row, symbols in enumerate(ids):
        text[row, : len(symbols)], mask[row, : len(symbols)] = symbols, True
    batch: Batch = {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}
    if speakers is not None:
        batch["speaker"] = jnp.asarray([*speakers, *[0] * (rows - len(speakers))], jnp.int32)
    return batch


@functools.partial(jax.jit, static_argnums=(0, 1))
def generate_mels(
    parts: Parts,
    config: DecodeConfig,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    seeds: UInt32[Array, "batch 2"],
) -> GeneratedMels:
    """Generate all utterances of a batch at once.

    Args:
        parts: the network.
        config: decoding settings.
        params: parameters.
        model_state: batch statistics.
        batch: as `text_batch` returns it.
        seeds: key data per row, for the dropout of the pre-net.
    """
    stats, r = model_state["batch_stats"], config.reduction or parts.config.reduction
    mask = batch["text_mask"]
    size, symbols = mask.shape
    steps = max_steps(symbols, config, r)
    memory, _ = encode(parts, params, stats, batch)
    fixed, moving = start_decoder(parts, params, memory, mask, seeds)
    outputs = {
        "mel": jnp.zeros((steps, size, r, parts.config.num_mels), jnp.float32),
        "weights": jnp.zeros((steps, size, symbols), jnp.float32),
    }

    def unfinished(state: tuple) -> Array:
        step, _, ending, _ = state
        return (step < steps) & jnp.any(ending["ended"] == RUNNING)

    def body(state: tuple) -> tuple:
        step, moving, ending, outputs = state
        frames, weights, moving, ending = _step(parts, config, fixed, moving, ending, mask=mask, reduction=r)
        outputs = {"mel": outputs["mel"].at[step].set(frames), "weights": outputs["weights"].at[step].set(weights)}
        return step + 1, moving, ending, outputs

    first = jnp.zeros((), jnp.int32), moving, initial_ending(mask), outputs
    _, _, ending, outputs = jax.lax.while_loop(unfinished, body, first)
    lengths = ending["length"]
    mel = jnp.moveaxis(outputs["mel"], 0, 1).reshape(size, steps * r, parts.config.num_mels)
    live = jnp.arange(steps * r)[None] < lengths[:, None]
    mel, _ = refine(parts, params, stats, jnp.where(live[..., None], mel, 0.0), live)
    live_steps = jnp.arange(steps)[None] < -(-lengths[:, None] // r)
    weights = jnp.where(live_steps[..., None], jnp.moveaxis(outputs["weights"], 0, 1), 0.0)
    return GeneratedMels(mel, lengths, weights, ending["ended"])


def initial_ending(mask: Bool[Array, "batch symbols"]) -> dict[str, Array]:
    """Return the end-detection state before the first step; a row without text has already ended.

    Returns:
        Arrays int32 [batch]: "ended" (index into END_REASONS), "length" in frames, "stayed" (steps in which the
        attention has been on the last symbol), "position" (symbol with the largest attention weight).
    """
    size = mask.shape[0]
    zero = jnp.zeros((size,), jnp.int32)
    ended = jnp.where(jnp.any(mask, axis=1), RUNNING, STOP)
    return {"ended": ended, "length": zero, "stayed": zero, "position": zero}


def _step(
    parts: Parts,
    config: DecodeConfig,
    fixed: PyTree,
    moving: PyTree,
    ending: dict[str, Array],
    *,
    mask: Bool[Array, "batch symbols"],
    reduction: int,
) -> tuple[Array, Array, PyTree, dict[str, Array]]:
    """Return (frames, attention weights, decoder state, end-detection state) after one more step."""
    symbols = jnp.sum(mask, axis=1)
    if config.window_back >= 0 or config.window_forward >= 0:
        position, symbol = ending["position"][:, None], jnp.arange(mask.shape[1])[None]
        back = config.window_back if config.window_back >= 0 else mask.shape[1]
        forward = config.window_forward if config.window_forward >= 0 else mask.shape[1]
        window = mask & (symbol >= position - back) & (symbol <= position + forward)
        fixed = {**fixed, "fixed": {**fixed["fixed"], "mask": window}}
    frames, stop, weights, moving = decoder_step(parts, fixed, moving, reduction)
    running = ending["ended"] == RUNNING
    last = jax.nn.sigmoid(stop) > config.stop_threshold  # [batch, reduction]
    position = jnp.argmax(weights, axis=1).astype(jnp.int32)
    stayed = jnp.where(position >= symbols - 1, ending["stayed"] + 1, 0)
    new_frames = jnp.where(jnp.any(last, axis=1), 1 + jnp.argmax(last, axis=1), reduction)
    length = ending["length"] + new_frames.astype(jnp.int32)
    limit = jnp.floor(symbols * config.frames_per_symbol + config.frames_more).astype(jnp.int32)
    ended = jnp.where(length >= limit, BOUND, RUNNING)
    if config.saturated_frames:
        ended = jnp.where(stayed * reduction >= config.saturated_frames, SATURATED, ended)
    ended = jnp.where(jnp.any(last, axis=1), STOP, ended)
    ending = {
        "ended": jnp.where(running, ended, ending["ended"]),
        "length": jnp.where(running, length, ending["length"]),
        "stayed": jnp.where(running, stayed, ending["stayed"]),
        "position": jnp.where(running, position, ending["position"]),
    }
    return frames, weights, moving, ending


# ---- Streaming


def stream_mels(
    parts: Parts,
    config: DecodeConfig,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    seeds: UInt32[Array, "batch 2"],
    *,
    chunk_steps: int = 32,
) -> Iterator[tuple[Float[np.ndarray, "frames mels"], Float[np.ndarray, "steps symbols"], str]]:
    """Generate one utterance in chunks; the concatenated frames equal those of `generate_mels`.

    The post-net looks some frames ahead, so the last frames of a chunk are delivered with the next one. The latency to
    the first chunk is `chunk_steps` decoder steps.

    Args:
        parts: the network.
        config: decoding settings.
        params: parameters.
        model_state: batch statistics.
        batch: one row, as `text_batch` returns it.
        seeds: key data of the row, for the dropout of the pre-net.
        chunk_steps: decoder steps per chunk.

    Yields:
        Frames after the post-net, attention weights of the chunk's steps, and the end reason (see `END_REASONS`;
        empty before the last chunk).
    """
    r = config.reduction or parts.config.reduction
    reach = parts.config.postnet_layers * (parts.config.kernel_size // 2)
    fixed, moving, ending = _begin(parts, params, model_state, batch, seeds)
    mel = np.zeros((0, parts.config.num_mels), np.float32)
    delivered, ended = 0, RUNNING
    while ended == RUNNING:
        moving, ending, frames, weights = _advance(
            parts, config, fixed, moving, ending, batch["text_mask"], steps=chunk_steps, reduction=r
        )
        before = len(mel)
        mel = np.concatenate([mel, np.asarray(frames[:, 0]).reshape(-1, parts.config.num_mels)])
        ended, length = int(ending["ended"][0]), int(ending["length"][0])
        mel = mel[:length] if ended != RUNNING else mel
        ready = len(mel) if ended != RUNNING else max(len(mel) - reach, delivered)
        start = max(delivered - reach, 0)
        refined = _refine(parts, params, model_state, mel[start:])
        weights = np.asarray(weights[:, 0])[: -(-(len(mel) - before) // r)]
        yield refined[delivered - start : ready - start], weights, END_REASONS[ended] if ended != RUNNING else ""
        delivered = ready


@functools.partial(jax.jit, static_argnums=0)
def _begin(parts: Parts, params: PyTree, model_state: PyTree, batch: Batch, seeds: Array) -> tuple:
    memory, _ = encode(parts, params, model_state["batch_stats"], batch)
    fixed, moving = start_decoder(parts, params, memory, batch["text_mask"], seeds)
    return fixed, moving, initial_ending(batch["text_mask"])


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("steps", "reduction"))
def _advance(
    parts: Parts,
    config: DecodeConfig,
    fixed: PyTree,
    moving: PyTree,
    ending: PyTree,
    mask: Array,
    *,
    steps: int,
    reduction: int,
) -> tuple:
    def body(state: tuple, _: None) -> tuple:
        frames, weights, moving, ending = _step(parts, config, fixed, *state, mask=mask, reduction=reduction)
        return (moving, ending), (frames, weights)

    (moving, ending), (frames, weights) = jax.lax.scan(body, (moving, ending), None, steps)
    return moving, ending, jnp.moveaxis(frames, 2, 1).reshape(-1, frames.shape[1], frames.shape[3]), weights


def _refine(parts: Parts, params: PyTree, model_state: PyTree, mel: np.ndarray) -> np.ndarray:
    """Return the post-net's output, computed at few padded lengths so that few programs are compiled."""
    size = -(-max(len(mel), 1) // 64) * 64
    padded = np.zeros((1, size, mel.shape[1]), np.float32)
    padded[0, : len(mel)] = mel
    return np.asarray(_postnet(parts, params, model_state, padded, jnp.arange(size)[None] < len(mel)))[0, : len(mel)]


@functools.partial(jax.jit, static_argnums=0)
def _postnet(parts: Parts, params: PyTree, model_state: PyTree, mel: Array, mask: Array) -> Array:
    return refine(parts, params, model_state["batch_stats"], mel, mask)[0]
