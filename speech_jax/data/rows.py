"""One row of a list of recordings, by any of the names that its fields have in public formats.

Ours are those of `NAMES`; NeMo's `audio_filepath`, `offset`, `duration`, Hugging Face's `file_name`, `transcription`,
Common Voice's `path`, `sentence`, `client_id` and others mean the same, see `FIELDS`. No value is taken by its place,
and two names of a field that disagree are an error.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance

MAX_SECONDS = 1e7
NOT_TEXT = re.compile("[\0\ud800-\udfff]")
OPTIONAL_TEXTS = ("speaker", "domain", "mel", "language")
NAMES = ("id", "audio", "text", "start", "end", "seconds", *OPTIONAL_TEXTS)
FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id", "key"),
    "audio": ("audio", "audio_filepath", "path", "file", "filename", "file_name", "wav", "wav_filename", "audio_file"),
    "text": ("text", "transcript", "sentence", "transcription", "txt", "wrd"),
    "start": ("start", "offset", "start_time", "begin_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
    "seconds": ("seconds",),
    "speaker": ("speaker", "client_id", "speaker_id", "spk_id"),
    "domain": ("domain",),
    "mel": ("mel",),
    "language": ("language", "locale", "lang"),
}
"""Names of each field, ours first. `duration` is NeMo's: the length of the part that begins at `start`."""
_KNOWN = frozenset(name for names in FIELDS.values() for name in names)
OTHER_NAMES = _KNOWN - set(NAMES)
AUDIO_ENDINGS = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".sph", ".caf", ".w64", ".rf64", ".g722", ".mkv", ".mka", ".mov", ".3gp",
)  # fmt: skip
_EXPECTED = "an object with id, audio, text"
_SHOWN = 20  # fields that nothing reads and that are named
_UNREAD_NOTES = {
    frozenset(("channel", "channels")): "channels are averaged, --channel takes one",
    frozenset(("split", "splits", "subset")): "the rows of every split are taken",
    frozenset(("shard",)): "recordings in tar files are not read: extract them",
}
_SAME = ("audio", "text", "start", "end", "language")  # must agree; a speaker may have a name and a number
_TOLERANCE = 0.01  # seconds by which times that were rounded may disagree


