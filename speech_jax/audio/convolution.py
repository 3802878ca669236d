"""Convolution of the rows of a batch without an FFT: one long response per row, or one short response for all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from speech_jax.audio.framing import chunked_frames

_BLOCK = 256


def convolve(
    audio: Float[Array, "batch samples"], responses: Float[Array, "batch taps"]
) -> Float[Array, "batch samples"]:
    """Convolve each row with its own response and keep the first `samples` samples.

    Uniformly partitioned overlap-save (Gardner 1995; Wefers 2015): the response is cut into blocks, and block k
    multiplies the spectrum of the input frame k blocks earlier. The transforms are small matrix products, because an
    FFT would gather a batch that is sharded over devices.
    """
    batch, samples = audio.shape
    blocks, parts = -(-samples // _BLOCK), -(-responses.shape[1] // _BLOCK)
    frames = chunked_frames(jnp.pad(audio, ((0, 0), (_BLOCK, 0))), blocks, 2 * _BLOCK, _BLOCK)
    pieces = jnp.pad(responses, ((0, 0), (0, parts * _BLOCK - responses.shape[1]))).reshape(batch, parts, _BLOCK)
    forward, inverse = _transforms()
    real, imaginary = jnp.split(_dot(frames, forward), 2, axis=-1)
    part_real, part_imaginary = jnp.split(_dot(pieces, forward[:_BLOCK]), 2, axis=-1)
    earlier = ((0, 0), (parts - 1, 0), (0, 0))
    real, imaginary = jnp.pad(real, earlier), jnp.pad(imaginary, earlier)

    def add_part(part, sums):
        x, y = (jax.lax.dynamic_slice_in_dim(v, parts - 1 - part, blocks, axis=1) for v in (real, imaginary))
        a, b = (jax.lax.dynamic_slice_in_dim(v, part, 1, axis=1) for v in (part_real, part_imaginary))
        return sums[0] + x * a - y * b, sums[1] + x * b + y * a

    empty = jnp.zeros((batch, blocks, _BLOCK + 1))
    sums = jax.lax.fori_loop(0, parts, add_part, (empty, empty))
    return _dot(jnp.concatenate(sums, axis=-1), inverse).reshape(batch, -1)[:, :samples]


def convolve_fixed(audio: Float[Array, "batch samples"], taps: np.ndarray) -> Float[Array, "batch samples"]:
    """Convolve each row with the same short filter, as a matrix product on blocks; keep the first `samples` samples.

    Silence stays exactly zero, unlike after a Fourier transform and its inverse. Features take its logarithm.
    """
    samples, reach = audio.shape[1], len(taps) - 1
    matrix = np.zeros((_BLOCK + reach, _BLOCK))  # maps a block, preceded by `reach` samples, to the block's output
    for column in range(_BLOCK):
        matrix[column : column + reach + 1, column] = taps[::-1]
    frames = chunked_frames(jnp.pad(audio, ((0, 0), (reach, 0))), -(-samples // _BLOCK), _BLOCK + reach, _BLOCK)
    return _dot(frames, matrix).reshape(audio.shape[0], -1)[:, :samples]


def _transforms() -> tuple[np.ndarray, np.ndarray]:
    """Return the DFT matrix of 2·_BLOCK real samples, [2·_BLOCK, 2·(_BLOCK + 1)], and half (the end) of its inverse."""
    spectrum = np.fft.rfft(np.eye(2 * _BLOCK), axis=1)
    forward = np.concatenate([spectrum.real, spectrum.imag], axis=1)
    bins = np.eye(_BLOCK + 1)
    inverse = np.concatenate([np.fft.irfft(bins, axis=1), np.fft.irfft(1j * bins, axis=1)], axis=0)
    return forward, inverse[:, _BLOCK:]


def _dot(x, matrix: np.ndarray):
    return jnp.dot(x, jnp.asarray(matrix, jnp.float32), precision="highest")
