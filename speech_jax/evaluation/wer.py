"""Word and character error rates, counted in batches in NumPy: ten thousand utterances per second.

There are two sets of costs. "levenshtein" counts the fewest errors, as jiwer does; among alignments with equally few
errors it takes the one with the most correct words. "sclite" is NIST's: a substitution costs 4, an insertion or
deletion 3, so an alignment may contain more errors than the minimum (three substitutions cost as much as two insertions
and two deletions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from speech_jax.text.scripts import has_unspaced, split_words

Costs = Literal["levenshtein", "sclite"]

# (substitution, insertion or deletion). With levenshtein a substitution costs one part in 2^24 more: among alignments
# with equally few errors that selects the fewest substitutions, that is, the most correct words.
_WEIGHTS = {"levenshtein": ((1 << 24) + 1, 1 << 24), "sclite": (4, 3)}

SIGNS_ARE_WORDS = "each sign of a script without spaces counts as a word"  # in reports

_DIAGONAL, _DELETION, _INSERTION = 0, 1, 2


@dataclass(frozen=True)
class ErrorCounts:
    """Error counts of one or several utterances; counts of parts add up to the counts of the whole.

    Attributes:
        substitutions: reference tokens replaced by another token.
        deletions: reference tokens without a hypothesis token.
        insertions: hypothesis tokens without a reference token.
        reference: number of reference tokens (words or characters).
        utterances: number of utterances.
        wrong_utterances: number of utterances with at least one error.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    utterances: int = 0
    wrong_utterances: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(a + b for a, b in zip(self.astuple(), other.astuple(), strict=True)))

    def astuple(self) -> tuple[int, ...]:
        """Return the fields in their order."""
        return tuple(vars(self).values())

    @property
    def errors(self) -> int:
        """Substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference token; without reference tokens 0, or inf if there are insertions."""
        if self.reference == 0:
            return float("inf") if self.errors else 0.0
        return self.errors / self.reference

    @property
    def sentence_rate(self) -> float:
        """Fraction of utterances with at least one error."""
        return self.wrong_utterances / self.utterances if self.utterances else 0.0


class Op(NamedTuple):
    """One step of an alignment.

    Attributes:
        kind: "=" correct, "S" substitution, "D" deletion, "I" insertion.
        reference: the reference token; None for an insertion.
        hypothesis: the hypothesis token; None for a deletion.
    """

    kind: str
    reference: str | None
    hypothesis: str | None


def wer(references: Sequence[str], hypotheses: Sequence[str], *, costs: Costs = "levenshtein") -> ErrorCounts:
    """Count word errors over all pairs of texts.

    Args:
        references: reference texts, normalized; words are separated by white space.
        hypotheses: recognized texts, in the same order.
        costs: "levenshtein" as jiwer, or "sclite" as NIST's sclite.

    Returns:
        The sum of the counts; `.rate` is the word error rate.

    Raises:
        ValueError: there are not as many hypotheses as references, or one is a text instead of a list.

    Example:
        >>> from speech_jax.evaluation.wer import wer
        >>> counts = wer(["the cat sat", "hello"], ["the bat sat down", "hello"])
        >>> counts.substitutions, counts.insertions, counts.rate
        (1, 1, 0.5)
    """
    _check_lists(references, hypotheses)
    return sum(count_errors([r.split() for r in references], [h.split() for h in hypotheses], costs), ErrorCounts())


def _check_lists(*texts: Sequence[str]) -> None:
    """Raise ValueError for one text in place of a list: its characters would count as texts."""
    if any(isinstance(text, str | bytes) for text in texts):
        raise ValueError("found one text, expected a list of texts")


def empty_transcripts(references: Iterable, hypotheses: Iterable) -> tuple[str, ...]:
    """Return a note for the log if there are texts to recognize and all transcripts are empty; else no note."""
    return ("all transcripts are empty",) if any(references) and not any(hypotheses) else ()


