"""Distillation losses between a student and a teacher on the same frames: posteriors and hidden vectors."""

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
    """Return the distillation loss T² KL(teacher ‖ student) as a sum over valid frames (Hinton et al. 2015).

    Args:
        student: logits of the student.
        teacher: logits of the teacher; no gradient flows to it.
        mask: True on valid frames. Values in masked frames, NaN too, change nothing.
        temperature: T, the divisor of both logits.

    Returns:
        (sum over valid frames in nats, number of valid frames).
    """
    valid = mask[..., None]
    log_p = jax.nn.log_softmax(jnp.where(valid, student, 0.0).astype(jnp.float32) / temperature)
    teacher = jnp.where(valid, jax.lax.stop_gradient(teacher), 0.0).astype(jnp.float32)
    log_q = jax.nn.log_softmax(teacher / temperature)
    divergence = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    return temperature**2 * jnp.sum(jnp.where(mask, divergence, 0.0)), jnp.sum(mask).astype(jnp.float32)


def similarity_loss(
    student: Float[Array, "batch time d"], teacher: Float[Array, "batch time e"], mask: Bool[Array, "batch time"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the similarity-preserving distillation loss as a sum over valid frames (Tung and Mori 2019).

    Per frame: the mean squared difference between student and teacher of the frame's cosine similarities to all valid
    frames of the utterance. Only similarities are compared, so the widths may differ and no projection is learned.

    Args:
        student: hidden vectors of the student.
        teacher: hidden vectors of the teacher; no gradient flows to them.
        mask: True on valid frames. Values in masked frames, NaN too, change nothing.

    Returns:
        (sum over valid frames, number of valid frames).
    """

    def cosines(x: Array) -> Array:
        x = jnp.where(mask[..., None], x, 0.0).astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)
        return jnp.einsum("btd,bsd->bts", x, x)

    both_valid = mask[:, :, None] & mask[:, None, :]
    squares = jnp.where(both_valid, (cosines(student) - jax.lax.stop_gradient(cosines(teacher))) ** 2, 0.0)
    per_frame = squares.sum(-1) / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    return jnp.sum(per_frame), jnp.sum(mask).astype(jnp.float32)
