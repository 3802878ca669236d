"""The one list of recordings that every source makes and everything else reads: JSON lines.

    {"id": "amy-1", "audio": "wav/amy-1.flac", "text": "good morning", "speaker": "amy", "domain": "a", "seconds": 1.92}

Required: id, audio, text. Optional: start, end (seconds into the recording; end null = to its end), speaker, domain,
seconds (measured if left out), mel (a file of mel frames that belong to the recording, see data/mels.py). A relative
path starts at the manifest's own folder, so a prepared folder can be moved. Other fields are ignored.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from speech_jax.audio.io import is_reference, probe
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic, read_lines

log = logging.getLogger("speech_jax")

MAX_SECONDS = 1e7
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Utterance(NamedTuple):
    """One row. Times in seconds; `end` None = to the end of the recording; `where` is FILE:LINE, for messages."""

    id: str
    audio: str
    start: float = 0.0
    end: float | None = None
    text: str = ""
    speaker: str = ""
    domain: str = ""
    seconds: float = math.nan
    where: str = ""
    mel: str = ""


def read_manifest(path: str | Path, *, on_error: str = "raise") -> list[Utterance]:
    """Reads and checks a manifest.

    Rows without `seconds` are probed (the recording's header is read); with on_error="skip" a row whose recording
    cannot be probed is named in a warning and left out. Raises UserError naming file and line on anything else that
    is wrong.
    """
    path = Path(path)
    utterances = [_parse(line, where, path.parent) for where, line in read_lines(path, "a manifest (JSON lines)")]
    check_ids(utterances)
    return measured(utterances, path, on_error)


def shared_recording(some: Iterable[Utterance], others: Iterable[Utterance]) -> tuple[Utterance, Utterance] | None:
    """The first utterance of `others` that hears, in part at least, what one of `some` hears, as (some's, others')."""
    heard: dict[str, list[Utterance]] = {}
    for utterance in some:
        heard.setdefault(_file(utterance.audio), []).append(utterance)
    for other in others:
        for one in heard.get(_file(other.audio), ()):
            if one.start < (other.end or math.inf) and other.start < (one.end or math.inf):
                return one, other
    return None


def _file(audio: str) -> str:
    """The recording itself, whatever way leads to it."""
    return audio if is_reference(audio) else os.path.join(_folder(os.path.dirname(audio)), os.path.basename(audio))


@functools.lru_cache(maxsize=1024)
def _folder(path: str) -> str:
    return os.path.realpath(path)


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


def measure(utterance: Utterance) -> float:
    """Seconds of an utterance without `seconds`: from its start and end, or from the recording's header."""
    if utterance.end is not None:
        return utterance.end - utterance.start
    if is_reference(utterance.audio):
        raise UserError(f"{utterance.audio}: its length is not known, expected a field 'seconds'")
    seconds = probe(utterance.audio).seconds - utterance.start
    if seconds <= 0:
        raise UserError(f"{utterance.audio}: found {seconds + utterance.start:.3f} s, expected more than start")
    return seconds


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Writes a manifest, whole or not at all. Audio inside the manifest's folder is written relative to it."""
    path = Path(path)
    folder = os.path.realpath(path.parent)
    real = functools.lru_cache(maxsize=None)(os.path.realpath)  # a folder's recordings ask for it again and again
    with open_atomic(path) as file:
        for u in utterances:
            row: dict = {"id": u.id, "audio": _relative(u.audio, folder, real), "text": u.text}
            if u.start:
                row["start"] = round(float(u.start), 6)
            if u.end is not None:
                row["end"] = round(float(u.end), 6)
            if u.speaker:
                row["speaker"] = u.speaker
            if u.domain:
                row["domain"] = u.domain
            if not math.isnan(u.seconds):
                row["seconds"] = round(float(u.seconds), 6)
            if u.mel:
                row["mel"] = _relative(u.mel, folder, real)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def resolve(audio: str, folder: Path) -> str:
    """An audio field as written in a file of `folder` → a path that can be opened from anywhere."""
    if audio.endswith("|") or audio.startswith("tfds:"):
        return audio
    return os.path.join(folder, audio)  # an absolute path wins by itself


def _relative(audio: str, folder: str, real: Callable[[str], str]) -> str:
    if audio.endswith("|") or audio.startswith("tfds:"):
        return audio
    absolute = os.path.join(real(os.path.dirname(audio) or "."), os.path.basename(audio))
    prefix = folder.rstrip(os.sep) + os.sep
    return absolute.removeprefix(prefix).replace(os.sep, "/")


def _parse(line: str, where: str, folder: Path) -> Utterance:
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: found no JSON ({_short(error)}), expected one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: found JSON of type {type(row).__name__}, expected an object with id, audio, text")
    for name in ("id", "audio", "text"):
        if name not in row:
            raise UserError(f"{where}: lacks the field {name!r}; expected id, audio, text")
    start = _number(row, "start", where) or 0.0
    end = _number(row, "end", where)
    seconds = _number(row, "seconds", where)
    if end is not None and end <= start:
        raise UserError(f"{where}: found end {end} and start {start}, expected end after start")
    return Utterance(
        id=_string(row, "id", where, empty=False),
        audio=resolve(_string(row, "audio", where, empty=False), folder),
        start=start,
        end=end,
        text=_string(row, "text", where),
        speaker=_string(row, "speaker", where),
        domain=_string(row, "domain", where),
        seconds=math.nan if seconds is None else seconds,
        where=where,
        mel=os.path.join(folder, mel) if (mel := _string(row, "mel", where)) else "",
    )


def _string(row: dict, name: str, where: str, *, empty: bool = True) -> str:
    value = row.get(name)
    if value is None and name in ("speaker", "domain", "mel"):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: found {name} = {_short(value)}, expected a string")
    if not value and not empty:
        raise UserError(f"{where}: found an empty {name}, expected a string")
    if _NOT_TEXT.search(value):
        raise UserError(f"{where}: found a character in {name} that is not text (NUL or half a surrogate pair)")
    return value


def _number(row: dict, name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise UserError(f"{where}: found {name} = {_short(value)}, expected seconds from 0 to {MAX_SECONDS:.0f}")
    return float(value)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
