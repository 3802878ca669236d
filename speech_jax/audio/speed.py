"""Speed perturbation (tempo and pitch together) by band-limited interpolation, as a matrix product on blocks."""

from __future__ import annotations

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from speech_jax.audio.framing import chunked_frames, time_mask

_BLOCK = 128  # approximate number of input samples per matrix product
_ZEROS = 32  # zero crossings of the sinc on each side
_KAISER = 7.857  # 80 dB of attenuation
_ROLL_OFF = 0.92  # cutoff as a share of the lower Nyquist frequency: half the transition band lies below it


def ratio(factor: float) -> Fraction:
    """Return the factor as input samples per output sample, a fraction with a denominator up to 100."""
    return Fraction(factor).limit_denominator(100)


def perturbed_length(samples, factor: float):
    """Return ceil(samples / factor), for an int or an array."""
    step = ratio(factor)
    return -(-(samples * step.denominator) // step.numerator)


def change_speed(
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    choices: Int[Array, " batch"],
    factors: tuple[float, ...],
) -> tuple[Float[Array, "batch output"], Int[Array, " batch"]]:
    """Change the speed of row i by the factor factors[choices[i]]: a tone of f hertz becomes f·factor hertz.

    Each factor is computed for all rows, at about 400 multiplications per sample, and one result per row is kept.

    Args:
        audio: waveforms, zero beyond their lengths.
        lengths: valid samples per row.
        choices: index into `factors` per row.
        factors: speed factors.

    Returns:
        The waveforms [batch, max over factors of ceil(samples/factor)], and their lengths ceil(lengths/factor).
    """
    output = max(perturbed_length(audio.shape[1], f) for f in factors)
    result, new_lengths = jnp.zeros((audio.shape[0], output), audio.dtype), jnp.zeros_like(lengths)
    for number, factor in enumerate(factors):
        changed = resample(audio, factor)
        changed = jnp.pad(changed, ((0, 0), (0, output - changed.shape[1])))
        result = jnp.where((choices == number)[:, None], changed, result)
        new_lengths = jnp.where(choices == number, perturbed_length(lengths, factor), new_lengths)
    return jnp.where(time_mask(new_lengths, output), result, 0.0), new_lengths


def resample(audio: Float[Array, "batch samples"], factor: float) -> Float[Array, "batch output"]:
    """Evaluate audio at m·factor for m = 0 … ceil(samples/factor) - 1, by a windowed sinc that removes aliasing."""
    step = ratio(factor)
    if step == 1:
        return audio
    count = perturbed_length(audio.shape[1], factor)
    matrix, reach, block_in, block_out = _interpolator(step)
    padded = jnp.pad(audio, ((0, 0), (reach, 0)))
    frames = chunked_frames(padded, -(-count // block_out), block_in + 2 * reach, block_in)
    blocks = jnp.dot(frames, jnp.asarray(matrix, jnp.float32), precision="highest")
    # The barrier keeps XLA from recomputing each sample's block in later operations: twice as fast on a CPU.
    return jax.lax.optimization_barrier(blocks.reshape(audio.shape[0], -1))[:, :count]


@functools.lru_cache(maxsize=32)
def _interpolator(step: Fraction) -> tuple[np.ndarray, int, int, int]:
    """Return the matrix [block_in + 2·reach, block_out] from a block of input, with its context, to one of output."""
    repeats = max(1, round(_BLOCK / step.numerator))
    block_in, block_out = repeats * step.numerator, repeats * step.denominator
    cutoff = _ROLL_OFF * min(1.0, 1 / float(step))
    reach = int(np.ceil(_ZEROS / cutoff))
    position = np.arange(block_out) * float(step)
    distance = np.arange(-reach, block_in + reach)[:, None] - position[None, :]
    inside = np.clip(1 - (distance * cutoff / _ZEROS) ** 2, 0, None)
    matrix = np.sinc(cutoff * distance) * np.i0(_KAISER * np.sqrt(inside)) * (inside > 0)
    return matrix / matrix.sum(axis=0), reach, block_in, block_out
