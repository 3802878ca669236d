"""Read the audio of an utterance from a file, a record of a shard, a Kaldi pipe or a tfds example."""

from __future__ import annotations

import io
import shlex
import signal
import subprocess
import threading

import numpy as np
from jaxtyping import Float

from speech_jax.audio.io import CLIP_SECONDS, MAX_SECONDS, Decoded, decode
from speech_jax.core.errors import UserError
from speech_jax.data import shards
from speech_jax.data.utterances import Utterance

MAX_PIPE_BYTES = 1 << 30
ALLOW = "allow_pipes: `prepare kaldi --allow-pipes` or --data.allow-pipes lets it run"
PIPE_TIMEOUT = 600  # seconds a command may take
# Tolerance of the length: a manifest's seconds are rounded, and lossy codecs pad.
_SLACK_SECONDS, _SLACK_SHARE = 0.1, 0.01


def read_recording(
    utterance: Utterance,
    sample_rate: int,
    *,
    allow_pipes: bool = False,
    max_seconds: float = MAX_SECONDS,
    channel: str = "mean",
) -> Float[np.ndarray, "time"]:
    """Read the audio of an utterance: the samples of `decode_recording`, which has the arguments and the errors."""
    options = {"allow_pipes": allow_pipes, "max_seconds": max_seconds, "channel": channel}
    return decode_recording(utterance, sample_rate, **options).samples


def decode_recording(
    utterance: Utterance,
    sample_rate: int,
    *,
    allow_pipes: bool = False,
    max_seconds: float = MAX_SECONDS,
    channel: str = "mean",
) -> Decoded:
    """Decode the audio of an utterance, from its `start` to its `end`.

    Args:
        utterance: the row.
        sample_rate: Hz of the result.
        allow_pipes: run the command of a Kaldi pipe.
        max_seconds: a longer segment is an error.
        channel: "mean" of all channels, "left", "right", or a channel's number from 1.

    Returns:
        The samples, float32 [time], mono, in [-1, 1], and what is wrong with a recording that can be read.

    Raises:
        UserError: the recording cannot be read, or its length is not the manifest's; the message names it.
    """
    audio = utterance.audio
    options = {"start": utterance.start, "end": utterance.end, "max_seconds": max_seconds, "channel": channel}
    if audio.endswith("|"):
        data = run_pipe(audio, allow_pipes=allow_pipes)
        recording = decode(io.BytesIO(data), sample_rate, name=audio, **options)
    elif ".array_record#" in audio:
        recording = decode(io.BytesIO(shards.read_flac(audio)), sample_rate, name=audio, **options)
    elif audio.startswith("tfds:"):
        from speech_jax.data.sources import tfds  # an optional extra

        recording = tfds.read(audio, sample_rate, max_seconds=max_seconds, channel=channel)
    else:
        recording = decode(audio, sample_rate, **options)
    duration, expected = len(recording.samples) / sample_rate, utterance.seconds
    clipped = any(finding.kind == "clipped segment" for finding in recording.findings)
    if abs(duration - expected) > _SLACK_SECONDS + _SLACK_SHARE * expected + (CLIP_SECONDS if clipped else 0.0):
        raise UserError(f"{audio}: found {duration:.3f} s of audio, expected the manifest's {expected:.3f} s")
    return recording


def run_pipe(command: str, *, allow_pipes: bool) -> bytes:
    """Run a Kaldi pipe without a shell.

    Args:
        command: programs and arguments joined by "|", such as "sph2pipe -f wav x.sph |".
        allow_pipes: False refuses every command.

    Returns:
        What the last program writes.

    Raises:
        UserError: pipes are not allowed, or the command needs a shell, fails, takes too long or writes over 1 GiB.
    """
    if not allow_pipes:
        raise UserError(f"found the command {command!r}, expected a file ({ALLOW})")
    lexer = shlex.shlex(command.strip().removesuffix("|"), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise UserError(f"found the command {command!r} ({error}), expected programs joined by '|'") from error
    stages: list[list[str]] = [[]]
    for token in tokens:
        if token == "|":
            stages.append([])
        elif token and set(token) <= set("|&;<>()"):
            raise UserError(f"found {token!r} in the command {command!r}, expected programs joined by '|', no shell")
        else:
            stages[-1].append(token)
    if not all(stages):
        raise UserError(f"found an empty program in the command {command!r}, expected programs joined by '|'")
    return _run(stages, command)


def _run(stages: list[list[str]], command: str) -> bytes:
    processes: list[subprocess.Popen] = []
    late = threading.Event()

    def stop() -> None:
        late.set()
        for process in processes:
            process.kill()

    timer = threading.Timer(PIPE_TIMEOUT, stop)
    timer.start()
    try:
        source = None
        for stage in stages:
            stdin = subprocess.DEVNULL if source is None else source
            process = subprocess.Popen(stage, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if source is not None:
                source.close()  # so that the stage before sees it when this one ends early
            processes.append(process)
            source = process.stdout
        pieces, size = [], 0
        while source is not None and (piece := source.read(1 << 20)):
            size += len(piece)
            if size > MAX_PIPE_BYTES:
                raise UserError(f"command {command!r}: found more than {MAX_PIPE_BYTES} bytes, expected a recording")
            pieces.append(piece)
        codes = [process.wait() for process in processes]
        if late.is_set():
            raise UserError(f"command {command!r}: not done after {PIPE_TIMEOUT} s, expected a recording")
        for place, (stage, code) in enumerate(zip(stages, codes, strict=True)):
            # A stage may end before it has read all of the stage before, which then dies of a broken pipe.
            if code != 0 and not (code == -signal.SIGPIPE and place < len(stages) - 1):
                raise UserError(f"command {command!r}: {stage[0]} ended with {code}, expected 0")
        return b"".join(pieces)
    except OSError as error:
        raise UserError(f"command {command!r}: {error}, expected a recording") from error
    finally:
        timer.cancel()
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
