"""Whisper (Radford et al. 2022): a Transformer encoder over log-mel features and a decoder over tokens.

The arithmetic is that of openai/whisper's model.py, with one difference: padding has no influence, in the features and
in the tokens, so that recordings of different lengths share a batch at their own lengths. A recording that is to be
continued by silence up to 30 seconds, as the public checkpoints expect, has these frames as valid ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.arrays import check_array, check_batch, check_count
from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.attention import BLOCK, AttentionInputs, attend, attend_fused, attend_in_blocks
from speech_jax.models.config import WhisperConfig
from speech_jax.models.convolution import strided_conv1d
from speech_jax.models.layers import Dropout, FeedForward, LayerNorm, dense, dropout, uniform_fan_in

# Sharded over "tensor": the heads of attention and the hidden channels of the feed-forward modules. The vocabulary has
# 51,865 or 51,866 tokens, which few numbers of devices divide.
SHARDING = (
    (r"(self|cross)_attn/linear_(q|k|v)/kernel$", ("fsdp", "tensor")),
    (r"(self|cross)_attn/linear_(q|v)/bias$", ("tensor",)),
    (r"(self|cross)_attn/linear_out/kernel$", ("tensor", "fsdp")),
    (r"feed_forward/linear1/kernel$", ("fsdp", "tensor")),
    (r"feed_forward/linear1/bias$", ("tensor",)),
    (r"feed_forward/linear2/kernel$", ("tensor", "fsdp")),
    (r"decoder/embedding$", (None, "fsdp")),
)

Cache = tuple[Float[Array, "_ _ heads d_head"], Float[Array, "_ _ heads d_head"]]  # keys and values of rows and places


class Decoder(NamedTuple):
    """Whisper's decoder, some tokens at a time: its steps over parts of a text give the logits of the whole text.

    Attributes:
        start: (params, encoded, mask, length) -> state of a decoder that can read `length` tokens. The encoder's
            outputs of the rows are projected once.
        step: (params, state, tokens, mask) -> (logits float32 [rows, n, vocab_size], state). tokens: int [rows, n], of
            which those that are False in `mask`, anywhere in a row, are not read: rows may have read different numbers
            of tokens. The leaves of the state have the rows first, except "at", the number of columns that were read.
        select: (state, numbers) -> state whose texts are those of these rows, in this order. There may be several per
            recording, side by side, as for beam search: they share the projected outputs of the encoder.
    """

    start: Callable
    step: Callable
    select: Callable


def output_length(frames: Any) -> Any:
    """Return the number of encoder frames of `frames` feature frames (an int, or an integer array)."""
    return (frames + 1) // 2


def sinusoids(time: int, width: int) -> Float[Array, "time width"]:
    """Return the encoder's positions: all sines, then all cosines, of t · 10000^(-i / (width/2 - 1))."""
    half = width // 2
    rate = jnp.exp(jnp.arange(half) * -(math.log(10000.0) / (half - 1)))
    angle = jnp.arange(time)[:, None] * rate[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


class Attention(nn.Module):
    """Multi-head attention whose keys have no bias; queries and keys may come from different sequences."""

    config: WhisperConfig

    def setup(self) -> None:
        """Make the projections."""
        width, dtype = self.config.width, jnp.dtype(self.config.dtype)
        self.linear_q, self.linear_v, self.linear_out = (
            dense(width, width, name=name, dtype=dtype) for name in ("linear_q", "linear_v", "linear_out")
        )
        self.linear_k = dense(width, width, name="linear_k", dtype=dtype, use_bias=False)

    def _heads(self, x: Float[Array, "batch time d"]) -> Float[Array, "batch time heads d_head"]:
        return x.reshape(*x.shape[:2], self.config.heads, -1)

    def project(self, x: Float[Array, "batch time d"]) -> Cache:
        """Return the keys and values of x."""
        return self._heads(self.linear_k(x)), self._heads(self.linear_v(x))

    def __call__(
        self,
        x: Float[Array, "batch queries d"],
        projected: Cache,
        mask: Bool[Array, "batch queries keys"] | Bool[Array, "batch keys"],
        train: bool,
    ) -> Float[Array, "batch queries d"]:
        """Return the attention's output.

        Args:
            x: input of the queries.
            projected: keys and values.
            mask: True for the keys that a query may read; without queries, the same ones for all.
            train: apply dropout.
        """
        config = self.config
        query = self._heads(self.linear_q(x)) * jnp.asarray((config.width // config.heads) ** -0.5, x.dtype)
        key = self.make_rng("dropout") if train and config.dropout_att > 0 else None
        inputs = AttentionInputs(query, None, *projected, None, mask)
        return self.linear_out(self._attend(inputs, key).reshape(x.shape))

    def _attend(self, inputs: AttentionInputs, key: Array | None) -> Float[Array, "batch queries heads d_head"]:
        config = self.config
        if inputs.key_mask.ndim == 3:  # of the decoder: one mask per token, which blocks and kernels do not take
            return attend(inputs, key, config.dropout_att)
        if config.attention_fused or config.attention_fused_gpu:
            tpu, gpu = config.attention_fused, config.attention_fused_gpu
            return attend_fused(inputs, config.attention_block or BLOCK, key, config.dropout_att, tpu=tpu, gpu=gpu)
        if 0 < config.attention_block < inputs.query.shape[1]:
            return attend_in_blocks(inputs, config.attention_block, key, config.dropout_att)
        return attend(inputs, key, config.dropout_att)


def _feed_forward(config: WhisperConfig) -> FeedForward:
    gelu, dtype = partial(jax.nn.gelu, approximate=False), jnp.dtype(config.dtype)
    return FeedForward(config.hidden, gelu, config.dropout_hidden, config.dropout, dtype, name="feed_forward")


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and residual."""

    config: WhisperConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], train: bool
    ) -> Float[Array, "batch time d"]:
        """Return the layer's output."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        attention = Attention(config, name="self_attn")
        y = LayerNorm(dtype, name="norm_self_att")(x)
        x = x + Dropout(config.dropout)(attention(y, attention.project(y), mask, train), train=train)
        return x + _feed_forward(config)(LayerNorm(dtype, name="norm_feed_forward")(x), train=train)


class DecoderLayer(nn.Module):
    """Self-attention, attention over the encoder's output and feed-forward, each after a norm and residual."""

    config: WhisperConfig

    def setup(self) -> None:
        """Make the modules."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.norm_self_att, self.norm_cross_att, self.norm_feed_forward = (
            LayerNorm(dtype, name=f"norm_{name}") for name in ("self_att", "cross_att", "feed_forward")
        )
        self.self_attn, self.cross_attn = (Attention(config, name=name) for name in ("self_attn", "cross_attn"))
        self.feed_forward = _feed_forward(config)
        self.drop = Dropout(config.dropout)

    def project(self, encoded: Float[Array, "batch time d"]) -> Cache:
        """Return the keys and values of the encoder's output."""
        return self.cross_attn.project(encoded)

    def __call__(
        self,
        x: Float[Array, "batch tokens d"],
        memory: Cache | Float[Array, "recordings time d"],
        memory_mask: Bool[Array, "recordings time"],
        self_mask: Bool[Array, "batch tokens keys"],
        train: bool,
        cache: Cache | None = None,
        at: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "batch tokens d"], Cache]:
        """Return (the layer's output, keys and values of the self-attention).

        Args:
            x: input vectors.
            memory: the encoder's output, or what `project` makes of it.
            memory_mask: True on valid frames.
            self_mask: True for the tokens that a token may read.
            train: apply dropout.
            cache: keys and values of earlier tokens, into which those of x are written; None if there are none.
            at: place of x's first token in the cache.
        """
        y = self.norm_self_att(x)
        projected = self.self_attn.project(y)
        if cache is not None:
            put = partial(lax.dynamic_update_slice_in_dim, start_index=at, axis=1)
            projected = put(cache[0], projected[0]), put(cache[1], projected[1])
        x = x + self.drop(self.self_attn(y, projected, self_mask, train), train=train)
        across = memory if isinstance(memory, tuple) else self.project(memory)
        y = self.norm_cross_att(x).reshape(memory_mask.shape[0], -1, x.shape[2])  # texts of one recording side by side
        x = x + self.drop(self.cross_attn(y, across, memory_mask, train).reshape(x.shape), train=train)
        return x + self.feed_forward(self.norm_feed_forward(x), train=train), projected


class _Conv(nn.Module):
    """Convolution of three frames, padded by one zero on both sides, with torch's initial values; then GELU."""

    inputs: int
    outputs: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch time c"]) -> Float[Array, "batch time_out d"]:
        init = uniform_fan_in(3 * self.inputs)
        kernel = self.param("kernel", init, (3, self.inputs, self.outputs)).astype(self.dtype)
        bias = self.param("bias", init, (self.outputs,)).astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        return jax.nn.gelu(strided_conv1d(padded, kernel, self.stride) + bias[None, None], approximate=False)


def _convolutions(config: WhisperConfig) -> tuple[_Conv, _Conv]:
    dtype = jnp.dtype(config.dtype)
    return _Conv(config.num_features, config.width, 1, dtype), _Conv(config.width, config.width, 2, dtype)


def encode(
    config: WhisperConfig, params: PyTree, batch: Batch, key: jax.Array | None = None, train: bool = False
) -> tuple[Float[Array, "batch time d"], Bool[Array, "batch time"]]:
    """Return (the encoder's output, its mask).

    Args:
        config: settings of the network.
        params: parameters of the whole network.
        batch: features and mask, as for `whisper`.
        key: random key of dropout.
        train: apply dropout.

    Raises:
        ValueError: features of another shape or type, or longer than the network's positions.
    """
    check_batch(batch, features=("float", "batch", "time", config.num_features), mask=("bool", "batch", "time"))
    frames = output_length(batch["features"].shape[1])
    if frames > config.audio_positions:
        raise ValueError(f"features: found {frames} encoder frames, expected at most {config.audio_positions}")
    params, mask, dtype = params["encoder"], batch["mask"], jnp.dtype(config.dtype)
    keys = jax.random.split(jax.random.key(0) if key is None else key, 2)
    x = jnp.where(mask[..., None], batch["features"], 0.0)
    for name, convolution in zip(("conv1", "conv2"), _convolutions(config), strict=True):
        y: Any = convolution.apply({"params": params[name]}, x)
        mask = mask if name == "conv1" else mask[:, ::2]
        x = jnp.where(mask[..., None], y, jnp.zeros((), dtype))  # the next convolution reads neighboring frames
    x = x + sinusoids(frames, config.width).astype(dtype)[None]
    x = dropout(x, keys[0], config.dropout) if train else x

    def layer(x: Array, inputs: tuple[PyTree, Array]) -> tuple[Array, None]:
        weights, layer_key = inputs
        applied: Any = EncoderLayer(config).apply({"params": weights}, x, mask, train, rngs={"dropout": layer_key})
        return applied, None

    x, _ = _run(config, layer, x, params, config.encoder_layers, keys[1], train)
    normed: Any = LayerNorm(dtype).apply({"params": params["norm"]}, x)
    return normed, mask


def _run(
    config: WhisperConfig, layer: Callable, x: Array, params: PyTree, count: int, key: Array, train: bool
) -> tuple[Array, PyTree]:
    """Run all layers as one loop, unrolled or not. They are stacked here; unrolled, XLA removes the stacking."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params[f"layers_{i}"] for i in range(count)])
    if config.remat and train:
        layer = jax.checkpoint(layer, prevent_cse=not config.scan_layers)
    return lax.scan(layer, x, (stacked, jax.random.split(key, count)), unroll=not config.scan_layers)


def _embed(config: WhisperConfig, params: PyTree, tokens: Array, positions: Array) -> Float[Array, "batch tokens d"]:
    """Return the sum of the tokens' and the positions' vectors; NaN for ids that the vocabulary does not have."""
    dtype = jnp.dtype(config.dtype)
    take = partial(jnp.take, axis=0, mode="fill", fill_value=jnp.nan)
    return (take(params["embedding"], tokens) + take(params["positions"], positions)).astype(dtype)


def _logits(config: WhisperConfig, params: PyTree, x: Float[Array, "batch tokens d"]) -> Float[Array, "batch tokens v"]:
    normed: Any = LayerNorm(jnp.dtype(config.dtype)).apply({"params": params["norm"]}, x)
    embedding = params["embedding"].astype(normed.dtype)
    return jnp.einsum("btd,vd->btv", normed, embedding, preferred_element_type=jnp.float32)


def whisper(config: WhisperConfig, vocab_size: int) -> Model:
    """Return Whisper with teacher forcing, as pure functions; `whisper_decoder` reads some tokens at a time.

    A batch is {"features": float32 [batch, time, num_features], "mask": bool [batch, time], "tokens": int [batch, n],
    "token_mask": bool [batch, n]}. Values in masked frames (NaN too) and masked tokens change nothing. `apply` with
    train=True needs a key if there is dropout. The parameters are {"encoder", "decoder"}; the output layer is the
    transposed embedding.

    Args:
        config: settings of the network.
        vocab_size: number of tokens.

    Returns:
        The model. Its outputs are {"logits": float32 [batch, n, vocab_size] of the token that follows each, "encoded":
        [batch, time', width], "mask": bool [batch, time']} with time' = output_length(time).

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import WhisperConfig
        >>> from speech_jax.models.whisper import whisper
        >>> config = WhisperConfig(num_features=8, width=8, heads=2, encoder_layers=1, decoder_layers=1, hidden=16)
        >>> model = whisper(config, vocab_size=50)
        >>> batch = {"features": jnp.ones((2, 40, 8)), "mask": jnp.arange(40)[None] < jnp.array([[40], [21]])}
        >>> batch |= {"tokens": jnp.ones((2, 5), int), "token_mask": jnp.arange(5)[None] < jnp.array([[5], [3]])}
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> outputs["logits"].shape, outputs["encoded"].shape
        ((2, 5, 50), (2, 20, 8))
    """
    check_count("vocab_size", vocab_size)

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        keys = iter(jax.random.split(key, 5))
        dtype, width = jnp.dtype(config.dtype), config.width
        x, few, one = jnp.zeros((1, 2, width), dtype), jnp.ones((1, 2), bool), jnp.ones((1, 2, 2), bool)
        conv1, conv2 = _convolutions(config)
        norm = LayerNorm(dtype).init(next(keys), x)["params"]
        first, second = jax.random.split(next(keys))
        encoder = {
            "conv1": conv1.init(first, jnp.zeros((1, 2, config.num_features)))["params"],
            "conv2": conv2.init(second, x)["params"],
            "norm": norm,
        }
        encoder |= _init_layers(
            lambda key: EncoderLayer(config).init(key, x, few, False), next(keys), config.encoder_layers
        )
        # Of torch's embedding the deviation would be 1, with which the tied output begins far from uniform.
        embed_key, place_key = jax.random.split(next(keys))
        decoder = {
            "embedding": 0.02 * jax.random.normal(embed_key, (vocab_size, width)),
            "positions": 0.02 * jax.random.normal(place_key, (config.text_positions, width)),
            "norm": norm,
        }
        decoder |= _init_layers(
            lambda key: DecoderLayer(config).init(key, x, x, few, one, False), next(keys), config.decoder_layers
        )
        return {"encoder": encoder, "decoder": decoder}, {}

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[dict[str, Array], PyTree]:
        if train and key is None and max(config.dropout, config.dropout_att, config.dropout_hidden) > 0:
            raise ValueError("whisper: apply with train=True needs a key for dropout")
        keys = jax.random.split(jax.random.key(0) if key is None else key, 2)
        encoded, mask = encode(config, params, batch, keys[0], train)
        logits = _decode(config, params["decoder"], encoded, mask, batch, keys[1], train)
        return {"logits": logits, "encoded": encoded, "mask": mask}, model_state

    return Model(init, apply)


def _init_layers(init: Callable, key: Array, count: int) -> dict[str, PyTree]:
    """Return the parameters of all layers: one trace, each with its own key."""
    stacked = jax.vmap(lambda key: init(key)["params"])(jax.random.split(key, count))
    return {f"layers_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)}


def _decode(
    config: WhisperConfig,
    params: PyTree,
    encoded: Float[Array, "batch time d"],
    mask: Bool[Array, "batch time"],
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> Float[Array, "batch tokens v"]:
    """Return the logits of all tokens at once. params: those of the decoder."""
    rows = encoded.shape[0]
    check_array("tokens", batch["tokens"], "int", rows, "tokens")
    count = batch["tokens"].shape[1]
    check_array("token_mask", batch["token_mask"], "bool", rows, count)
    if not 0 < count <= config.text_positions:
        raise ValueError(f"tokens: found {count} in a row, expected 1 to {config.text_positions}")
    keys = jax.random.split(key, 2)
    valid = batch["token_mask"]
    tokens = jnp.where(valid, batch["tokens"], 0)
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    x = _embed(config, params, tokens, positions)
    x = dropout(x, keys[0], config.dropout) if train else x
    before = jnp.tril(jnp.ones((count, count), bool))[None] & valid[:, None, :]

    def layer(x: Array, inputs: tuple[PyTree, Array]) -> tuple[Array, None]:
        weights, layer_key = inputs
        applied: Any = DecoderLayer(config).apply(
            {"params": weights}, x, encoded, mask, before, train, rngs={"dropout": layer_key}
        )
        return applied[0], None

    x, _ = _run(config, layer, x, params, config.decoder_layers, keys[1], train)
    return _logits(config, params, x)


def whisper_decoder(config: WhisperConfig) -> Decoder:
    """Return the decoder with a cache of keys and values, as pure functions.

    Args:
        config: settings of the network.

    Returns:
        Its functions, see `Decoder`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import WhisperConfig
        >>> from speech_jax.models.whisper import encode, whisper, whisper_decoder
        >>> config = WhisperConfig(num_features=8, width=8, heads=2, encoder_layers=1, decoder_layers=1, hidden=16)
        >>> batch = {"features": jnp.ones((2, 40, 8)), "mask": jnp.ones((2, 40), bool)}
        >>> params, _ = whisper(config, vocab_size=50).init(jax.random.key(0), batch)
        >>> encoded, mask = encode(config, params, batch)
        >>> decoder = whisper_decoder(config)
        >>> state = decoder.start(params, encoded, mask, 10)
        >>> logits, state = decoder.step(params, state, jnp.array([[1, 2], [3, 4]]), jnp.ones((2, 2), bool))
        >>> logits.shape, int(state["at"])
        ((2, 2, 50), 2)
    """
    names = [f"layers_{i}" for i in range(config.decoder_layers)]

    def start(
        params: PyTree, encoded: Float[Array, "rows time d"], mask: Bool[Array, "rows time"], length: int
    ) -> PyTree:
        if not 0 < length <= config.text_positions:
            raise ValueError(f"length: found {length}, expected 1 to {config.text_positions}")
        weights, rows, dtype = params["decoder"], encoded.shape[0], jnp.dtype(config.dtype)
        empty = jnp.zeros((rows, length, config.heads, config.width // config.heads), dtype)
        project = partial(DecoderLayer(config).apply, method="project")
        return {
            "memory": {name: project({"params": weights[name]}, encoded) for name in names},
            "memory_mask": mask,
            "cache": {name: (empty, empty) for name in names},
            "valid": jnp.zeros((rows, length), bool),
            "at": jnp.zeros((), jnp.int32),
        }

    def step(
        params: PyTree, state: PyTree, tokens: Int[Array, "rows n"], mask: Bool[Array, "rows n"]
    ) -> tuple[Float[Array, "rows n v"], PyTree]:
        weights, at = params["decoder"], state["at"]
        rows, length = state["valid"].shape
        check_array("tokens", tokens, "int", rows, "n")
        check_array("mask", mask, "bool", rows, tokens.shape[1])
        count = state["valid"].sum(axis=1)  # tokens that each row has read
        positions = jnp.maximum(count[:, None] + jnp.cumsum(mask, axis=1) - 1, 0)
        # A step beyond the end of the cache would overwrite its last columns: NaN instead.
        positions = jnp.where(at + tokens.shape[1] <= length, positions, config.text_positions)
        valid = lax.dynamic_update_slice_in_dim(state["valid"], mask, at, axis=1)
        column = at + jnp.arange(tokens.shape[1])
        before = (jnp.arange(length)[None] <= column[:, None])[None] & valid[:, None, :]
        x = _embed(config, weights, jnp.where(mask, tokens, 0), positions)
        cache = {}
        for name in names:
            applied: Any = DecoderLayer(config).apply(
                {"params": weights[name]}, x, state["memory"][name], state["memory_mask"], before, False,
                state["cache"][name], at,
            )  # fmt: skip
            x, cache[name] = applied
        new = {"cache": cache, "valid": valid, "at": at + tokens.shape[1]}
        return _logits(config, weights, x), {**state, **new}

    def select(state: PyTree, numbers: Int[Array, " many"]) -> PyTree:
        cache, valid = jax.tree.map(lambda leaf: leaf[numbers], (state["cache"], state["valid"]))
        return {**state, "cache": cache, "valid": valid}

    return Decoder(start, step, select)
