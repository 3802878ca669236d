"""Recordings of a run: manifests, the plan of their batches, and checks of both."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.types import Batch, Reader, StreamOptions
from speech_jax.data.config import DataConfig
from speech_jax.data.contents import contents_of
from speech_jax.data.manifest import has_recordings, shared_recording
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import Plan, encode, eval_plan, lengths, make_plan
from speech_jax.data.sources import load_sources
from speech_jax.data.speakers import speaker_ids
from speech_jax.data.utterances import Utterances
from speech_jax.evaluation.normalization import primary_language
from speech_jax.text.normalize import foreign_letters
from speech_jax.text.tags import TAG_SIGNS, blank_tags, name_tags
from speech_jax.training.feed import ResumableBatches

LEFT_OUT_SHOWN = 5  # utterances that no batch takes, named in the log; the plan counts them all


class Stream(NamedTuple):
    """Recordings and the plan of their batches.

    Attributes:
        config: Settings of the stream.
        utterances: Its rows.
        plan: Which rows are in which batch.
        seconds: Duration of each row.
        labels: Number of labels of each row.
        reader: Makes the labels; None makes none.
        mels: Audio settings of the rows' mel files, where those are read.
        speakers: Number of each row's speaker, where there are several.
    """

    config: DataConfig
    utterances: Utterances
    plan: Plan
    seconds: np.ndarray
    labels: np.ndarray
    reader: Reader | None
    mels: AudioConfig | None = None
    speakers: np.ndarray | None = None

    def feed(self, *, whole: bool = False) -> ResumableBatches:
        """Return endless training batches; each process reads its own rows, or all of them with `whole`."""
        return ResumableBatches(lambda start: self._batches(start, whole), self.plan.buckets)

    def one_pass(self) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        """Return a function that starts one pass; every process gets every row, so that all get one result.

        A pass in which no recording can be read ends in a UserError.
        """
        checked: set[int] = set()  # what is wrong with a recording is said in the first pass
        failed: set[int] = set()

        def batches_of_pass() -> Iterator[dict[str, np.ndarray]]:
            read = False
            with self._batches(0, True, checked, failed) as stream:
                for batch in stream:
                    read = read or bool((batch["index"] >= 0).any())
                    yield batch
                if stream.skipped and not read:
                    count, first = len(stream.skipped), next(iter(stream.skipped.values()))
                    raise UserError(f"found none of {count} recordings that can be read; the first: {first}")

        return batches_of_pass

    def facts(self) -> str:
        """Return a digest of all that the processes of a run must agree on."""
        return f"{self.plan.fingerprint()} {self.utterances.digest()}"

    def contents(self, sized: int | None = None) -> dict[str, Any]:
        """Return digests of what is learned from the recordings, see `contents_of`."""
        return contents_of(
            self.utterances,
            texts=self.reader is not None,
            speakers=self.speakers is not None,
            files=self.utterances.audio if self.mels is None else self.utterances.mels,
            sized=sized,
        )

    def _batches(self, start: int, whole: bool, checked: set[int] | None = None, failed: set[int] | None = None):
        return batches(
            self.utterances,
            self.plan,
            self.reader,
            self.config,
            start=start,
            process_index=0 if whole else jax.process_index(),
            process_count=1 if whole else jax.process_count(),
            mels=self.mels,
            speakers=self.speakers,
            checked=checked,
            failed=failed,
        )


class Sources:
    """The manifests of a run, each read once."""

    def __init__(self) -> None:
        self._read: dict[Any, Utterances] = {}
        self._streams: dict[Any, Utterances] = {}

    def load(self, config: DataConfig, flag: str) -> Utterances:
        """Return the utterances of all sets of the stream `flag`, such as "data".

        Raises UserError naming the stream, and file and line of what is wrong.
        """
        key = (config.sources, config.allow_pipes, config.on_error)
        if key not in self._streams:
            try:
                self._streams[key] = load_sources(config, self._read)
            except UserError as error:
                raise UserError(f"{error} ({flag}.sources)") from error
        if not len(self._streams[key]):
            sets = ", ".join(source.path or source.name for source in config.sources)
            raise UserError(f"{flag}.sources: found no utterance in {sets}, expected at least one")
        return self._streams[key]


def load_stream(
    config: DataConfig,
    reader: Reader | None,
    sample_rate: int,
    *,
    flag: str = "data",
    seed: int = 0,
    shuffle: bool = True,
    speakers: tuple[str, ...] = (),
    options: StreamOptions = StreamOptions(),  # noqa: B008 - a NamedTuple, never changed
    sources: Sources | None = None,
) -> Stream:
    """Read the manifests of `config` and plan its batches.

    Args:
        config: Sources, buckets and how recordings are read.
        reader: Makes the labels; None makes none.
        sample_rate: Samples per second of the batches.
        flag: Name of the stream in errors: "data", "pre", "evaluate.0.data".
        seed: Seed of the run, for a config that has none of its own.
        shuffle: Endless epochs for training; otherwise one pass, longest first.
        speakers: Names of the speakers of a voice that has several; every utterance must be by one of them.
        options: What the task asks of its batches. With misfits "leave_out", training utterances that have more labels
            than their recording allows are named and left out.
        sources: The manifests that were read already.

    Returns:
        The stream.

    Raises:
        UserError: If a manifest, a text or a speaker is wrong, or no utterance is left.
    """
    if config.plan.join.share and shuffle and not options.joins:
        raise UserError(
            f"{flag}.plan.join.share: found {config.plan.join.share}, expected 0: only a recognizer learns from joined "
            "utterances"
        )
    utterances = (sources or Sources()).load(config, flag)
    if shuffle and reader is not None:
        utterances, labels = read_texts(flag, utterances, reader, keep_empty=config.empty_texts == "keep")
    else:
        labels = lengths(utterances, reader)[1]
    seconds = utterances.seconds
    numbers = speaker_ids(utterances, speakers) if speakers else None
    if shuffle and options.max_labels is not None and options.misfits == "leave_out":
        rows = rows_with_enough_frames(flag, utterances, seconds, labels, options.max_labels(seconds))
        utterances, seconds, labels = utterances.take(rows), seconds[rows], labels[rows]
        numbers = numbers if numbers is None else numbers[rows]
    try:
        if shuffle:
            seed = seed if config.seed is None else config.seed
            plan = make_plan(seconds, labels, config.plan, seed=seed, sample_rate=sample_rate)
        else:
            plan = eval_plan(seconds, labels, config.plan, sample_rate=sample_rate)
    except UserError as error:
        raise UserError(f"{flag}.{error}") from error
    return Stream(
        config=config, utterances=utterances, plan=plan, seconds=seconds, labels=labels, reader=reader,
        mels=options.mels, speakers=numbers,
    )  # fmt: skip


def read_texts(
    flag: str, utterances: Utterances, reader: Reader, *, keep_empty: bool
) -> tuple[Utterances, Int[np.ndarray, "n"]]:
    """Count the labels of the texts of training, and leave out utterances without any; say how many there are.

    Args:
        flag: Name of the stream.
        utterances: Its rows.
        reader: Makes the labels.
        keep_empty: Keep texts without labels: the network learns to write nothing for such a recording.

    Returns:
        The rows and their numbers of labels.

    Raises:
        UserError: If the reader cannot read a text, or no text has labels.
    """
    written = np.ones(len(utterances), bool) if keep_empty else utterances.texts.column.sizes() > 0
    labels = np.zeros(len(utterances), np.int64)
    labels[written] = lengths(utterances.take(np.flatnonzero(written)), reader)[1] if written.any() else 0
    try:
        of_nothing = len(reader.encode(""))
    except UserError:  # a front end that has nothing to speak
        of_nothing = 0
    full = written & (labels > of_nothing)
    if full.all():
        return utterances, labels
    empty = np.flatnonzero(~full)
    names = ", ".join(f"{utterances[row].where} ({utterances[row].id})" for row in empty[:LEFT_OUT_SHOWN].tolist())
    names += ", …" if len(empty) > LEFT_OUT_SHOWN else ""
    count = f"{len(empty)} of {len(utterances)} utterances"
    found = f"{count} have an empty text, or one that normalizes to nothing: {names}"
    if not full.any():
        raise UserError(f"{flag}: {found}; expected texts to learn from")
    if keep_empty:
        log.warning("%s: kept: %s: the network learns to write nothing for them", flag, found)
        return utterances, labels
    log.warning("%s: left out: %s; --%s.empty-texts keep trains on them", flag, found, flag)
    return utterances.take(np.flatnonzero(full)), labels[full]


def rows_with_enough_frames(
    flag: str, utterances: Utterances, seconds: np.ndarray, labels: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Return the rows whose text has no more symbols than the recording has frames; warn of the others by name.

    Raises UserError, with the stream `flag` and the first of them, if no row is left.
    """
    misfits = np.flatnonzero(labels > frames)  # never where a length is missing (NaN), which the plan leaves out
    lines = [
        f"{utterances[row].where}: {utterances[row].id}: found {labels[row]} symbols in {seconds[row]:.2f} s, "
        f"{int(frames[row])} frames, expected at most one per frame"
        for row in misfits[: LEFT_OUT_SHOWN + 1]
    ]
    if len(misfits) == len(utterances):
        raise UserError(f"{flag}: {lines[0]} (the same for all {len(utterances)} utterances)")
    for line in lines[:LEFT_OUT_SHOWN]:
        log.warning("%s: left out: %s", flag, line)
    if len(misfits) > LEFT_OUT_SHOWN:
        log.warning("%s: left out: %d more texts with more symbols than frames", flag, len(misfits) - LEFT_OUT_SHOWN)
    return np.setdiff1d(np.arange(len(utterances)), misfits)


