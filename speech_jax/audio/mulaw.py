"""µ-law companding (the continuous curve of ITU-T G.711): waveforms in [-1, 1] to classes and back.

µ is classes - 1. A class is the nearest of equally spaced levels of the compressed waveform; 0.0 lies halfway between
two of them and gets the upper one, classes // 2.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def zero_class(classes: int) -> int:
    """Return the class of 0.0."""
    return classes // 2


def mulaw_encode(audio: Float[Array, "..."], classes: int = 256) -> Int[Array, "..."]:
    """Return the µ-law class of each sample, 0 to classes - 1; samples beyond [-1, 1] are clipped.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.audio.mulaw import mulaw_encode
        >>> mulaw_encode(jnp.array([-1.0, 0.0, 0.5, 1.0])).tolist()
        [0, 128, 239, 255]
    """
    top = classes - 1
    audio = jnp.clip(audio, -1.0, 1.0)
    compressed = jnp.sign(audio) * jnp.log1p(top * jnp.abs(audio)) / jnp.log1p(jnp.float32(top))
    return jnp.clip(jnp.floor((compressed + 1) / 2 * top + 0.5), 0, top).astype(jnp.int32)


def mulaw_decode(codes: Int[Array, "..."], classes: int = 256) -> Float[Array, "..."]:
    """Return the sample value of each µ-law class, in [-1, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.audio.mulaw import mulaw_decode
        >>> [round(x, 3) for x in mulaw_decode(jnp.array([0, 128, 239, 255])).tolist()]
        [-1.0, 0.0, 0.497, 1.0]
    """
    top = classes - 1
    compressed = 2 * codes.astype(jnp.float32) / top - 1
    return jnp.sign(compressed) * jnp.expm1(jnp.abs(compressed) * jnp.log1p(jnp.float32(top))) / top
