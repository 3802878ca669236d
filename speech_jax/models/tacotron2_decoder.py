"""Tacotron 2's decoder: all frames at once where the right ones are known, or one step at a time.

The loop of teacher forcing holds the attention LSTM and the attention alone (see `tacotron2`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, PyTree
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.recurrent import keep_at, lstm, lstm_gates, scan_product
from speech_jax.models.tacotron2_parts import Parts, make_regularizer

STREAMS = {"prenet": 0, "attention_rnn": 2, "decoder_rnn": 3, "encoder": 4}  # of keep_at


# ---- all at once, the right frames known


def teacher_forced(
    parts: Parts,
    params: PyTree,
    memory: Float[Array, "batch symbols memory"],
    batch: Batch,
    *,
    seeds: UInt32[Array, "batch 2"],
    train: bool,
    reduction: int,
) -> dict[str, Array]:
    """{"mel", "stop", "weights"}: what each step makes when the frame before it is the right one."""
    config, decoder = parts.config, params["decoder"]
    if not 1 <= reduction <= config.reduction:
        raise UserError(f"reduction: found {reduction}, expected 1 to model.reduction, {config.reduction}")
    mel = jnp.where(batch["mel_mask"][..., None], batch["mel"], 0.0)
    size, frames, _ = mel.shape
    if frames % reduction:
        raise UserError(f"mel: found {frames} frames, expected a multiple of the reduction factor {reduction}")
    steps = frames // reduction
    before = jnp.pad(mel[:, reduction - 1 :: reduction], ((0, 0), (1, 0), (0, 0)))[:, :-1]
    number = jnp.arange(steps)
    asked = jax.vmap(lambda x, n: prenet(config, decoder["prenet"], x, seeds, n), (1, 0), 0)(before, number)
    rnn = decoder["attention_rnn"]
    kernel, recurrent = _split_inputs(rnn, config.prenet)
    gates = asked @ kernel + rnn["bias"][None, None]
    fixed, state = parts.attention.start(decoder["attention"], memory, batch["text_mask"])
    consts = {"params": decoder["attention"], "fixed": fixed, "memory": memory, "seeds": seeds if train else None}

    def body(multiply: Callable, consts: PyTree, carry: PyTree, x: PyTree) -> tuple[PyTree, tuple]:
        carry, weights = _attend(parts, consts, carry, multiply, x["number"])
        return carry, (carry["h"], carry["context"], weights)

    carry = _first_carry(config, size, memory.shape[-1], state)
    result: Any = scan_product(body, recurrent, consts, carry, {"added": gates, "number": number})
    _, (h, context, weights) = result

    heard = jnp.moveaxis(jnp.concatenate([h, context], axis=-1), 0, 1)
    cell = {name: a[None] for name, a in decoder["decoder_rnn"].items()}
    seeds_or_none = seeds if train else None
    held = {"regularizer": make_regularizer(config), "seeds": seeds_or_none, "stream": STREAMS["decoder_rnn"]}
    y = lstm(cell, heard, jnp.ones((size, steps), bool), **held)
    made, stop = _project(config, decoder, jnp.concatenate([y, heard[..., config.attention_rnn :]], axis=-1), reduction)
    made = jnp.where(batch["mel_mask"][..., None], made.reshape(size, frames, config.num_mels), 0.0)
    return {"mel": made, "stop": stop.reshape(size, frames), "weights": jnp.moveaxis(weights, 0, 1)}


def prenet(
    config: Tacotron2Config,
    params: PyTree,
    frame: Float[Array, "batch mels"],
    seeds: UInt32[Array, "batch 2"],
    number: Int[Array, ""],
) -> Float[Array, "batch prenet"]:
    """What the frame before says, with dropout that depends on the utterance and the step alone."""
    x, rate = frame, config.prenet_dropout
    for layer in (0, 1):
        x = jax.nn.relu(x @ params[str(layer)]["kernel"])
        if rate:
            keep = keep_at(seeds, number, config.prenet, rate, STREAMS["prenet"] + layer)
            x = jnp.where(keep, x / (1.0 - rate), 0.0)
    return x


def _split_inputs(rnn: PyTree, prenet: int) -> tuple[Array, Array]:
    """(the prenet's rows of the attention LSTM, those of the context and of its own output, one above the other)"""
    kernel = rnn["input_kernel"]
    return kernel[:prenet], jnp.concatenate([kernel[prenet:], rnn["recurrent_kernel"]])


def _first_carry(config: Tacotron2Config, size: int, memory: int, state: PyTree) -> PyTree:
    zero = jnp.zeros((size, config.attention_rnn), jnp.float32)
    return {"h": zero, "c": zero, "context": jnp.zeros((size, memory), jnp.float32), "place": state}


def _attend(
    parts: Parts, consts: PyTree, carry: PyTree, multiply: Callable, number: Array
) -> tuple[PyTree, Float[Array, "batch symbols"]]:
    """One step of the attention LSTM and the attention. `consts["seeds"]` is None outside training."""
    gates = multiply(jnp.concatenate([carry["context"], carry["h"]], axis=-1))
    new, old = lstm_gates(gates, carry["c"]), (carry["h"], carry["c"])
    h, c = make_regularizer(parts.config)(new, old, consts["seeds"], number, STREAMS["attention_rnn"])
    weights, place = parts.attention.step(consts["params"], consts["fixed"], carry["place"], h)
    context = jnp.einsum("bs,bsd->bd", weights, consts["memory"])
    return {"h": h, "c": c, "context": context, "place": place}, weights


def _project(
    config: Tacotron2Config, decoder: PyTree, x: Float[Array, "... d"], reduction: int
) -> tuple[Float[Array, "... frames mels"], Float[Array, "... frames"]]:
    """(frames, stop logits) of a step: the first `reduction` of those that there is room for."""

    def outputs(name: str, count: int) -> Array:
        bias = decoder[name]["bias"][:count].reshape((1,) * (x.ndim - 1) + (count,))
        return x @ decoder[name]["kernel"][:, :count] + bias

    frames, stop = outputs("projection", reduction * config.num_mels), outputs("stop", reduction)
    return frames.reshape(*x.shape[:-1], reduction, config.num_mels), stop


# ---- step by step


class Decoder(NamedTuple):
    """Free running, one step at a time: `step(fixed, state) -> (frames [batch, r, mels], stop logits [batch, r],
    weights [batch, symbols], state)`."""

    fixed: Any
    state: Any


def start_decoder(
    parts: Parts,
    params: PyTree,
    memory: Array,
    text_mask: Bool[Array, "batch symbols"],
    seeds: UInt32[Array, "batch 2"],
) -> Decoder:
    """What stays and what moves, before the first step."""
    config, decoder = parts.config, params["decoder"]
    place, state = parts.attention.start(decoder["attention"], memory, text_mask)
    kernel, recurrent = _split_inputs(decoder["attention_rnn"], config.prenet)
    cell = decoder["decoder_rnn"]
    fixed = {
        "params": decoder["attention"],
        "fixed": place,
        "memory": memory,
        "seeds": None,
        "prenet_seeds": seeds,
        "prenet_kernel": kernel,
        "attention_kernel": recurrent,
        "decoder_kernel": jnp.concatenate([cell["input_kernel"], cell["recurrent_kernel"]]),
        "decoder": decoder,
    }
    size = memory.shape[0]
    zero = jnp.zeros((size, config.decoder_rnn), jnp.float32)
    moving = {
        "attention": _first_carry(config, size, memory.shape[-1], state),
        "decoder": (zero, zero),
        "frame": jnp.zeros((size, config.num_mels), jnp.float32),
        "number": jnp.zeros((), jnp.int32),
    }
    return Decoder(fixed, moving)


def decoder_step(parts: Parts, fixed: PyTree, state: PyTree, reduction: int) -> tuple[Array, Array, Array, PyTree]:
    """(frames [batch, reduction, mels], stop logits [batch, reduction], weights [batch, symbols], state)"""
    config, decoder, number = parts.config, fixed["decoder"], state["number"]
    asked = prenet(config, decoder["prenet"], state["frame"], fixed["prenet_seeds"], number)
    added = asked @ fixed["prenet_kernel"] + decoder["attention_rnn"]["bias"][None]
    attention, weights = _attend(
        parts, fixed, state["attention"], lambda left: left @ fixed["attention_kernel"] + added, number
    )
    heard = jnp.concatenate([attention["h"], attention["context"]], axis=-1)
    h, c = state["decoder"]
    gates = jnp.concatenate([heard, h], axis=-1) @ fixed["decoder_kernel"] + decoder["decoder_rnn"]["bias"][None]
    h, c = make_regularizer(config)(lstm_gates(gates, c), (h, c), None, number, STREAMS["decoder_rnn"])
    frames, stop = _project(config, decoder, jnp.concatenate([h, attention["context"]], axis=-1), reduction)
    new = {"attention": attention, "decoder": (h, c), "frame": frames[:, -1], "number": number + 1}
    return frames, stop, weights, new
