"""Global style tokens (Wang et al. 2018): a reference recording → a vector of its speaking style.

Strided convolutions and a GRU summarize the reference; the style is the output of attention over a few learned tokens.
Without a reference it is the mean of the tokens.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from speech_jax.core.types import Batch, PyTree
from speech_jax.models.config import StyleConfig
from speech_jax.models.layers import LayerNorm, uniform_fan_in
from speech_jax.models.recurrent import gru_gates


class ReferenceEncoder(nn.Module):
    """Mel frames → one vector, independent of the padding.

    It has layer norm where the paper has batch norm: a few references per batch are too few for statistics.
    """

    config: StyleConfig

    @nn.compact
    def __call__(
        self, mel: Float[Array, "batch frames mels"], mask: Bool[Array, "batch frames"]
    ) -> Float[Array, "batch summary"]:
        """Return the summary of each reference."""
        x = mel[..., None]
        for i, channels in enumerate(self.config.channels):
            x = jnp.where(mask[..., None, None], x, 0.0)
            x = nn.Conv(channels, (3, 3), (2, 2), padding=((1, 1), (1, 1)), name=f"conv{i}")(x)
            x = nn.relu(LayerNorm(name=f"norm{i}")(x))
            mask = mask[:, ::2]
        x = x.reshape(*x.shape[:2], -1)
        width = self.config.summary
        init = uniform_fan_in(width)
        gates = nn.Dense(3 * width, kernel_init=init, name="input")(x)
        recurrent = nn.Dense(3 * width, kernel_init=init, name="recurrent")
        h = jnp.zeros((x.shape[0], width), jnp.float32)
        recurrent(h)  # creates its parameters outside the loop
        kernel, bias = (recurrent.variables["params"][name] for name in ("kernel", "bias"))

        def step(h: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
            gates, live = frame
            return jnp.where(live[:, None], gru_gates(gates, h @ kernel + bias[None], h), h), None

        return lax.scan(step, h, (jnp.moveaxis(gates, 1, 0), mask.T))[0]


def style_init(config: StyleConfig, num_mels: int, key: Array) -> tuple[PyTree, PyTree]:
    """Return (parameters, batch statistics); the latter are {}."""
    keys = jax.random.split(key, 5)
    reference = ReferenceEncoder(config).init(keys[0], jnp.zeros((1, 64, num_mels)), jnp.ones((1, 64), bool))["params"]
    shared = config.width // config.heads
    query = uniform_fan_in(config.summary)(keys[2], (config.summary, config.width))
    kernels = {
        name: uniform_fan_in(shared)(k, (shared, config.width)) for name, k in (("key", keys[3]), ("value", keys[4]))
    }
    tokens = 0.5 * jax.random.normal(keys[1], (config.tokens, shared))
    return {"reference": reference, "tokens": tokens, "query": query, **kernels}, {}


def style_apply(
    config: StyleConfig, params: PyTree, stats: PyTree, batch: Batch, *, train: bool = False
) -> tuple[Float[Array, "batch width"], PyTree]:
    """Return (style vectors, batch statistics unchanged).

    Args:
        config: settings of the reference encoder.
        params: from `style_init`.
        stats: from `style_init`.
        batch: with "reference" (mel frames) and "reference_mask"; without them the style is that of the target, "mel"
            and "mel_mask"; without these too it is the mean of the tokens.
        train: unused.
    """
    del train
    tokens = jnp.tanh(params["tokens"])
    keys, values = ((tokens @ params[name]).reshape(config.tokens, config.heads, -1) for name in ("key", "value"))
    mel = batch.get("reference", batch.get("mel"))
    if mel is None:
        share = jnp.full((batch["text"].shape[0], config.heads, config.tokens), 1 / config.tokens, jnp.float32)
    else:
        mask = batch["reference_mask" if "reference" in batch else "mel_mask"]
        summary = ReferenceEncoder(config).apply({"params": params["reference"]}, mel, mask)
        query = (summary @ params["query"]).reshape(-1, config.heads, config.width // config.heads)
        share = jax.nn.softmax(jnp.einsum("bhd,thd->bht", query, keys) * keys.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bht,thd->bhd", share, values).reshape(share.shape[0], config.width), stats
