"""Tacotron 2's decoder: with teacher forcing for all frames at once, or free-running one step at a time.

The loop of teacher forcing contains only the attention LSTM and the attention (see tacotron2.py).
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

STREAMS = {"prenet": 0, "attention_rnn": 2, "decoder_rnn": 3, "encoder": 4}  # random streams of `keep_at`


# ---- Teacher forcing


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
    """Return the outputs of all steps, given the target frames before each.

    Args:
        parts: from `make_parts`.
        params: parameters of the network.
        memory: output of `tacotron2.encode`.
        batch: as for `tacotron2.tacotron2`; "mel" is the target.
        seeds: seeds of the utterances.
        train: regularize the LSTMs.
        reduction: frames per step; it divides the number of frames.

    Returns:
        {"mel": [batch, frames, num_mels], "stop": [batch, frames], "weights": [batch, steps, symbols]}.

    Raises:
        UserError: the reduction is out of range or does not divide the number of frames.
    """
    config, decoder = parts.config, params["decoder"]
    if reduction not in range(1, config.reduction + 1):
        raise UserError(f"reduction: found {reduction}, expected 1 to {config.reduction} (task.model.reduction)")
    mel = jnp.where(batch["mel_mask"][..., None], batch["mel"], 0.0)
    size, frames, _ = mel.shape
    if frames % reduction:
        raise UserError(f"mel: found {frames} frames, expected a multiple of the reduction factor {reduction}")
    steps = frames // reduction
    before = jnp.pad(mel[:, reduction - 1 :: reduction], ((0, 0), (1, 0), (0, 0)))[:, :-1]
    number = jnp.arange(steps)
    prenet_output = jax.vmap(lambda x, n: prenet(config, decoder["prenet"], x, seeds, n), (1, 0), 0)(before, number)
    rnn = decoder["attention_rnn"]
    kernel, recurrent = _split_inputs(rnn, config.prenet)
    gates = prenet_output @ kernel + rnn["bias"][None, None]
    fixed, state = parts.attention.start(decoder["attention"], memory, batch["text_mask"])
    consts = {"params": decoder["attention"], "fixed": fixed, "memory": memory, "seeds": seeds if train else None}

    def body(multiply: Callable, consts: PyTree, carry: PyTree, x: PyTree) -> tuple[PyTree, tuple]:
        carry, weights = _attend(parts, consts, carry, multiply, x["number"])
        return carry, (carry["h"], carry["context"], weights)

    carry = _first_carry(config, size, memory.shape[-1], state)
    result: Any = scan_product(body, recurrent, consts, carry, {"added": gates, "number": number})
    _, (h, context, weights) = result

    decoder_input = jnp.moveaxis(jnp.concatenate([h, context], axis=-1), 0, 1)
    cell = {name: a[None] for name, a in decoder["decoder_rnn"].items()}
    seeds_or_none = seeds if train else None
    regularization = {"regularizer": make_regularizer(config), "seeds": seeds_or_none, "stream": STREAMS["decoder_rnn"]}
    y = lstm(cell, decoder_input, jnp.ones((size, steps), bool), **regularization)
    context = decoder_input[..., config.attention_rnn :]
    predicted, stop = _project(config, decoder, jnp.concatenate([y, context], axis=-1), reduction)
    predicted = jnp.where(batch["mel_mask"][..., None], predicted.reshape(size, frames, config.num_mels), 0.0)
    return {"mel": predicted, "stop": stop.reshape(size, frames), "weights": jnp.moveaxis(weights, 0, 1)}


def prenet(
    config: Tacotron2Config,
    params: PyTree,
    frame: Float[Array, "batch mels"],
    seeds: UInt32[Array, "batch 2"],
    number: Int[Array, ""],
) -> Float[Array, "batch prenet"]:
    """Return the prenet's output for the previous frame; its dropout depends only on the utterance and the step.

    Args:
        config: settings of the network.
        params: parameters of the prenet.
        frame: the previous frame.
        seeds: seeds of the utterances.
        number: number of the step.
    """
    x, rate = frame, config.prenet_dropout
    for layer in (0, 1):
        x = jax.nn.relu(x @ params[str(layer)]["kernel"])
        if rate:
            keep = keep_at(seeds, number, config.prenet, rate, STREAMS["prenet"] + layer)
            x = jnp.where(keep, x / (1.0 - rate), 0.0)
    return x


def _split_inputs(rnn: PyTree, prenet: int) -> tuple[Array, Array]:
    """Split the attention LSTM's kernel into (rows of the prenet's output, rows of the context and of h)."""
    kernel = rnn["input_kernel"]
    return kernel[:prenet], jnp.concatenate([kernel[prenet:], rnn["recurrent_kernel"]])


def _first_carry(config: Tacotron2Config, size: int, memory: int, state: PyTree) -> PyTree:
    zero = jnp.zeros((size, config.attention_rnn), jnp.float32)
    return {"h": zero, "c": zero, "context": jnp.zeros((size, memory), jnp.float32), "attention": state}


def _attend(
    parts: Parts, consts: PyTree, carry: PyTree, multiply: Callable, number: Array
) -> tuple[PyTree, Float[Array, "batch symbols"]]:
    """Run one step of the attention LSTM and the attention; return (carry, weights).

    `consts["seeds"]` is None outside training.
    """
    gates = multiply(jnp.concatenate([carry["context"], carry["h"]], axis=-1))
    new, old = lstm_gates(gates, carry["c"]), (carry["h"], carry["c"])
    h, c = make_regularizer(parts.config)(new, old, consts["seeds"], number, STREAMS["attention_rnn"])
    weights, state = parts.attention.step(consts["params"], consts["fixed"], carry["attention"], h)
    context = jnp.einsum("bs,bsd->bd", weights, consts["memory"])
    return {"h": h, "c": c, "context": context, "attention": state}, weights


def _project(
    config: Tacotron2Config, decoder: PyTree, x: Float[Array, "... d"], reduction: int
) -> tuple[Float[Array, "... frames mels"], Float[Array, "... frames"]]:
    """Return (frames, stop logits) of a step: the first `reduction` of those that the network can predict."""

    def outputs(name: str, count: int) -> Array:
        bias = decoder[name]["bias"][:count].reshape((1,) * (x.ndim - 1) + (count,))
        return x @ decoder[name]["kernel"][:, :count] + bias

    frames, stop = outputs("projection", reduction * config.num_mels), outputs("stop", reduction)
    return frames.reshape(*x.shape[:-1], reduction, config.num_mels), stop


# ---- Free-running


class Decoder(NamedTuple):
    """Arguments of the first `decoder_step`.

    Attributes:
        fixed: values that are the same at every step.
        state: values that change.
    """

    fixed: Any
    state: Any


def start_decoder(
    parts: Parts,
    params: PyTree,
    memory: Array,
    text_mask: Bool[Array, "batch symbols"],
    seeds: UInt32[Array, "batch 2"],
) -> Decoder:
    """Return the constants and the initial state of `decoder_step`.

    Args:
        parts: from `make_parts`.
        params: parameters of the network.
        memory: output of `tacotron2.encode`, [batch, symbols, channels].
        text_mask: True on valid symbols.
        seeds: seeds of the utterances, for the prenet's dropout.
    """
    config, decoder = parts.config, params["decoder"]
    constants, attention_state = parts.attention.start(decoder["attention"], memory, text_mask)
    kernel, recurrent = _split_inputs(decoder["attention_rnn"], config.prenet)
    cell = decoder["decoder_rnn"]
    fixed = {
        "params": decoder["attention"],
        "fixed": constants,
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
    state = {
        "attention": _first_carry(config, size, memory.shape[-1], attention_state),
        "decoder": (zero, zero),
        "frame": jnp.zeros((size, config.num_mels), jnp.float32),
        "number": jnp.zeros((), jnp.int32),
    }
    return Decoder(fixed, state)


def decoder_step(parts: Parts, fixed: PyTree, state: PyTree, reduction: int) -> tuple[Array, Array, Array, PyTree]:
    """Run one step.

    Args:
        parts: from `make_parts`.
        fixed: constants, from `start_decoder`.
        state: state after the previous step.
        reduction: frames per step.

    Returns:
        (frames [batch, reduction, mels], stop logits [batch, reduction], attention weights [batch, symbols], state).
    """
    config, decoder, number = parts.config, fixed["decoder"], state["number"]
    prenet_output = prenet(config, decoder["prenet"], state["frame"], fixed["prenet_seeds"], number)
    added = prenet_output @ fixed["prenet_kernel"] + decoder["attention_rnn"]["bias"][None]
    attention, weights = _attend(
        parts, fixed, state["attention"], lambda left: left @ fixed["attention_kernel"] + added, number
    )
    decoder_input = jnp.concatenate([attention["h"], attention["context"]], axis=-1)
    h, c = state["decoder"]
    gates = jnp.concatenate([decoder_input, h], axis=-1) @ fixed["decoder_kernel"]
    gates = gates + decoder["decoder_rnn"]["bias"][None]
    h, c = make_regularizer(config)(lstm_gates(gates, c), (h, c), None, number, STREAMS["decoder_rnn"])
    frames, stop = _project(config, decoder, jnp.concatenate([h, attention["context"]], axis=-1), reduction)
    new = {"attention": attention, "decoder": (h, c), "frame": frames[:, -1], "number": number + 1}
    return frames, stop, weights, new
