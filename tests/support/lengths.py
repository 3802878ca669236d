"""Lengths as LibriSpeech's training part has them, drawn."""

import numpy as np


def librispeech_like(n, seed=0):
    """Seconds [n] and characters [n]: mean 12.3 s, most between 13 and 16.5 s, 1.3 to 24.5 s, 14.5 characters a second.

    LibriSpeech was cut at silences into pieces of up to about 16 s, which gives the peak below 16.5 s; what is shorter
    are the ends of chapters and paragraphs.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.6, 0.375, 0.025])
    seconds = np.where(
        kind == 0,
        rng.triangular(11.5, 15.4, 16.6, n),
        np.where(kind == 1, rng.gamma(2.6, 3.0, n) + 1.0, rng.uniform(16.0, 24.5, n)),
    )
    seconds = np.clip(seconds, 1.3, 24.5)
    characters = np.maximum(5, seconds * rng.normal(14.5, 1.8, n)).astype(int)
    return seconds, characters
