"""Conformer-CTC (Gulati et al. 2020) and FastConformer (Rekesh et al. 2023), with NeMo's dimensions and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.core.arrays import check_array, check_count
from speech_jax.core.hashing import hashed_key
from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.attention import ATTENDED, RelativeAttention, relative_positions
from speech_jax.models.config import ConformerConfig
from speech_jax.models.convolution import DepthwiseConv1d
from speech_jax.models.layers import (
    Dropout,
    LayerNorm,
    MaskedBatchNorm,
    MaskedGroupNorm,
    check_features,
    dense,
    dropout,
    stochastic_depth,
)
from speech_jax.models.subsampling import ConvSubsampling, halve

# Sharded over "tensor": the heads of attention, the hidden channels of the feed-forward modules and the vocabulary.
# Each pair of products then needs one sum over the devices. The convolution module is not sharded: its GLU multiplies
# channels of two halves, which would be on different devices.
SHARDING = (
    (r"self_attn/linear_(q|k|v|pos)/kernel$", ("fsdp", "tensor")),
    (r"self_attn/linear_(q|k|v|pos)/bias$", ("tensor",)),
    (r"self_attn/pos_bias_[uv]$", ("tensor", None)),
    (r"self_attn/linear_out/kernel$", ("tensor", "fsdp")),
    (r"feed_forward\d/linear1/kernel$", ("fsdp", "tensor")),
    (r"feed_forward\d/linear1/bias$", ("tensor",)),
    (r"feed_forward\d/linear2/kernel$", ("tensor", "fsdp")),
    (r"(^|/)head/kernel$", ("fsdp", "tensor")),
    (r"(^|/)head/bias$", ("tensor",)),
)


def small() -> ConformerConfig:
    """Return NeMo's Conformer-CTC small: 12,972,608 parameters in the encoder."""
    return ConformerConfig()


def medium() -> ConformerConfig:
    """Return NeMo's Conformer-CTC medium: 30,505,472 parameters in the encoder."""
    return ConformerConfig(width=256, layers=18)


def large() -> ConformerConfig:
    """Return NeMo's Conformer-CTC large: 121,435,136 parameters in the encoder."""
    return ConformerConfig(width=512, layers=18, heads=8)


def fastconformer_large() -> ConformerConfig:
    """Return NeMo's FastConformer-CTC large: 108,762,112 parameters in the encoder."""
    return replace(
        large(), layers=17, kernel_size=9, subsampling="dw_striding", subsampling_factor=8, subsampling_channels=256
    )


def output_length(frames: Any, config: ConformerConfig) -> Any:
    """Return the number of encoder frames of `frames` feature frames (an int, or an integer array)."""
    return halve(frames, {4: 2, 8: 3}[config.subsampling_factor])


class ConformerFeedForward(nn.Module):
    """Linear, swish, dropout, linear."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"], *, train: bool) -> Float[Array, "batch time d"]:
        """Return the module's output, without the residual connection."""
        config = self.config
        hidden = config.width * config.feed_forward_multiple
        linear = partial(dense, dtype=jnp.dtype(config.dtype), use_bias=config.use_bias)
        x = jax.nn.silu(linear(config.width, hidden, name="linear1")(x))
        x = Dropout(config.dropout)(x, train=train)
        return linear(hidden, config.width, name="linear2")(x)


class ConvModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, norm, activation (swish), pointwise convolution."""

    config: ConformerConfig
    activation: Callable = jax.nn.silu

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"], *, train: bool
    ) -> Float[Array, "batch time d"]:
        """Return the module's output, without the residual connection."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        linear = partial(dense, dtype=dtype, use_bias=config.use_bias)
        x = linear(config.width, 2 * config.width, name="pointwise_conv1")(x)
        x = jax.nn.glu(x, axis=-1)
        x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))  # the next convolution reads neighboring frames
        x = DepthwiseConv1d(config.width, config.kernel_size, config.use_bias, dtype, name="depthwise_conv")(x)
        if config.conv_norm == "batch":
            x = MaskedBatchNorm(dtype, name="norm")(x, mask, train=train)
        elif config.conv_norm == "group":
            x = MaskedGroupNorm(config.conv_norm_groups, dtype, name="norm")(x, mask)
        else:
            x = LayerNorm(dtype, name="norm")(x)
        return linear(config.width, config.width, name="pointwise_conv2")(self.activation(x))