def warn_of_misfits(flag: str, stream: Stream, options: StreamOptions) -> None:
    """Log how many transcripts need more frames than the network makes: CTC cannot learn from them.

    Every label needs a frame, and one that repeats the label before it another one, for the blank between them.

    Raises UserError if it could learn from none.
    """
    if options.max_labels is None or options.misfits != "warn" or stream.reader is None:
        return
    rows = np.concatenate(stream.plan.members)
    rows = rows[rows < len(stream.utterances)]  # without joined rows
    frames = np.asarray(options.max_labels(stream.seconds[rows]))
    needed = stream.labels[rows].copy()
    for place in np.flatnonzero((needed <= frames) & (2 * needed > frames)).tolist():  # repeats can decide
        ids = np.asarray(encode(stream.utterances[int(rows[place])], stream.reader))
        needed[place] += np.sum(ids[1:] == ids[:-1])
    misfits = int(np.sum(needed > frames))
    helps = "a smaller task.model.subsampling_factor or a larger task.tokenizer.vocab_size would let them in"
    if misfits == len(rows):
        raise UserError(
            f"{flag}: found {misfits} transcripts that all have more labels than the network makes frames (a repeated "
            "label counts twice), expected "
            f"some to learn from: {helps}"
        )
    if misfits:
        log.warning(
            "%s: %d of %d transcripts have more labels than the network makes frames (a repeated label counts twice) "
            "and weigh nothing in the loss: %s",
            flag, misfits, len(rows), helps,
        )  # fmt: skip


