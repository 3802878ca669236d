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
from speech_jax.audio.framing import num_frames
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.config import DataConfig
from speech_jax.data.mels import read_mel
from speech_jax.data.plan import Plan, encode
from speech_jax.data.recordings import read_recording
from speech_jax.data.utterances import SharedRows, Utterance, Utterances

# A recording may be this much longer than the manifest's seconds (rounding, codec padding); the rest is cut.
_TRIM_SECONDS = 0.5
_ENDLESS = 1 << 40  # the length of an endless stream, for grain


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator of batches. `close()` ends its threads and processes; so does a `with` block.

    Attributes:
        step: index of the batch that `next()` returns, the only state to save.
        skipped: row number of each unreadable recording so far -> reason.
    """

    def __init__(self, loader: _Loader, stream: Iterator[Any], start: int, close):
        self.step = start
        self.skipped: dict[int, str] = {}
        self._loader: Any = loader
        self._stream: Iterator[Any] = stream
        self._close = weakref.finalize(self, close)  # also at the interpreter's exit

    def __next__(self) -> dict[str, np.ndarray]:
        total = self._loader.plan.total_steps
        if total is not None and self.step >= total:
            raise StopIteration
        batch, problems = next(self._stream)
        for row, message in problems:
            if self._loader.config.on_error == "raise":
                self.close()
                raise UserError(message)
            if row not in self.skipped:
                self.skipped[row] = message
                log.warning("skipped (%d so far): %s", len(self.skipped), message)
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
) -> Batches:
    """Iterate over the plan's batches from global step `start`.

    A batch is a dict of NumPy arrays, padded with zeros to the bucket (rows here = the bucket's rows / process_count):
        audio f32[rows, samples], audio_lengths i32[rows], labels i32[rows, labels], label_lengths i32[rows],
        index i32[rows]: row number in the manifest, -1 for a filler row
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
        speakers=speakers,
    )  # fmt: skip
    if workers:
        return Batches(loader, *_by_processes(loader, start, workers))
    loader.cache_bytes = config.cache_mb << 20
    return Batches(loader, *_by_threads(loader, start))


class _Loader:
    """Random access to loaded batches, a data source of grain. Pickled once into every worker process."""

    def __init__(self, utterances, plan, tokenizer, config, *, process_index, process_count, mels, speakers):
        self.utterances, self.plan, self.tokenizer, self.config = utterances, plan, tokenizer, config
        self.process_index, self.process_count = process_index, process_count
        self.mels, self.speakers = mels, speakers
        self.cache_bytes = 0
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return _ENDLESS if self.plan.total_steps is None else self.plan.total_steps

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        del state["_lock"]
        return state | {"_cache": {}, "cache_bytes": 0}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __getitem__(self, step: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
        """Return (batch, [(row, what is wrong with its recording)])."""
        bucket, rows = self.plan.batch(int(step))
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
        for place, row in enumerate(rows):
            if row < 0:
                continue
            utterance = self.utterances[row]
            try:
                audio = self._audio(int(row), utterance)
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
                problems.append((int(row), f"{place_in_manifest}{utterance.id}: {error}"))
                continue
            batch["audio"][place, : len(audio)] = audio
            batch["audio_lengths"][place] = len(audio)
            batch["labels"][place, : len(labels)] = labels
            batch["label_lengths"][place] = len(labels)
            batch["index"][place] = row
            if mel is not None:
                batch["mel"][place, : len(mel)] = mel
            if self.speakers is not None:
                batch["speaker"][place] = self.speakers[row]
        return batch, problems

    def _mel(self, utterance: Utterance, samples: int) -> Float[np.ndarray, "frames mels"]:
        """Read the frames of `samples` samples from the row's mel file."""
        if not utterance.mel:
            raise UserError("found no field 'mel', expected a file of mel frames (task.mels is \"manifest\")")
        mel, frames = read_mel(utterance.mel, self.mels), num_frames(samples, self.mels)
        if len(mel) < frames:
            raise UserError(f"{utterance.mel}: found {len(mel)} frames, expected the recording's {frames}")
        return mel[:frames]

    def _audio(self, row: int, utterance: Utterance) -> Float[np.ndarray, "time"]:
        audio = self._cache.get(row)
        if audio is None:
            c = self.config
            rate = self.plan.sample_rate
            audio = read_recording(utterance, rate, allow_pipes=c.allow_pipes, max_seconds=c.max_seconds)
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
        for batch, problems in iterator:
            yield {name: np.array(array) for name, array in batch.items()}, problems

    def close():
        iterator.close()
        shared.utterances.close()

    return stream(), start, close
