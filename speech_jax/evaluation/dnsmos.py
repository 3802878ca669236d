"""DNSMOS P.835: a network's estimate of listeners' ratings of noise suppression (Reddy et al. 2022).

It is a proxy: it was trained on degraded and denoised recordings, not on synthesized speech, and it is not a listening
test.
"""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

from speech_jax.core.errors import UserError, install_extra

RATE = 16_000


def load():
    """Return the scorer of the package speechmos, which contains the networks.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise UserError(
            f"measures.dnsmos: found no package speechmos ({error}), expected {install_extra('speech-metrics')}"
        ) from error
    return dnsmos


def score(audio: Float[np.ndarray, "samples"], rate: int) -> dict[str, float]:
    """Return DNSMOS scores from 1 to 5.

    Recordings shorter than 9.01 s are repeated up to that length; longer ones are scored in windows 1 s apart.

    Args:
        audio: samples in [-1, 1].
        rate: sample rate in Hz.

    Returns:
        "overall", "signal", "background" (P.835), and "p808" (overall quality, asked as a single question).

    Raises:
        UserError: the package speechmos is not installed.
    """
    scorer = load()
    audio = np.asarray(audio, np.float32)
    if rate != RATE:
        audio = soxr.resample(audio, rate, RATE)
    scores = scorer.run(np.clip(audio, -1.0, 1.0), sr=RATE)
    names = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos", "p808": "p808_mos"}
    return {name: float(scores[key]) for name, key in names.items()}
