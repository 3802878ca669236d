"""Tacotron 2 (Shen et al. 2018): symbols → mel frames and attention weights.

The arithmetic is NVIDIA's, whose weights can be converted, with the paper's zoneout. Under teacher forcing the loop
over frames contains only the attention LSTM and the attention: their input never depends on the decoder LSTM, so it
runs afterwards. The input part of its gates, the prenet's part of the attention LSTM's gates and all projections are
single products over all steps.

Parameters are plain dicts: {"embedding", "encoder", "decoder", "postnet"} and, depending on the config, "speakers" and
"style". With a reduction factor r the decoder predicts r frames per step; r may be smaller than the config's
`reduction`, then the first r frames of a step are used.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from speech_jax.audio import rows
from speech_jax.core.arrays import check_batch, check_count
from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.layers import uniform_fan_in
from speech_jax.models.recurrent import Regularizer, lstm, lstm_init, seeds_of
from speech_jax.models.style import style_apply, style_init
from speech_jax.models.tacotron2_decoder import STREAMS, teacher_forced
from speech_jax.models.tacotron2_parts import ConvStack, Parts, make_parts, make_regularizer

_PRENET = 32  # number of the random effect in `rows.row_keys`
_SPEAKER_SCALE = 0.3  # standard deviation of new speakers' vectors


def tacotron2(config: Tacotron2Config, symbols: int) -> Model:
    """Return Tacotron 2 with teacher forcing, as pure functions; decoding/tacotron2.py synthesizes.

    A batch is {"text": int [batch, symbols], "text_mask": bool, "mel": float32 [batch, frames, num_mels], "mel_mask":
    bool, "index": int [batch]} and, with several voices, "speaker": int [batch]; frames is a multiple of the reduction.
    `apply` takes `reduction`, frames per decoder step, by default the config's. The prenet's dropout is applied in
    evaluation too, drawn from `key` and the utterance's index.

    Args:
        config: settings of the network.
        symbols: number of symbols.

    Returns:
        The model. Its outputs are {"mel", "mel_post": [batch, frames, num_mels], zero in the padding, "stop": logits
        [batch, frames], "weights": attention weights [batch, steps, symbols]}.

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import AttentionConfig, Tacotron2Config
        >>> from speech_jax.models.tacotron2 import tacotron2
        >>> config = Tacotron2Config(
        ...     num_mels=4, embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
        ...     attention=AttentionConfig(width=8, filters=2, filter_length=3), postnet_layers=2, postnet=8,
        ... )
        >>> model = tacotron2(config, symbols=40)
        >>> batch = {
        ...     "text": jnp.ones((1, 5), int), "text_mask": jnp.ones((1, 5), bool),
        ...     "mel": jnp.zeros((1, 12, 4)), "mel_mask": jnp.ones((1, 12), bool), "index": jnp.array([0]),
        ... }
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> {name: value.shape for name, value in sorted(outputs.items())}
        {'mel': (1, 12, 4), 'mel_post': (1, 12, 4), 'stop': (1, 12), 'weights': (1, 12, 5)}
    """
    check_count("symbols", symbols)
    parts = make_parts(config)

    def init(key: Array, batch: Batch | None) -> tuple[PyTree, PyTree]:
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
        check_batch(
            batch, text=("int", "batch", "symbols"), mel=("float", "batch", "frames", config.num_mels),
            mel_mask=("bool", "batch", "frames"), index=("int", "batch"),
        )  # fmt: skip
        if train and key is None:
            raise ValueError("key: found None with train=True, expected a key for dropout")
        key = jax.random.key(0) if key is None else key
        conv_key, post_key, row_key = jax.random.split(key, 3)
        conv_key, post_key = rows.place_key(conv_key, batch), rows.place_key(post_key, batch)
        seeds = utterance_seeds(row_key, batch["index"])
        stats = model_state["batch_stats"]
        memory, encoder_stats = encode(parts, params, stats, batch, key=conv_key, seeds=seeds, train=train)
        frames_per_step = config.reduction if reduction is None else reduction
        out = teacher_forced(parts, params, memory, batch, seeds=seeds, train=train, reduction=frames_per_step)
        after, post_stats = refine(parts, params, stats, out["mel"], batch["mel_mask"], key=post_key, train=train)
        new = {**stats, **encoder_stats, **post_stats}
        return {**out, "mel_post": after}, {**model_state, "batch_stats": new}

    return Model(init, apply)


def utterance_seeds(key: Array, index: Int[Array, " batch"]) -> UInt32[Array, "batch 2"]:
    """Return the seeds of the utterances' decoders, from a key and each utterance's index."""
    return seeds_of(rows.row_keys(key, index.shape[0], index, _PRENET))


def init_params(parts: Parts, symbols: int, key: Array) -> tuple[PyTree, PyTree]:
    """Return (parameters, model state).

    Args:
        parts: from `make_parts`.
        symbols: number of symbols.
        key: random key.
    """
    config = parts.config
    keys = jax.random.split(key, 12)
    mask = jnp.ones((1, 8), bool)
    convs = dict(parts.encoder.init(keys[0], jnp.zeros((1, 8, config.embedding)), mask, train=False))
    post = dict(parts.postnet.init(keys[1], jnp.zeros((1, 8, config.num_mels)), mask, train=False))
    stats = {"encoder": {"convs": convs["batch_stats"]}, "postnet": post["batch_stats"]}

    def matrix(key: Array, inputs: int, outputs: int) -> Array:
        return uniform_fan_in(inputs)(key, (inputs, outputs))

    decoder_output = config.decoder_rnn + config.memory
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
                "kernel": matrix(keys[9], decoder_output, config.num_mels * config.reduction),
                "bias": jnp.zeros(config.num_mels * config.reduction),
            },
            "stop": {"kernel": matrix(keys[10], decoder_output, config.reduction), "bias": jnp.zeros(config.reduction)},
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
    """Convert the parameters of a network of one voice to those of a network of several.

    Every matrix that multiplies the memory gets rows of zeros for the speaker's vector, so that the outputs do not
    change before training. The speakers' vectors are not included.

    Args:
        config: settings of the network of several voices.
        params: parameters of the network of one voice.
    """
    decoder = params["decoder"]

    def insert_rows(leaves: PyTree, before: int, name: str = "kernel") -> PyTree:
        """Insert rows after the encoder's; `before` is the number of inputs before the memory."""
        kernel, begin = leaves[name], before + config.encoder_width
        zeros = jnp.zeros((config.speaker_width, *kernel.shape[1:]), kernel.dtype)
        return {**leaves, name: jnp.concatenate([kernel[:begin], zeros, kernel[begin:]])}

    readers = {"memory", "agent"} & decoder["attention"].keys()
    attention = {part: insert_rows(decoder["attention"][part], 0) for part in readers}
    widened = {
        "attention_rnn": insert_rows(decoder["attention_rnn"], config.prenet, "input_kernel"),
        "decoder_rnn": insert_rows(decoder["decoder_rnn"], config.attention_rnn, "input_kernel"),
        "projection": insert_rows(decoder["projection"], config.decoder_rnn),
        "stop": insert_rows(decoder["stop"], config.decoder_rnn),
        "attention": {**decoder["attention"], **attention},
    }
    return {**params, "decoder": {**decoder, **widened}}


