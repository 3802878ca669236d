"""Settings of the measures of synthesized speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.errors import UserError

FLOOR, CEILING = 75.0, 600.0  # default search range of F0, in hertz

MeasureName = Literal[
    "mcd", "mcd_frames", "f0_hertz", "f0_cents", "f0_correlation", "voicing_error", "gross_pitch_error",
    "duration_error", "duration_bias", "si_sdr", "snr", "segmental_snr", "stoi", "estoi", "dnsmos", "dnsmos_reference",
    "wer", "wer_reference", "cer", "cer_reference",
]  # fmt: skip


@dataclass(frozen=True)
class MeasureConfig:
    """Measures of synthesized speech against reference recordings."""

    sample_rate: int = 16000
    """Sample rate in Hz to which both recordings are resampled first."""
    order: int = 13
    """Number of cepstral coefficients that MCD compares, starting with c_1 (c_0 is loudness)."""
    cepstra: Literal["mel", "world"] = "mel"
    """Cepstra for MCD. mel: cosine transform of log-mel power, scaled so that MCD is in dB. world: SPTK's mel-cepstra
    of WORLD's spectral envelope, to compare with published figures on those; needs the package pyworld."""
    pitch_floor: float = FLOOR
    """Lowest F0 in Hz."""
    pitch_ceiling: float = CEILING
    """Highest F0 in Hz."""
    waveform: Literal["auto", "always", "never"] = "auto"
    """Pairs for which SI-SDR, SNR and STOI are measured; these are meaningful only where samples run in parallel
    (copy-synthesis, vocoding). auto: lengths differ by at most 50 ms; always: every pair, cut to the shorter."""
    dnsmos: bool = False
    """Compute DNSMOS (needs the extra 'speech-metrics'). It is a proxy for a listening test, trained on other data."""
    max_seconds: float = 60.0
    """Longest recording in seconds; longer ones are left out. DTW needs 144 MB at 60 s, four times as much at 120 s."""
    worst_by: MeasureName = "mcd"
    """Measure by which utterances are sorted, the worst first."""
    examples: int = 10
    """Number of the worst utterances, and of the first ones, with audio and pictures in report.html."""

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
