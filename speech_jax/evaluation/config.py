"""Settings of the measures of synthesized speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.errors import UserError

FLOOR, CEILING = 75.0, 600.0  # default search range of F0, in hertz

Name = Literal[
    "mcd", "mcd_frames", "f0_hertz", "f0_cents", "f0_correlation", "voicing_error", "gross_pitch_error",
    "duration_error", "duration_bias", "si_sdr", "snr", "segmental_snr", "stoi", "estoi", "dnsmos", "dnsmos_reference",
    "wer", "wer_reference", "cer", "cer_reference",
]  # fmt: skip


@dataclass(frozen=True)
class MeasureConfig:
    """How synthesized speech is measured."""

    sample_rate: int = 16000
    """Both recordings are brought to this rate first."""
    order: int = 13
    """How many cepstral coefficients MCD compares, from the first (the zeroth is loudness)."""
    cepstra: Literal["mel", "world"] = "mel"
    """mel: cosine transform of log-mel power, scaled so that MCD is in dB. world: SPTK's mel-cepstra of WORLD's
    spectral envelope, for comparing with figures computed so; needs the package pyworld."""
    pitch_floor: float = FLOOR
    """The lowest F0 that is looked for, in hertz."""
    pitch_ceiling: float = CEILING
    """The highest F0 that is looked for, in hertz."""
    waveform: Literal["auto", "always", "never"] = "auto"
    """Whether SI-SDR, SNR and STOI are measured: they mean something only where samples run in parallel
    (copy-synthesis, vocoding). auto: where lengths differ by at most 50 ms; always: everywhere, cut to the shorter."""
    dnsmos: bool = False
    """Whether DNSMOS is asked (extra 'speech-metrics'). It is a proxy: no listener is asked."""
    max_seconds: float = 60.0
    """A longer recording is left out: DTW takes a byte for each pair of 5 ms frames, 144 MB for 60 s."""
    worst_by: Name = "mcd"
    """What decides which utterances are the worst."""
    examples: int = 10
    """The page has sound and pictures of so many of the first utterances, and of so many of the worst."""

    def __post_init__(self):
        for name, value, low, high in (
            ("sample_rate", self.sample_rate, 8000, 96000),
            ("order", self.order, 1, 40),
            ("pitch_floor", self.pitch_floor, 20, 500),
            ("pitch_ceiling", self.pitch_ceiling, self.pitch_floor + 1, self.sample_rate / 4),
            ("max_seconds", self.max_seconds, 1, 600),
            ("examples", self.examples, 0, 1000),
        ):
            if not low <= value <= high:
                raise UserError(f"measures.{name}: found {value}, expected {low:g} to {high:g}")
