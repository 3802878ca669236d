"""Read text files line by line with their positions; write files atomically, complete or not at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError

MAX_LINE = 1 << 20  # bytes; a longer line is not text
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


@contextlib.contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file next to `path` and rename it to `path` if the block succeeds; otherwise remove it.

    Creates the folder. Text is UTF-8 with Unix line ends; bytes of a file name that are not UTF-8 are escaped. Raises
    UserError if the file cannot be written (no permission, full disk).
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        raise UserError(f"{path}: found a folder, expected a file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
        text = {} if "b" in mode else text
        with open(temporary, mode, **text) as file:
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
        file.write(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


@contextlib.contextmanager
def open_compressed(path: str | Path) -> Iterator[Any]:
    """`open_atomic` for text; a name that ends in .gz, .bz2 or .xz gets a file that is compressed in this way."""
    with open_atomic(path, "wb") as file, contextlib.ExitStack() as opened:
        suffix, binary = Path(path).suffix.lower(), file
        if suffix == ".gz":  # without name and time, so that equal texts are equal files
            binary = opened.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        elif suffix == ".bz2":
            binary = opened.enter_context(bz2.BZ2File(file, "wb"))
        elif suffix == ".xz":
            binary = opened.enter_context(lzma.LZMAFile(file, "wb"))
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


@contextlib.contextmanager
def open_decompressed(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file that may be compressed by gzip, bzip2 or xz, which its first bytes say, whatever its name is.

    Raises OSError, EOFError, zlib.error or lzma.LZMAError, here or while it is read, if that is not possible.
    """
    with open(path, "rb") as file:
        head = file.peek(6)  # not read: a pipe cannot go back
        opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
        if opener is None:
            yield file
        else:
            with opener(file, "rb") as plain:
                yield plain


def read_lines(path: str | Path, expected: str, *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Yield ("FILE:LINE", line without its end) for each non-empty line of a UTF-8 text file.

    Args:
        path: the text file, which may be compressed.
        expected: description of the content, for error messages.
        blank: also yield empty lines.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or has a NUL or a line of more than MAX_LINE bytes.
    """
    check_file(path, expected)
    try:
        with open_decompressed(path) as file:
            yield from split_lines(file, path, expected, blank=blank)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}, expected {expected}") from error


def split_lines(
    file: IO[bytes], path: str | Path, expected: str, first: int = 1, *, blank: bool = False
) -> Iterator[tuple[str, str]]:
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
        if blank or line.strip():
            yield where, line