def cer(references: Sequence[str], hypotheses: Sequence[str], *, costs: Costs = "levenshtein") -> ErrorCounts:
    """Count character errors over all pairs of texts; runs of white space count as one space.

    Args:
        references: reference texts, normalized.
        hypotheses: recognized texts, in the same order.
        costs: "levenshtein" as jiwer, or "sclite" as NIST's sclite.

    Returns:
        The sum of the counts; `.rate` is the character error rate.

    Raises:
        ValueError: there are not as many hypotheses as references, or one is a text instead of a list.

    Example:
        >>> from speech_jax.evaluation.wer import cer
        >>> cer(["the cat"], ["the  bat"]).errors
        1
    """
    _check_lists(references, hypotheses)
    references, hypotheses = ([" ".join(text.split()) for text in side] for side in (references, hypotheses))
    return sum(count_errors(references, hypotheses, costs), ErrorCounts())


def split_pairs(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[list[str]], list[list[str]], bool]:
    """Split the texts of a set into the words of its error rate.

    Words lie between white space. Where a reference has signs of a script that writes no spaces, such as Chinese or
    Thai, each such sign of the set is a word, see `speech_jax.text.scripts.split_words`.

    Args:
        references: reference texts, normalized.
        hypotheses: recognized texts.

    Returns:
        The words of each reference, of each hypothesis, and True if signs are words.

    Example:
        >>> from speech_jax.evaluation.wer import split_pairs
        >>> split_pairs(["你好 jax"], ["你 jax"])
        ([['你', '好', 'jax']], [['你', 'jax']], True)
    """
    signs = any(map(has_unspaced, references))
    split = split_words if signs else str.split
    return list(map(split, references)), list(map(split, hypotheses)), signs


def wer_counts(reference: str, hypothesis: str) -> ErrorCounts:
    """Return `wer` of one pair; many pairs are counted faster together."""
    return wer([reference], [hypothesis])


def cer_counts(reference: str, hypothesis: str) -> ErrorCounts:
    """Return `cer` of one pair; many pairs are counted faster together."""
    return cer([reference], [hypothesis])


def count_errors(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], costs: Costs = "levenshtein"
) -> list[ErrorCounts]:
    """Count the errors of each pair of token sequences.

    Args:
        references: token sequences; a string is a sequence of characters.
        hypotheses: token sequences, in the same order.
        costs: "levenshtein" as jiwer, or "sclite" as NIST's sclite.

    Returns:
        The counts of each pair, in order.

    Raises:
        ValueError: there are not as many hypotheses as references.

    Example:
        >>> from speech_jax.evaluation.wer import count_errors
        >>> counts = count_errors([["a", "b"], ["c"]], [["a"], ["d"]])
        >>> [(c.substitutions, c.deletions, c.insertions) for c in counts]
        [(0, 1, 0), (1, 0, 0)]
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"found {len(references)} references and {len(hypotheses)} hypotheses, expected as many")
    counts: list[ErrorCounts] = [ErrorCounts()] * len(references)
    order = sorted(range(len(references)), key=lambda i: (len(hypotheses[i]), len(references[i])))
    start = 0
    while start < len(order):
        longest = len(hypotheses[order[min(start + 511, len(order) - 1)]]) + 1
        stop = min(len(order), start + max(1, min(512, (1 << 15) // longest)))
        rows = order[start:stop]
        paths = _best_paths([references[i] for i in rows], [hypotheses[i] for i in rows], *_WEIGHTS[costs])
        for i, cost, errors in zip(rows, *paths, strict=True):
            counts[i] = _split(int(cost), int(errors), len(references[i]), len(hypotheses[i]), costs)
        start = stop
    return counts


def edit_operations(
    reference: Sequence[str] | str, hypothesis: Sequence[str] | str, costs: Costs = "levenshtein"
) -> list[Op]:
    """Return the edit operations that turn the reference into the hypothesis.

    Args:
        reference: tokens; a string is split into words.
        hypothesis: tokens; a string is split into words.
        costs: "levenshtein" as jiwer, or "sclite" as NIST's sclite.
    """
    ref = reference.split() if isinstance(reference, str) else list(reference)
    hyp = hypothesis.split() if isinstance(hypothesis, str) else list(hypothesis)
    substitution, gap = _WEIGHTS[costs]
    ids = _ids(ref + hyp)
    r, h = ids[: len(ref)], ids[len(ref) :]
    row = np.arange(len(hyp) + 1, dtype=np.int64)[None] * gap
    steps = np.full((len(ref) + 1, len(hyp) + 1), _INSERTION, np.int8)
    for i in range(1, len(ref) + 1):
        row, steps[i] = _next_row(row, (h == r[i - 1])[None], substitution, gap)
    return _trace(ref, hyp, steps)


def _trace(ref: list[str], hyp: list[str], steps: np.ndarray) -> list[Op]:
    i, j, ops = len(ref), len(hyp), []
    while i or j:
        step = steps[i, j]
        if step == _DIAGONAL:
            i, j = i - 1, j - 1
            ops.append(Op("=" if ref[i] == hyp[j] else "S", ref[i], hyp[j]))
        elif step == _DELETION:
            i -= 1
            ops.append(Op("D", ref[i], None))
        else:
            j -= 1
            ops.append(Op("I", None, hyp[j]))
    return ops[::-1]


def _ids(tokens: Iterable[str]) -> np.ndarray:
    vocabulary: dict[str, int] = {}
    return np.array([vocabulary.setdefault(token, len(vocabulary)) for token in tokens], np.int32)


def _next_row(row: np.ndarray, equal: np.ndarray, substitution: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the next row of the dynamic program of a batch: costs [batch, width + 1], and the step into each cell.

    Insertions run along the row: it is a running minimum once each cell has its minimum from above and the diagonal.
    Between equal costs the diagonal wins, then the insertion: sclite's rule (calculate_internal_cells in net_dp.c).
    """
    columns = np.arange(row.shape[1], dtype=np.int64) * gap
    diagonal = row[:, :-1] + np.where(equal, 0, substitution)
    best = row + gap
    np.minimum(best[:, 1:], diagonal, out=best[:, 1:])
    new = np.minimum.accumulate(best - columns, axis=1) + columns
    steps = np.full(row.shape, _DELETION, np.int8)
    steps[:, 1:][new[:, 1:] == new[:, :-1] + gap] = _INSERTION
    steps[:, 1:][new[:, 1:] == diagonal] = _DIAGONAL
    return new, steps


