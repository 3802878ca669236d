"""Source: any folder of recordings with a CSV (or TSV) file that has a header line.

The names of the columns tell what is in them, see `data.rows.FIELDS`; so Common Voice's TSV files and metadata.csv of a
Hugging Face audio folder work as they are. Separator: a tab, "|" or ";" where the header has one, else a comma.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from speech_jax.audio.io import is_reference, probe
from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.core.log import log
from speech_jax.data.manifest import (
    BINARY_LISTS,
    TABLES,
    Problem,
    check_ids,
    kind_of,
    measured,
    raise_problem,
    read_manifest,
    say_kind,
)
from speech_jax.data.rows import AUDIO_ENDINGS, FIELDS, parse_row
from speech_jax.data.utterances import Utterance, Utterances

_CLIPS = ("", "clips", "wavs", "wav", "audio", "audios")  # folders next to the CSV that may contain a relative name
_JSON = (".json", ".jsonl", ".gz", ".bz2", ".xz", ".parquet")
_LISTS = (*TABLES, ".jsonl", *BINARY_LISTS)  # endings of lists that are named where a folder has none itself
_TIMES = ("start", "end", "duration", "seconds")
_PADDING = 0.05  # seconds by which two programs may differ about the length of a compressed file
_MAX_FIELD = 1 << 20  # characters; a longer field is a quote that does not end


def read_folder(path: str | Path, *, columns: Mapping[str, str] | None = None, on_error: str = "raise") -> Utterances:
    """Read the utterances of a CSV file, of the only CSV or TSV in a folder, or of another list, see `read_manifest`.

    A `duration` without a start is that of the whole recording if its header says the same, to the digits that are
    written; otherwise it is a part from the start.

    Args:
        path: the file or the folder.
        columns: the columns that count, by field, such as {"text": "sentence"}, where several would.
        on_error: "raise", or "skip": leave out rows whose recording cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong; the message names file and line.
    """
    path = table_of(Path(path))
    if not is_table(path):
        if columns:
            raise UserError(f"--columns: found columns for {path}, expected them for a CSV or TSV file")
        return read_manifest(path, on_error=on_error)
    names: set[str] = set()
    result = Utterances.of(table_rows(path, raise_problem, names, columns))
    say_kind(path, "table", len(result), names)
    check_ids(result)
    return measured(result, path, on_error)


def table_rows(
    path: Path, problem: Problem, names: set[str], columns: Mapping[str, str] | None = None
) -> Iterator[Utterance]:
    """Yield the rows of a CSV file; `problem` is handed the errors of wrong ones, `names` the names of the columns."""
    columns = columns or {}
    (where, header), rows = _read_table(path)
    is_piped = path.suffix.lower() == ".csv" and "|" in next(read_lines(path, "a CSV"))[1]
    header = [name.strip().lower() for name in header]
    names.update(header)
    check_columns(
        where, header, columns, "; `prepare ljspeech` reads lines 'ID|text' without a header" if is_piped else ""
    )
    twice = next((name for name in header if header.count(name) > 1 and name), None)
    if twice:
        raise UserError(f"{where}: found the column {twice!r} twice, expected one")
    paths = {*FIELDS["audio"], columns.get("audio")}
    times = {name for field in _TIMES for name in FIELDS[field]} | {columns.get(field, field) for field in _TIMES}
    parts = 0
    for where, fields in rows:
        try:
            if len(fields) != len(header):
                raise UserError(f"{where}: found {len(fields)} fields, expected {len(header)} as in the header")
            row: dict = {
                name: value.strip() if name in paths else " ".join(value.split())
                for name, value in zip(header, fields, strict=True)
            }
            texts = set(FIELDS["text"]) | {columns.get("text", "text")}
            row = {name: value if value or name in texts else None for name, value in row.items()}
            durations = [row[name] for name in FIELDS["duration"] if row.get(name)]
            row |= {name: _time(name, row[name], where) for name in times if row.get(name) is not None}
            if not any(row.get(name) for name in (columns.get("audio"), *FIELDS["audio"])):
                raise UserError(f"{where}: found no recording, expected a file name")
            utterance = parse_row(row, where, named=False, columns=columns)
            utterance = utterance._replace(audio=find_recording(path.parent, utterance.audio))
            if durations and not any(row.get(name) is not None for name in (*FIELDS["start"], "end")):
                utterance = _whole_or_part(utterance, durations[0])
                parts += utterance.end is not None
            yield utterance
        except UserError as error:
            problem(error)
    if parts:
        log.warning("%s: duration is not the recording's in %d rows: it is read as a part from the start", path, parts)


def check_columns(where: str, header: Sequence[str], columns: Mapping[str, str], hint: str = "") -> None:
    """Raise UserError unless some columns hold a recording, a text and all of `columns`."""
    for field in ("audio", "text"):
        if field not in columns and not set(header) & set(FIELDS[field]):
            expected = ", ".join(FIELDS[field])
            raise UserError(f"{where}: found columns {list(header)}, expected one of {expected} for the {field}{hint}")
    for field, name in columns.items():
        if name not in header:
            found = f"columns {list(header)} in {where}"
            raise UserError(f"--columns {field}={name}: found {found}, expected {name!r} among them")


def parse_columns(text: str) -> dict[str, str]:
    """Return {field: column} of "field=column,…". Raises UserError for a field that rows do not have."""
    columns = {}
    for pair in filter(str.strip, text.split(",")):
        field, _, column = (part.strip() for part in pair.partition("="))
        if field not in FIELDS or not column:
            raise UserError(
                f"--columns: found {pair.strip()!r}, expected FIELD=COLUMN with a field of {', '.join(FIELDS)}"
            )
        columns[field] = column.lower()
    return columns


def table_of(path: Path) -> Path:
    """Return a CSV or TSV file, or the only one of a folder, or its metadata.jsonl. Raises UserError if it has none."""
    if not path.is_dir():
        return path
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLES)
    if not tables and (path / "metadata.jsonl").is_file():
        return path / "metadata.jsonl"
    if len(tables) != 1:
        for arrow in [] if tables else sorted(path.glob("*.arrow")):
            kind_of(arrow)  # raises an error that says what to do
        below = [f"{p.parent.name}/{p.name}" for p in sorted(path.glob("*/*")) if p.suffix.lower() in _LISTS]
        found = [p.name for p in tables] or below
        names = ", ".join(found[:8]) + (", …" if len(found) > 8 else "") if found else "none"
        raise UserError(f"{path}: found {len(tables)} CSV or TSV files ({names}), expected one; name the file itself")
    return tables[0]


def is_table(path: Path) -> bool:
    """Return True for a CSV or TSV file: by its ending, or where its ending does not say it, if it is no JSON."""
    if path.suffix.lower() in (*TABLES, *_JSON):
        return path.suffix.lower() in TABLES
    return not next(read_lines(path, "a CSV with a header line"), ("", ""))[1].lstrip().startswith(("{", "["))


def find_recording(folder: Path, name: str) -> str:
    """Return the path of a recording by its name in a list: beside the list, or in a subfolder such as clips/.

    A name without the ending of a format is looked up with each ending; accents that are composed otherwise in the
    name of the file (NFC, NFD) and the backslashes of Windows are no difference.
    """
    spellings = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")), name.replace("\\", "/")]
    candidates = [os.path.join(folder, sub, each) for each in dict.fromkeys(spellings) for sub in _CLIPS]
    if not name.lower().endswith(AUDIO_ENDINGS):
        candidates += [path + ending for path in candidates for ending in AUDIO_ENDINGS]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _whole_or_part(utterance: Utterance, duration: str) -> Utterance:
    """Return a row that has only a duration: without an end if that is the recording's, to the digits written."""
    if is_reference(utterance.audio):
        return utterance
    digit = 10.0 ** -len(duration.partition(".")[2])
    with contextlib.suppress(UserError):  # `measured` names a recording that cannot be read
        seconds = probe(utterance.audio).seconds
        if abs(seconds - float(duration)) < max(digit, _PADDING):
            return utterance._replace(end=None, seconds=seconds)
        return utterance
    return utterance._replace(end=None, seconds=math.nan)


