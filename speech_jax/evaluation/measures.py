"""Objective measures of one synthesized recording against its reference."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from speech_jax.core.errors import UserError
from speech_jax.evaluation import cepstra, dnsmos, dtw, waveform
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.pitch import pitch, pitch_errors

PARALLEL_SECONDS = 0.05  # largest difference in length of recordings that run in parallel
SILENT_PEAK = 1e-3
TRIM_DB = 40.0
SHORTEST_SECONDS = 0.1


class Measure(NamedTuple):
    """Description of a measure.

    Attributes:
        label: name and unit, for tables.
        meaning: one line, for reports.
        worse: 1 if larger is worse, -1 if smaller is worse, 0 if neither.
        digits: decimals in tables.
    """

    label: str
    meaning: str
    worse: int
    digits: int = 2


_PROXY = "(a proxy; no listener was asked)"
MEASURES: dict[str, Measure] = {
    "mcd": Measure("MCD dB", "mel-cepstral distortion along the best DTW path", 1),
    "mcd_frames": Measure("MCD dB, no DTW", "the same frame by frame, as far as both recordings go", 1),
    "f0_hertz": Measure("F0 RMSE Hz", "of the frames voiced in both, along the DTW path", 1),
    "f0_cents": Measure("F0 RMSE cents", "the same in hundredths of a semitone", 1, 0),
    "f0_correlation": Measure("log-F0 correlation", "Pearson's, of the frames voiced in both", -1, 3),
    "voicing_error": Measure("voicing error %", "frames of the path voiced in one recording only", 1),
    "gross_pitch_error": Measure("gross pitch error %", "frames voiced in both, F0 more than 20 % off", 1),
    "duration_error": Measure("duration error %", "of the speech without silence at both ends, without sign", 1, 1),
    "duration_bias": Measure("duration bias %", "the same with its sign: above 0 is slower than the reference", 0, 1),
    "si_sdr": Measure("SI-SDR dB", "scale-invariant signal-to-distortion ratio, only where samples run parallel", -1),
    "snr": Measure("SNR dB", "only where samples run parallel", -1),
    "segmental_snr": Measure("segmental SNR dB", "of 30 ms frames, each in -10 … 35, only where parallel", -1),
    "stoi": Measure("STOI", "short-time objective intelligibility, only where parallel", -1, 3),
    "estoi": Measure("ESTOI", "extended STOI, only where parallel", -1, 3),
    "dnsmos": Measure(f"DNSMOS {_PROXY}", "overall score of DNSMOS P.835, 1 to 5, of the synthesized recording", -1),
    "dnsmos_reference": Measure(f"DNSMOS of the reference {_PROXY}", "the same of the reference recording", -1),
    "wer": Measure("WER %", "word errors of our recognizer on the synthesized recordings", 1),
    "wer_reference": Measure("WER % of the reference", "of the same recognizer on the reference recordings", 1),
    "cer": Measure("CER %", "character errors of our recognizer on the synthesized recordings", 1),
    "cer_reference": Measure("CER % of the reference", "the same on the reference recordings", 1),
}


class Analysis(NamedTuple):
    """Analysis of a recording, with a frame every 5 ms.

    Attributes:
        audio: float64 samples.
        log_mel: natural logarithm of mel power.
        cepstra: mel cepstra c_1 … c_order.
        f0: fundamental frequency in Hz, 0 where unvoiced.
    """

    audio: Float[np.ndarray, "samples"]
    log_mel: Float[np.ndarray, "frames bands"]
    cepstra: Float[np.ndarray, "frames order"]
    f0: Float[np.ndarray, "frames"]


def analyze(audio: Float[np.ndarray, "samples"], config: MeasureConfig) -> Analysis:
    """Compute log-mel power, cepstra and F0 of a recording.

    Args:
        audio: samples in [-1, 1] at `config.sample_rate`.
        config: settings.

    Raises:
        UserError: the recording holds NaN, is silent or is shorter than 0.1 s.
    """
    rate = config.sample_rate
    if not np.isfinite(audio).all():
        raise UserError("found NaN or infinite samples, expected numbers in [-1, 1]")
    if len(audio) < SHORTEST_SECONDS * rate:
        raise UserError(f"found {len(audio) / rate:.3f} s of audio, expected at least {SHORTEST_SECONDS} s")
    peak = float(np.abs(audio).max())
    if peak < SILENT_PEAK:
        raise UserError(f"found silence (no sample beyond {peak:.2g}), expected speech")
    audio = np.asarray(audio, np.float64)
    mel, f0 = cepstra.log_mel(audio, rate), pitch(audio, rate, config.pitch_floor, config.pitch_ceiling)
    if config.cepstra == "world":
        envelope = world_envelope(audio, f0, rate)
        return Analysis(audio, mel, cepstra.warped_cepstra(envelope, cepstra.warping(rate), config.order), f0)
    return Analysis(audio, mel, cepstra.mel_cepstra(mel, config.order), f0)


def world_envelope(
    audio: Float[np.ndarray, "samples"], f0: Float[np.ndarray, "frames"], rate: int
) -> Float[np.ndarray, "frames bins"]:
    """Return WORLD's spectral envelope as power (CheapTrick, Morise 2015), for the given F0 in Hz."""
    times = np.arange(len(f0)) * cepstra.hop_samples(rate) / rate
    return load_pyworld().cheaptrick(np.ascontiguousarray(audio), np.ascontiguousarray(f0), times, rate)


