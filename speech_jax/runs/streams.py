"""Recordings as a run sees them: manifests, the plan of their batches, and what is wrong with them."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import jax
import numpy as np

from speech_jax.audio.config import AudioConfig
from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch
from speech_jax.data.config import DataConfig
from speech_jax.data.manifest import Utterance, shared_recording
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import Plan, eval_plan, lengths, make_plan
from speech_jax.data.sources import load_sources
from speech_jax.data.speakers import speaker_ids
from speech_jax.tasks.ctc import CTCTaskConfig, output_frames
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.feed import ResumableBatches

log = logging.getLogger("speech_jax")
LEFT_OUT_SHOWN = 5  # utterances that no batch takes, named in the log; the plan counts them all


class Stream(NamedTuple):
    """Recordings and the plan of their batches."""

    config: DataConfig
    utterances: list[Utterance]
    plan: Plan
    seconds: np.ndarray
    labels: np.ndarray
    tokenizer: Tokenizer | None
    mels: AudioConfig | None = None
    speakers: np.ndarray | None = None

    def feed(self, *, whole: bool = False) -> ResumableBatches:
        """An endless stream of training batches. Each process reads its own rows, or all of them where `whole`."""
        return ResumableBatches(lambda start: self._batches(start, whole), self.plan.buckets)

    def one_pass(self):
        """A function that makes one pass over the set; every process gets every row, and so all come to one result."""
        return lambda: self._batches(0, whole=True)

    def facts(self) -> str:
        """All that the processes of a run must agree on."""
        return repr((self.plan.fingerprint(), self.utterances))

    def _batches(self, start: int, whole: bool):
        return batches(
            self.utterances,
            self.plan,
            self.tokenizer,
            self.config,
            start=start,
            process_index=0 if whole else jax.process_index(),
            process_count=1 if whole else jax.process_count(),
            mels=self.mels,
            speakers=self.speakers,
        )


def load_stream(
    config: DataConfig,
    tokenizer: Tokenizer | None,
    sample_rate: int,
    *,
    shuffle: bool = True,
    speakers: tuple[str, ...] = (),
    frame_rate: float = 0.0,
    mels: AudioConfig | None = None,
) -> Stream:
    """Reads the manifests of `config` and plans its batches: epochs without end, or one pass where not `shuffle`.

    speakers: the names of a voice that has several; every utterance must be by one of them.
    frame_rate: a voice's frames a second. A text with more symbols than its recording has frames is not what is said
    there: it is named and left out of training.
    mels: whose features the rows' own mel files must hold, for a vocoder that learns from them."""
    utterances = load_sources(config)
    numbers = speaker_ids(utterances, speakers) if speakers else None
    seconds, labels = lengths(utterances, tokenizer)
    if shuffle and frame_rate:
        fits = that_fit(utterances, seconds, labels, frame_rate)
        utterances, seconds, labels = [utterances[row] for row in fits], seconds[fits], labels[fits]
        numbers = numbers if numbers is None else numbers[fits]
    if shuffle:
        plan = make_plan(seconds, labels, config.plan, seed=config.seed, sample_rate=sample_rate)
    else:
        plan = eval_plan(seconds, labels, config.plan, sample_rate=sample_rate)
    return Stream(config, utterances, plan, seconds, labels, tokenizer, mels, numbers)


def stream_options(config: TrainConfig, speakers: tuple[str, ...]) -> dict[str, Any]:
    """What `load_stream` is told of the task."""
    return {"speakers": speakers, "frame_rate": frames_a_second(config), "mels": mels_of(config)}


def mels_of(config: TrainConfig) -> AudioConfig | None:
    """Whose features the recordings' own mel files must hold, where the task learns from those."""
    of_files = isinstance(config.task, WaveNetTaskConfig) and config.task.mels == "manifest"
    return config.task.audio if of_files else None


def frames_a_second(config: TrainConfig) -> float:
    """Frames a second of a voice; 0 for a task whose network need not make as many frames as there are labels."""
    audio = config.task.audio
    return audio.sample_rate / audio.hop if isinstance(config.task, Tacotron2TaskConfig) else 0.0


def that_fit(utterances: list[Utterance], seconds: np.ndarray, labels: np.ndarray, frame_rate: float) -> np.ndarray:
    """The rows whose text has no more symbols than the recording has frames; the others are named in warnings. Raises
    UserError, with the first of them, if none is left."""
    misfits = np.flatnonzero(labels > seconds * frame_rate)  # none without a length, which the plan leaves out
    found = [
        f"{utterances[row].where}: {utterances[row].id}: found {labels[row]} symbols in {seconds[row]:.2f} s, "
        f"{int(seconds[row] * frame_rate)} frames, expected at most one a frame"
        for row in misfits
    ]
    if len(misfits) == len(utterances):
        raise UserError(f"{found[0]} (and so all {len(utterances)} utterances)")
    for line in found[:LEFT_OUT_SHOWN]:
        log.warning("left out: %s", line)
    if len(found) > LEFT_OUT_SHOWN:
        log.warning("left out: %d more texts with more symbols than frames", len(found) - LEFT_OUT_SHOWN)
    return np.setdiff1d(np.arange(len(utterances)), misfits)


def warn_of_misfits(name: str, stream: Stream, task: CTCTaskConfig) -> None:
    """Says how many transcripts have more labels than the network leaves frames: CTC cannot learn from them."""
    samples = (stream.seconds * task.audio.sample_rate).astype(np.int64)
    misfits = int(np.sum(stream.labels > output_frames(samples, task)))
    if misfits:
        log.warning(
            "%s: %d of %d transcripts have more labels than the network leaves frames and weigh nothing in the loss: "
            "a smaller task.model.subsampling_factor or a larger task.tokenizer.vocab_size would let them in",
            name, misfits, len(stream.labels),
        )  # fmt: skip


def check_unseen(name: str, stream: Stream, eval_streams: dict[str, Stream]) -> None:
    """UserError if the replayed stream has a recording of an evaluation set: what is kept would be what was drilled.
    The task's own stream may be measured on purpose, so that one is warned of."""
    for set_name, held_out in eval_streams.items():
        found = shared_recording(stream.utterances, held_out.utterances)
        if found is not None:
            line = (
                f"{found[0].where}: found a recording that the evaluation set {set_name!r} has too ({found[1].where})"
            )
            if name == "pre":
                raise UserError(f"pre: {line}, expected none")
            log.warning("%s: %s: its error rate is not that of unseen speech", name, line)


def audio_seconds(batch: Batch, sample_rate: int) -> tuple[float, float]:
    """Seconds of audio in a batch, without and with padding."""
    if "pre" in batch:
        parts = [audio_seconds(part, sample_rate) for part in batch.values()]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)
    return float(np.sum(batch["audio_lengths"])) / sample_rate, batch["audio"].size / sample_rate
