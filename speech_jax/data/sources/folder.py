"""Source: any folder of recordings with a CSV (or TSV) file that has a header line.

Columns, of which the first that exists is used: the recording `audio`, `path`, `file`, `filename` or `wav`; the text
`text`, `transcript`, `sentence` or `transcription`; optional `id`, `speaker` or `client_id`, `domain`, `start`, `end`,
`seconds` or `duration`, `language` or `locale`. So Common Voice's TSV files work as they are. Separator: a tab, "|" or
";" where the header has one, else a comma.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import check_ids, measured
from speech_jax.data.utterances import Utterance, Utterances

_NAMES = {
    "audio": ("audio", "path", "file", "filename", "file_name", "wav"),
    "text": ("text", "transcript", "sentence", "transcription"),
    "id": ("id",),
    "speaker": ("speaker", "client_id", "speaker_id"),
    "domain": ("domain",),
    "start": ("start",),
    "end": ("end",),
    "seconds": ("seconds", "duration"),
    "language": ("language", "locale", "lang"),
}
_CLIPS = ("", "clips", "wavs", "wav", "audio")  # folders next to the CSV that may contain a relative name


def read_folder(path: str | Path, *, on_error: str = "raise") -> Utterances:
    """Read the utterances of a CSV file, or of the only CSV or TSV in a folder.

    Args:
        path: the file or the folder.
        on_error: "raise", or "skip": leave out rows whose recording cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong; the message names file and line.
    """
    path = _table_of(Path(path))
    rows = read_lines(path, "a CSV with a header line")
    where, header = next(rows, ("", ""))
    if not header:
        raise UserError(f"{path}: found an empty file, expected a CSV with a header line")
    separator = next((s for s in "\t|;" if s in header), ",")
    names = [name.strip().lower() for name in _split(where, header, separator)]
    columns = {field: next((names.index(n) for n in known if n in names), None) for field, known in _NAMES.items()}
    for field in ("audio", "text"):
        if columns[field] is None:
            expected = ", ".join(_NAMES[field])
            raise UserError(f"{where}: found columns {names}, expected one of {expected} for the {field}")
    result = []
    for where, line in rows:
        fields = _split(where, line, separator)
        if len(fields) != len(names):
            raise UserError(f"{where}: found {len(fields)} fields, expected {len(names)} as in the header")
        row = {field: fields[at].strip() if at is not None else "" for field, at in columns.items()}
        if not row["audio"]:
            raise UserError(f"{where}: found no recording, expected a file name")
        start, end, seconds = (_time(row[field], where) for field in ("start", "end", "seconds"))
        if end is not None and end <= (start or 0.0):
            raise UserError(f"{where}: found start {row['start'] or 0} and end {row['end']}, expected end after start")
        if seconds is None:
            seconds = math.nan if end is None else end - (start or 0.0)
        name = row["id"] or _name(row["audio"], start)
        audio = _find(path.parent, row["audio"])
        result.append(
            Utterance(
                id=name, audio=audio, start=start or 0.0, end=end, text=row["text"], speaker=row["speaker"],
                domain=row["domain"], seconds=seconds, where=where, language=row["language"],
            )  # fmt: skip
        )
    result = Utterances.of(result)
    check_ids(result)
    return measured(result, path, on_error)


def _table_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    if len(tables) != 1:
        names = ", ".join(p.name for p in tables[:5]) or "none"
        raise UserError(f"{path}: found {len(tables)} CSV or TSV files ({names}), expected one; name the file itself")
    return tables[0]


def _split(where: str, line: str, separator: str) -> list[str]:
    quoting = csv.QUOTE_MINIMAL if separator in ",;" else csv.QUOTE_NONE  # Common Voice's TSV has bare quotes
    try:
        return next(csv.reader([line], delimiter=separator, quoting=quoting, strict=True))
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{where}: found a line that is not CSV ({error}), expected one row a line") from error


def _find(folder: Path, name: str) -> str:
    candidates = [os.path.join(folder, sub, name) for sub in _CLIPS]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def _name(audio: str, start: float | None) -> str:
    name = Path(audio).with_suffix("").as_posix()
    return name if start is None else f"{name}-{start:.3f}"


def _time(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e7:
        raise UserError(f"{where}: found {text!r}, expected seconds")
    return value
