"""Tiny WaveNets with random weights, and random batches for them."""

import dataclasses

import jax
import numpy as np

from speech_jax.models.config import ConditionConfig, WaveNetConfig
from speech_jax.models.wavenet import init_params

CONDITION = ConditionConfig(width=9, context=1, scales=(2, 3), window=15)
TINY = WaveNetConfig(
    layers=4, cycles=2, kernel_size=3, residual=8, gate=12, skip=7, head=5, mixtures=3, classes=32, num_mels=5, hop=6,
    condition=CONDITION,
)  # fmt: skip


def tiny(output: str = "gaussian", kind: str = "frames", **changes) -> WaveNetConfig:
    """A network of 13 samples' receptive field, hop length 6."""
    condition = dataclasses.replace(CONDITION, kind=kind)
    return dataclasses.replace(TINY, output=output, condition=condition, **changes)


def random_params(config: WaveNetConfig, seed: int = 0):
    """Initial values with noise on all of them, biases too."""
    params = jax.device_get(init_params(config, jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: (a + 0.2 * rng.normal(size=a.shape)).astype(np.float32), params)


def random_mel(frames: int, seed: int = 0, bands: int = 5) -> np.ndarray:
    """ln-mel frames."""
    return (np.random.default_rng(seed).normal(size=(frames, bands)) - 5).astype(np.float32)
