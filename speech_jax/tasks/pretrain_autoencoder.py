"""A denoising, masked auto-encoder of speech: a decoder reconstructs log-mel frames from the encoder's vectors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from speech_jax.models.config import ConformerConfig
from speech_jax.models.layers import linear, linear_init
from speech_jax.objectives.masking import stack_frames
from speech_jax.tasks.pretrain import AutoencoderConfig


def make(config: AutoencoderConfig, network: ConformerConfig) -> tuple[Callable, Callable]:
    """(init, loss) as `tasks.pretrain.Pretext` wants them."""
    factor, bands = network.subsampling_factor, network.num_features

    def init(key: jax.Array):
        first, second = jax.random.split(key)
        return {
            "hidden": linear_init(first, network.width, config.width),
            "out": linear_init(second, config.width, factor * bands),
        }

    def loss(params, encoder, heard, step):
        del encoder, step
        batch, time = heard.mask.shape
        made = linear(params["out"], jax.nn.gelu(linear(params["hidden"], heard.encoded.astype(jnp.float32))))
        target = stack_frames(heard.features, heard.feature_mask, factor, time)
        error = jnp.abs(made - jax.lax.stop_gradient(target)).mean(-1)
        shown = heard.mask & ~heard.hidden
        weight = jnp.where(heard.hidden, 1.0, 0.0) + jnp.where(shown, config.shown_weight, 0.0)
        count = jnp.sum(heard.hidden).astype(jnp.float32)

        def mean_of(where):
            return jnp.sum(jnp.where(where, error, 0.0)), jnp.sum(where).astype(jnp.float32)

        metrics = {"hidden_error": mean_of(heard.hidden), "shown_error": mean_of(shown)}
        picture = made[0].reshape(time * factor, bands)[: heard.features.shape[1]]
        return jnp.sum(jnp.where(weight > 0, weight * error, 0.0)), count, metrics, picture

    return init, loss
