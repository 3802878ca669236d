"""Word and character error rates, counted in batches in NumPy: ten thousand utterances in a second.

Two sets of costs. "levenshtein" counts the fewest errors, as jiwer does; among alignments of equally few errors it
takes the one with the most correct words. "sclite" is NIST's: a substitution costs 4, an insertion or deletion 3, so
that an alignment may hold more errors than the fewest possible (three substitutions cost as much as two insertions with
two deletions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Costs = Literal["levenshtein", "sclite"]

# A path's cost is one integer: the costs proper in the high bits, what decides between equals in the low 24.
_UNIT = 1 << 24
# substitution, insertion, deletion
_WEIGHTS = {
    "levenshtein": (_UNIT + 1, _UNIT, _UNIT),
    "sclite": (4 * _UNIT + 1, 3 * _UNIT + 1, 3 * _UNIT + 1),
}


@dataclass(frozen=True)
class ErrorCounts:
    """Errors against a number of reference words (or characters). Counts of parts add up to the count of the whole."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    utterances: int = 0
    wrong_utterances: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(a + b for a, b in zip(self.astuple(), other.astuple(), strict=True)))

    def astuple(self) -> tuple[int, ...]:
        return tuple(vars(self).values())

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word: 0 where nothing was said and nothing recognised, inf where only insertions are."""
        if self.reference == 0:
            return float("inf") if self.errors else 0.0
        return self.errors / self.reference

    @property
    def sentence_rate(self) -> float:
        """The share of utterances with at least one error."""
        return self.wrong_utterances / self.utterances if self.utterances else 0.0


class Op(NamedTuple):
    """One step of an alignment. kind: "=" correct, "S", "D" (no hypothesis), "I" (no reference)."""

    kind: str
    reference: str | None
    hypothesis: str | None


def wer(references: Sequence[str], hypotheses: Sequence[str], *, costs: Costs = "levenshtein") -> ErrorCounts:
    """Word errors over all pairs. Words are what lies between white space; normalise the texts before."""
    return sum(count_errors([r.split() for r in references], [h.split() for h in hypotheses], costs), ErrorCounts())


def cer(references: Sequence[str], hypotheses: Sequence[str], *, costs: Costs = "levenshtein") -> ErrorCounts:
    """Character errors over all pairs, spaces counted (runs of white space as one)."""
    fold = [[list(" ".join(text.split())) for text in side] for side in (references, hypotheses)]
    return sum(count_errors(fold[0], fold[1], costs), ErrorCounts())


def count_errors(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], costs: Costs = "levenshtein"
) -> list[ErrorCounts]:
    """The errors of every pair of token sequences, in their order."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses")
    counts: list[ErrorCounts] = [ErrorCounts()] * len(references)
    order = sorted(range(len(references)), key=lambda i: (len(hypotheses[i]), len(references[i])))
    start = 0
    while start < len(order):
        longest = len(hypotheses[order[min(start + 511, len(order) - 1)]]) + 1
        stop = min(len(order), start + max(1, min(512, (1 << 18) // longest)))
        rows = order[start:stop]
        packed = _path_costs([references[i] for i in rows], [hypotheses[i] for i in rows], _WEIGHTS[costs])
        for i, cost in zip(rows, packed.tolist(), strict=True):
            counts[i] = _unpack(cost, len(references[i]), len(hypotheses[i]), costs)
        start = stop
    return counts


def align(
    reference: Sequence[str] | str, hypothesis: Sequence[str] | str, costs: Costs = "levenshtein"
) -> list[Op]:
    """The alignment of two token sequences (a text is split into words) as a list of `Op`."""
    ref = reference.split() if isinstance(reference, str) else list(reference)
    hyp = hypothesis.split() if isinstance(hypothesis, str) else list(hypothesis)
    substitution, insertion, deletion = _WEIGHTS[costs]
    ids = _ids(ref + hyp)
    r, h = ids[: len(ref)], ids[len(ref) :]
    columns = np.arange(len(hyp) + 1, dtype=np.int64) * insertion
    row, from_above = columns, np.zeros((len(ref) + 1, len(hyp) + 1), np.int8)
    from_above[0] = 2  # 0: diagonal, 1: deletion, 2: insertion
    for i in range(1, len(ref) + 1):
        diagonal = row[:-1] + np.where(h == r[i - 1], 0, substitution)
        above = row + deletion
        best = above.copy()
        np.minimum(best[1:], diagonal, out=best[1:])
        new = np.minimum.accumulate(best - columns) + columns
        step = np.full(len(hyp) + 1, 2, np.int8)
        step[new == above] = 1
        step[1:][new[1:] == diagonal] = 0
        from_above[i], row = step, new
    return _trace(ref, hyp, from_above)


def _trace(ref: list[str], hyp: list[str], steps: np.ndarray) -> list[Op]:
    i, j, ops = len(ref), len(hyp), []
    while i or j:
        step = steps[i, j] if i else 2
        if step == 0:
            i, j = i - 1, j - 1
            ops.append(Op("=" if ref[i] == hyp[j] else "S", ref[i], hyp[j]))
        elif step == 1:
            i -= 1
            ops.append(Op("D", ref[i], None))
        else:
            j -= 1
            ops.append(Op("I", None, hyp[j]))
    return ops[::-1]


def _ids(tokens: Iterable[str]) -> np.ndarray:
    known: dict[str, int] = {}
    return np.array([known.setdefault(token, len(known)) for token in tokens], np.int32)


def _path_costs(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], weights: tuple[int, int, int]
) -> np.ndarray:
    """The cost of the best path of each pair: dynamic programming over rows of the whole batch at once.

    Insertions run along a row, so a row is a running minimum once each cell has its best from above or the diagonal.
    """
    substitution, insertion, deletion = weights
    width = max(map(len, hypotheses), default=0)
    height = max(map(len, references), default=0)
    known: dict[str, int] = {}
    r = np.full((height, len(references)), -1, np.int32)
    h = np.full((len(references), width), -2, np.int32)
    for row, (ref, hyp) in enumerate(zip(references, hypotheses, strict=True)):
        r[: len(ref), row] = [known.setdefault(token, len(known)) for token in ref]
        h[row, : len(hyp)] = [known.setdefault(token, len(known)) for token in hyp]
    lengths = np.array([len(ref) for ref in references])
    ends = np.array([len(hyp) for hyp in hypotheses])
    columns = np.arange(width + 1, dtype=np.int64) * insertion
    table = np.broadcast_to(columns, (len(references), width + 1)).copy()
    every = np.arange(len(references))
    answer = table[every, ends]
    for i in range(height):
        best = table + deletion
        np.minimum(best[:, 1:], table[:, :-1] + np.where(h == r[i][:, None], 0, substitution), out=best[:, 1:])
        table = np.minimum.accumulate(best - columns, axis=1) + columns
        answer = np.where(lengths == i + 1, table[every, ends], answer)
    return answer


def _unpack(cost: int, reference: int, hypothesis: int, costs: Costs) -> ErrorCounts:
    """Counts from a packed cost, which holds two sums of them; insertions - deletions is the lengths' difference."""
    high, low = divmod(cost, _UNIT)
    if costs == "levenshtein":
        errors, substitutions = high, low
    else:
        errors = low
        substitutions = high - 3 * errors
    difference = hypothesis - reference
    insertions = (errors - substitutions + difference) // 2
    deletions = errors - substitutions - insertions
    return ErrorCounts(substitutions, deletions, insertions, reference, 1, int(errors > 0))
