"""Statistics of a manifest: counts, durations and a histogram of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speech_jax.data.utterances import Utterance, Utterances


class Statistics(NamedTuple):
    """Statistics of one manifest.

    Attributes:
        utterances: number of rows.
        hours: total duration.
        speakers: number of named speakers.
        domains: number of named domains.
        words: number of words in all texts.
        shortest: seconds of the shortest utterance.
        mean: mean seconds.
        longest: seconds of the longest utterance.
        histogram: (from seconds, to seconds, number of utterances) of each bin.
    """

    utterances: int
    hours: float
    speakers: int
    domains: int
    words: int
    shortest: float
    mean: float
    longest: float
    histogram: list[tuple[float, float, int]]


def statistics(utterances: Sequence[Utterance], bins: int = 12) -> Statistics:
    """Count utterances, and compute a histogram of their lengths.

    Args:
        utterances: rows with `seconds`.
        bins: at most so many bins of a round width contain 99 % of the utterances; one more contains the rest.

    Returns:
        The statistics.
    """
    rows = Utterances.of(utterances)
    seconds = rows.seconds
    top, longest = float(np.quantile(seconds, 0.99)), float(seconds.max())
    widths = [factor * 10.0**power for power in range(-2, 6) for factor in (1, 2, 5)]
    width = next(w for w in widths if w * bins > top)
    edges = width * np.arange(int(top / width) + 2)
    if longest >= edges[-1]:
        edges = np.append(edges, longest + 0.01)
    counts, _ = np.histogram(seconds, edges)
    return Statistics(
        utterances=len(rows),
        hours=float(seconds.sum() / 3600),
        speakers=sum(map(bool, rows.speakers.used())),
        domains=sum(map(bool, rows.domains.used())),
        words=sum(len(text.split()) for text in rows.texts),
        shortest=float(seconds.min()),
        mean=float(seconds.mean()),
        longest=float(seconds.max()),
        histogram=[(float(a), float(b), int(c)) for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)],
    )


def report(name: str, s: Statistics, width: int = 40) -> str:
    """Format the statistics of a manifest as text, one line per bin.

    Args:
        name: name of the manifest.
        s: its statistics.
        width: characters of the longest bar.
    """
    lines = [
        f"{name}: {s.utterances:,} utterances, {s.hours:.2f} h, {s.speakers} speakers, {s.domains} domains, "
        f"{s.words:,} words; {s.shortest:.2f} to {s.longest:.2f} s, mean {s.mean:.2f} s"
    ]
    largest = max(count for _, _, count in s.histogram)
    for low, high, count in s.histogram:
        bar = "█" * round(width * count / largest)
        lines.append(f"  {low:7.2f} – {high:7.2f} s {count:8,} {bar}")
    return "\n".join(lines)
