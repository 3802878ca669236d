"""Transcribe recordings: `python -m speech_jax.transcribe --checkpoint RUN a.wav folder/ -`."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro
from tqdm import tqdm

from speech_jax.audio.io import read_audio
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.words import Transcript, to_cues, to_srt
from speech_jax.inference.config import WindowConfig

if TYPE_CHECKING:
    from speech_jax.inference.recognizer import Recognizer

ENDINGS = frozenset(".wav .flac .ogg .oga .opus .mp3 .g722 .aif .aiff .au .snd .caf .w64 .sph .rf64".split())
_FILE_ENDINGS = {"text": ".txt", "json": ".json", "jsonl": ".json", "srt": ".srt"}


@dataclass(frozen=True)
class TranscribeConfig:
    """Transcribe recordings of any length with a recognizer's checkpoint folder."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recordings; folders, searched with their subfolders; or "-": one path per line of standard input."""
    checkpoint: str
    """Checkpoint folder of a recognizer."""
    which: Literal["best", "last"] = "best"
    """The run's best or last checkpoint."""
    format: Literal["text", "json", "jsonl", "srt"] = "text"
    """text: the words, after the path and a tab if there are several recordings. json, jsonl: words with times and
    confidences. srt: subtitles."""
    out: str = ""
    """Folder for one file per recording; empty writes to standard output."""
    max_hours: float = 4.0
    """Longest recording in hours; a longer one is not read."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Windows of recordings that do not fit in one pass."""
    adapter: str = ""
    """Adapter file (adapter.safetensors of a run) to apply to the checkpoint; empty is none."""
    beam: BeamConfig = field(default_factory=BeamConfig)
    """Decoding: the best path, or a beam search with a language model."""


def main(argv: Sequence[str]) -> int:
    """Transcribe the recordings that the flags name.

    Returns:
        Exit code: 0; 2 if a recording could not be read.
    """
    config = tyro.cli(TranscribeConfig, args=list(argv), prog="python -m speech_jax.transcribe")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.inference.recognizer import load_recognizer

    recognizer = load_recognizer(config.checkpoint, config.which, config.windows, config.beam, config.adapter)
    return transcribe(recognizer, config, stdin=sys.stdin, stdout=sys.stdout)


def transcribe(recognizer: Recognizer, config: TranscribeConfig, *, stdin: TextIO, stdout: TextIO) -> int:
    """Transcribe all inputs, and report those that cannot be read.

    Args:
        recognizer: The recognizer.
        config: The flags.
        stdin: Where paths are read from if "-" is an input.
        stdout: Where transcripts are written without `--out`.

    Returns:
        Exit code: 0; 2 if a recording could not be read.

    Raises:
        UserError: If there are no inputs, or subtitles of several recordings would be written to standard output.
    """
    paths = find_recordings(config.inputs, stdin)
    several = len(config.inputs) != 1 or not Path(config.inputs[0]).is_file()
    if config.format == "srt" and several and not config.out:
        raise UserError("--format srt: found several inputs, expected --out FOLDER for one file per recording")
    rate = recognizer.audio.sample_rate

    def read(path: str):
        return read_audio(path, rate, max_seconds=3600 * config.max_hours)

    writer = _Writer(config, stdout, several)
    begun, done, failed, seconds = time.perf_counter(), 0, 0, 0.0
    with tqdm(results(recognizer, paths, read), unit="file", disable=None, file=sys.stderr) as progress:
        for path, result in progress:
            if isinstance(result, UserError):
                failed += 1
                progress.write(f"error: {result}", file=sys.stderr)
                continue
            done, seconds = done + 1, seconds + result.seconds
            writer(path, result)
    writer.close()
    if done:
        elapsed = time.perf_counter() - begun
        speed = f"real-time factor {elapsed / seconds:.3f} ({seconds / elapsed:.1f} × real time)" if seconds else ""
        print(
            f"{done} recordings, {seconds:.1f} s of audio in {elapsed:.1f} s, {speed}, compiling included",
            file=sys.stderr,
        )
    if failed:
        print(f"error: {failed} of {done + failed} recordings could not be transcribed", file=sys.stderr)
    return 2 if failed else 0


def find_recordings(inputs: Sequence[str], stdin: TextIO) -> Iterator[str]:
    """Yield the paths that the inputs name, in their order; folders are searched and sorted. No file is opened."""
    if not inputs:
        raise UserError("found no inputs, expected recordings, folders or - (paths from standard input)")
    for name in inputs:
        if name == "-":
            yield from (line.strip() for line in stdin if line.strip())
        elif Path(name).is_dir():
            paths = sorted(str(p) for p in Path(name).rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
            if not paths:
                raise UserError(f"{name}: found no recordings, expected files ending in {' '.join(sorted(ENDINGS))}")
            yield from paths
        else:
            yield name


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
        "confidence": round(transcript.confidence, 4),
        "words": words,
    }


class _Writer:
    """Writes transcripts one by one, to one stream or to a file each."""

    def __init__(self, config: TranscribeConfig, stream: TextIO, several: bool):
        self.format, self.stream, self.several = config.format, stream, several
        self.folder = Path(config.out) if config.out else None
        self.inputs = config.inputs
        self.count, self.names = 0, set()
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder}: {error.strerror}, expected a folder to write to") from error

    def __call__(self, path: str, transcript: Transcript) -> None:
        text = self._text(path, transcript)
        if self.folder:
            target = self.folder / self._name(path)
            write_file(target, text + "\n")
            return
        if self.format == "json":
            text = ("[\n" if self.count == 0 else ",\n") + text
        elif self.format == "text" and self.several:
            text = f"{path}\t{text}\n"
        else:
            text += "\n"
        self.stream.write(text)
        self.stream.flush()
        self.count += 1

    def _text(self, path: str, transcript: Transcript) -> str:
        if self.format == "text":
            return transcript.text
        if self.format == "srt":
            return to_srt(to_cues(transcript.words)).rstrip("\n")
        return json.dumps(to_json(path, transcript), ensure_ascii=False)

    def _name(self, path: str) -> str:
        """Return the path of the output without its ending, unique and relative to the input folder."""
        folders = [Path(name) for name in self.inputs if name != "-" and Path(name).is_dir()]
        inside = [Path(path).relative_to(folder) for folder in folders if Path(path).is_relative_to(folder)]
        name = str(inside[0]) if inside else Path(path).name
        number, unique = 1, name
        while unique in self.names:
            number += 1
            unique = f"{name}-{number}"
        self.names.add(unique)
        return unique + _FILE_ENDINGS[self.format]

    def close(self) -> None:
        if self.format == "json" and not self.folder:
            self.stream.write("\n]\n" if self.count else "[]\n")
            self.stream.flush()


if __name__ == "__main__":
    run_front_door(main)
