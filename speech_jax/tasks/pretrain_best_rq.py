"""BEST-RQ (Chiu et al. 2022, arXiv 2202.01855): predict a hidden frame's nearest entry of a random codebook."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from speech_jax.core.types import LossOut
from speech_jax.models.config import ConformerConfig
from speech_jax.models.layers import linear, linear_init
from speech_jax.objectives.masking import code_perplexity, stack_frames
from speech_jax.tasks.pretrain import BestRQConfig


def make(config: BestRQConfig, network: ConformerConfig) -> tuple[Callable, Callable]:
    """Return (init, loss), the fields of `tasks.pretrain_task.Pretext`."""
    factor, books = network.subsampling_factor, config.codebooks

    def init(key: jax.Array):
        return {"codes": linear_init(key, network.width, books * config.codes)}

    def quantize(frames):
        """Return the nearest entry of each codebook by cosine similarity, [rows, frames, codebooks]."""
        first, second = jax.random.split(jax.random.key(config.seed))
        size = frames.shape[-1]
        bound = (6 / (size + config.width)) ** 0.5  # Xavier's uniform, as in the paper
        projection = jax.random.uniform(first, (books, size, config.width), minval=-bound, maxval=bound)
        codebook = jax.random.normal(second, (books, config.codes, config.width))
        codebook /= jnp.linalg.norm(codebook, axis=-1, keepdims=True)
        projected = jnp.einsum("bti,niw->btnw", frames, projection)
        return jnp.argmax(jnp.einsum("btnw,ncw->btnc", projected, codebook), axis=-1)

    def loss(params, encoder, masked, step):
        del encoder, step
        batch, time = masked.mask.shape
        frames = stack_frames(masked.features, masked.feature_mask, factor, time)
        targets = quantize(jax.lax.stop_gradient(frames))
        logits = linear(params["codes"], masked.encoded.astype(jnp.float32))
        logits = logits.reshape(batch, time, books, config.codes)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        hidden = masked.hidden[..., None]
        count = jnp.sum(masked.hidden).astype(jnp.float32) * books
        correct = jnp.sum(jnp.where(hidden, jnp.argmax(logits, -1) == targets, False)).astype(jnp.float32)
        one = jnp.ones(())
        predictions = jnp.argmax(logits[:, :, 0], -1)
        metrics = {
            "accuracy": (correct, count),
            "code_perplexity": (code_perplexity(targets[:, :, 0], masked.mask, config.codes), one),
            "guess_perplexity": (code_perplexity(predictions, masked.hidden, config.codes), one),
        }
        value = jnp.sum(jnp.where(hidden, nll, 0.0)) / jnp.maximum(count, 1.0)
        return LossOut(value, count, None, metrics), None

    return init, loss
