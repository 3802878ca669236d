"""Did the attention read the text from its first symbol to its last? Scores of one utterance's alignment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

JUMP = 4  # symbols: a step further forward than this leaves something out, a step further back says it again
LOOKED = 0.1  # weight at which a symbol counts as looked at


class AlignmentScore(NamedTuple):
    """What an alignment says about an utterance.

    focus:    mean of the largest weight of each step; near 1 where one symbol at a time is read. Where the end was
              "saturated", the steps in which it stayed there are not counted: they would make up for the others
    coverage: share of the symbols that were looked at
    skips:    places where the attention jumps forward over symbols that nothing had looked at
    repeats:  places where it falls back
    reached:  how far through the text the last step is, 0 to 1
    ended:    "stop" (the model said so), "saturated" (it stayed at the end of the text), or "bound" (it was cut off)
    """

    focus: float
    coverage: float
    skips: int
    repeats: int
    reached: float
    ended: str

    @property
    def failure(self) -> str:
        """Why this cannot be trusted, in a few words; empty where nothing speaks against it."""
        found = []
        if self.ended == "bound":
            found.append("no end")
        if self.reached < 0.9:
            found.append(f"ends at {self.reached:.0%} of the text")
        if self.skips:
            found.append(f"{self.skips} skipped")
        if self.repeats:
            found.append(f"{self.repeats} repeated")
        if self.focus < 0.3:
            found.append(f"not aligned (focus {self.focus:.2f})")
        return ", ".join(found)

    @property
    def quality(self) -> float:
        """One number to choose between tries: larger is better."""
        faults = self.skips + self.repeats + 2 * (self.ended == "bound") + 4 * (1 - self.reached)
        return self.focus + self.coverage - faults


def score_alignment(weights: Float[np.ndarray, "steps symbols"], ended: str) -> AlignmentScore:
    """The score of the steps up to the end, over the symbols of the text (neither padded)."""
    steps, symbols = weights.shape
    if steps < 2 or symbols == 0:  # it ended before anything could be heard, and whatever it looked at says nothing
        return AlignmentScore(0.0, 0.0, 0, 0, 0.0, ended)
    place = weights.argmax(1)
    looked = weights.max(0) >= LOOKED
    skips = repeats = 0
    furthest = place[0]
    skips += int(not looked[: max(place[0] - JUMP, 0)].all())
    for before, now in zip(place[:-1], place[1:], strict=True):
        if now > furthest + JUMP and not looked[furthest + 1 : now].all():
            skips += 1
        if now < before - JUMP:
            repeats += 1
        furthest = max(furthest, now)
    reached = (furthest + 1) / symbols
    away = np.flatnonzero(place < symbols - 1)
    reading = weights[: (away[-1] + 2 if len(away) else 1)] if ended == "saturated" else weights
    return AlignmentScore(float(reading.max(1).mean()), float(looked.mean()), skips, repeats, float(reached), ended)
