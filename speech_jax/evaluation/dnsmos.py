"""DNSMOS P.835: a network's guess at what listeners would say of noise suppression (Reddy et al. 2022).

A proxy. It was trained on degraded and denoised recordings, not on synthesized speech; no listener is asked.
"""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

from speech_jax.core.errors import UserError

RATE = 16_000


def load():
    """The scorer of the package speechmos, which holds the networks. Raises UserError where it is not installed."""
    try:
        from speechmos import dnsmos
    except ImportError as error:
        raise UserError(
            f"measures.dnsmos: found no package speechmos ({error}), expected the extra 'speech-metrics' installed: "
            "pip install 'speech_jax[speech-metrics]'"
        ) from error
    return dnsmos


def score(audio: Float[np.ndarray, "samples"], rate: int) -> dict[str, float]:
    """Scores from 1 to 5: "overall", "signal", "background", and "p808" (one question on the overall quality).

    Recordings of less than 9.01 s are repeated until they are as long, longer ones heard in steps of a second.
    """
    scorer = load()
    audio = np.asarray(audio, np.float32)
    if rate != RATE:
        audio = soxr.resample(audio, rate, RATE)
    scores = scorer.run(np.clip(audio, -1.0, 1.0), sr=RATE)
    names = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos", "p808": "p808_mos"}
    return {name: float(scores[theirs]) for name, theirs in names.items()}
