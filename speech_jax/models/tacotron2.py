"""Tacotron 2 (Shen et al. 2018): symbols → mel frames, with its attention's path beside them.

NVIDIA's arithmetic, whose weights can be renamed into ours, and the paper's zoneout. Under teacher forcing the loop
over frames holds only the attention LSTM and the attention: the decoder LSTM never feeds them, so it runs afterwards,
with its inputs' half of the gates, the prenet's half of the attention LSTM's and all projections as single products.

Parameters are plain dicts: {"embedding", "encoder", "decoder", "postnet"} and, where the config asks, "speakers" and
"style". With a reduction factor r the decoder makes r frames a step; it has room for `reduction`, and may be run with
fewer (the first r of them).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from speech_jax.audio import rows
from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.layers import uniform_fan_in
from speech_jax.models.recurrent import Regularizer, lstm, lstm_init, seeds_of
from speech_jax.models.style import style_apply, style_init
from speech_jax.models.tacotron2_decoder import STREAMS, teacher_forced
from speech_jax.models.tacotron2_parts import ConvStack, Parts, make_parts, make_regularizer

_PRENET, _SPEAKER_SCALE = 32, 0.3  # number of the effect in rows.row_keys; deviation of new speakers' vectors


def tacotron2(config: Tacotron2Config, symbols: int) -> Model:
    """The model as two pure functions.

    A batch is {"text": int [batch, symbols], "text_mask": bool, "mel": f32 [batch, frames, num_mels], "mel_mask": bool,
    "index": int [batch]} and, with several voices, "speaker": int [batch]; frames is a multiple of the reduction.
    Outputs under teacher forcing: {"mel" and "mel_post": [batch, frames, num_mels], zero in the padding, "stop":
    logits [batch, frames], "weights": the attention's [batch, steps, symbols]}. `apply` takes `reduction`, by default
    the config's. The prenet's dropout is on in evaluation too, drawn from `key` and the utterance's index.
    """
    parts = make_parts(config)

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch
        return init_params(parts, symbols, key)

    def apply(
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = False,
        reduction: int | None = None,
    ) -> tuple[dict[str, Array], PyTree]:
        key = jax.random.key(0) if key is None else key
        conv_key, post_key, row_key = jax.random.split(key, 3)
        seeds = utterance_seeds(row_key, batch["index"])
        stats = model_state["batch_stats"]
        memory, encoder_stats = encode(parts, params, stats, batch, key=conv_key, seeds=seeds, train=train)
        out = teacher_forced(
            parts, params, memory, batch, seeds=seeds, train=train, reduction=reduction or config.reduction
        )
        after, post_stats = refine(parts, params, stats, out["mel"], batch["mel_mask"], key=post_key, train=train)
        new = {**stats, **encoder_stats, **post_stats}
        return {**out, "mel_post": after}, {**model_state, "batch_stats": new}

    return Model(init, apply)


def utterance_seeds(key: Array, index: Int[Array, " batch"]) -> UInt32[Array, "batch 2"]:
    """The randomness of each utterance's decoder."""
    return seeds_of(rows.row_keys(key, index.shape[0], index, _PRENET))


def init_params(parts: Parts, symbols: int, key: Array) -> tuple[PyTree, PyTree]:
    """(params, model_state)"""
    config = parts.config
    keys = jax.random.split(key, 12)
    one = jnp.zeros((1, 8, config.embedding)), jnp.ones((1, 8), bool)
    convs = dict(parts.encoder.init(keys[0], *one, train=False))
    frame = jnp.zeros((1, 8, config.num_mels))
    post = dict(parts.postnet.init(keys[1], frame, one[1], train=False))
    stats = {"encoder": {"convs": convs["batch_stats"]}, "postnet": post["batch_stats"]}

    def matrix(key: Array, inputs: int, outputs: int) -> Array:
        return uniform_fan_in(inputs)(key, (inputs, outputs))

    made = config.decoder_rnn + config.memory
    params = {
        "embedding": jax.random.normal(keys[2], (symbols, config.embedding))
        * (2 / (symbols + config.embedding)) ** 0.5,
        "encoder": {
            "convs": convs["params"],
            "lstm": lstm_init(keys[3], config.embedding, config.encoder_width // 2, 2),
        },
        "decoder": {
            "prenet": {
                "0": {"kernel": matrix(keys[4], config.num_mels, config.prenet)},
                "1": {"kernel": matrix(keys[5], config.prenet, config.prenet)},
            },
            "attention_rnn": _one_direction(lstm_init(keys[6], config.prenet + config.memory, config.attention_rnn)),
            "attention": parts.attention.init(keys[7]),
            "decoder_rnn": _one_direction(lstm_init(keys[8], config.attention_rnn + config.memory, config.decoder_rnn)),
            "projection": {
                "kernel": matrix(keys[9], made, config.num_mels * config.reduction),
                "bias": jnp.zeros(config.num_mels * config.reduction),
            },
            "stop": {"kernel": matrix(keys[10], made, config.reduction), "bias": jnp.zeros(config.reduction)},
        },
        "postnet": post["params"],
    }
    if config.speakers:
        vectors = jax.random.normal(jax.random.fold_in(keys[11], 0), (config.speakers, config.speaker_width))
        params["speakers"] = _SPEAKER_SCALE * vectors
    if config.style:
        params["style"], style_stats = style_init(config.style, config.num_mels, jax.random.fold_in(keys[11], 1))
        stats["style"] = style_stats
    return params, {"batch_stats": stats}


def with_speaker_inputs(config: Tacotron2Config, params: PyTree) -> PyTree:
    """The parameters of a network of one voice for `config`, which has several: whatever reads the memory has rows of
    zeros for the speaker's vector, so that nothing changes until they are trained. The vectors are not among them."""
    decoder = params["decoder"]

    def wider(leaves: PyTree, before: int, name: str = "kernel") -> PyTree:
        """`before`: inputs that come before the memory; of that, the encoder's channels come first."""
        kernel, begin = leaves[name], before + config.encoder_width
        zeros = jnp.zeros((config.speaker_width, *kernel.shape[1:]), kernel.dtype)
        return {**leaves, name: jnp.concatenate([kernel[:begin], zeros, kernel[begin:]])}

    readers = {"memory", "agent"} & decoder["attention"].keys()
    attention = {part: wider(decoder["attention"][part], 0) for part in readers}
    grown = {
        "attention_rnn": wider(decoder["attention_rnn"], config.prenet, "input_kernel"),
        "decoder_rnn": wider(decoder["decoder_rnn"], config.attention_rnn, "input_kernel"),
        "projection": wider(decoder["projection"], config.decoder_rnn),
        "stop": wider(decoder["stop"], config.decoder_rnn),
        "attention": {**decoder["attention"], **attention},
    }
    return {**params, "decoder": {**decoder, **grown}}


def _one_direction(params: dict[str, Array]) -> dict[str, Array]:
    return {name: a[0] for name, a in params.items()}


# ---- text to memory


def encode(
    parts: Parts,
    params: PyTree,
    stats: PyTree,
    batch: Batch,
    *,
    key: Array | None = None,
    seeds: UInt32[Array, "batch 2"] | None = None,
    train: bool = False,
) -> tuple[Float[Array, "batch symbols memory"], PyTree]:
    """(what the attention reads, new batch statistics). Zero outside the text."""
    config, mask = parts.config, batch["text_mask"]
    x = jnp.take(params["embedding"], jnp.where(mask, batch["text"], 0), axis=0)
    x, new = _convs(parts.encoder, params["encoder"]["convs"], stats["encoder"]["convs"], x, mask, key, train)
    # The paper holds every LSTM's state; NVIDIA's dropout is the decoder's alone.
    regularizer = make_regularizer(config) if config.held == "zoneout" else Regularizer()
    held = {"regularizer": regularizer, "seeds": seeds if train else None, "stream": STREAMS["encoder"]}
    memory, new_stats = lstm(params["encoder"]["lstm"], x, mask, **held), {"encoder": {"convs": new}}
    beside = []
    if config.speakers:
        beside.append(jnp.take(params["speakers"], batch["speaker"], axis=0))
    if config.style:
        style, new = style_apply(config.style, params["style"], stats["style"], batch, train=train)
        beside.append(style)
        new_stats["style"] = new
    if beside:
        vector = jnp.concatenate(beside, axis=-1)[:, None]
        memory = jnp.concatenate([memory, jnp.broadcast_to(vector, (*mask.shape, vector.shape[-1]))], axis=-1)
    return jnp.where(mask[..., None], memory, 0.0), new_stats


def _convs(
    stack: ConvStack, params: PyTree, stats: PyTree, x: Array, mask: Array, key: Array | None, train: bool
) -> tuple[Array, PyTree]:
    variables = {"params": params, "batch_stats": stats}
    if not train:
        y: Any = stack.apply(variables, x, mask, train=False)
        return y, stats
    assert key is not None  # training draws dropout
    applied: Any = stack.apply(variables, x, mask, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    y, new = applied
    return y, new["batch_stats"]


def refine(
    parts: Parts,
    params: PyTree,
    stats: PyTree,
    mel: Float[Array, "batch frames mels"],
    mask: Bool[Array, "batch frames"],
    *,
    key: Array | None = None,
    train: bool = False,
) -> tuple[Float[Array, "batch frames mels"], PyTree]:
    """(the frames after the post-net, new batch statistics)"""
    more, new = _convs(parts.postnet, params["postnet"], stats["postnet"], mel, mask, key, train)
    return jnp.where(mask[..., None], mel + more, 0.0), {"postnet": new}