def _read_table(path: Path) -> tuple[tuple[str, list[str]], Iterator[tuple[str, list[str]]]]:
    """Return ((FILE:LINE, columns), an iterator over (FILE:LINE, fields) of the rows)."""
    _, header = next(read_lines(path, "a CSV with a header line"), ("", ""))
    if not header:
        raise UserError(f"{path}: found an empty file, expected a CSV with a header line")
    separator = next((s for s in "\t|;" if s in header), ",")
    rows = _split(path, separator, quoted=separator in ",;", spaced=f"{separator} " in header)
    if separator in "\t|":  # Common Voice's TSV has bare quotes; quotes are only read where the rows ask for it
        rows = list(rows)
        names_are_quoted = all(re.fullmatch(r'"[^"]*"', name.strip()) for name in rows[0][1])
        if names_are_quoted or any(len(fields) != len(rows[0][1]) for _, fields in rows):
            with contextlib.suppress(UserError):
                quoted = list(_split(path, separator, quoted=True))
                if all(len(fields) == len(quoted[0][1]) for _, fields in quoted):
                    rows = quoted
        rows = iter(rows)
    return next(rows), rows


def _split(path: Path, separator: str, *, quoted: bool, spaced: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield (FILE:LINE where it begins, fields) of each row; with quotes, a row may have several lines.

    With `spaced`, a quote after a separator and spaces begins a field in quotes, too.
    """
    lines = (line + "\n" for _, line in read_lines(path, "a CSV with a header line", blank=True))
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True, skipinitialspace=spaced)
    csv.field_size_limit(_MAX_FIELD)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}:{begin}: found a line that is not CSV ({error}), expected rows of CSV") from error
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield f"{path}:{begin}", fields


def _time(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e7:
        raise UserError(f"{where}: found {name} = {text!r}, expected seconds such as 1.25")
    return value
