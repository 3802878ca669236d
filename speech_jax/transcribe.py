"""Transcribe recordings: `python -m speech_jax.transcribe --checkpoint RUN a.wav folder/ -`."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro
from tqdm import tqdm

from speech_jax.audio.findings import signal_findings
from speech_jax.audio.folders import describe_others, list_recordings
from speech_jax.audio.io import ENDINGS, channel_index, decode
from speech_jax.core.command_line import Range, parse
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.core.log import escape_controls
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.words import Transcript, to_cues, to_srt, to_vtt
from speech_jax.inference.config import SegmentBy, WindowConfig

if TYPE_CHECKING:
    from speech_jax.inference.recognizer import Recognizer

_LISTS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet")
_FILE_ENDINGS = {"text": ".txt", "json": ".json", "jsonl": ".json", "srt": ".srt", "vtt": ".vtt"}


@dataclass(frozen=True)
class TranscribeConfig:
    """Transcribe recordings of any length with a recognizer's checkpoint folder."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recordings, also video files; folders, searched with their subfolders and links; or "-": standard input, which is
    one recording, or a list of paths, one per line or separated by NUL."""
    checkpoint: str
    """Checkpoint folder of a recognizer."""
    which: Literal["best", "last"] = "best"
    """The run's best or last checkpoint."""
    format: Literal["text", "json", "jsonl", "srt", "vtt"] = "text"
    """text: the words, after the path and a tab if there are several recordings. json, jsonl: words with times and
    confidences. srt, vtt: subtitles."""
    out: str = ""
    """Folder for one file per recording: long.srt for long.wav, and long-2.srt for a second recording of that name.
    Empty writes to standard output."""
    channel: str = "mean"
    """Channel of recordings that have several: mean (of all), left, right, or a number from 1."""
    max_hours: Annotated[float, Range(1e-6, math.inf)] = 4.0
    """Longest recording in hours; a longer one is not read."""
    segment: SegmentBy = "energy"
    """Detector of the pauses at which recordings longer than those of training are cut; the rest of the pauses is left
    out. vad: Silero's voice activity detector (extra `vad`). none: windows that overlap, over the whole recording."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Windows of recordings, or of stretches of speech without a pause, that do not fit in one pass."""
    adapter: str = ""
    """Adapter file (adapter.safetensors of a run) to apply to the checkpoint; empty is none."""
    beam: BeamConfig = field(default_factory=BeamConfig)
    """Decoding: the best path, or a beam search with a language model."""


def main(argv: Sequence[str]) -> int:
    """Transcribe the recordings that the flags name.

    Returns:
        Exit code: 0; 2 if a recording could not be read.
    """
    config = parse(TranscribeConfig, argv, prog="python -m speech_jax.transcribe")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.inference.recognizer import load_recognizer

    recognizer = load_recognizer(
        config.checkpoint, config.which, config.windows, config.beam, config.adapter, config.segment
    )
    return transcribe(recognizer, config, stdin=sys.stdin, stdout=sys.stdout)