def self_attention(config: ConformerConfig, *, name: str) -> RelativeAttention:
    """Return the self-attention of a layer, which is called as `attention(x, positions, mask, train=…)`."""
    return RelativeAttention(
        config.width,
        config.heads,
        dropout=config.dropout_att,
        use_bias=config.use_bias,
        dtype=jnp.dtype(config.dtype),
        block=config.attention_block,
        fused=config.attention_fused,
        fused_gpu=config.attention_fused_gpu,
        name=name,
    )


class LayerParts(NamedTuple):
    """Modules of a Conformer layer. None leaves a module out, with its norm and residual connection.

    Attributes:
        norm: Returns a norm from (dtype=…, name=…), such as `flax.linen.RMSNorm`, which is called with x. It sees the
            padding too, so it must not mix frames. None leaves all norms of a layer out.
        feed_forward: Returns a module from (config, name=…), which is called with (x, train=…).
        attention: Returns a module from (config, name=…), which is called with (x, positions, mask, train=…).
        convolution: Returns a module from (config, name=…), which is called with (x, mask, train=…).
    """

    norm: Callable[..., Callable] | None = LayerNorm
    feed_forward: Callable[..., Callable] | None = ConformerFeedForward
    attention: Callable[..., Callable] | None = self_attention
    convolution: Callable[..., Callable] | None = ConvModule


class ConformerLayer(nn.Module):
    """Half a feed-forward, self-attention, convolution, half a feed-forward, each residual; then a norm."""

    config: ConformerConfig
    parts: LayerParts = LayerParts()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time d"],
        positions: Float[Array, "2*time-1 d"],
        mask: Bool[Array, "batch time"],
        train: bool,
    ) -> Float[Array, "batch time d"]:
        """Return the layer's output. positions: from `relative_positions`."""
        config, parts, dtype = self.config, self.parts, jnp.dtype(self.config.dtype)
        drop = partial(Dropout(config.dropout), train=train)
        half = jnp.asarray(0.5, dtype)

        def output(part: str, y: Array) -> Array:
            """Return what a part made of x, in the layer's type; another shape could pass by broadcasting."""
            check_array(f"output of {part}", y, "float", *x.shape)
            return y.astype(dtype)

        def norm(x: Array, name: str) -> Array:
            if parts.norm is None:
                return x
            return output("norm", parts.norm(dtype=dtype, name=f"norm_{name}")(x))

        def feed_forward(x: Array, name: str) -> Array:
            if parts.feed_forward is None:
                return x
            y = parts.feed_forward(config, name=name)(norm(x, name), train=train)
            return x + half * drop(output("feed_forward", y))

        x = feed_forward(x, "feed_forward1")
        if parts.attention is not None:
            y = parts.attention(config, name="self_attn")(norm(x, "self_att"), positions, mask, train=train)
            x = x + drop(output("attention", y))
        if parts.convolution is not None:
            y = parts.convolution(config, name="conv")(norm(x, "conv"), mask, train=train)
            x = x + drop(output("convolution", y))
        x = feed_forward(x, "feed_forward2")
        return norm(x, "out")


def check_parts(parts: LayerParts) -> None:
    """Raise TypeError for a part that is neither None nor can be called as `LayerParts` says."""
    for part, made in parts._asdict().items():
        called = "(dtype=…, name=…)" if part == "norm" else "(config, name=…)"
        what = f"an instance of {type(made).__name__}" if isinstance(made, nn.Module) else repr(made)
        if isinstance(made, nn.Module) or not (made is None or callable(made)):
            raise TypeError(f"{part}: found {what}, expected None or a function or class that is called with {called}")


_POLICY = jax.checkpoint_policies
_KEPT = {
    "nothing": _POLICY.nothing_saveable,
    "products": _POLICY.save_from_both_policies(
        _POLICY.dots_with_no_batch_dims_saveable, _POLICY.save_only_these_names(ATTENDED)
    ),
}


def _head(vocab_size: int) -> nn.Dense:
    """Return NeMo's 1x1 convolution: Xavier's uniform weights, always float32."""
    return nn.Dense(vocab_size, kernel_init=nn.initializers.xavier_uniform())


def _subsampling(config: ConformerConfig) -> ConvSubsampling:
    stages = {4: 2, 8: 3}[config.subsampling_factor]
    channels = config.subsampling_channels or config.width
    return ConvSubsampling(config.width, channels, stages, config.subsampling, jnp.dtype(config.dtype))


