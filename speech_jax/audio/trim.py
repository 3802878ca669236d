"""Trimming of silence at both ends of a recording, by energy or by a voice activity detector, and reports of it.

Host-side NumPy. Pauses inside an utterance stay, since a manifest's row is one contiguous part of its recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.vad import CHUNK_SECONDS, speech_probabilities


def sound_bounds(audio: Float[np.ndarray, " samples"], sample_rate: int, config: TrimConfig) -> tuple[float, float]:
    """Find the part of a recording without the silence at its ends.

    Args:
        audio: mono samples in [-1, 1].
        sample_rate: samples per second.
        config: detector and margin.

    Returns:
        Start and end in seconds, margin included; the whole recording if no sound is detected.

    Raises:
        UserError: config.by is "vad" and its package is not installed.
    """
    seconds = len(audio) / sample_rate
    if config.by == "none":
        return 0.0, seconds
    if config.by == "energy":
        active, starts, ends = _loud_frames(audio, sample_rate, config.below_peak)
    else:
        active, starts, ends = _speech_chunks(audio, sample_rate, config.threshold)
    frames = np.flatnonzero(active)
    if len(frames) == 0:
        return 0.0, seconds
    start = max(0.0, float(starts[frames[0]]) - config.margin)
    return start, min(seconds, float(ends[frames[-1]]) + config.margin)


def _loud_frames(audio, sample_rate: int, below_peak: float):
    """Return (is_loud, start, end in seconds), each [frames], of frames of 20 ms, 5 ms apart.

    A frame's level is its root mean square about its mean, so that a DC offset does not count as sound.
    """
    size, hop = max(1, round(0.02 * sample_rate)), max(1, round(0.005 * sample_rate))
    padded = np.pad(audio.astype(np.float64), (0, max(0, size - len(audio))))
    starts = np.arange(0, len(padded) - size + 1, hop)
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (padded, padded**2)]
    mean, square = ((s[starts + size] - s[starts]) / size for s in sums)
    power = np.maximum(square - mean**2, 0.0)
    # the rounding error of the cumulative sums is about 1e-16 of their total: anything below it is silence
    loud = (power >= power.max() * 10 ** (-below_peak / 10)) & (power > 1e-15 * max(1.0, sums[1][-1]))
    return loud, starts / sample_rate, np.minimum(starts + size, len(audio)) / sample_rate


def _speech_chunks(audio, sample_rate: int, threshold: float):
    """Return (is_speech, start, end in seconds), each [chunks]."""
    speech = speech_probabilities(audio, sample_rate) >= threshold
    starts = np.arange(len(speech)) * CHUNK_SECONDS
    return speech, starts, starts + CHUNK_SECONDS


class Cut(NamedTuple):
    """Result of trimming an utterance.

    Attributes:
        id: the utterance's id.
        seconds: duration before trimming.
        head: seconds cut at the start.
        tail: seconds cut at the end.
    """

    id: str
    seconds: float
    head: float
    tail: float


def cut_report(cuts: Sequence[Cut], config: TrimConfig, bins: int = 8, most: int = 10) -> dict:
    """Summarize trimming as a dict for JSON.

    Args:
        cuts: one `Cut` per utterance.
        config: the settings used.
        bins: number of bins of the histogram.
        most: number of most-trimmed utterances to list.

    Returns:
        The config, counts, seconds, a histogram as rows [from, to, utterances], and the most-trimmed utterances.
    """
    removed = np.array([c.head + c.tail for c in cuts])
    edges = np.linspace(0.0, max(0.1, float(removed.max(initial=0.0))), bins + 1)
    counts, _ = np.histogram(removed, edges)
    order = sorted(cuts, key=lambda c: -(c.head + c.tail))[:most]
    return {
        "config": asdict(config),
        "utterances": len(cuts),
        "cut": int(np.sum(removed > 0)),
        "seconds_before": round(sum(c.seconds for c in cuts), 3),
        "seconds_cut": round(float(removed.sum()), 3),
        "seconds_cut_at_start": round(sum(c.head for c in cuts), 3),
        "seconds_cut_at_end": round(sum(c.tail for c in cuts), 3),
        "histogram": [
            [round(float(a), 3), round(float(b), 3), int(n)]
            for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        "most_cut": [c._asdict() for c in order if c.head + c.tail > 0],
    }


def cut_text(name: str, report: dict, width: int = 40) -> str:
    """Format a `cut_report` as text: a summary, one line per histogram bin and per most-trimmed utterance."""
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
