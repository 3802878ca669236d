"""Cutting of a long recording at its pauses, found by energy or by a voice activity detector. Host-side NumPy.

By energy, a moment is silent if its level is near the floor of its surroundings, or far below their peak. The floor is
the quietest tenth of a second within ten seconds to each side, so that a recording may have any noise, and another
noise in another part; steady noise is silent at any level. Levels are taken twice, of the samples without their mean
and of their differences, so that neither an offset nor a hum hides a quiet sound. In doubt it is speech.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from speech_jax.audio.vad import CHUNK_SECONDS, speech_probabilities

_STEP = 0.01  # seconds between levels
_SMOOTH, _FLOOR = 3, 10  # levels that are averaged: for the decision, for the floor
_AROUND = 10.0  # seconds to each side from which floor and peak are taken
_ABOVE_FLOOR = 4.0  # dB; quieter than floor + 4 is silent
_BELOW_PEAK = 40.0, 35.0  # dB, of the samples and of their differences; quieter than peak - 40 is silent
_LOWEST = -100.0  # dB relative to full scale: the level of digital silence
_PROBABILITY = 0.5  # of speech in a chunk, by the voice activity detector
_PAUSE = 0.3  # seconds
_SHORT_PAUSES = (1.0, 0.1), (1.5, 0.04)  # a stretch of more than n times the wanted length is cut at such pauses too
_CLICK = 0.05  # seconds; a shorter sound between two pauses is no speech
_WORD, _NEAR = 1.0, 1.0  # seconds; a shorter piece has too little context, and joins a neighbor that is near
_MARGIN = {"energy": 0.08, "vad": 0.2}  # seconds kept on both sides: Silero detects weak consonants late


class Span(NamedTuple):
    """A part of a recording.

    Attributes:
        start: its first sample.
        stop: one past its last sample.
    """

    start: int
    stop: int


def speech_spans(
    audio: Float[np.ndarray, " samples"], sample_rate: int, by: Literal["energy", "vad"], *, longest: float
) -> list[Span]:
    """Cut a recording at its pauses.

    Args:
        audio: mono samples in [-1, 1].
        sample_rate: samples per second.
        by: detector: energy, or Silero's voice activity detector.
        longest: seconds; a stretch of speech that is longer is cut at its short pauses too, the longest ones first, and
            a single word is merged with a neighbor up to this length. Without any pause a stretch stays whole.

    Returns:
        The parts with speech, in order, without overlap; the whole recording if no speech is detected.

    Raises:
        UserError: by is "vad" and its package is not installed.
    """
    if by == "vad":
        speech, step = speech_probabilities(audio, sample_rate) >= _PROBABILITY, CHUNK_SECONDS
    else:
        speech, step = _loud(audio, sample_rate), _STEP
    runs = np.flatnonzero(np.diff(np.pad(speech.astype(np.int8), 1))).reshape(-1, 2) * step  # [runs, (start, stop)]
    pieces = _merge(_cut(runs, longest), longest)
    if not pieces:
        return [Span(0, len(audio))]
    starts, stops = np.array(pieces).T
    middles = (stops[:-1] + starts[1:]) / 2  # neighbors share a short pause
    lows = np.maximum([0.0, *middles], starts - _MARGIN[by])
    highs = np.minimum([*middles, len(audio) / sample_rate], stops + _MARGIN[by])
    bounds = np.minimum(np.rint(np.stack([lows, highs], axis=1) * sample_rate), len(audio)).astype(int)
    return [Span(start, stop) for start, stop in bounds.tolist()]


def _cut(runs: Float[np.ndarray, "runs 2"], longest: float) -> list[tuple[float, float]]:
    """Group runs of speech, (start, stop) in seconds, into pieces between pauses."""
    pauses = runs[1:, 0] - runs[:-1, 1]
    cuts = (np.flatnonzero(pauses >= _PAUSE) + 1).tolist()
    groups = list(zip([0, *cuts], [*cuts, len(runs)], strict=True))[::-1]  # from run, to run; the next one is the last
    pieces = []
    while groups:
        first, last = groups.pop()
        if last == first:  # there are no runs
            continue
        start, stop = float(runs[first, 0]), float(runs[last - 1, 1])
        if stop - start > longest and last - first > 1:
            pause = first + int(np.argmax(pauses[first : last - 1]))
            if pauses[pause] >= min(least for times, least in _SHORT_PAUSES if stop - start > times * longest):
                groups += [(pause + 1, last), (first, pause + 1)]
                continue
        if stop - start >= _CLICK:
            pieces.append((start, stop))
    return pieces


def _merge(pieces: list[tuple[float, float]], longest: float) -> list[tuple[float, float]]:
    """Merge pieces of a word or less with a neighbor that is near."""
    merged: list[tuple[float, float]] = []
    for start, stop in pieces:
        if merged:
            before = merged[-1]
            short = min(stop - start, before[1] - before[0]) < _WORD
            if short and start - before[1] < _NEAR and stop - before[0] <= longest:
                merged[-1] = (before[0], stop)
                continue
        merged.append((start, stop))
    return merged


def _loud(audio: Float[np.ndarray, " samples"], sample_rate: int) -> Bool[np.ndarray, " levels"]:
    """Return True for each hundredth of a second that is not silent."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d, uniform_filter1d  # slow to import

    around = 2 * round(_AROUND / _STEP) + 1
    loud = False
    powers = _powers(audio, max(2, round(_STEP * sample_rate)))
    for power, below_peak in zip(powers, _BELOW_PEAK, strict=True):
        floor = minimum_filter1d(_decibels(uniform_filter1d(power, _FLOOR)), around)
        level = _decibels(uniform_filter1d(power, _SMOOTH))
        peak = maximum_filter1d(level, around)
        loud |= level > np.maximum(floor + _ABOVE_FLOOR, peak - below_peak)
    return np.asarray(loud)


def _powers(audio: Float[np.ndarray, " samples"], size: int) -> Float[np.ndarray, "kinds levels"]:
    """Return the mean squares of frames of `size` samples, about their mean and of their differences."""
    count = -(-len(audio) // size)
    powers = np.zeros((2, count))
    block = 6000  # frames at a time: float64 of a whole recording would take gigabytes
    for first in range(0, count, block):
        part = audio[first * size : (first + block) * size].astype(np.float64)
        part = np.pad(part, (0, -len(part) % size), mode="edge").reshape(-1, size)
        powers[0, first : first + block] = part.var(axis=1)
        powers[1, first : first + block] = np.square(np.diff(part, axis=1)).mean(axis=1)
    return powers


def _decibels(power: Float[np.ndarray, " levels"]) -> Float[np.ndarray, " levels"]:
    return 10 * np.log10(np.maximum(power, 10 ** (_LOWEST / 10)))