def warn_of_language(flag: str, stream: Stream) -> None:
    """Log where transcripts that are read by English rules are in another language, by their rows or their letters."""
    if primary_language(getattr(stream.reader, "language", "")) != "en":
        return
    names = stream.utterances.languages
    counts = zip(names.names, np.bincount(names.codes, minlength=len(names.names)).tolist(), strict=True)
    named = {name: count for name, count in counts if count and primary_language(name) != "en"}
    others = {name: count for name, count in named.items() if name}
    texts = stream.utterances.texts
    if others:
        count = f"{sum(others.values())} of {len(stream.utterances)}"
        found = f"{count} transcripts are in {', '.join(others)} by their rows"
    elif named and not "".join(texts.characters("").used).isascii():
        found = foreign_letters(texts)
    else:
        return
    if found:
        log.warning(
            "%s: %s, but are read by English rules, without accents and with figures as English words; the tokenizer's "
            "or front end's setting `language` decides",
            flag, found,
        )  # fmt: skip


def tell_tags(flag: str, stream: Stream) -> None:
    """Log the transcribers' tags that the reader leaves out."""
    texts = stream.utterances.texts
    if not getattr(stream.reader, "language", "") or texts.characters("").used.isdisjoint(TAG_SIGNS):
        return
    tags = Counter(tag.text for text in texts for tag in blank_tags(text)[1])
    if tags:
        log.info("%s: left out %d tags, which are no words: %s", flag, tags.total(), name_tags(tags))


def check_distinct(data: Stream, pre: Stream) -> None:
    """Check that L_pre, the task's own loss, is not taken over the recordings of the task again.

    Raises UserError if both streams have the same recordings, or copies of them; where `data` only contains those of
    `pre`, whose weight may be raised on purpose, it is a warning.
    """
    task, old = data.utterances, pre.utterances
    if not has_recordings(task, old[:1]) or not has_recordings(task, old):  # the first row is enough for two domains
        return
    if has_recordings(old, task):
        raise UserError(f"pre: found the same {len(old)} recordings as in data, expected those of the old domain")
    log.warning("pre: data has all of its %d recordings too: only their weight is raised", len(old))


def check_unseen(name: str, stream: Stream, eval_streams: dict[str, Stream]) -> None:
    """Check that a training stream shares no recording with an evaluation set.

    Raises UserError for the replayed stream: retention would be measured on recordings that are trained on. For the
    task's own stream, which may be measured on purpose, it is a warning.
    """
    for set_name, held_out in eval_streams.items():
        shared = shared_recording(stream.utterances, held_out.utterances)
        if shared is not None:
            line = (
                f"{shared[0].where}: found a recording that the evaluation set {set_name!r} has too "
                f"({shared[1].where})"
            )
            if name == "pre":
                raise UserError(f"pre: {line}, expected none")
            log.warning("%s: %s: its error rate is not that of unseen speech", name, line)


def warn_of_equal_sets(eval_streams: dict[str, Stream]) -> None:
    """Warn of evaluation sets that have the same recordings, or copies: two domains would have one error rate."""
    for (name, one), (other, two) in itertools.combinations(eval_streams.items(), 2):
        first, second = one.utterances, two.utterances
        if len(first) == len(second) and has_recordings(first, second):
            log.warning("evaluate: found the same %d recordings in the sets %r and %r", len(first), name, other)


def audio_seconds(batch: Batch, sample_rate: int) -> tuple[float, float]:
    """Return the seconds of audio in a batch, without and with padding."""
    if "pre" in batch:
        parts = [audio_seconds(part, sample_rate) for part in batch.values()]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)
    return float(np.sum(batch["audio_lengths"])) / sample_rate, batch["audio"].size / sample_rate
