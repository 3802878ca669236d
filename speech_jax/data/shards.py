"""ArrayRecord shards: many utterances in a few checksummed files with random access, for pods and slow disks.

A record is 4 bytes (length of the JSON, little-endian), the JSON of the utterance (UTF-8), and the audio as FLAC
(16 bit).
In a manifest a record is `train-00000-of-00004.array_record#17`.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance

SUFFIX = ".array_record"
_MAX_HEADER = 1 << 20


def encode_record(utterance: Utterance, samples: np.ndarray, sample_rate: int) -> bytes:
    """Return an utterance and its audio (float32 [time], mono, in [-1, 1]) as the bytes of a record."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    fields = {
        "id": utterance.id,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "domain": utterance.domain,
        "seconds": round(len(samples) / sample_rate, 6),
    }
    header = json.dumps(fields, ensure_ascii=False).encode()
    return len(header).to_bytes(4, "little") + header + buffer.getvalue()


def decode_record(record: bytes, name: str) -> tuple[dict, bytes]:
    """Return (fields, FLAC bytes) of a record. Raises UserError with `name` if it is damaged."""
    length = int.from_bytes(record[:4], "little")
    if len(record) < 4 or length > min(len(record) - 4, _MAX_HEADER):
        raise UserError(f"{name}: found {len(record)} bytes that are no record of speech_jax shards")
    try:
        fields = json.loads(record[4 : 4 + length])
        ok = all(isinstance(fields[k], str) for k in ("id", "text", "speaker", "domain"))
        ok = ok and isinstance(fields["seconds"], int | float) and 0 <= fields["seconds"] < 1e7
    except (ValueError, KeyError, TypeError, RecursionError):
        ok = False
    if not ok:
        raise UserError(f"{name}: found a record without id, text, speaker, domain, seconds")
    return fields, record[4 + length :]


def read_flac(reference: str) -> bytes:
    """Return the audio of `FILE.array_record#INDEX` as FLAC bytes. Raises UserError if it is missing or damaged."""
    path, _, index = reference.rpartition("#")
    if not index.isdecimal():
        raise UserError(f"{reference}: found record {index!r}, expected a number")
    return decode_record(_read(path, int(index)), reference)[1]


def list_shard(path: str | Path) -> list[Utterance]:
    """Return the utterances of one shard in order. Reads the whole file; the shards' manifest is faster."""
    path = os.fspath(path)
    result = []
    for index in range(_reader(path, _stamp(path)).num_records()):
        name = f"{path}#{index}"
        fields, _ = decode_record(_read(path, index), name)
        result.append(
            Utterance(
                id=fields["id"],
                audio=name,
                text=fields["text"],
                speaker=fields["speaker"],
                domain=fields["domain"],
                seconds=float(fields["seconds"]),
                where=name,
            )
        )
    return result


def shard_name(split: str, index: int, count: int) -> str:
    """Return the name of a shard, such as `train-00000-of-00004.array_record`."""
    return f"{split}-{index:05d}-of-{count:05d}{SUFFIX}"


def write_shard(
    path: str | Path, utterances: Iterable[Utterance], read: Callable[[Utterance], np.ndarray | None], sample_rate: int
) -> list[Utterance]:
    """Write one shard, whole or not at all.

    Args:
        path: the file.
        utterances: its rows.
        read: returns an utterance's samples, or None to leave it out.
        sample_rate: Hz of the samples.

    Returns:
        The utterances as they are in the shard.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    result: list[Utterance] = []
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for utterance in utterances:
                samples = read(utterance)
                if samples is None:
                    continue
                writer.write(encode_record(utterance, samples, sample_rate))
                name = f"{path}#{len(result)}"
                seconds = round(len(samples) / sample_rate, 6)
                result.append(utterance._replace(audio=name, start=0.0, end=None, seconds=seconds, where=name))
        finally:
            writer.close()
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return result


def deal(utterances: Sequence[Utterance], count: int) -> list[list[Utterance]]:
    """Distribute utterances over `count` shards in turn, so that every shard has long and short ones."""
    return [list(utterances[i::count]) for i in range(count)]


def _read(path: str, index: int) -> bytes:
    reader = _reader(path, _stamp(path))
    if not 0 <= index < reader.num_records():
        raise UserError(f"{path}#{index}: no such record, expected 0 to {reader.num_records() - 1}")
    try:
        return reader.read([index])[0]
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{path}#{index}: damaged ({' '.join(str(error).split())[:120]})") from error


def _stamp(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
        return stat.st_mtime_ns, stat.st_size
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected an ArrayRecord shard") from error


@functools.lru_cache(maxsize=64)
def _reader(path: str, stamp: tuple[int, int]) -> ArrayRecordReader:
    """Open a reader; cached, because opening reads the index. A changed file (`stamp`) is opened again."""
    del stamp
    try:
        return ArrayRecordReader(path, "readahead_buffer_size:0")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: damaged or no ArrayRecord file ({' '.join(str(error).split())[:120]})") from error