def _encode(
    layer_of: ConformerLayer, params: PyTree, stats: PyTree, batch: Batch, key: jax.Array | None, train: bool
) -> tuple[Float[Array, "batch time d"], Bool[Array, "batch time"], PyTree]:
    """Return (vectors, mask, new batch statistics {"layers_0": …}, or {} if the norm has none)."""
    config = layer_of.config
    dtype = jnp.dtype(config.dtype)
    keys = jax.random.split(jax.random.key(0) if key is None else key, 3)
    subsampled: Any = _subsampling(config).apply({"params": params["subsampling"]}, batch["features"], batch["mask"])
    x, mask = subsampled
    if config.xscaling:
        x = x * jnp.asarray(config.width**0.5, dtype)
    positions = relative_positions(x.shape[1], config.width).astype(dtype)
    if train:
        x = dropout(x, keys[0], config.dropout_pre_encoder)
        positions = dropout(positions, keys[1], config.dropout_emb)

    # All layers have the same shapes: one loop, unrolled or not. Outside, their parameters are separate (so that a
    # regular expression can freeze the lower ones); they are stacked here. If unrolled, XLA removes the stacking.
    names = [f"layers_{i}" for i in range(config.layers)]
    layers = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params[name] for name in names]),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *[stats.get(name, {}) for name in names]),
        jax.random.split(keys[2], config.layers),
        config.stochastic_depth * jnp.arange(config.layers) / max(config.layers - 1, 1),
    )

    def layer(x: Array, layer_inputs: PyTree) -> tuple[Array, PyTree]:
        layer_params, layer_stats, layer_key, skip = layer_inputs
        key_dropout, key_depth = jax.random.split(hashed_key(layer_key))
        applied: Any = layer_of.apply(
            {"params": layer_params, "batch_stats": layer_stats}, x, positions, mask, train,
            rngs={"dropout": key_dropout}, mutable=["batch_stats"],
        )  # fmt: skip
        y, new = applied
        if train and config.stochastic_depth > 0:
            y = stochastic_depth(x, y, key_depth, skip)
        return y, new.get("batch_stats", {})

    if config.remat and train:
        # In a loop that is not unrolled, XLA cannot merge the recomputation with the forward pass anyway.
        layer = jax.checkpoint(layer, policy=_KEPT[config.remat_keeps], prevent_cse=not config.scan_layers)
    scanned: Any = jax.lax.scan(layer, x, layers, unroll=not config.scan_layers)
    x, new_stats = scanned
    return x, mask, {name: jax.tree.map(lambda s, i=i: s[i], new_stats) for i, name in enumerate(names)}


def conformer_encoder(config: ConformerConfig, parts: LayerParts | None = None) -> Model:
    """Return the encoder without a head, as pure functions.

    The batch is that of `conformer_ctc`. Parameters are {"subsampling", "layers_0", …}; the model state is
    {"batch_stats": {"encoder": …}} if the norm has statistics, else {}.

    Args:
        config: settings of the network.
        parts: modules of its layers; None takes those of `LayerParts`.

    Returns:
        The model. Its outputs are {"encoded": [batch, time', width], "mask": bool [batch, time']} with time' =
        output_length(time, config).

    Example:
        Shapes only, by `jax.eval_shape`; `encoder.init(key, batch)` and `encoder.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.models.conformer import conformer_encoder
        >>> encoder = conformer_encoder(ConformerConfig(num_features=8, width=8, layers=1, heads=2, kernel_size=3))
        >>> batch = {"features": jnp.ones((2, 40, 8)), "mask": jnp.arange(40)[None] < jnp.array([[40], [20]])}
        >>> params, state = jax.eval_shape(encoder.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(encoder.apply, params, state, batch)
        >>> sorted(params), outputs["encoded"].shape
        (['layers_0', 'subsampling'], (2, 10, 8))
    """
    parts = parts or LayerParts()
    check_parts(parts)
    layer = ConformerLayer(config, parts)

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        check_features(batch, config.num_features)
        keys = jax.random.split(key, config.layers + 2)
        sub = _subsampling(config)
        (x, mask), _ = jax.eval_shape(partial(sub.init_with_output, keys[0]), batch["features"], batch["mask"])
        encoder = {"subsampling": sub.init(keys[0], batch["features"], batch["mask"])["params"]}
        x, mask = jnp.zeros(x.shape, x.dtype), jnp.ones(mask.shape, bool)
        positions = relative_positions(x.shape[1], config.width).astype(x.dtype)
        # One trace for all layers, each with its own key; then separated again, see _encode.
        stacked = jax.vmap(lambda key: layer.init(key, x, positions, mask, False))(keys[1:-1])
        stats = {}
        for i in range(config.layers):
            variables = jax.tree.map(lambda a, i=i: a[i], stacked)
            encoder[f"layers_{i}"] = variables.get("params", {})
            stats[f"layers_{i}"] = variables.get("batch_stats", {})
        return encoder, {"batch_stats": {"encoder": stats}} if any(stats.values()) else {}

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[dict[str, Array], PyTree]:
        if train and key is None:
            raise ValueError("conformer: apply with train=True needs a key for dropout")
        check_features(batch, config.num_features)
        stats = model_state.get("batch_stats", {}).get("encoder", {})
        encoded, mask, new_stats = _encode(layer, params, stats, batch, key, train)
        if train and model_state:
            model_state = {**model_state, "batch_stats": {"encoder": new_stats}}
        return {"encoded": encoded, "mask": mask}, model_state

    return Model(init, apply)


