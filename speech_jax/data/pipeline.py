"""Input pipeline: read, decode and pad the plan's batches ahead of their use. Its state is one integer."""

from __future__ import annotations

import copy
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.findings import signal_findings
from speech_jax.audio.framing import num_frames
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.types import Bucket
from speech_jax.data.config import DataConfig
from speech_jax.data.joining import join_audio, join_labels
from speech_jax.data.mels import read_mel
from speech_jax.data.plan import Plan, encode
from speech_jax.data.recordings import decode_recording
from speech_jax.data.utterances import SharedRows, Utterance, Utterances

# A recording may be this much longer than the manifest's seconds (rounding, codec padding); the rest is cut.
_TRIM_SECONDS = 0.5
_SHOWN, _COUNTED = 2, {10**power for power in range(1, 10)}  # recordings with the same finding that are named
_NAMED = 20  # recordings that cannot be read and are named
_ENDLESS = 1 << 40  # the length of an endless stream, for grain


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator of batches. `close()` ends its threads and processes; so does a `with` block.

    Attributes:
        step: index of the batch that `next()` returns, the only state to save.
        skipped: row number of each unreadable recording so far -> reason.
        found: kind of finding -> row numbers of the recordings so far that are read but have it (audio/findings.py).
    """

    def __init__(self, loader: _Loader, stream: Iterator[Any], start: int, close):
        self.step = start
        self.skipped: dict[int, str] = {}
        self.found: dict[str, set[int]] = {}
        self._loader: Any = loader
        self._stream: Iterator[Any] = stream
        self._close = weakref.finalize(self, close)  # also at the interpreter's exit
        self._unread = 0  # batches in a row whose recordings could all not be read

    def __next__(self) -> dict[str, np.ndarray]:
        total = self._loader.plan.total_steps
        if total is not None and self.step >= total:
            raise StopIteration
        batch, problems, findings = next(self._stream)
        for row, message in problems:
            if self._loader.config.on_error == "raise":
                self.close()
                raise UserError(message)
            if row not in self.skipped:
                self.skipped[row] = message
                count = len(self.skipped)
                if row not in self._loader.failed and (count <= _NAMED or count in _COUNTED):
                    log.warning("skipped (%d so far): %s", count, message)
                self._loader.failed.add(row)
        for row, finding, message in findings:
            rows = self.found.setdefault(finding, set())
            if row not in rows:
                rows.add(row)
                if len(rows) <= _SHOWN or len(rows) in _COUNTED:
                    log.warning("%s, but read (%d so far): %s", finding, len(rows), message)
        if (batch["index"] >= 0).any():
            self._unread = 0
        elif problems:
            self._unread += 1
            enough = 2 * self._loader.plan.steps()  # every row is among so many batches in a row
            if total is None and self._unread >= enough:  # training would go on with nothing to learn from
                self.close()
                raise UserError(f"found no recording in {enough} batches that can be read; the last: {problems[-1][1]}")
        self.step += 1
        return batch

    def close(self) -> None:
        """End the threads or processes that read ahead."""
        self._stream = iter(())
        self._close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def batches(
    utterances: Sequence[Utterance],
    plan: Plan,
    tokenizer,
    config: DataConfig,
    *,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    mels: AudioConfig | None = None,
    speakers: Int[np.ndarray, "n"] | None = None,
    checked: set[int] | None = None,
    failed: set[int] | None = None,
) -> Batches:
    """Iterate over the plan's batches from global step `start`.

    A batch is a dict of NumPy arrays, padded with zeros to the bucket (rows here = the bucket's rows / process_count):

        audio f32[rows, samples], audio_lengths i32[rows], labels i32[rows, labels], label_lengths i32[rows],
        index i32[rows]: row number in the manifest, or beyond it that of a joined row; -1 for a filler row
        mel f32[rows, frames, bands], with `mels`
        speaker i32[rows], with `speakers`

    Batches do not depend on `workers` or on `start`.

    Args:
        utterances: the rows of the manifest.
        plan: the batches.
        tokenizer: has `encode(text) -> list[int]`; None makes no labels.
        config: how recordings are read. With on_error = "skip" an unreadable recording becomes a filler row, with
            "raise" a UserError.
        start: the first global step.
        process_index: number of this host, which gets its own contiguous block of rows.
        process_count: number of hosts.
        workers: processes that read ahead (grain), 0 for threads; None takes `config.workers`.
        mels: settings that the features in the rows' mel files must have.
        speakers: index of each utterance's speaker (`speaker_ids`).
        checked: rows in which nothing wrong is looked for again, as of an earlier pass; those of this one are added.
        failed: unreadable rows that are not named again, as of an earlier pass; those of this one are added.

    Raises:
        UserError: a bucket's rows cannot be divided among the hosts.
    """
    workers = config.workers if workers is None else workers
    for bucket in plan.buckets:
        if bucket.rows % process_count:
            raise UserError(
                f"plan: found a bucket of {bucket.rows} rows and {process_count} processes, "
                f"expected row_multiple to be a multiple of the processes"
            )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} of {process_count}")
    loader = _Loader(
        utterances, plan, tokenizer, config, process_index=process_index, process_count=process_count, mels=mels,
        speakers=speakers, checked=set() if checked is None else checked, failed=set() if failed is None else failed,
    )  # fmt: skip
    if workers:
        return Batches(loader, *_by_processes(loader, start, workers))
    loader.cache_bytes = config.cache_mb << 20
    return Batches(loader, *_by_threads(loader, start))


class _Loader:
    """Random access to loaded batches, a data source of grain. Pickled once into every worker process."""

    def __init__(
        self, utterances, plan, tokenizer, config, *, process_index, process_count, mels, speakers, checked, failed
    ):
        self.utterances, self.plan, self.tokenizer, self.config = utterances, plan, tokenizer, config
        self.process_index, self.process_count = process_index, process_count
        self.mels, self.speakers = mels, speakers
        self.cache_bytes = 0
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self._checked, self.failed = checked, failed

    def __len__(self) -> int:
        return _ENDLESS if self.plan.total_steps is None else self.plan.total_steps

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        del state["_lock"]
        return state | {"_cache": {}, "cache_bytes": 0}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __getitem__(self, step: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]], list[tuple[int, str, str]]]:
        """Return (batch, [(row, why it cannot be read)], [(row, kind of finding, what it is)])."""
        try:
            return self._load(int(step))
        except MemoryError as error:
            rows = max(bucket.rows for bucket in self.plan.buckets)
            raise UserError(
                f"plan: found batches of {rows} rows, expected some that fit in memory: rows, row_multiple and "
                "seconds_per_batch decide"
            ) from error

    def _load(self, step: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]], list[tuple[int, str, str]]]:
        bucket, rows = self.plan.batch(step)
        epoch = step // self.plan.steps()
        mine = bucket.rows // self.process_count
        rows = rows[self.process_index * mine : (self.process_index + 1) * mine]
        batch = {
            "audio": np.zeros((mine, bucket.samples), np.float32),
            "audio_lengths": np.zeros(mine, np.int32),
            "labels": np.zeros((mine, bucket.labels), np.int32),
            "label_lengths": np.zeros(mine, np.int32),
            "index": np.full(mine, -1, np.int32),
        }
        if self.mels is not None:
            frames = num_frames(bucket.samples, self.mels)
            batch["mel"] = np.zeros((mine, frames, self.mels.width), np.float32)
        if self.speakers is not None:
            batch["speaker"] = np.zeros(mine, np.int32)
        problems = []
        findings: list[tuple[int, str, str]] = []
        for place, row in enumerate(rows):
            if row < 0:
                continue
            joins = self.plan.joins
            joined = joins.row(int(row), epoch) if joins is not None and row >= joins.first else None
            parts = []
            for member in (int(row),) if joined is None else joined.rows:
                try:
                    parts.append(self._utterance(member, bucket, findings))
                except UserError as error:
                    problems.append((member, str(error)))
                    break
            else:
                audio, labels, mel = parts[0]
                if joined is not None:
                    audio = join_audio(joined, [part[0] for part in parts], bucket.samples)
                    labels = join_labels([part[1] for part in parts], self.tokenizer)
                self._fill(batch, place, int(row), audio, labels, mel)
        return batch, problems, findings

    def _utterance(self, row: int, bucket: Bucket, findings: list[tuple[int, str, str]]):
        """Return (samples, labels, frames of the mel file or None) of an utterance. Raises UserError with its place."""
        utterance = self.utterances[row]
        try:
            audio = self._audio(row, utterance, findings)
            if len(audio) > bucket.samples + _TRIM_SECONDS * self.plan.sample_rate:
                duration = len(audio) / self.plan.sample_rate
                raise UserError(f"found {duration:.3f} s, expected the manifest's {utterance.seconds:.3f} s")
            audio = audio[: bucket.samples]
            labels = encode(utterance, self.tokenizer)
            if len(labels) > bucket.labels:
                raise UserError(f"found {len(labels)} labels, expected at most the plan's {bucket.labels}")
            mel = None if self.mels is None else self._mel(utterance, len(audio))
        except UserError as error:
            place_in_manifest = f"{utterance.where}: " if utterance.where else ""
            raise UserError(f"{place_in_manifest}{utterance.id}: {error}") from error
        return audio, labels, mel

    def _fill(self, batch: dict[str, np.ndarray], place: int, row: int, audio, labels, mel) -> None:
        """Write a row of the plan into row `place` of a batch."""
        batch["audio"][place, : len(audio)] = audio
        batch["audio_lengths"][place] = len(audio)
        batch["labels"][place, : len(labels)] = labels
        batch["label_lengths"][place] = len(labels)
        batch["index"][place] = row
        if mel is not None:
            batch["mel"][place, : len(mel)] = mel
        if self.speakers is not None:
            batch["speaker"][place] = self.speakers[row]

    def _mel(self, utterance: Utterance, samples: int) -> Float[np.ndarray, "frames mels"]:
        """Read the frames of `samples` samples from the row's mel file."""
        if not utterance.mel:
            raise UserError("found no field 'mel', expected a file of mel frames (task.mels is \"manifest\")")
        mel, frames = read_mel(utterance.mel, self.mels), num_frames(samples, self.mels)
        if len(mel) < frames:
            raise UserError(f"{utterance.mel}: found {len(mel)} frames, expected the recording's {frames}")
        return mel[:frames]

    def _audio(self, row: int, utterance: Utterance, findings: list[tuple[int, str, str]]) -> Float[np.ndarray, "time"]:
        audio = self._cache.get(row)
        if audio is None:
            c = self.config
            rate = self.plan.sample_rate
            options = {"allow_pipes": c.allow_pipes, "max_seconds": c.max_seconds, "channel": c.channel}
            recording = decode_recording(utterance, rate, **options)
            audio = recording.samples
            if row not in self._checked:
                self._checked.add(row)
                for finding in (*recording.findings, *signal_findings(audio, rate, recording.rate)):
                    findings.append((row, finding.kind, f"{utterance.where}: {utterance.id}: {finding.text}"))
            with self._lock:
                if row not in self._cache and audio.nbytes <= self.cache_bytes:
                    self.cache_bytes -= audio.nbytes
                    self._cache[row] = audio
        return audio


def _by_threads(loader: _Loader, start: int):
    """Return (stream, start, close) for `Batches`: threads read a few batches ahead, one batch each."""
    pool = ThreadPoolExecutor(max(1, loader.config.threads), thread_name_prefix="speech_jax_data")
    waiting: deque[Future] = deque()

    def stream():
        end = len(loader)
        ahead = start
        while True:
            while ahead < end and len(waiting) <= max(0, loader.config.prefetch):
                waiting.append(pool.submit(loader.__getitem__, ahead))
                ahead += 1
            if not waiting:
                return
            yield waiting.popleft().result()

    return stream(), start, lambda: pool.shutdown(wait=False, cancel_futures=True)


def _by_processes(loader: _Loader, start: int, workers: int):
    """Return (stream, start, close) for `Batches`: grain's worker processes, each with every `workers`-th batch."""
    import grain.python as grain
    from absl import flags

    shared: Any = copy.copy(loader)
    shared.utterances = SharedRows(Utterances.of(loader.utterances), tempfile.gettempdir())
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags and refuses to before they are parsed
    dataset = grain.MapDataset.source(shared).slice(slice(start, None))
    # Reading ahead inside a worker would multiply with the workers' own buffers.
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    per_worker = max(1, loader.config.prefetch // workers)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker)
    iterator = iter(dataset.mp_prefetch(options))

    def stream():
        # A copy: grain's arrays are views of memory that it shares with the workers, and takes back.
        for batch, *messages in iterator:
            yield {name: np.array(array) for name, array in batch.items()}, *messages

    def close():
        iterator.close()
        shared.utterances.close()

    return stream(), start, close
