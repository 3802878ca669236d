"""Differentially private training: its settings, what it spends, and the secret of its noise.

The unit is one utterance, and the guarantee is that of zero-out neighbors (Kairouz et al. 2021, arXiv 2103.00039): two
sets of recordings with the same list of durations and label counts, in one of which one utterance is replaced by
nothing. What the list says (how many utterances, how long, with how many labels) decides the batches and is public.

An epoch has every utterance once, so after n epochs n noisy sums have seen it. No amplification by sampling is claimed:
the order follows from the config's seed, which whoever has the checkpoint can read, and buckets are no Poisson samples.
n Gaussian mechanisms of noise multiplier s, each chosen with the outcome of those before, are as private as one with
s / sqrt(n) (Dong et al. 2022, "Gaussian differential privacy"), whose epsilon dp-accounting computes exactly
(Balle and Wang 2018).
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.training.config import PrivacyConfig

KEY_FILE = "noise_key.secret"


class Accountant(NamedTuple):
    """What any one utterance has lost after so many steps.

    epoch_steps: {stream: steps of an epoch}; the streams of a mix have epochs of their own
    """

    config: PrivacyConfig
    epoch_steps: Mapping[str, int]

    def participations(self, steps: int) -> int:
        """In how many of the first `steps` steps an utterance can have been at most: once an epoch."""
        return max(-(-steps // length) for length in self.epoch_steps.values())

    def epsilon(self, steps: int) -> float:
        """Epsilon, at the config's delta, of all checkpoints up to `steps` together."""
        return gaussian_epsilon(self.config.noise_multiplier, self.participations(steps), self.config.delta)


@functools.cache
def gaussian_epsilon(noise_multiplier: float, count: int, delta: float) -> float:
    """Epsilon of `count` Gaussian mechanisms one after the other, by dp-accounting. Raises UserError if it is not
    there."""
    if count == 0:
        return 0.0
    return float(libraries().accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(count), delta))


class Libraries(NamedTuple):
    """The modules of the extra `privacy`."""

    accounting: object
    clipping: object
    noise_addition: object


@functools.cache
def libraries() -> Libraries:
    """Imported only where they are needed: nothing else in speech_jax needs them."""
    try:
        import dp_accounting
        from jax_privacy import clipping, noise_addition
    except ImportError as error:
        raise UserError(
            f"trainer.step.privacy: found no {error.name}, expected the extra: pip install 'speech_jax[privacy]'"
        ) from error
    return Libraries(dp_accounting, clipping, noise_addition)


# ---- the secret


def noise_key(folder: Path, step: int | None) -> jax.Array:
    """The key of the run's noise, from its file, or a new one for a new run (step None).

    It is drawn by the operating system, not from the config's seed: with the seed, which every checkpoint carries,
    anyone could take the noise off again. It must survive a restart, because steps that are done a second time with
    other noise would be a second look at the same recordings. Never part of a checkpoint; on several hosts the first
    one's. Raises UserError if a run that goes on has none.
    """
    words = np.zeros(2, np.uint32)
    if jax.process_index() == 0:
        file = folder / KEY_FILE
        known = json.loads(file.read_text()) if file.is_file() else {}
        if step is not None and "key" not in known and known.get("ended") != step:
            raise UserError(f"{file}: found no key of the run's noise, expected that of the first {step} steps")
        if "key" not in known or step is None:
            known = {"key": np.frombuffer(os.urandom(8), np.uint32).tolist()}
            _write(file, known)
        words = np.array(known["key"], np.uint32)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        words = np.asarray(multihost_utils.broadcast_one_to_all(words))
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def forget_noise_key(folder: Path, step: int) -> None:
    """The run has ended at `step`, no step will be done again: the secret goes, so that the folder can be given away.
    A longer run goes on from there with a new one."""
    if jax.process_index() == 0:
        _write(folder / KEY_FILE, {"ended": step})


def _write(file: Path, content: dict) -> None:
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(content, out)
    os.replace(partial, file)
