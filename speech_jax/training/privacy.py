"""Differentially private training: settings, accounting of epsilon, and the secret key of the noise.

The unit is one utterance, and the guarantee is that of zero-out neighbors (Kairouz et al. 2021, arXiv 2103.00039): two
sets of recordings with the same list of durations and label counts, in one of which one utterance is replaced by
nothing. The list (number of utterances, durations, label counts) decides the batches and is public.

An epoch contains every utterance once, so after n epochs it is part of n noisy sums. No amplification by sampling is
claimed: the order follows from the config's seed, which is in every checkpoint, and buckets are not Poisson samples.
n adaptive Gaussian mechanisms of noise multiplier s are as private as one with s / sqrt(n) (Dong et al. 2022,
"Gaussian differential privacy"), whose epsilon dp-accounting computes exactly (Balle and Wang 2018).
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.core.errors import UserError, install_extra
from speech_jax.training.config import PrivacyConfig

KEY_FILE = "noise_key.secret"


class Accountant(NamedTuple):
    """Privacy loss of any one utterance as a function of the step.

    Attributes:
        config: noise multiplier and delta.
        epoch_steps: stream -> steps per epoch; the streams of a mix have separate epochs.
    """

    config: PrivacyConfig
    epoch_steps: Mapping[str, int]

    def participations(self, steps: int) -> int:
        """Return the largest number of the first `steps` steps that contain the same utterance: one per epoch."""
        return max(-(-steps // length) for length in self.epoch_steps.values())

    def epsilon(self, steps: int) -> float:
        """Return epsilon, at the config's delta, of all checkpoints up to `steps` together."""
        return gaussian_epsilon(self.config.noise_multiplier, self.participations(steps), self.config.delta)


@functools.cache
def gaussian_epsilon(noise_multiplier: float, count: int, delta: float) -> float:
    """Compute epsilon of `count` consecutive Gaussian mechanisms with dp-accounting.

    Args:
        noise_multiplier: standard deviation of the noise in units of the sensitivity.
        count: number of mechanisms.
        delta: the probability at which epsilon may be exceeded.

    Raises:
        UserError: if dp-accounting is not installed.
    """
    if count == 0:
        return 0.0
    return float(libraries().accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(count), delta))


class Libraries(NamedTuple):
    """Modules of the optional dependency group `privacy`.

    Attributes:
        accounting: dp_accounting.
        clipping: jax_privacy.clipping.
        noise_addition: jax_privacy.noise_addition.
    """

    accounting: Any
    clipping: Any
    noise_addition: Any


@functools.cache
def libraries() -> Libraries:
    """Import the modules of the dependency group `privacy`.

    Raises:
        UserError: if they are not installed.
    """
    try:
        import dp_accounting
        from jax_privacy import clipping, noise_addition
    except ImportError as error:
        raise UserError(
            f"trainer.step.privacy: found no {error.name}, expected {install_extra('privacy')}"
        ) from error
    return Libraries(dp_accounting, clipping, noise_addition)


# --- the secret key ---


def noise_key(folder: Path, step: int | None) -> jax.Array:
    """Return the key of the run's noise, from its file, or a new one for a new run.

    The operating system draws it, not the config's seed: with the seed, which is in every checkpoint, anyone could
    subtract the noise. It must survive a restart, because repeating steps with other noise would release the same
    recordings a second time. It is never part of a checkpoint. With several processes it is that of process 0.

    Args:
        folder: the run's folder.
        step: the step that the run resumes from; None for a new run.

    Raises:
        UserError: if a resumed run has no key.
    """
    words = np.zeros(2, np.uint32)
    if jax.process_index() == 0:
        file = folder / KEY_FILE
        stored = json.loads(file.read_text()) if file.is_file() else {}
        if step is not None and "key" not in stored and stored.get("ended") != step:
            raise UserError(f"{file}: found no key of the run's noise, expected that of the first {step} steps")
        if "key" not in stored or step is None:
            stored = {"key": np.frombuffer(os.urandom(8), np.uint32).tolist()}
            _write(file, stored)
        words = np.array(stored["key"], np.uint32)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        words = np.asarray(multihost_utils.broadcast_one_to_all(words))
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def forget_noise_key(folder: Path, step: int) -> None:
    """Delete the key of a run that has ended at `step`, so that its folder can be published.

    No step will be repeated. A later resume with more steps draws a new key.
    """
    file = folder / KEY_FILE
    if jax.process_index() == 0 and not (file.is_file() and json.loads(file.read_text()) == {"ended": step}):
        _write(file, {"ended": step})


def _write(file: Path, content: dict) -> None:
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(content, out)
    os.replace(partial, file)