def subsample(config: ConformerConfig, params: PyTree, batch: Batch) -> Float[Array, "batch time d"]:
    """Return the subsampled vectors, the input of the encoder's first layer. params: those of the encoder."""
    return _subsampling(config).apply({"params": params["subsampling"]}, batch["features"], batch["mask"])[0]


def conformer_ctc(
    config: ConformerConfig,
    vocab_size: int,
    *,
    norm: Callable[..., Callable] | None = LayerNorm,
    feed_forward: Callable[..., Callable] | None = ConformerFeedForward,
    attention: Callable[..., Callable] | None = self_attention,
    convolution: Callable[..., Callable] | None = ConvModule,
) -> Model:
    """Return a Conformer with a CTC head, as pure functions.

    A batch is {"features": float32 [batch, time, num_features], "mask": bool [batch, time]}. Values in masked frames,
    NaN too, change nothing. `apply` with train=True needs a key and returns new batch statistics; with train=False it
    returns the model state unchanged.

    Args:
        config: settings of the network.
        vocab_size: number of classes, the blank included.
        norm: makes the norms of a layer, such as `flax.linen.RMSNorm`, for an ablation; None leaves them out. See
            `LayerParts` for this one and the next three.
        feed_forward: makes a feed-forward module, or None.
        attention: makes the self-attention, or None.
        convolution: makes the convolution module, or None.

    Returns:
        The model. Its outputs are {"logits": float32 [batch, time', vocab_size], "mask": bool [batch, time'],
        "encoded": [batch, time', width]} with time' = output_length(time, config).

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.models.conformer import conformer_ctc
        >>> config = ConformerConfig(num_features=8, width=8, layers=1, heads=2, kernel_size=3)
        >>> model = conformer_ctc(config, vocab_size=30)
        >>> batch = {"features": jnp.ones((2, 40, 8)), "mask": jnp.arange(40)[None] < jnp.array([[40], [20]])}
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> sorted(params), outputs["logits"].shape
        (['encoder', 'head'], (2, 10, 30))

        Without the convolution module, and with RMS normalization:

        >>> import flax.linen as nn
        >>> model = conformer_ctc(config, vocab_size=30, norm=nn.RMSNorm, convolution=None)
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> sorted(params["encoder"]["layers_0"])[:3]
        ['feed_forward1', 'feed_forward2', 'norm_feed_forward1']
    """
    check_count("vocab_size", vocab_size)
    encoder = conformer_encoder(config, LayerParts(norm, feed_forward, attention, convolution))

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, model_state = encoder.init(key, batch)
        last = jax.random.split(key, config.layers + 2)[-1]
        head = _head(vocab_size).init(last, jnp.zeros((1, config.width)))["params"]
        return {"encoder": params, "head": head}, model_state

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[dict[str, Array], PyTree]:
        outputs, model_state = encoder.apply(params["encoder"], model_state, batch, key=key, train=train)
        logits: Any = _head(vocab_size).apply({"params": params["head"]}, outputs["encoded"].astype(jnp.float32))
        return {**outputs, "logits": logits}, model_state

    return Model(init, apply)