def transcribe(recognizer: Recognizer, config: TranscribeConfig, *, stdin: TextIO, stdout: TextIO) -> int:
    """Transcribe all inputs, and report those that cannot be read.

    Args:
        recognizer: The recognizer.
        config: The flags.
        stdin: Where paths or a recording are read from if "-" is an input.
        stdout: Where transcripts are written without `--out`.

    Returns:
        Exit code: 0; 2 if a recording could not be read.

    Raises:
        UserError: If there are no inputs, `--out` is called like a file, or subtitles of several recordings would be
            written to standard output.
    """
    paths = find_recordings(config.inputs, stdin)
    (single,) = config.inputs if len(config.inputs) == 1 else ("",)
    several = not single or (not _is_sound(stdin) if single == "-" else Path(single).is_dir())
    if Path(config.out).suffix in _FILE_ENDINGS.values() and config.out[-1] != "/" and not Path(config.out).is_dir():
        wanted = f"expected a folder: {config.out}/, or no --out and > {config.out}"
        raise UserError(f"--out: found {config.out!r}, {wanted}")
    if config.format in ("srt", "vtt") and several and not config.out:
        wanted = "expected --out FOLDER for one file per recording"
        raise UserError(f"--format {config.format}: found several inputs, {wanted}")
    rate = recognizer.audio.sample_rate
    channel_index(config.channel)  # a wrong name is one error, not one for each recording
    named = 0

    def read(path: str):
        nonlocal named
        writer.check(path)
        if path.lower().endswith(_LISTS) and Path(path).is_file():
            raise UserError(f"{path}: found a list, expected recordings; `evaluate --manifest` transcribes a list's")
        source, name = (stdin.buffer, "standard input") if path == "-" else (path, "")
        options = {"max_seconds": 3600 * config.max_hours, "channel": config.channel, "name": name}
        if path != "-" and Path(path).is_dir():
            raise _no_recordings(path)
        recording = decode(source, rate, **options)
        signal = signal_findings(recording.samples, rate, recording.rate)
        findings = [*recording.findings, *(finding for finding in signal if finding.kind in ("silent", "clipped"))]
        if findings:
            named += 1
            texts = "; ".join(finding.text for finding in findings)
            tqdm.write(f"warning: {escape_controls(path, lines=False)}: {texts}", file=sys.stderr)
        return recording.samples

    writer = _Writer(config, stdout, several)
    begun, done, failed, seconds, silence = time.perf_counter(), 0, 0, 0.0, 0.0
    with tqdm(results(recognizer, paths, read), unit="file", disable=None, file=sys.stderr) as progress:
        for path, result in progress:
            if isinstance(result, UserError):
                failed += 1
                progress.write(f"error: {escape_controls(str(result), lines=False)}", file=sys.stderr)
                continue
            try:
                writer(path, result)
            except UserError as error:  # such as a name that is too long for a file; the others are written
                failed += 1
                progress.write(f"error: {escape_controls(str(error), lines=False)}", file=sys.stderr)
                continue
            done, seconds, silence = done + 1, seconds + result.seconds, silence + result.silence
            if not result.text:
                progress.write(f"{escape_controls(path, lines=False)}: the transcript is empty", file=sys.stderr)
    writer.close()
    if done:
        elapsed = time.perf_counter() - begun
        speed = f"real-time factor {elapsed / seconds:.3f} ({seconds / elapsed:.1f} × real time)" if seconds else ""
        left_out = f" ({silence:.1f} s of it left out as silence)" if silence else ""
        print(
            f"{done} recordings, {seconds:.1f} s of audio{left_out} in {elapsed:.1f} s, {speed}, compiling included",
            file=sys.stderr,
        )
    if writer.replaced:
        print(f"{config.out}: {writer.replaced} files of before were replaced", file=sys.stderr)
    if named:
        print(f"warning: {named} of {done + failed} recordings have something wrong with them (above)", file=sys.stderr)
    if failed:
        print(f"error: {failed} of {done + failed} recordings could not be transcribed", file=sys.stderr)
    return 2 if failed else 0


def find_recordings(inputs: Sequence[str], stdin: TextIO) -> Iterator[str]:
    """Yield the paths that the inputs name, in their order. No file is opened.

    Folders are searched and sorted; files that are no recordings are counted and named. A folder without recordings
    beside other inputs is yielded itself.
    """
    if not inputs:
        raise UserError("found no inputs, expected recordings, folders or - (paths from standard input)")
    if "" in inputs:
        raise UserError("found '' among the inputs, expected recordings, folders or - (paths from standard input)")
    for name in inputs:
        if name == "-":
            yield from _listed(stdin)
        elif Path(name).is_dir():
            paths, others = list_recordings(str(Path(name)))
            if others:
                print(describe_others(name, others), file=sys.stderr)
            if not paths and len(inputs) == 1:
                raise _no_recordings(name)
            yield from paths or [name]  # which cannot be read, unlike the other inputs
        else:
            yield name


def _no_recordings(folder: str) -> UserError:
    return UserError(f"{folder}: found no recordings, expected files ending in {' '.join(sorted(ENDINGS))}")


def _head(stdin: TextIO) -> bytes:
    return stdin.buffer.peek(512)[:512] if isinstance(stdin.buffer, io.BufferedReader) else b""


def _is_sound(stdin: TextIO) -> bool:
    """Return True if standard input begins as a recording of any format does and no list of paths."""
    return bool(re.search(rb"[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f]|\0\0", _head(stdin)))


