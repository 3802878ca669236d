"""What the sources made of text files share: reading lines with their places, and measuring lengths."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

from speech_jax.data.manifest import Utterance, measure
from speech_jax.errors import UserError

log = logging.getLogger("speech_jax")

MAX_LINE = 1 << 20


def lines(path: Path, expected: str) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, line without its end) of a UTF-8 text file, empty lines left out.

    Raises UserError when the file cannot be read, is not UTF-8 or has a line of over 1 MB. `expected` is for messages.
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


def measured(utterances: list[Utterance], path: Path, on_error: str) -> list[Utterance]:
    """Fills in `seconds` from the recordings' headers. What cannot be measured is left out with a warning ("skip") or
    raises UserError naming the line ("raise"), as does a set without utterances."""
    result = []
    for utterance in utterances:
        if math.isnan(utterance.seconds):
            try:
                utterance = utterance._replace(seconds=measure(utterance))
            except UserError as error:
                if on_error == "raise":
                    raise UserError(f"{utterance.where}: {error}") from error
                log.warning("left out: %s: %s", utterance.where, error)
                continue
        result.append(utterance)
    if not result:
        raise UserError(f"{path}: found no utterances, expected at least one")
    return result


def check_ids(utterances: list[Utterance]) -> None:
    """Raises UserError where an id occurs twice."""
    seen: dict[str, str] = {}
    for u in utterances:
        if u.id in seen:
            raise UserError(f"{u.where}: found id {u.id!r} again, expected one line an id (see {seen[u.id]})")
        seen[u.id] = u.where
