"""Masked, denoising autoencoder of speech: a decoder reconstructs log-mel frames from the encoder's vectors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from speech_jax.core.types import LossOut
from speech_jax.models.config import ConformerConfig
from speech_jax.models.layers import linear, linear_init
from speech_jax.objectives.masking import stack_frames
from speech_jax.tasks.pretrain import AutoencoderConfig


def make(config: AutoencoderConfig, network: ConformerConfig) -> tuple[Callable, Callable]:
    """Return (init, loss), the fields of `tasks.pretrain_task.Pretext`."""
    factor, bands = network.subsampling_factor, network.num_features

    def init(key: jax.Array):
        first, second = jax.random.split(key)
        return {
            "hidden": linear_init(first, network.width, config.width),
            "out": linear_init(second, config.width, factor * bands),
        }

    def loss(params, encoder, masked, step):
        del encoder, step
        batch, time = masked.mask.shape
        output = linear(params["out"], jax.nn.gelu(linear(params["hidden"], masked.encoded.astype(jnp.float32))))
        target = stack_frames(masked.features, masked.feature_mask, factor, time)
        error = jnp.abs(output - jax.lax.stop_gradient(target)).mean(-1)
        shown = masked.mask & ~masked.hidden
        weight = jnp.where(masked.hidden, 1.0, 0.0) + jnp.where(shown, config.shown_weight, 0.0)
        count = jnp.sum(masked.hidden).astype(jnp.float32)

        def sum_and_count(where):
            return jnp.sum(jnp.where(where, error, 0.0)), jnp.sum(where).astype(jnp.float32)

        metrics = {"hidden_error": sum_and_count(masked.hidden), "shown_error": sum_and_count(shown)}
        picture = output[0].reshape(time * factor, bands)[: masked.features.shape[1]]
        value = jnp.sum(jnp.where(weight > 0, weight * error, 0.0)) / jnp.maximum(count, 1.0)
        return LossOut(value, count, None, metrics), picture

    return init, loss
