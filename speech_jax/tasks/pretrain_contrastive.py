"""Contrastive learning as wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), on the recognizer's own features.

The context vector of a hidden frame must be nearer to the quantized vector of that frame than to those of other
hidden frames of the utterance. The quantizer is trained with it: product codebooks with Gumbel softmax, and a
diversity loss against their collapse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.audio import rows
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import subsample
from speech_jax.models.layers import linear, linear_init
from speech_jax.objectives.masking import code_perplexity
from speech_jax.objectives.means import loss_of, mean
from speech_jax.tasks.pretrain import ContrastiveConfig


def make(config: ContrastiveConfig, network: ConformerConfig) -> tuple[Callable, Callable]:
    """Return (init, loss), the fields of `tasks.pretrain_task.Pretext`."""
    groups, codes, width = config.groups, config.codes, config.width

    def init(key: jax.Array):
        keys = jax.random.split(key, 4)

        part = math.ceil(width / groups)
        return {
            # Standard deviation 1, as in fairseq: the first choices are a hash of the frame that Gumbel noise hardly
            # changes. With small logits they would be noise, not predictable, and the encoder collapses.
            "choose": linear_init(keys[0], network.width, groups * codes, scale=1.0),
            "entries": jax.random.uniform(keys[1], (groups, codes, part)),
            "target": linear_init(keys[2], groups * part, width),
            "context": linear_init(keys[3], network.width, width),
        }

    def unit(x):
        return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-8)

    def loss(params, encoder, masked, step):
        batch, time = masked.mask.shape
        gumbel_keys, choice_keys = rows.fold(masked.keys, 0), rows.fold(masked.keys, 1)
        inputs = {"features": masked.features, "mask": masked.feature_mask}
        latent = subsample(network, encoder, inputs).astype(jnp.float32)
        latent = latent * jax.lax.rsqrt(jnp.mean(latent * latent, -1, keepdims=True) + 1e-5)
        logits = linear(params["choose"], latent).reshape(batch, time, groups, codes)

        # Straight-through: the hard choice forward, the gradient of the soft one backward.
        high, low, decay = config.gumbel
        temperature = jnp.maximum(low, high * decay ** jnp.asarray(step, jnp.float32))
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(gumbel_keys)
        noisy = (logits + noise) / temperature
        soft = jax.nn.softmax(noisy)
        chosen = jnp.argmax(noisy, -1)
        one_hot = jax.nn.one_hot(chosen, codes) + soft - jax.lax.stop_gradient(soft)
        vectors = jnp.einsum("btgc,gcw->btgw", one_hot, params["entries"]).reshape(batch, time, -1)
        targets, context = unit(linear(params["target"], vectors)), unit(linear(params["context"], masked.encoded))

        # Negatives: other hidden frames of the same utterance.
        number = jnp.cumsum(masked.hidden, axis=1) - 1  # number of a hidden frame among them
        count = masked.hidden.sum(axis=1)
        order = jnp.argsort(~masked.hidden, axis=1, stable=True)  # positions of the hidden frames, first
        draws = jax.vmap(lambda key: jax.random.randint(key, (time, config.distractors), 0, 1 << 20))(choice_keys)
        shift = 1 + draws % jnp.maximum(count - 1, 1)[:, None, None]
        other = (number[:, :, None] + shift) % jnp.maximum(count, 1)[:, None, None]
        positions = jnp.take_along_axis(order, other.reshape(batch, -1), axis=1)[..., None]
        negatives = jnp.take_along_axis(targets, positions, axis=1).reshape(batch, time, -1, width)
        positive_score = jnp.einsum("btw,btw->bt", context, targets)
        negative_scores = jnp.einsum("btw,btnw->btn", context, negatives)
        # A frame with the same entries is no negative. Indices are compared: the vectors differ by rounding.
        negative_entries = jnp.take_along_axis(chosen, positions, axis=1).reshape(batch, time, -1, groups)
        same = jnp.all(negative_entries == chosen[:, :, None], axis=-1)
        negative_scores = jnp.where(same, -jnp.inf, negative_scores)
        scores = jnp.concatenate([positive_score[..., None], negative_scores], -1) / config.temperature
        use = masked.hidden & (count > 1)[:, None]
        nll = jnp.where(use, jax.nn.logsumexp(scores, -1) - scores[..., 0], 0.0)
        total = jnp.sum(use).astype(jnp.float32)

        # Diversity: the entropy of the mean choice over all valid frames, without Gumbel noise.
        weight = masked.mask[..., None, None].astype(jnp.float32)
        sums = {
            "contrast": (jnp.sum(nll), total),
            "choices": ((jax.nn.softmax(logits) * weight).sum((0, 1)), weight.sum()),
        }
        of_sums = jax.tree_util.Partial(contrastive_value, config.diversity)
        best = jnp.where(use, jnp.argmax(scores, -1) == 0, False)
        one = jnp.ones(())
        metrics = {
            "accuracy": (jnp.sum(best).astype(jnp.float32), total),
            "diversity_penalty": (diversity_penalty(mean(sums["choices"])), one),
            "code_perplexity": (code_perplexity(chosen[:, :, 0], masked.mask, codes), one),
        }
        return loss_of(sums, of_sums, total, None, metrics), None

    return init, loss


def contrastive_value(diversity: float, sums: dict[str, Any]) -> Float[Array, ""]:
    """Return the contrastive loss per hidden frame plus `diversity` times the penalty; 0 without hidden frames."""
    frames = sums["contrast"][1]
    penalty = diversity * diversity_penalty(mean(sums["choices"]))
    return mean(sums["contrast"]) + jnp.where(frames > 0, penalty, 0.0)


def diversity_penalty(choices: Float[Array, "groups codes"]) -> Float[Array, ""]:
    """Return 1 minus the perplexity of the mean choice as a share of all entries: 0 if all are used equally."""
    perplexity = jnp.exp(-jnp.sum(choices * jnp.log(choices + 1e-7), -1)).sum()
    return (choices.size - perplexity) / choices.size
