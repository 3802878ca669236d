"""Read text files line by line with their positions; write files atomically, complete or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from speech_jax.core.errors import UserError

MAX_LINE = 1 << 20  # bytes; a longer line is not text


@contextlib.contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file next to `path` and rename it to `path` if the block succeeds; otherwise remove it.

    Creates the folder. Text is UTF-8 with Unix line ends. Raises UserError if the file cannot be written (no
    permission, full disk).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a whole file atomically, creating its folder. Raise UserError as `open_atomic` does."""
    with open_atomic(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def read_lines(path: str | Path, expected: str) -> Iterator[tuple[str, str]]:
    """Yield ("FILE:LINE", line without its end) for each non-empty line of a UTF-8 text file.

    Args:
        path: the text file.
        expected: description of the content, for error messages.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or has a NUL or a line of more than MAX_LINE bytes.
    """
    try:
        with open(path, "rb") as file:
            yield from split_lines(file, path, expected)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected {expected}") from error


def split_lines(file: IO[bytes], path: str | Path, expected: str, first: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the same as `read_lines` for an open file, or for a part of it that begins at line `first`."""
    number = first - 1
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        where = f"{path}:{number}"
        if len(raw) > MAX_LINE:
            raise UserError(f"{where}: found a line of more than {MAX_LINE} bytes, expected {expected}")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: found bytes that are not UTF-8, expected {expected}") from error
        if "\0" in line:
            raise UserError(f"{where}: found a NUL character, expected {expected}")
        if line.strip():
            yield where, line
