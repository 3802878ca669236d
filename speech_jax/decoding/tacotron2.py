"""Symbols → mel frames with a trained Tacotron 2: a jitted loop that ends by itself, and the same in chunks.

An utterance ends where the model says so, where the attention has stayed at the end of the text, or at a bound that
follows from the text's length, and it is said which of them it was.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, PyTree
from speech_jax.models.tacotron2 import encode, refine
from speech_jax.models.tacotron2_decoder import decoder_step, start_decoder
from speech_jax.models.tacotron2_parts import Parts

RUNNING, STOP, SATURATED, BOUND = range(4)
SYMBOLS_MULTIPLE = 32  # texts are padded to multiples of this, so that few programs are compiled
ENDED = ("bound", "stop", "saturated", "bound")


@dataclass(frozen=True)
class DecodeConfig:
    """When an utterance ends, and where the attention may look."""

    stop_threshold: float = 0.5
    """Probability of the last frame at which it is one."""
    saturated_frames: int = 25
    """Frames that the attention stays on the last symbol before the utterance is taken to be over, 0.3 to 0.4 s; 0
    waits for ever."""
    frames_per_symbol: float = 14.0
    """With `frames_more`, the bound: an utterance of n symbols has at most this many frames a symbol. English takes 5
    to 7 frames of 11.6 ms a letter."""
    frames_more: int = 100
    """Frames added to that."""
    window_back: int = -1
    """Symbols that the attention may fall back from where it was; -1 and `window_forward` -1 for as far as it likes."""
    window_forward: int = -1
    """Symbols that it may move forward in a step."""
    reduction: int = 0
    """Frames a step; 0 is the model's."""

    def __post_init__(self) -> None:
        if not 0 < self.stop_threshold <= 1 or self.frames_per_symbol <= 0:
            raise UserError(
                f"decode: found stop_threshold {self.stop_threshold}, frames_per_symbol {self.frames_per_symbol}, "
                "expected a threshold in (0, 1] and a positive number"
            )


class Spoken(NamedTuple):
    """A batch of utterances, padded. Frames after `lengths` and steps after it are zero.

    mel [batch, frames, mels] after the post-net, lengths int [batch] in frames, weights [batch, steps, symbols],
    ended int [batch] (see `ENDED`)
    """

    mel: Array
    lengths: Array
    weights: Array
    ended: Array