def load_pyworld():
    """Import pyworld; raise UserError if that fails."""
    try:
        import pyworld
    except ImportError as error:
        raise UserError(f"measures.cepstra: found no package pyworld ({error}), expected it for 'world'") from error
    return pyworld


def check_packages(config: MeasureConfig) -> None:
    """Raise UserError before anything is computed if an optional package that the config needs is missing."""
    if config.dnsmos:
        dnsmos.load()
    if config.cepstra == "world":
        load_pyworld()


def dtw_path(reference: Analysis, other: Analysis) -> Int[np.ndarray, "steps 2"]:
    """Return the DTW path over the cepstra that MCD compares: one (reference frame, other frame) pair per step."""
    return dtw.warp(reference.cepstra, other.cepstra)


def measure(
    reference: Analysis, other: Analysis, path: Int[np.ndarray, "steps 2"], config: MeasureConfig
) -> dict[str, float]:
    """Compute the measures of one pair of recordings.

    Args:
        reference: analysis of the reference recording.
        other: analysis of the synthesized recording.
        path: as `dtw_path` returns it.
        config: settings.

    Returns:
        Values by their names in MEASURES; NaN where a value is not defined.
    """
    rate = config.sample_rate
    straight = dtw.diagonal(len(reference.cepstra), len(other.cepstra))
    f0 = pitch_errors(reference.f0[path[:, 0]], other.f0[path[:, 1]])
    reference_seconds, other_seconds = (speech_seconds(x.audio, rate) for x in (reference, other))
    bias = 100 * (other_seconds / reference_seconds - 1)
    values = {
        "mcd": cepstra.mcd(reference.cepstra, other.cepstra, path),
        "mcd_frames": cepstra.mcd(reference.cepstra, other.cepstra, straight),
        "f0_hertz": f0.rmse_hertz,
        "f0_cents": f0.rmse_cents,
        "f0_correlation": f0.correlation,
        "voicing_error": f0.voicing_error,
        "gross_pitch_error": f0.gross_error,
        "duration_error": abs(bias),
        "duration_bias": bias,
    }
    if is_parallel(reference, other, config):
        samples = min(len(reference.audio), len(other.audio))
        a, b = reference.audio[:samples], other.audio[:samples]
        values["si_sdr"] = waveform.si_sdr(a, b)
        values["snr"] = waveform.snr(a, b)
        values["segmental_snr"] = waveform.segmental_snr(a, b, rate)
        values["stoi"] = waveform.stoi(a, b, rate)
        values["estoi"] = waveform.stoi(a, b, rate, extended=True)
    if config.dnsmos:
        values["dnsmos"] = dnsmos.score(other.audio, rate)["overall"]
        values["dnsmos_reference"] = dnsmos.score(reference.audio, rate)["overall"]
    return values


def is_parallel(reference: Analysis, other: Analysis, config: MeasureConfig) -> bool:
    """Return True if the waveforms are compared sample by sample."""
    if config.waveform != "auto":
        return config.waveform == "always"
    return abs(len(reference.audio) - len(other.audio)) <= PARALLEL_SECONDS * config.sample_rate


def speech_seconds(audio: Float[np.ndarray, "samples"], rate: int) -> float:
    """Return the seconds from the first to the last 25 ms frame within 40 dB of the loudest; inner pauses count."""
    hop = cepstra.hop_samples(rate)
    frames = cepstra.centered_frames(audio, round(cepstra.WINDOW_SECONDS * rate), hop)
    energy = np.einsum("ts,ts->t", frames, frames)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-TRIM_DB / 10))
    return (loud[-1] - loud[0] + 1) * hop / rate


def badness(name: str, value: float) -> float:
    """Return a sort key that is larger for worse values; -inf for a value that was not measured."""
    return -math.inf if math.isnan(value) else MEASURES[name].worse * value
