"""Joined rows: several utterances in one training row, with quiet before, between and after them.

A network that learns only from single utterances has never seen a pause or the next sentence, and fails on long
recordings. Which utterances are joined is a pure function of (lengths, settings, seed, epoch), as the plan's order is:
the shape and the number of joined rows are the same in all epochs, their utterances are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket
from speech_jax.data.config import JoinConfig
from speech_jax.text.tokenizer import Tokenizer

_JOIN = 0x6A6F696E  # the stream of draws: the plan's own have the number of a bucket here
_TRIES = 8  # utterances that are drawn for the room that is left in a row


class JoinedRow(NamedTuple):
    """Content of a joined row.

    Attributes:
        rows: row numbers of its utterances, in order.
        gaps: samples of quiet before each of them, and after the last one.
        noise: standard deviation of the white noise under the whole row.
        seed: seed of the noise.
    """

    rows: tuple[int, ...]
    gaps: tuple[int, ...]
    noise: float
    seed: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Joins:
    """The joined rows of a plan; row number `first` + i is the i-th."""

    config: JoinConfig
    """Settings."""
    bucket: Bucket
    """Shape of their batches."""
    first: int
    """Row number of the first joined row: the number of utterances."""
    count: int
    """Joined rows per epoch."""
    rows: Int[np.ndarray, "n"]
    """Row numbers of the utterances that are joined."""
    samples: Int[np.ndarray, "n"]
    """Samples of each."""
    labels: Int[np.ndarray, "n"]
    """Labels of each."""
    sample_rate: int
    """Samples per second."""
    seed: int
    """Seed of the draws."""

    def row(self, number: int, epoch: int) -> JoinedRow:
        """Return the content of joined row `number` (`first` or more) in an epoch.

        Utterances are drawn while they fit into the shape, every one with the same probability.
        """
        seed = (self.seed, epoch, _JOIN, number - self.first)
        draws = _uniform(np.random.PCG64(np.random.SeedSequence(seed)))
        low, high = (value * self.sample_rate for value in self.config.gap)
        decibels = self.config.noise_db[0] + next(draws) * (self.config.noise_db[1] - self.config.noise_db[0])
        rows: list[int] = []
        gaps: list[int] = []
        samples = labels = tries = 0
        while tries < _TRIES:
            gap = int(low + next(draws) ** 3 * (high - low))  # the cube: short pauses are more frequent than long ones
            chosen = int(next(draws) * len(self.rows))
            if not rows:  # the first one fits, with less quiet if need be
                gap = min(gap, self.bucket.samples - int(self.samples[chosen]))
            more_labels = int(self.labels[chosen]) + (1 if rows else 0)  # a space before the next text
            fits = samples + gap + self.samples[chosen] <= self.bucket.samples
            if not fits or labels + more_labels > self.bucket.labels:
                tries += 1
                continue
            rows.append(int(self.rows[chosen]))
            gaps.append(gap)
            samples, labels = samples + gap + int(self.samples[chosen]), labels + more_labels
        last = int(low + next(draws) ** 3 * (high - low))
        gaps.append(min(last, self.bucket.samples - samples))
        return JoinedRow(tuple(rows), tuple(gaps), 10 ** (decibels / 20), (*seed, 1))

    def digest(self) -> bytes:
        """Return bytes that differ for joins with other draws or other lengths."""
        facts = repr((self.config, tuple(self.bucket), self.first, self.count, self.sample_rate, self.seed))
        digest = hashlib.sha256(facts.encode())
        for column in (self.rows, self.samples, self.labels):
            digest.update(np.asarray(column, "<i8").tobytes() + b"|")
        return digest.digest()


def check_join(config: JoinConfig, flag: str = "plan.join") -> None:
    """Raise UserError, which begins with `flag`, for settings that are out of their range."""
    low, high = config.gap
    quiet, loud = config.noise_db
    checks = (
        (0 <= config.share <= 10, "share", config.share, "0 to 10 joined rows per utterance"),
        (0 < config.seconds <= 3600, "seconds", config.seconds, "more than 0, up to 3600"),
        (0 <= low <= high <= 60, "gap", config.gap, "(shortest, longest), 0 to 60 seconds"),
        (-200 <= quiet <= loud <= 0, "noise_db", config.noise_db, "(quietest, loudest), -200 to 0 dB"),
    )
    for holds, name, found, expected in checks:
        if not holds:
            raise UserError(f"{flag}.{name}: found {found}, expected {expected}")


def join_audio(
    row: JoinedRow, recordings: Sequence[Float[np.ndarray, "time"]], longest: int
) -> Float[np.ndarray, "time"]:
    """Return the samples of a joined row, at most `longest`.

    Args:
        row: the row.
        recordings: samples of its utterances.
        longest: samples of the shape; a recording that is a little longer than its manifest says is cut there.
    """
    quiet = [np.zeros(gap, np.float32) for gap in row.gaps]
    parts = [part for pair in zip(quiet, recordings, strict=False) for part in pair]
    audio = np.concatenate([*parts, quiet[-1]])[:longest]
    draws = np.random.PCG64(np.random.SeedSequence(row.seed)).random_raw(len(audio))
    noise = (draws >> 11).astype(np.float32) * np.float32(2.0**-53) - np.float32(0.5)
    return audio + np.float32(row.noise * np.sqrt(12.0)) * noise


def join_labels(parts: Sequence[Sequence[int]], tokenizer: Tokenizer | None) -> list[int]:
    """Return the labels of texts with a space between them, if the tokenizer has one of its own."""
    space = []
    if isinstance(tokenizer, Tokenizer) and tokenizer.kind == "char" and " " in tokenizer.pieces:
        space = [tokenizer.pieces.index(" ")]
    joined: list[int] = []
    for part in parts:
        joined += [*space, *part] if joined and part else part
    return joined


def _uniform(generator: np.random.PCG64):
    """Yield draws from [0, 1): raw ones, which NumPy guarantees never to change."""
    while True:
        for value in generator.random_raw(64):
            yield float(int(value) >> 11) * 2.0**-53