def _listed(stdin: TextIO) -> Iterator[str]:
    """Yield the paths that standard input lists, or "-" if it is a recording itself."""
    if _is_sound(stdin):
        yield "-"
        return
    lines = stdin.buffer.read().split(b"\0") if b"\0" in _head(stdin) else stdin.buffer
    empty = True
    for line in lines:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            empty = False
            yield name
    if empty:
        raise UserError("-: found nothing on standard input, expected paths, one per line, or a recording")


def results(
    recognizer: Recognizer, paths: Iterable[str], read: Callable
) -> Iterator[tuple[str, Transcript | UserError]]:
    """Yield (path, transcript or the error of reading it), in the order of the paths."""
    waiting: deque[tuple[str, Any]] = deque()  # with None: it can be read, and its transcript is to come

    def recordings():
        for path in paths:
            try:
                audio = read(path)
            except UserError as error:
                waiting.append((path, error))
                continue
            waiting.append((path, None))
            yield audio

    for transcript in recognizer.transcribe_many(recordings()):
        while waiting[0][1] is not None:
            yield waiting.popleft()
        yield waiting.popleft()[0], transcript
    yield from waiting


def to_json(path: str, transcript: Transcript) -> dict:
    """Return a transcript as plain JSON values."""
    words = [word._asdict() | {"confidence": round(word.confidence, 4)} for word in transcript.words]
    return {
        "audio": path,
        "text": transcript.text,
        "seconds": round(transcript.seconds, 3),
        "silence": round(transcript.silence, 3),
        "confidence": round(transcript.confidence, 4),
        "words": words,
    }


class _Writer:
    """Writes transcripts one by one, to one stream or to a file each."""

    def __init__(self, config: TranscribeConfig, stream: TextIO, several: bool):
        self.format, self.stream, self.several = config.format, stream, several
        self.folder = Path(config.out) if config.out else None
        self.inputs = config.inputs
        self.count, self.replaced, self.names = 0, 0, set()
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder}: {error.strerror}, expected a folder to write to") from error

    def check(self, path: str) -> None:
        """Raise UserError if the file of a transcript would replace one that lies beside the recording."""
        if self.folder and Path(path).resolve().is_relative_to(self.folder.resolve()):
            target = Path(path).with_suffix(_FILE_ENDINGS[self.format])
            if target.exists():
                raise UserError(f"{target}: found a file beside the recording, expected none; give another --out")

    def __call__(self, path: str, transcript: Transcript) -> None:
        text = self._text(path, transcript)
        if self.folder:
            target = self.folder / self._name(path)
            self.replaced += os.path.exists(target)  # unlike Path.exists, False for a name that is too long
            write_file(target, text + "\n")
            return
        if self.format == "json":
            text = ("[\n" if self.count == 0 else ",\n") + text
        elif self.format == "text" and self.several:
            text = f"{escape_controls(path, lines=False)}\t{text}\n"
        else:
            text += "\n"
        self.stream.write(text)
        self.stream.flush()
        self.count += 1

    def _text(self, path: str, transcript: Transcript) -> str:
        if self.format == "text":
            return transcript.text
        if self.format in ("srt", "vtt"):
            cues = to_cues(transcript.words, transcript.text)
            return (to_srt if self.format == "srt" else to_vtt)(cues).rstrip("\n")
        text = json.dumps(to_json(path, transcript), ensure_ascii=False)
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)  # of names in another encoding

    def _name(self, path: str) -> str:
        """Return the path of the output relative to `--out`, such as long.srt of long.wav, which no other one has."""
        folders = [Path(name) for name in self.inputs if name != "-" and Path(name).is_dir()]
        inside = [Path(path).relative_to(folder) for folder in folders if Path(path).is_relative_to(folder)]
        name = inside[0] if inside else Path(Path(path).name)
        stem = str(name.with_suffix("") if name.suffix.lower() in ENDINGS else name)
        number, unique = 1, stem
        while unique in self.names:
            number += 1
            unique = f"{stem}-{number}"
        self.names.add(unique)
        ending = _FILE_ENDINGS[self.format]
        if number > 1:
            shown = escape_controls(path, lines=False)
            print(f"{shown}: written to {unique}{ending}, as {stem}{ending} is another input's", file=sys.stderr)
        return unique + ending

    def close(self) -> None:
        if self.format == "json" and not self.folder:
            self.stream.write("\n]\n" if self.count else "[]\n")
            self.stream.flush()


if __name__ == "__main__":
    run_front_door(main)
