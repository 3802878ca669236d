"""Reading text files line by line with their places; writing files so that they are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from speech_jax.core.errors import UserError

MAX_LINE = 1 << 20  # bytes; a longer line is not text that anyone meant


@contextlib.contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` and renames it to `path` when the block ends well; else removes it.

    Text is UTF-8 with "\\n". Raises UserError where the file cannot be written (no permission, full disk).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with open(temporary, mode, **text) as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes the whole file at once, its folder too. Raises UserError as `open_atomic` does."""
    with open_atomic(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def read_lines(path: str | Path, expected: str) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, line without its end) of a UTF-8 text file, empty lines left out.

    Raises UserError when the file cannot be read, is not UTF-8, or has a NUL or a line of over MAX_LINE bytes.
    `expected` is for messages.
    """
    try:
        with open(path, "rb") as file:
            number = 0
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
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected {expected}") from error
