"""Losses that pull a student to a teacher on the same frames: posteriors and hidden vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def posterior_loss(
    student: Float[Array, "batch time vocab"],
    teacher: Float[Array, "batch time vocab"],
    mask: Bool[Array, "batch time"],
    *,
    temperature: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum over valid frames of T² KL(teacher ‖ student), number of valid frames), in nats (Hinton et al. 2015).

    student, teacher: logits. No gradient flows to the teacher; whatever lies in masked frames, NaN too, counts nothing.
    """
    real = mask[..., None]
    s = jax.nn.log_softmax(jnp.where(real, student, 0.0).astype(jnp.float32) / temperature)
    t = jax.nn.log_softmax(jnp.where(real, jax.lax.stop_gradient(teacher), 0.0).astype(jnp.float32) / temperature)
    divergence = jnp.sum(jnp.exp(t) * (t - s), axis=-1)
    return temperature**2 * jnp.sum(jnp.where(mask, divergence, 0.0)), jnp.sum(mask).astype(jnp.float32)


def similarity_loss(
    student: Float[Array, "batch time d"], teacher: Float[Array, "batch time e"], mask: Bool[Array, "batch time"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum over valid frames of the mean squared difference of their cosine similarities to all valid frames of the
    utterance, number of valid frames): similarity-preserving distillation (Tung and Mori 2019).

    It compares how frames lie to each other, so the widths may differ and no projection is learned.
    """

    def cosines(x: Array) -> Array:
        x = jnp.where(mask[..., None], x, 0.0).astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)
        return jnp.einsum("btd,bsd->bts", x, x)

    both = mask[:, :, None] & mask[:, None, :]
    squares = jnp.where(both, (cosines(student) - jax.lax.stop_gradient(cosines(teacher))) ** 2, 0.0)
    per_frame = squares.sum(-1) / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    return jnp.sum(per_frame), jnp.sum(mask).astype(jnp.float32)
