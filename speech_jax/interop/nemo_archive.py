"""The tar archive of a .nemo file: its members as parts of the file, within limits, without extracting anything."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speech_jax.core.documents import check_file, parse_yaml
from speech_jax.core.errors import UserError
from speech_jax.interop.tensors import Span, SpanFile

CONFIG = "model_config.yaml"
_MAX_SMALL = 16 << 20  # bytes of a tokenizer's file
_MAX_CONFIG = 4 << 20  # bytes of the config
_MAX_HEADER = 1 << 16  # bytes of a header of the archive, such as a long name
_MAX_MEMBERS = 1000
_RATIO, _FREE = 8, 64 << 20  # times and bytes by which a compressed archive may grow; with weights it is 1.1 times


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Span]]:
    """Map member names to spans of an uncompressed tar; a compressed one is first decompressed to a temporary file."""
    check_file(path, "a .nemo file")
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a .nemo file") from error
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.tar" if compressed else path
        try:
            if compressed:
                _decompress(path, archive)
            members = _members(archive, folder)
        except (tarfile.TarError, EOFError, OSError, ValueError, LookupError, RecursionError, MemoryError,
                zlib.error) as error:  # fmt: skip
            raise UserError(f"{path}: found {error}, expected a .nemo file (a tar)") from error
        yield members


def _members(archive: Path, folder: str) -> dict[str, Span]:
    members = {}
    with open(archive, "rb") as file:
        stream: Any = SpanFile(file, Span(archive), _MAX_HEADER)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, member in enumerate(tar):
                if number == _MAX_MEMBERS or len(tar.pax_headers) > _MAX_MEMBERS or member.size < 0:
                    raise ValueError(f"more than {_MAX_MEMBERS} members, or one of a negative size")
                tarfile.data_filter(member, folder)  # refuses paths outside the folder; nothing is extracted
                if not member.isfile():
                    continue
                if member.issparse() or member.offset_data + member.size > stream.size:
                    raise ValueError(f"{member.name} cut off, or with holes")
                members[member.name.removeprefix("./")] = Span(archive, member.offset_data, member.size)
                member.pax_headers = {}
    return members


def _decompress(path: Path, out: Path) -> None:
    limit = _RATIO * path.stat().st_size + _FREE
    with gzip.open(path) as packed, open(out, "wb") as file:
        while block := packed.read(1 << 22):
            if file.tell() + len(block) > limit:
                raise ValueError(f"more than {limit >> 20} MB in {path.stat().st_size} compressed bytes")
            file.write(block)


def read_member(path: Path, members: Mapping[str, Span], name: str, limit: int = _MAX_SMALL) -> bytes:
    """Return the contents of a small member. Raise UserError if there is none, or if it has more than `limit` bytes."""
    span = members.get(name)
    if span is None:
        raise UserError(f"{path}: found no {name}, expected it in a .nemo file")
    if span.size is None or span.size > limit:
        raise UserError(f"{path}: found {span.size} bytes of {name}, expected at most {limit}")
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        return file.read(span.size)


def read_config(path: Path, members: Mapping[str, Span]) -> dict[str, Any]:
    """Return the settings of the model. Raise UserError if they are no YAML mapping."""
    return parse_yaml(read_member(path, members, CONFIG, _MAX_CONFIG), f"{path}: {CONFIG}")
