"""µ-law companding (ITU-T G.711's continuous curve): waveforms in [-1, 1] to classes and back.

µ is classes - 1. A class is the nearest of equally spaced levels of the compressed waveform; 0.0 lies half-way between
two and takes the upper one, classes // 2.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def zero_class(classes: int) -> int:
    """The class of 0.0."""
    return classes // 2


def mulaw_encode(audio: Float[Array, "..."], classes: int = 256) -> Int[Array, "..."]:
    """The class of each sample, 0 to classes - 1; samples beyond [-1, 1] are clipped."""
    top = classes - 1
    audio = jnp.clip(audio, -1.0, 1.0)
    squeezed = jnp.sign(audio) * jnp.log1p(top * jnp.abs(audio)) / jnp.log1p(jnp.float32(top))
    return jnp.clip(jnp.floor((squeezed + 1) / 2 * top + 0.5), 0, top).astype(jnp.int32)


def mulaw_decode(classes_of: Int[Array, "..."], classes: int = 256) -> Float[Array, "..."]:
    """The sample that each class stands for."""
    top = classes - 1
    squeezed = 2 * classes_of.astype(jnp.float32) / top - 1
    return jnp.sign(squeezed) * jnp.expm1(jnp.abs(squeezed) * jnp.log1p(jnp.float32(top))) / top
