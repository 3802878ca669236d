"""Batch plan: the rows of every global batch, a pure function of (lengths, settings, seed, step).

An epoch contains every eligible utterance once, and rows of joined utterances (joining.py): all are shuffled within
their bucket and cut into batches, then the batches of all buckets are shuffled. The last batch of a bucket is padded
with rows -1. The only state is the global step, so a run resumes exactly from one integer, on any number of hosts and
workers. Random numbers are raw PCG64 draws, which NumPy guarantees never to change.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket
from speech_jax.data.config import JoinConfig, PlanConfig
from speech_jax.data.joining import Joins, check_join
from speech_jax.data.utterances import Utterance, Utterances
from speech_jax.text.tokenizer import Tokenizer

_CANDIDATES = 384  # bounds that the search considers; more change the padding by less than 0.1 %


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of a run, made by `make_plan` or `eval_plan`. Steps are counted over all epochs, from 0."""

    buckets: tuple[Bucket, ...]
    """Static shapes of the batches, in ascending order of samples."""
    sample_rate: int
    """Sample rate of `Bucket.samples` in Hz."""
    members: tuple[Int[np.ndarray, "count"], ...]
    """Row numbers of the utterances in each bucket; those of joined rows follow the last utterance's."""
    dropped: tuple[tuple[int, str], ...]
    """(row number, reason) of utterances that are in no batch."""
    seed: int
    """Seed of the shuffle."""
    shuffle: bool
    """True for endless shuffled epochs; False for one pass, longest first."""
    padding_share: float
    """Fraction of an epoch's audio samples that is padding, including filler rows, without joined rows."""
    label_padding_share: float
    """Fraction of an epoch's labels that is padding, including filler rows, without joined rows."""
    seconds: float
    """Seconds of audio in an epoch, without padding and joined rows."""
    joins: Joins | None = None
    """Joined rows; None has none."""

    def steps(self, epoch: int = 0) -> int:
        """Return the number of batches of an epoch, the same for all epochs."""
        del epoch
        return sum(-(-len(m) // b.rows) for m, b in zip(self.members, self.buckets, strict=True))

    @property
    def total_steps(self) -> int | None:
        """Number of batches in all; None for endless epochs."""
        return None if self.shuffle else self.steps()

    def batch(self, step: int) -> tuple[Bucket, Int[np.ndarray, "rows"]]:
        """Return the global batch of a step.

        Args:
            step: step of the run, from 0.

        Returns:
            (shape, int64 [rows] row numbers; -1 is a filler row).

        Raises:
            IndexError: the plan has no such step.
        """
        epoch, place = divmod(step, self.steps())
        if step < 0 or (not self.shuffle and epoch):
            raise IndexError(f"step {step} of a plan of {self.total_steps} steps")
        orders, batches = _epoch(self, epoch)
        bucket_index, first = batches[place]
        bucket = self.buckets[bucket_index]
        rows = np.full(bucket.rows, -1, np.int64)
        taken = orders[bucket_index][first : first + bucket.rows]
        rows[: len(taken)] = taken
        return bucket, rows

    def fingerprint(self) -> str:
        """Return a checksum of everything that decides which rows are in which batch.

        Two plans with equal checksums give the same batches at every step, so a run can resume with either. The number
        of workers, threads and hosts does not change it.
        """
        digest = hashlib.sha256(repr((tuple(self.buckets), self.sample_rate, self.seed, self.shuffle)).encode())
        for members in self.members:
            digest.update(np.asarray(members, "<i8").tobytes() + b"|")
        if self.joins is not None:
            digest.update(self.joins.digest())
        return digest.hexdigest()

    def describe(self) -> str:
        """Return a summary of a few lines for the log."""
        utterances = sum(map(len, self.members)) - (0 if self.joins is None else self.joins.count)
        lines = [
            f"{utterances} utterances, {self.seconds / 3600:.2f} h, {self.steps()} steps per epoch, "
            f"padding {self.padding_share:.1%} of audio, {self.label_padding_share:.1%} of labels, "
            f"{len(self.dropped)} left out"
        ]
        for bucket, members in zip(self.buckets, self.members, strict=True):
            seconds = bucket.samples / self.sample_rate
            kind = "utterances" if self.joins is None or members[0] < self.joins.first else "joined rows"
            shape = f"{bucket.rows:4d} rows × {seconds:6.2f} s × {bucket.labels:4d} labels"
            lines.append(f"  {shape}: {len(members)} {kind}")
        return "\n".join(lines)


def left_out(plan: Plan, utterances: Sequence[Utterance], most: int | None = None) -> list[str]:
    """Return a line for each utterance that is in no batch of the plan: its place, its id, and why.

    Args:
        plan: the plan.
        utterances: the rows from which it was made.
        most: maximum number of lines; None returns all.
    """
    rows = ((utterances[row], reason) for row, reason in plan.dropped[:most])
    return [f"{u.where or u.audio}: {u.id}: {reason}" for u, reason in rows]


def lengths(utterances: Sequence[Utterance], tokenizer) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Return the lengths of utterances that `make_plan` needs.

    The labels of a large set are counted on all cores, and the counts are cached next to its manifest (`Texts`).

    Args:
        utterances: n rows.
        tokenizer: has `encode(text) -> list[int]`; None counts no labels.

    Returns:
        (float64 [n] seconds, int64 [n] numbers of labels).

    Raises:
        UserError: the tokenizer has no token for a character; the message names the manifest's line.
    """
    rows = Utterances.of(utterances)
    if tokenizer is None:
        return rows.seconds, np.zeros(len(rows), np.int64)
    if not isinstance(tokenizer, Tokenizer):
        return rows.seconds, np.array([len(encode(u, tokenizer)) for u in rows], np.int64)
    labels = rows.texts.label_counts(tokenizer)
    for row in np.flatnonzero(labels < 0)[:1]:
        encode(rows[row], tokenizer)  # raises the error
    rows.texts.forget()
    return rows.seconds, labels


def encode(utterance: Utterance, tokenizer) -> list[int]:
    """Encode the text of an utterance. Raises UserError naming its line if the tokenizer cannot encode it."""
    if tokenizer is None:
        return []
    try:
        return tokenizer.encode(utterance.text)
    except UserError as error:
        raise UserError(f"{utterance.where or utterance.id}: {error}") from error


def make_plan(
    seconds: Float[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    config: PlanConfig,
    *,
    seed: int,
    sample_rate: int = 16_000,
) -> Plan:
    """Plan the batches of a training run: endless epochs, each with every eligible utterance once.

    Utterances that are too short, too long, or have too many labels (for `config` or for all buckets) are in
    `plan.dropped`.

    Args:
        seconds: length of each utterance.
        labels: number of labels of each utterance.
        config: buckets and limits.
        seed: seed of the shuffle.
        sample_rate: Hz of the batches.

    Returns:
        The plan.

    Raises:
        UserError: no utterance is left, or the settings are impossible.

    Example:
        >>> import numpy as np
        >>> from speech_jax.data.config import PlanConfig
        >>> from speech_jax.data.plan import make_plan
        >>> seconds, labels = np.array([1.0, 1.2, 3.9, 4.0]), np.array([9, 12, 40, 44])
        >>> plan = make_plan(seconds, labels, PlanConfig(rows=2, row_multiple=2), seed=0)
        >>> for bucket in plan.buckets:
        ...     print(bucket.rows, bucket.samples / 16000, bucket.labels)
        2 1.2 16
        2 4.0 48
        >>> plan.steps(), sorted(row for step in range(2) for row in plan.batch(step)[1].tolist())
        (2, [0, 1, 2, 3])
    """
    return _plan(seconds, labels, config, seed, sample_rate, shuffle=True)


def eval_plan(
    seconds: Float[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    config: PlanConfig,
    *,
    sample_rate: int = 16_000,
) -> Plan:
    """Plan the batches of an evaluation: one pass, longest first.

    Only utterances of more than `config.eval_max_seconds` are left out.

    Args:
        seconds: length of each utterance.
        labels: number of labels of each utterance.
        config: buckets.
        sample_rate: Hz of the batches.

    Returns:
        The plan.

    Raises:
        UserError: no utterance is left, or the settings are impossible.
    """
    config = replace(
        config,
        min_seconds=0.0,
        max_seconds=config.eval_max_seconds,
        max_labels=1 << 30,
        bucket_seconds=(),
        bucket_labels=(),
        join=JoinConfig(),
    )
    return _plan(seconds, labels, config, 0, sample_rate, shuffle=False)


def _plan(seconds, labels, config: PlanConfig, seed: int, sample_rate: int, *, shuffle: bool) -> Plan:
    seconds = np.asarray(seconds, np.float64)
    labels = np.asarray(labels, np.int64)
    check_plan(config)
    if seconds.shape != labels.shape or seconds.ndim != 1:
        raise ValueError(f"seconds {seconds.shape} and labels {labels.shape} must be two vectors of one length")
    limit = config.bucket_seconds[-1] if config.bucket_seconds else config.max_seconds
    label_limit = config.bucket_labels[-1] if config.bucket_labels else config.max_labels
    dropped = [
        (int(row), _reason(seconds[row], labels[row], config.min_seconds, limit, label_limit))
        for row in np.flatnonzero(~_fits(seconds, labels, config.min_seconds, limit, label_limit))
    ]
    kept = np.flatnonzero(_fits(seconds, labels, config.min_seconds, limit, label_limit))
    if len(kept) == 0:
        example = f", {len(dropped)} left out; the first: {dropped[0][1]}" if dropped else ", expected at least one"
        setting = _decider(seconds[0], config, limit, shuffle=shuffle) if dropped else ""
        raise UserError(f"plan{setting}: found no utterance to make batches of{example}")
    bounds = config.bucket_seconds or _best_bounds(seconds[kept], config)
    label_bounds = config.bucket_labels or _label_bounds(seconds[kept], labels[kept], bounds, config)

    # The first bucket that holds both the audio and the labels.
    by_seconds = np.searchsorted(np.array(bounds), seconds[kept], side="left")
    by_labels = np.searchsorted(np.array(label_bounds), labels[kept], side="left")
    where = np.maximum(by_seconds, by_labels)
    buckets, members = [], []
    for index, (bound, label_bound) in enumerate(zip(bounds, label_bounds, strict=True)):
        mine = kept[where == index]
        if len(mine) == 0:
            continue
        buckets.append(Bucket(_rows(bound, len(mine), config), math.ceil(bound * sample_rate), int(label_bound)))
        members.append(mine)
    if not shuffle:
        members = [m[np.argsort(-seconds[m], kind="stable")] for m in members]
    batches = [-(-len(m) // b.rows) for m, b in zip(members, buckets, strict=True)]
    padded = sum(n * b.rows * b.samples for n, b in zip(batches, buckets, strict=True)) / sample_rate
    padded_labels = sum(n * b.rows * b.labels for n, b in zip(batches, buckets, strict=True))
    joins = _joins(seconds, labels, kept, buckets, config, seed, sample_rate) if config.join.share else None
    if joins is not None:
        place = sum(bucket.samples <= joins.bucket.samples for bucket in buckets)
        buckets.insert(place, joins.bucket)
        members.insert(place, np.arange(joins.first, joins.first + joins.count))
    return Plan(
        buckets=tuple(buckets),
        sample_rate=sample_rate,
        members=tuple(members),
        dropped=tuple(dropped),
        seed=seed,
        shuffle=shuffle,
        padding_share=float(1 - seconds[kept].sum() / padded),
        label_padding_share=float(1 - labels[kept].sum() / max(1, padded_labels)),
        seconds=float(seconds[kept].sum()),
        joins=joins,
    )


def _joins(seconds, labels, kept, buckets: Sequence[Bucket], config: PlanConfig, seed: int, sample_rate: int) -> Joins:
    """Return the joined rows of a plan: their shape, and the utterances that fit into it."""
    join = config.join
    bound = min(join.seconds, config.max_seconds)
    rows = kept[seconds[kept] <= bound]
    if len(rows) == 0:
        shortest = float(seconds[kept].min())
        raise UserError(f"plan.join.seconds: found {bound:g}, expected room for the shortest utterance, {shortest:g} s")
    # As many labels as the utterances with most labels per second need, and at least those of any single one.
    rate, single = float(np.quantile(labels[rows] / seconds[rows], 0.95)), int(labels[rows].max())
    most = max(1, single, min(math.ceil(rate * bound), config.max_labels))
    multiple = config.label_multiple
    samples, count = math.ceil(bound * sample_rate), max(1, round(join.share * len(kept)))
    if config.rows:  # about as many samples as the largest batch of single utterances
        largest = max(bucket.rows * bucket.samples for bucket in buckets)
        in_batch = min(config.rows, max(1, largest // samples // config.row_multiple) * config.row_multiple)
    else:
        in_batch = _rows(bound, count, config)
    return Joins(
        config=join, bucket=Bucket(in_batch, samples, -(-most // multiple) * multiple), first=len(seconds), count=count,
        rows=rows, samples=np.ceil(seconds[rows] * sample_rate).astype(np.int64), labels=labels[rows],
        sample_rate=sample_rate, seed=seed,
    )  # fmt: skip


def _fits(seconds, labels, shortest: float, longest: float, most: int) -> np.ndarray:
    return (seconds > 0) & (seconds >= shortest) & (seconds <= longest) & (labels <= most)  # NaN fits nothing


def _reason(seconds: float, labels: int, shortest: float, longest: float, most: int) -> str:
    if not (seconds > 0 and shortest <= seconds <= longest):
        return f"found {seconds:.4g} s, expected {shortest:.4g} to {longest:.4g} s"
    return f"found {labels} labels, expected at most {most}"


def _decider(seconds: float, config: PlanConfig, longest: float, *, shuffle: bool) -> str:
    """Return which setting leaves out an utterance of `seconds`: .max_seconds; "" if its length is unknown."""
    if not seconds > 0:
        return ""
    if seconds > longest:
        return ".bucket_seconds" if config.bucket_seconds else ".max_seconds" if shuffle else ".eval_max_seconds"
    if seconds < config.min_seconds:
        return ".min_seconds"
    return ".bucket_labels" if config.bucket_labels else ".max_labels"


def _rows(bound: float, count: int, config: PlanConfig) -> int:
    """Return the number of rows of a bucket of `bound` seconds with `count` utterances."""
    multiple = config.row_multiple
    if config.rows:
        return config.rows
    rows = max(1, int(config.seconds_per_batch / bound) // multiple) * multiple
    if config.max_rows:
        rows = min(rows, max(1, config.max_rows // multiple) * multiple)
    return min(rows, -(-count // multiple) * multiple)  # more rows would never be filled


def _best_bounds(seconds: Float[np.ndarray, "n"], config: PlanConfig) -> tuple[float, ...]:
    """Choose at most `num_buckets` bounds with the least padding per epoch, by dynamic programming."""
    unit = config.seconds_multiple
    units = np.maximum(1, np.ceil(np.round(seconds / unit, 6)).astype(np.int64))  # rounded: 1.28 / 0.08 is to be 16
    grid, counts = np.unique(units, return_counts=True)
    below = np.cumsum(counts)  # utterances that fit into grid[j]
    if len(grid) > _CANDIDATES:
        chosen = np.unique(np.linspace(0, len(grid) - 1, _CANDIDATES).round().astype(int))
        grid, below = grid[chosen], below[chosen]
    n = len(grid)
    below = np.concatenate([[0], below])
    # cost[i, j]: padded seconds of one bucket that holds what is above grid[i - 1] and up to grid[j]
    count = below[None, 1:] - below[:-1, None]
    bound = grid * unit
    rows = np.array([_rows(b, 1 << 40, config) for b in bound])
    if not config.rows:
        multiple = config.row_multiple
        rows = np.minimum(rows[None, :], np.maximum(1, -(-count // multiple)) * multiple)
    cost = np.where(count > 0, -(-count // rows) * rows * bound[None, :], np.inf)
    best = cost[0]  # with one bucket
    cuts: list[np.ndarray] = []
    results = [best[n - 1]]
    for _ in range(1, min(config.num_buckets, n)):
        total = best[:-1, None] + cost[1:, :]  # the last bucket begins after grid[i]
        cut = np.argmin(total, axis=0)
        best = np.minimum.reduce(total, axis=0)
        cuts.append(cut)
        results.append(best[n - 1])
    # A bucket costs a compilation: the fewest that are within 1 % of the best.
    number = int(np.argmax(np.array(results) <= 1.01 * min(results))) + 1
    place, bounds = n - 1, [n - 1]
    for level in range(number - 2, -1, -1):
        place = int(cuts[level][place])
        bounds.append(place)
    return tuple(round(float(bound[i]), 6) for i in reversed(bounds))


def _label_bounds(seconds, labels, bounds: Sequence[float], config: PlanConfig) -> tuple[int, ...]:
    """Choose the labels per row of each bucket: the 99th percentile; utterances with more go to the next bucket."""
    where = np.searchsorted(np.array(bounds), seconds, side="left")
    result, highest = [], 1
    for index in range(len(bounds)):
        mine = labels[where == index]
        if len(mine):
            highest = max(highest, int(np.quantile(mine, 0.99, method="higher")))
        result.append(highest)
    result[-1] = max(highest, int(labels.max()))
    multiple = config.label_multiple
    return tuple(-(-value // multiple) * multiple for value in result)


@functools.lru_cache(maxsize=4)
def _epoch(plan: Plan, epoch: int) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Return, in the epoch's order, the members of each bucket, and (bucket, first member) of each batch."""
    batches = [(i, at) for i, m in enumerate(plan.members) for at in range(0, len(m), plan.buckets[i].rows)]
    if not plan.shuffle:
        return list(plan.members), sorted(batches, key=lambda b: (-b[0], b[1]))  # longest first
    orders = [m[_permutation(len(m), plan.seed, epoch, i + 1)] for i, m in enumerate(plan.members)]
    return orders, [batches[i] for i in _permutation(len(batches), plan.seed, epoch, 0)]


def _permutation(n: int, *seed: int) -> Int[np.ndarray, "n"]:
    """Return a permutation of range(n) from raw draws: Generator.permutation may change between versions (NEP 19)."""
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(draws, kind="stable")


def check_plan(config: PlanConfig, flag: str = "plan") -> None:
    """Raise UserError, which begins with `flag`, for settings that allow no plan, whatever the data."""

    def demand(holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise UserError(f"{flag}: found {found}, expected {expected}")

    c = config
    demand(c.num_buckets >= 1, f"num_buckets = {c.num_buckets}", "at least 1")
    demand(c.row_multiple >= 1, f"row_multiple = {c.row_multiple}", "at least 1")
    demand(c.label_multiple >= 1, f"label_multiple = {c.label_multiple}", "at least 1")
    demand(c.seconds_multiple > 0, f"seconds_multiple = {c.seconds_multiple}", "more than 0")
    demand(c.rows >= 0 and c.rows % c.row_multiple == 0, f"rows = {c.rows}", f"a multiple of {c.row_multiple}")
    demand(c.rows > 0 or c.seconds_per_batch > 0, f"seconds_per_batch = {c.seconds_per_batch}", "more than 0")
    b, t = c.bucket_seconds, c.bucket_labels
    demand(all(x > 0 for x in b) and list(b) == sorted(set(b)), f"bucket_seconds = {b}", "ascending numbers above 0")
    demand(not t or len(t) == len(b), f"{len(t)} bucket_labels", f"as many as bucket_seconds, {len(b)}")
    demand(list(t) == sorted(t), f"bucket_labels = {t}", "ascending numbers")
    check_join(c.join, f"{flag}.join")