def _best_paths(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], substitution: int, gap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of the best path of each pair, and the number of errors on it."""
    rows, width = np.arange(len(references)), max(map(len, hypotheses))
    lengths = np.array([len(ref) for ref in references])
    ends = np.array([len(hyp) for hyp in hypotheses])
    vocabulary: dict[str, int] = {}
    r = np.full((len(references), lengths.max()), -1, np.int32)
    h = np.full((len(references), width), -2, np.int32)
    for row, (ref, hyp) in enumerate(zip(references, hypotheses, strict=True)):
        r[row, : len(ref)] = [vocabulary.setdefault(token, len(vocabulary)) for token in ref]
        h[row, : len(hyp)] = [vocabulary.setdefault(token, len(vocabulary)) for token in hyp]
    columns = np.arange(width + 1, dtype=np.int64)
    cost = np.broadcast_to(columns * gap, (len(references), width + 1))
    errors = np.broadcast_to(columns, cost.shape)
    cost_at_end, errors_at_end = cost[rows, ends], errors[rows, ends]
    for i in range(r.shape[1]):
        equal = h == r[:, i : i + 1]
        cost, steps = _next_row(cost, equal, substitution, gap)
        count = errors + 1
        diagonal = steps[:, 1:] == _DIAGONAL
        count[:, 1:] = np.where(diagonal, errors[:, :-1] + ~equal, count[:, 1:])
        # A run of insertions adds one error per step to the cell that it starts from.
        start = np.maximum.accumulate(np.where(steps == _INSERTION, 0, columns), axis=1)
        errors = np.take_along_axis(count, start, axis=1) + columns - start
        done = lengths == i + 1
        cost_at_end = np.where(done, cost[rows, ends], cost_at_end)
        errors_at_end = np.where(done, errors[rows, ends], errors_at_end)
    return cost_at_end, errors_at_end


def _split(cost: int, errors: int, reference: int, hypothesis: int, costs: Costs) -> ErrorCounts:
    """Return the counts per kind from cost and sum: insertions - deletions is the difference of the lengths."""
    substitution, gap = _WEIGHTS[costs]
    substitutions = (cost - gap * errors) // (substitution - gap)
    insertions = (errors - substitutions + hypothesis - reference) // 2
    deletions = errors - substitutions - insertions
    return ErrorCounts(substitutions, deletions, insertions, reference, 1, int(errors > 0))