def _one_direction(params: dict[str, Array]) -> dict[str, Array]:
    return {name: a[0] for name, a in params.items()}


# ---- Text to memory


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
    """Encode the text.

    Args:
        parts: from `make_parts`.
        params: parameters of the network.
        stats: batch statistics.
        batch: as for `tacotron2`; the mel frames are used by style tokens only.
        key: random key of the convolutions' dropout; needed if `train`.
        seeds: seeds of the utterances for zoneout; needed if `train`.
        train: apply dropout and zoneout, and update the batch statistics.

    Returns:
        (memory that the attention reads, zero outside the text; new batch statistics).
    """
    config = parts.config
    voice = {"speaker": ("int", "batch")} if config.speakers else {}
    check_batch(batch, text=("int", "batch", "symbols"), text_mask=("bool", "batch", "symbols"), **voice)
    mask = batch["text_mask"]
    x = jnp.take(params["embedding"], jnp.where(mask, batch["text"], 0), axis=0)
    convs = params["encoder"]["convs"], stats["encoder"]["convs"]
    x, new = _convs(parts.encoder, *convs, x, mask, key=key, train=train)
    # The paper applies zoneout to every LSTM; NVIDIA's dropout is applied in the decoder only.
    regularizer = make_regularizer(config) if config.held == "zoneout" else Regularizer()
    regularization = {"regularizer": regularizer, "seeds": seeds if train else None, "stream": STREAMS["encoder"]}
    memory, new_stats = lstm(params["encoder"]["lstm"], x, mask, **regularization), {"encoder": {"convs": new}}
    vectors = []
    if config.speakers:
        vectors.append(jnp.take(params["speakers"], batch["speaker"], axis=0))
    if config.style:
        style, new = style_apply(config.style, params["style"], stats["style"], batch, train=train)
        vectors.append(style)
        new_stats["style"] = new
    if vectors:
        vector = jnp.concatenate(vectors, axis=-1)[:, None]
        memory = jnp.concatenate([memory, jnp.broadcast_to(vector, (*mask.shape, vector.shape[-1]))], axis=-1)
    return jnp.where(mask[..., None], memory, 0.0), new_stats


def _convs(
    stack: ConvStack, params: PyTree, stats: PyTree, x: Array, mask: Array, *, key: Array | None, train: bool
) -> tuple[Array, PyTree]:
    """Return (output, new batch statistics)."""
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
    """Add the post-net's correction to mel frames.

    Args:
        parts: from `make_parts`.
        params: parameters of the network.
        stats: batch statistics.
        mel: predicted frames.
        mask: True on valid frames.
        key: random key of dropout; needed if `train`.
        train: apply dropout, and update the batch statistics.

    Returns:
        (corrected frames, zero in the padding; new batch statistics).
    """
    correction, new = _convs(parts.postnet, params["postnet"], stats["postnet"], mel, mask, key=key, train=train)
    return jnp.where(mask[..., None], mel + correction, 0.0), {"postnet": new}
