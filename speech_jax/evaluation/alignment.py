"""Attention alignment scores: detects skipped, repeated and unfinished text in synthesized speech."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

JUMP = 4  # symbols: a longer step forward is a skip, a longer step backward a repeat
ATTENDED_WEIGHT = 0.1  # attention weight from which a symbol counts as attended to


class AlignmentScore(NamedTuple):
    """Score of the attention alignment of one utterance.

    Attributes:
        focus: mean over steps of the largest attention weight; near 1 where each step attends to one symbol. If `ended`
            is "saturated", the steps at the end of the text are not counted: they would hide a diffuse rest.
        coverage: fraction of the symbols that were attended to.
        skips: number of jumps forward over symbols that were not attended to.
        repeats: number of jumps backward.
        reached: furthest attended position in the text, 0 to 1.
        ended: "stop" (stop token), "saturated" (the attention stayed at the last symbol) or "bound" (cut off).
    """

    focus: float
    coverage: float
    skips: int
    repeats: int
    reached: float
    ended: str

    @property
    def failure(self) -> str:
        """Faults of the alignment in a few words; empty if there are none."""
        faults = []
        if self.ended == "bound":
            faults.append("no end")
        if self.reached < 0.9:
            faults.append(f"ends at {self.reached:.0%} of the text")
        if self.skips:
            faults.append(f"{self.skips} skipped")
        if self.repeats:
            faults.append(f"{self.repeats} repeated")
        if self.focus < 0.3:
            faults.append(f"not aligned (focus {self.focus:.2f})")
        return ", ".join(faults)

    @property
    def quality(self) -> float:
        """Overall score to compare attempts at the same text; larger is better."""
        faults = self.skips + self.repeats + 2 * (self.ended == "bound") + 4 * (1 - self.reached)
        return self.focus + self.coverage - faults


def score_alignment(weights: Float[np.ndarray, "steps symbols"], ended: str) -> AlignmentScore:
    """Score the attention alignment of one utterance.

    Args:
        weights: attention weights, without padding; each step sums to 1.
        ended: end reason, see `AlignmentScore`.

    Example:
        >>> import numpy as np
        >>> from speech_jax.evaluation.alignment import score_alignment
        >>> score = score_alignment(np.repeat(np.eye(10), 3, axis=0), "stop")  # three steps per symbol
        >>> score.coverage, score.reached, score.failure
        (1.0, 1.0, '')
        >>> score_alignment(np.eye(10)[:5], "bound").failure
        'no end, ends at 50% of the text'
    """
    steps, symbols = weights.shape
    if steps < 2 or symbols == 0:  # too short for any speech: the weights carry no information
        return AlignmentScore(0.0, 0.0, 0, 0, 0.0, ended)
    path = weights.argmax(1)
    attended = weights.max(0) >= ATTENDED_WEIGHT
    skips = repeats = 0
    furthest = path[0]
    skips += int(not attended[: max(path[0] - JUMP, 0)].all())
    for previous, symbol in zip(path[:-1], path[1:], strict=True):
        if symbol > furthest + JUMP and not attended[furthest + 1 : symbol].all():
            skips += 1
        if symbol < previous - JUMP:
            repeats += 1
        furthest = max(furthest, symbol)
    reached = (furthest + 1) / symbols
    before_end = np.flatnonzero(path < symbols - 1)
    scored = weights[: (before_end[-1] + 2 if len(before_end) else 1)] if ended == "saturated" else weights
    return AlignmentScore(float(scored.max(1).mean()), float(attended.mean()), skips, repeats, float(reached), ended)
