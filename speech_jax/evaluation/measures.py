"""Objective measures of one synthesized recording against its reference, on their speech alone.

Silence around the speech and pauses that both recordings have do not count, nor does what lies below 40 Hz, such as a
DC offset. A frame is speech if its energy is within 35 dB of the recording's loudest frame, or within a smaller range
that leaves out steady noise; the range is the same for both recordings of a pair.
"""

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
SHORTEST_SECONDS = 0.1
SILENT_FRAMES = 20  # before and after a recording, in its analysis
LOWEST_HERTZ = 40.0  # of what is analyzed
SPEECH_DB = 35.0  # below the loudest frame
# Noise: the loudest 150 ms whose frames have nearly one level, at least 15 dB below the loudest frame. Speech begins
# 8 dB above it. Measured on 36 recordings with noise and silence added: durations change by 0.2 % on average.
_STEADY_FRAMES, _STEADY_DB, _NOISE_MARGIN_DB, _LEAST_DB = 30, 1.0, 8.0, 15.0


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
    "mcd": Measure("MCD dB", "mel-cepstral distortion along the best DTW path of the speech", 1),
    "mcd_frames": Measure("MCD dB, no DTW", "the same frame by frame, as far as both recordings go", 1),
    "f0_hertz": Measure("F0 RMSE Hz", "of the frames voiced in both, along the DTW path", 1),
    "f0_cents": Measure("F0 RMSE cents", "the same in hundredths of a semitone", 1, 0),
    "f0_correlation": Measure("log-F0 correlation", "Pearson's, of the frames voiced in both", -1, 3),
    "voicing_error": Measure("voicing error %", "frames of speech, along the path, voiced in one recording only", 1),
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
    """Analysis of a recording, with a frame every 5 ms, from 0.1 s of silence before it to 0.1 s after it.

    Attributes:
        audio: float64 samples, as recorded.
        log_mel: natural logarithm of mel power.
        cepstra: mel cepstra c_1 … c_order.
        f0: fundamental frequency in Hz, 0 where unvoiced.
        level: energy of 25 ms in dB below that of the loudest frame, at most 0.
    """

    audio: Float[np.ndarray, "samples"]
    log_mel: Float[np.ndarray, "frames bands"]
    cepstra: Float[np.ndarray, "frames order"]
    f0: Float[np.ndarray, "frames"]
    level: Float[np.ndarray, "frames"]


def analyze(audio: Float[np.ndarray, "samples"], config: MeasureConfig) -> Analysis:
    """Compute log-mel power, cepstra and F0 of a recording.

    Args:
        audio: samples in [-1, 1] at `config.sample_rate`.
        config: settings.

    Raises:
        UserError: the recording holds NaN, is silent, is shorter than 0.1 s or has several channels.
    """
    rate = config.sample_rate
    if np.ndim(audio) != 1:
        raise UserError(f"found audio of shape {list(np.shape(audio))}, expected [samples] of one channel")
    if not np.isfinite(audio).all():
        raise UserError("found NaN or infinite samples, expected numbers in [-1, 1]")
    if len(audio) < SHORTEST_SECONDS * rate:
        raise UserError(f"found {len(audio) / rate:.3f} s of audio, expected at least {SHORTEST_SECONDS} s")
    audio = np.asarray(audio, np.float64)
    heard = _without_offset(audio, rate)
    peak = float(np.abs(heard).max())
    if peak < SILENT_PEAK:
        raise UserError(f"found silence (no sample beyond {peak:.2g}), expected speech")
    hop = cepstra.hop_samples(rate)
    heard = np.pad(heard, SILENT_FRAMES * hop)  # speech at an end is analyzed as in a recording with silence around it
    mel, f0 = cepstra.log_mel(heard, rate), pitch(heard, rate, config.pitch_floor, config.pitch_ceiling)
    frames = cepstra.centered_frames(heard, round(cepstra.WINDOW_SECONDS * rate), hop)
    energy = np.einsum("ts,ts->t", frames, frames)
    level = 10 * np.log10(np.maximum(energy / energy.max(), 1e-12))
    if config.cepstra == "world":
        coefficients = cepstra.warped_cepstra(world_envelope(heard, f0, rate), cepstra.warping(rate), config.order)
    else:
        coefficients = cepstra.mel_cepstra(mel, config.order)
    return Analysis(audio, mel, coefficients, f0, level)