def parse_json(line: str, where: str) -> dict:
    """Parse a line of JSON. Raises UserError unless it is an object."""
    try:
        row = json.loads(line, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: found no JSON ({short(error)}), expected one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: found JSON of type {type(row).__name__}, expected {_EXPECTED}")
    return row


def parse_row(
    row: Mapping[str, Any], where: str, *, named: bool = True, columns: Mapping[str, str] | None = None
) -> Utterance:
    """Return the utterance of a row. Paths stay as written.

    Args:
        row: value by name, with None for a value that is missing.
        where: FILE:LINE, for messages.
        named: rows have an id; otherwise that is the recording's name without its ending, and its start.
        columns: the names that count, by field, such as {"text": "sentence"}. Other names of these fields do not.

    Raises:
        UserError: A field is missing or of another kind, or two names of a field disagree.
    """
    for name in row.keys() - _KNOWN:
        if like_a_time(name) and row[name] and str(row[name]).strip("0."):
            raise UserError(
                f"{where}: found {name} = {short(row[name])}, which nothing reads, expected start and end in "
                "seconds: the whole recording would be taken"
            )
    values = {field: _value(row, field, where, columns or {}) for field in FIELDS}
    for field in ("id", "audio", "text") if named else ("audio", "text"):
        if values[field][0] not in row:
            expected = "id, audio, text" if field == "id" else f"one of {', '.join(FIELDS[field])}"
            raise UserError(f"{where}: lacks the field {field!r}; expected {expected}")
    name, audio = values["audio"]
    if isinstance(audio, dict) and not audio.get("bytes"):  # an Audio feature of Hugging Face's datasets
        audio = audio.get("path")
    audio = _string(name, audio, where, empty=False)
    start, end = _number(*values["start"], where), _number(*values["end"], where)
    duration, seconds = _number(*values["duration"], where), _number(*values["seconds"], where)
    if duration is not None:
        if duration <= 0:
            raise UserError(f"{where}: found {values['duration'][0]} = {duration}, expected more than 0 seconds")
        stop = (start or 0.0) + duration
        for name, value, other in (("end", end, stop), ("seconds", seconds, duration)):
            if value is not None and abs(value - other) > _TOLERANCE:
                raise UserError(
                    f"{where}: found {name} = {value:g} and duration = {duration:g} from {start or 0.0:g}, "
                    f"expected {name} = {other:g}"
                )
        end, seconds = stop if end is None else end, duration
    if end is not None and end <= (start or 0.0):
        raise UserError(f"{where}: found end {end} and start {start or 0.0}, expected end after start")
    if named or values["id"][1] is not None:
        name = _string(*values["id"], where, empty=False)
    else:
        name = name_of(audio) if start is None else f"{name_of(audio)}-{start:.3f}"
    return Utterance(
        id=name,
        audio=audio,
        start=start or 0.0,
        end=end,
        text=_string(*values["text"], where),
        seconds=math.nan if seconds is None else seconds,
        where=where,
        **{field: _string(*values[field], where, optional=True) for field in OPTIONAL_TEXTS},
    )


@functools.lru_cache(maxsize=4096)
def like_a_time(name: str) -> bool:
    """Return True for the name of a field that may say where a part begins or ends, such as "start_ms"."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return name not in _KNOWN and not {"start", "begin", "onset", "offset", "end", "stop"}.isdisjoint(words)


def unread(names: Iterable[str]) -> str:
    """Return a text with those of some names of fields that nothing reads, or ""; with the effect of some."""
    names = sorted(set(names) - _KNOWN)
    if not names:
        return ""
    text = f"fields that nothing reads: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
    words = {word for name in names for word in re.split(r"[^a-z]+", name.lower())}
    notes = [note for note_words, note in _UNREAD_NOTES.items() if words & note_words]
    return f"{text} ({'; '.join(notes)})" if notes else text


def name_of(audio: str) -> str:
    """Return the path of a recording without the ending of its format: "clips/rec.1.wav" is "clips/rec.1"."""
    for ending in AUDIO_ENDINGS:
        if audio.lower().endswith(ending) and len(audio) > len(ending):
            return audio[: -len(ending)]
    return audio


def _value(row: Mapping[str, Any], field: str, where: str, columns: Mapping[str, str]) -> tuple[str, Any]:
    """Return (name, value) of a field; (the field's own name, None) where the row has it under no name."""
    names = (columns[field],) if field in columns else FIELDS[field]
    given = [(name, row[name]) for name in names if name in row]
    first, *others = [each for each in given if each[1] is not None] or given[:1] or [(field, None)]
    for name, value in others if field in _SAME else ():
        if _differ(field, value, first[1]):
            raise UserError(
                f"{where}: found {first[0]} = {short(first[1])} and {name} = {short(value)}, expected one {field} "
                f"(prepare folder --columns {field}={name} takes that one)"
            )
    return first


def _differ(field: str, value: Any, other: Any) -> bool:
    """Return True for two values of a field that disagree; of languages, only codes of different ones do."""
    if field != "language":
        return value != other
    codes = [re.match("[a-z]{2,3}(?![a-z])", str(each).lower()) for each in (value, other)]
    return all(codes) and codes[0][0] != codes[1][0]  # type: ignore[index]


def _string(name: str, value: Any, where: str, *, empty: bool = True, optional: bool = False) -> str:
    if value is None and optional:
        return ""
    if optional and type(value) is int:  # the number of a speaker
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: found {name} = {short(value)}, expected a string")
    if not value and not empty:
        raise UserError(f"{where}: found an empty {name}, expected a string")
    if NOT_TEXT.search(value):
        raise UserError(f"{where}: found a character in {name} that is not text (NUL or half a surrogate pair)")
    return value


def _number(name: str, value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise UserError(f"{where}: found {name} = {short(value)}, expected seconds from 0 to {MAX_SECONDS:.0f}")
    return float(value)


def no_constant(text: str) -> float:
    """Refuse NaN and Infinity, which JSON does not have. Raises ValueError."""
    raise ValueError(f"{text} is not JSON")


def short(value: object) -> str:
    """Return a value or an error in at most 80 characters, for messages."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