def bound(symbols: int, config: DecodeConfig, reduction: int) -> int:
    """Steps at most for a text of so many symbols."""
    return -(-int(symbols * config.frames_per_symbol + config.frames_more) // reduction)


def text_batch(
    ids: Sequence[Sequence[int]], *, rows: int | None = None, speakers: Sequence[int] | None = None
) -> Batch:
    """What `speak` takes: each text's symbols, padded to a multiple of SYMBOLS_MULTIPLE and to `rows` rows, and whose
    voice each is in, where the network has several."""
    rows = len(ids) if rows is None else rows
    text = np.zeros((rows, -(-max(map(len, ids)) // SYMBOLS_MULTIPLE) * SYMBOLS_MULTIPLE), np.int32)
    mask = np.zeros(text.shape, bool)
    for row, own in enumerate(ids):
        text[row, : len(own)], mask[row, : len(own)] = own, True
    batch: Batch = {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}
    if speakers is not None:
        batch["speaker"] = jnp.asarray([*speakers, *[0] * (rows - len(speakers))], jnp.int32)
    return batch


@functools.partial(jax.jit, static_argnums=(0, 1))
def speak(
    parts: Parts,
    config: DecodeConfig,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    seeds: UInt32[Array, "batch 2"],
) -> Spoken:
    """All utterances of a batch {"text", "text_mask" and what the network takes besides} at once."""
    stats, r = model_state["batch_stats"], config.reduction or parts.config.reduction
    mask = batch["text_mask"]
    size, symbols = mask.shape
    steps = bound(symbols, config, r)
    memory, _ = encode(parts, params, stats, batch)
    fixed, moving = start_decoder(parts, params, memory, mask, seeds)
    found = {
        "mel": jnp.zeros((steps, size, r, parts.config.num_mels), jnp.float32),
        "weights": jnp.zeros((steps, size, symbols), jnp.float32),
    }

    def unfinished(state: tuple) -> Array:
        number, _, ending, _ = state
        return (number < steps) & jnp.any(ending["ended"] == RUNNING)

    def body(state: tuple) -> tuple:
        number, moving, ending, found = state
        frames, weights, moving, ending = _step(parts, config, fixed, moving, ending, mask, r)
        found = {"mel": found["mel"].at[number].set(frames), "weights": found["weights"].at[number].set(weights)}
        return number + 1, moving, ending, found

    first = jnp.zeros((), jnp.int32), moving, first_ending(mask), found
    _, _, ending, found = jax.lax.while_loop(unfinished, body, first)
    lengths = ending["length"]
    mel = jnp.moveaxis(found["mel"], 0, 1).reshape(size, steps * r, parts.config.num_mels)
    live = jnp.arange(steps * r)[None] < lengths[:, None]
    mel, _ = refine(parts, params, stats, jnp.where(live[..., None], mel, 0.0), live)
    walked = jnp.arange(steps)[None] < -(-lengths[:, None] // r)
    weights = jnp.where(walked[..., None], jnp.moveaxis(found["weights"], 0, 1), 0.0)
    return Spoken(mel, lengths, weights, ending["ended"])


def first_ending(mask: Bool[Array, "batch symbols"]) -> dict[str, Array]:
    """How each utterance stands before the first step. One without text is over."""
    size = mask.shape[0]
    zero = jnp.zeros((size,), jnp.int32)
    ended = jnp.where(jnp.any(mask, axis=1), RUNNING, STOP)
    return {"ended": ended, "length": zero, "stayed": zero, "place": zero}


def _step(
    parts: Parts,
    config: DecodeConfig,
    fixed: PyTree,
    moving: PyTree,
    ending: dict[str, Array],
    mask: Bool[Array, "batch symbols"],
    r: int,
) -> tuple[Array, Array, PyTree, dict[str, Array]]:
    """(frames, weights, state, how each utterance stands) after one more step."""
    symbols = jnp.sum(mask, axis=1)
    if config.window_back >= 0 or config.window_forward >= 0:
        place, number = ending["place"][:, None], jnp.arange(mask.shape[1])[None]
        back = config.window_back if config.window_back >= 0 else mask.shape[1]
        forward = config.window_forward if config.window_forward >= 0 else mask.shape[1]
        near = mask & (number >= place - back) & (number <= place + forward)
        fixed = {**fixed, "fixed": {**fixed["fixed"], "mask": near}}
    frames, stop, weights, moving = decoder_step(parts, fixed, moving, r)
    running = ending["ended"] == RUNNING
    last = jax.nn.sigmoid(stop) > config.stop_threshold  # [batch, r]
    place = jnp.argmax(weights, axis=1).astype(jnp.int32)
    stayed = jnp.where(place >= symbols - 1, ending["stayed"] + 1, 0)
    length = ending["length"] + jnp.where(jnp.any(last, axis=1), 1 + jnp.argmax(last, axis=1), r).astype(jnp.int32)
    most = jnp.floor(symbols * config.frames_per_symbol + config.frames_more).astype(jnp.int32)
    ended = jnp.where(length >= most, BOUND, RUNNING)
    if config.saturated_frames:
        ended = jnp.where(stayed * r >= config.saturated_frames, SATURATED, ended)
    ended = jnp.where(jnp.any(last, axis=1), STOP, ended)
    ending = {
        "ended": jnp.where(running, ended, ending["ended"]),
        "length": jnp.where(running, length, ending["length"]),
        "stayed": jnp.where(running, stayed, ending["stayed"]),
        "place": jnp.where(running, place, ending["place"]),
    }
    return frames, weights, moving, ending


# ---- in chunks


def stream(
    parts: Parts,
    config: DecodeConfig,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    seeds: UInt32[Array, "batch 2"],
    chunk_steps: int = 32,
) -> Iterator[tuple[Float[np.ndarray, "frames mels"], Float[np.ndarray, "steps symbols"], str]]:
    """One utterance in chunks: (frames after the post-net, the attention's weights of the steps just taken, how it
    ended, "" before the last chunk). Put together the frames are those of `speak`.

    The post-net looks some frames ahead, so that many stay back until the next chunk: the first comes after
    `chunk_steps` steps.
    """
    r = config.reduction or parts.config.reduction
    reach = parts.config.postnet_layers * (parts.config.kernel_size // 2)
    fixed, moving, ending = _begin(parts, params, model_state, batch, seeds)
    made = np.zeros((0, parts.config.num_mels), np.float32)
    given, ended = 0, RUNNING
    while ended == RUNNING:
        moving, ending, frames, weights = _advance(
            parts, config, fixed, moving, ending, batch["text_mask"], chunk_steps, r
        )
        before = len(made)
        made = np.concatenate([made, np.asarray(frames[:, 0]).reshape(-1, parts.config.num_mels)])
        ended, length = int(ending["ended"][0]), int(ending["length"][0])
        made = made[:length] if ended != RUNNING else made
        ready = len(made) if ended != RUNNING else max(len(made) - reach, given)
        start = max(given - reach, 0)
        piece = _refined(parts, params, model_state, made[start:])
        weights = np.asarray(weights[:, 0])[: -(-(len(made) - before) // r)]
        yield piece[given - start : ready - start], weights, ENDED[ended] if ended != RUNNING else ""
        given = ready


@functools.partial(jax.jit, static_argnums=0)
def _begin(parts: Parts, params: PyTree, model_state: PyTree, batch: Batch, seeds: Array) -> tuple:
    memory, _ = encode(parts, params, model_state["batch_stats"], batch)
    fixed, moving = start_decoder(parts, params, memory, batch["text_mask"], seeds)
    return fixed, moving, first_ending(batch["text_mask"])


@functools.partial(jax.jit, static_argnums=(0, 1, 6, 7))
def _advance(
    parts: Parts, config: DecodeConfig, fixed: PyTree, moving: PyTree, ending: PyTree, mask: Array, steps: int, r: int
) -> tuple:
    def body(state: tuple, _: None) -> tuple:
        frames, weights, moving, ending = _step(parts, config, fixed, *state, mask, r)
        return (moving, ending), (frames, weights)

    (moving, ending), (frames, weights) = jax.lax.scan(body, (moving, ending), None, steps)
    return moving, ending, jnp.moveaxis(frames, 2, 1).reshape(-1, frames.shape[1], frames.shape[3]), weights


def _refined(parts: Parts, params: PyTree, model_state: PyTree, mel: np.ndarray) -> np.ndarray:
    """The post-net's output, padded to few lengths so that few programs are compiled."""
    size = -(-max(len(mel), 1) // 64) * 64
    padded = np.zeros((1, size, mel.shape[1]), np.float32)
    padded[0, : len(mel)] = mel
    return np.asarray(_postnet(parts, params, model_state, padded, jnp.arange(size)[None] < len(mel)))[0, : len(mel)]


@functools.partial(jax.jit, static_argnums=0)
def _postnet(parts: Parts, params: PyTree, model_state: PyTree, mel: Array, mask: Array) -> Array:
    return refine(parts, params, model_state["batch_stats"], mel, mask)[0]