def _without_offset(audio: Float[np.ndarray, "samples"], rate: int) -> Float[np.ndarray, "samples"]:
    import scipy.signal

    high_pass = scipy.signal.butter(2, LOWEST_HERTZ, "highpass", fs=rate, output="sos")
    return scipy.signal.sosfiltfilt(high_pass, audio)


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


def speech_range_db(reference: Analysis, other: Analysis) -> float:
    """Return how many dB below its loudest frame a frame of either recording may be to count as speech."""
    noise = max(_noise_level(reference.level), _noise_level(other.level))
    return min(SPEECH_DB, max(-noise - _NOISE_MARGIN_DB, _LEAST_DB))


def _noise_level(level: Float[np.ndarray, "frames"]) -> float:
    """Return the level of steady noise in dB; -inf where none is found."""
    if len(level) < _STEADY_FRAMES:
        return -math.inf
    windows = np.lib.stride_tricks.sliding_window_view(level, _STEADY_FRAMES)
    mean = windows.mean(axis=1)
    steady = (windows.std(axis=1) < _STEADY_DB) & (mean < -_LEAST_DB)
    return float(mean[steady].max(initial=-math.inf))


def speech_ends(reference: Analysis, other: Analysis) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (first frame of speech, frame after the last) of both recordings; pauses lie within."""
    range_db = speech_range_db(reference, other)
    loud = [np.flatnonzero(x.level >= -range_db) for x in (reference, other)]
    first, second = ((int(frames[0]), int(frames[-1]) + 1) for frames in loud)
    return first, second


def dtw_path(reference: Analysis, other: Analysis) -> Int[np.ndarray, "steps 2"]:
    """Return the DTW path over the cepstra that MCD compares, from the first to the last frame of speech of both.

    There is one (reference frame, other frame) pair per step, by their places in the analyses.
    """
    (a, a_end), (b, b_end) = speech_ends(reference, other)
    return dtw.warp(reference.cepstra[a:a_end], other.cepstra[b:b_end]) + np.array([a, b])


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
    rate, range_db = config.sample_rate, speech_range_db(reference, other)
    ends, other_ends = speech_ends(reference, other)
    # frame by frame: parallel recordings as they are, others from where their speech begins
    first, second = (0, 0) if _run_parallel(reference, other, rate) else (ends[0], other_ends[0])
    straight = dtw.diagonal(len(reference.level) - first, len(other.level) - second) + np.array([first, second])
    path, straight = (
        steps[(reference.level[steps[:, 0]] >= -range_db) | (other.level[steps[:, 1]] >= -range_db)]
        for steps in (path, straight)
    )
    f0 = pitch_errors(reference.f0[path[:, 0]], other.f0[path[:, 1]])
    bias = 100 * ((other_ends[1] - other_ends[0]) / (ends[1] - ends[0]) - 1)
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
        hop = cepstra.hop_samples(rate)
        start, stop = min(ends[0], other_ends[0]) - SILENT_FRAMES, max(ends[1], other_ends[1]) - SILENT_FRAMES
        stop = min(stop * hop, len(reference.audio), len(other.audio))
        a, b = (x.audio[max(start, 0) * hop : stop] for x in (reference, other))
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
    return _run_parallel(reference, other, config.sample_rate)


def _run_parallel(reference: Analysis, other: Analysis, rate: int) -> bool:
    return abs(len(reference.audio) - len(other.audio)) <= PARALLEL_SECONDS * rate


def badness(name: str, value: float) -> float:
    """Return a sort key that is larger for worse values; -inf for a value that was not measured."""
    return -math.inf if math.isnan(value) else MEASURES[name].worse * value
