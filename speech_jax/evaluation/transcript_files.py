"""Transcript files of other systems: JSON rows, Whisper's JSON, CSV and TSV, Kaldi's lines, sclite's trn, ctm and stm.

A format is told by the file's name, or by its lines if they fit one alone; a field by its name, never by its place.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from speech_jax.core.errors import UserError
from speech_jax.data.rows import FIELDS, name_of

Format = Literal["json", "csv", "tsv", "kaldi", "trn", "ctm", "stm"]

IDS = (*FIELDS["id"], "utt_id", "utterance_id", "uttid", "utt", "segment_id", "sample_id")
AUDIO = (*FIELDS["audio"], "audio_path", "wav_filename", "recording_id")
TEXTS = FIELDS["text"]  # a transcript, unless another field is one by its name
_HYPOTHESES = ("hypothesis", "hyp", "hypo", "prediction", "predicted", "predicted_text", "pred", "prediction_text")
_NEMO = "pred_text"  # also pred_text_MODEL
_NEMO_ROW = {"audio_filepath", "duration", "text"}
_DESCRIPTIONS = {
    "kaldi": "lines 'id words …'",
    "trn": "sclite's trn, lines 'words … (id)'",
    "ctm": "ctm, a word with its time per line",
    "stm": "stm, a segment per line",
}
_LINES: tuple[Format, ...] = ("trn", "ctm", "stm", "kaldi")  # Kaldi's, which fit nearly all lines, are the last
_NUMBER = r"\d+\.\d*|\.\d+"
_PATTERNS = {  # whole lines; with the fields id, text, start
    "trn": re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()]*[^()\s])\)"),
    "ctm": re.compile(rf"(?P<id>\S+)\s+(?P<channel>\S+)\s+(?P<start>{_NUMBER}|\d+)\s+(?:{_NUMBER}|\d+)\s+(?P<text>\S+)"
                      r"(?:\s+\S+)*"),
    "stm": re.compile(rf"(?P<id>\S+)\s+(?P<channel>\S+)\s+\S+\s+(?P<start>{_NUMBER}|\d+)\s+(?:{_NUMBER}|\d+)"
                      r"(?:\s+<[^>]*>)?(?:\s+(?P<text>.*))?"),
    "kaldi": re.compile(r"(?P<id>\S+)(?:\s+(?P<text>.*))?"),
}  # fmt: skip
# Alternatives, and a segment that is not scored.
_REFERENCE_MARK = re.compile(r"\{[^{}]*/[^{}]*\}|ignore_time_segment_in_scoring", re.IGNORECASE)


class Row(NamedTuple):
    """A transcript as a file has it.

    Attributes:
        names: the utterance's id and its recording's path, whichever the file has.
        text: the transcript.
        where: FILE:LINE, for messages.
        set: name of the utterance's set, or "".
        start: seconds into the recording at which the utterance begins, or None.
    """

    names: tuple[str, ...]
    text: str
    where: str
    set: str = ""
    start: float | None = None


class TranscriptFile(NamedTuple):
    """A transcript file.

    Attributes:
        rows: its transcripts.
        description: its format for reports, such as "JSON rows, field 'pred_text'".
        lists_words: an utterance without words has no line in it, which a ctm cannot have.
    """

    rows: list[Row]
    description: str
    lists_words: bool = False


def read_transcripts(
    path: str, known: Callable[[str], bool], *, format: Format | Literal[""] = "", field: str = ""
) -> TranscriptFile:
    """Read a transcript file, or a folder with a file for each recording.

    Args:
        path: the file or folder.
        known: returns True for the name of an utterance that is looked for.
        format: the file's format; empty takes that of its name or of its lines.
        field: name of the field or column with the transcripts; empty takes the one whose name says so.

    Raises:
        UserError: the file cannot be read, or its format or its fields are ambiguous.
    """
    if Path(path).is_dir():
        return _read_folder(Path(path), field)
    text = _read_text(path)
    format = format or _format_of_name(path)
    if format == "json" or (not format and text.lstrip()[:1] in ("{", "[")):
        return _read_json(text, path, field)
    lines = [(f"{path}:{number}", line) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: found nothing, expected transcripts")
    if format in ("csv", "tsv") or (not format and _delimiter(lines[0][1], "") is not None):
        return _read_table(lines, path, known, format, field)
    if field:
        raise UserError(f"--hypotheses-field: found {field!r} for {path}, which has no fields, expected JSON or CSV")
    format = format or _format_of_lines(lines, path, known)
    return TranscriptFile(_parse_lines(lines, format, known), _DESCRIPTIONS[format], lists_words=format == "ctm")


def _read_text(path: str) -> str:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected transcripts") from error
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # of Windows' PowerShell
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")  # Windows programs write a byte order mark
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{number}: found bytes that are not UTF-8, expected text") from error
    before, nul, _ = text.partition("\0")
    if nul:
        number = before.count("\n") + 1
        raise UserError(f"{path}:{number}: found a zero byte, as in UTF-16 without its mark, expected text in UTF-8")
    return text


def _format_of_name(path: str) -> Format | Literal[""]:
    ending = Path(path).suffix.lower().removeprefix(".").replace("jsonl", "json")
    return next((format for format in get_args(Format) if format == ending), "")


def _format_of_lines(lines: Sequence[tuple[str, str]], path: str, known: Callable[[str], bool]) -> Format:
    """Return the one format that all lines fit and in which some name is known. Raise UserError for none or several."""
    fitting: list[Format] = []
    for format in _LINES:
        pattern = _PATTERNS[format]
        matches = [pattern.fullmatch(line.strip()) for _, line in lines if not line.startswith(";;")]
        names = Counter(_name(match[0], match, format, known) for match in matches if match)
        if not all(matches) or not any(map(known, names)):
            continue
        # Times have a decimal point, or else a transcript of figures would fit; an id stands once in Kaldi's lines.
        if format in ("ctm", "stm") and not all("." in match["start"] for match in matches if match):
            continue
        if format == "kaldi" and fitting and max(names.values()) > 1:
            continue
        fitting.append(format)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        both = " and for ".join(f"{format} ({_DESCRIPTIONS[format]})" for format in fitting)
        raise UserError(f"{path}: found lines that can be taken for {both}, expected --hypotheses-format to say which")
    raise UserError(
        f"{path}: found no id of the manifests, the first line is {lines[0][1].strip()[:60]!r}; expected lines "
        "'id words …', 'words … (id)', JSON, CSV, ctm or stm (--hypotheses-format)"
    )


def _name(line: str, match: re.Match, format: str, known: Callable[[str], bool]) -> str:
    """Return the id of a line. One before a tab may have spaces."""
    before_tab = line.partition("\t")[0]
    return before_tab if format == "kaldi" and known(before_tab) else match["id"]


def _parse_lines(lines: Sequence[tuple[str, str]], format: Format, known: Callable[[str], bool]) -> list[Row]:
    rows: list[Row] = []
    for where, line in lines:
        line = line.strip()
        match = _PATTERNS[format].fullmatch(line)
        if line.startswith(";;"):
            continue
        if match is None:
            raise UserError(f"{where}: found {line[:60]!r}, expected {_DESCRIPTIONS[format]}")
        name, text = _name(line, match, format, known), match["text"] or ""
        if format in ("trn", "stm") and (mark := _REFERENCE_MARK.search(text)):
            raise UserError(f"{where}: found {mark[0][:40]!r}, a mark of references, expected a transcript")
        if format == "kaldi":
            text = line[len(name) :].strip()
        start = float(match["start"]) if format in ("ctm", "stm") else None
        rows.append(Row((name,), text, where, start=start))
    if format not in ("ctm", "stm"):
        return rows
    pieces: dict[str, list[Row]] = {}
    for row in rows:
        pieces.setdefault(row.names[0], []).append(row)
    if format == "stm" and not any(map(known, pieces)):
        return rows  # a segment of a recording each
    return [_joined(each) for each in pieces.values()]


def _joined(rows: Sequence[Row]) -> Row:
    """Return the words or segments of one utterance as a transcript, in order of their times."""
    text = " ".join(row.text for row in sorted(rows, key=lambda row: row.start or 0.0))
    return rows[0]._replace(text=" ".join(text.split()), start=None)


# ---- Tables


def _delimiter(header: str, format: str) -> str | None:
    """Return the delimiter of a header with names of fields that are known; None if it has none."""
    for delimiter in ("\t",) if format == "tsv" else (",", ";", "\t"):
        cells = {cell.strip().strip('"') for cell in header.split(delimiter)}
        if cells & {*IDS, *AUDIO} and cells & {*TEXTS, *_HYPOTHESES, _NEMO}:
            return delimiter
    return None


def _read_table(
    lines: Sequence[tuple[str, str]], path: str, known: Callable[[str], bool], format: str, field: str
) -> TranscriptFile:
    """Read CSV or TSV with a header, or without one if its first cells are ids of utterances.

    A delimiter within the text needs no quotes if the text is the last column.
    """
    delimiter = _delimiter(lines[0][1], format)
    header = delimiter is not None or bool(field)
    delimiter = delimiter or ("\t" if format == "tsv" else ";" if ";" in lines[0][1] else ",")
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # Common Voice's TSV has single quotes
    try:
        reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter, quoting=quoting, strict=True)
        cells = [(lines[min(reader.line_num, len(lines)) - 1][0], row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: found no CSV ({error}), expected a table of transcripts") from error
    columns = [cell.strip() for cell in cells[0][1]] if header else ["id", "text"]
    if not header and not known(cells[0][1][0].strip()):
        raise UserError(
            f"{path}: found a table that begins with {lines[0][1][:60]!r}, expected a header with a name for the "
            f"utterances ({', '.join(IDS[:2] + AUDIO[:2])} …) and for the transcripts ({', '.join(TEXTS[:2])} …)"
        )
    widths = {len(row) for _, row in cells}
    if not header and max(widths) > 2 and (len(widths) == 1 or delimiter == "\t"):  # else commas of the texts
        raise UserError(
            f"{cells[0][0]}: found {max(widths)} columns without a header, expected a first line that names them, "
            "such as id,reference,hypothesis"
        )
    rows = []
    for where, row in cells[1:] if header else cells:
        extra = len(row) - len(columns)
        if extra > 0 and columns[-1] in (field, *TEXTS, *_HYPOTHESES, _NEMO):
            row = [*row[: len(columns) - 1], delimiter.join(row[len(columns) - 1 :])]
        elif extra:
            raise UserError(f"{where}: found {len(row)} cells, expected {len(columns)}: {', '.join(columns)}")
        rows.append((where, dict(zip(columns, row, strict=True))))
    name, unread = _field_of(rows, path, field)
    kind = "TSV" if delimiter == "\t" else "CSV"
    found = [_row(where, row, name) for where, row in rows]
    return TranscriptFile(found, f"{kind}, column {name!r}{unread}")


# ---- JSON


def _read_json(text: str, path: str, field: str) -> TranscriptFile:
    """Read JSON lines, a list of rows, an object {id: text}, or the object of one recording, as Whisper writes it."""
    rows = list(_json_rows(text, path))
    bad = next(((where, row) for where, row in rows if not isinstance(row, dict)), None)
    if bad or not rows:
        raise UserError(f"{bad[0] if bad else path}: found no JSON object, expected one with an id and a text")
    if len(rows) == 1:
        ((where, row),) = rows
        if not set(row) & {*IDS, *AUDIO} and _is_whisper(row):
            return TranscriptFile([Row((Path(path).stem,), _whisper_text(row, where, field), where)], "Whisper's JSON")
        if len(row) and not set(row) & {*IDS, *AUDIO} and all(isinstance(value, str) for value in row.values()):
            return TranscriptFile([Row((key,), value, where) for key, value in row.items()], "JSON, a text by id")
    name, unread = _field_of(rows, path, field)
    return TranscriptFile([_row(where, row, name) for where, row in rows], f"JSON rows, field {name!r}{unread}")


def _json_rows(text: str, path: str) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(text)
        if isinstance(value, list):
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(value, 1))
        else:
            yield path, value
        return
    except (ValueError, RecursionError):
        pass
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: found no JSON, expected an object with an id and a text") from error


def _is_whisper(row: dict[str, Any]) -> bool:
    """Return True for what Whisper, its relatives and Hugging Face's pipelines write for one recording."""
    return isinstance(row.get("segments"), list) or ("text" in row and set(row) <= {"text", "chunks", "language"})


def _whisper_text(row: dict[str, Any], where: str, field: str) -> str:
    text = row.get(field or "text")
    if text is None and not field:  # WhisperX has segments only
        segments = row["segments"]
        if all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in segments):
            text = " ".join(each["text"].strip() for each in segments)
    if not isinstance(text, str):
        raise UserError(f"{where}: found no {field or 'text'!r} that is a string, expected a transcript")
    return text


def _read_folder(folder: Path, field: str) -> TranscriptFile:
    """Read a folder with a JSON file of Whisper, or else a text file, for each recording, named as the recording."""
    for ending in (".json", ".txt"):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ending)
        if not files:
            continue
        rows = []
        for file in files:
            text = _read_text(str(file))
            rows += (
                [row._replace(names=(file.stem,)) for row in _read_json(text, str(file), field).rows]
                if ending == ".json"
                else [Row((file.stem,), " ".join(text.split()), str(file))]
            )
        return TranscriptFile(rows, f"{len(files)} files {ending}, a recording each")
    raise UserError(f"{folder}: found neither .json nor .txt files, expected one for each recording")


def _field_of(rows: Sequence[tuple[str, dict[str, Any]]], path: str, field: str) -> tuple[str, str]:
    """Return the name of the field with the transcripts, and a remark about one that is not read.

    Raises:
        UserError: no field, or several, may be it.
    """
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    if field:
        if field not in names:
            raise UserError(f"--hypotheses-field: found {field!r}, expected one of {', '.join(names)} of {path}")
        return field, ""
    plain = [name for name in names if name in TEXTS]
    for candidates in ([n for n in names if n in _HYPOTHESES or re.fullmatch(rf"{_NEMO}(_.*)?", n)], plain):
        differing = [n for n in candidates[1:] if any(row.get(n) != row.get(candidates[0]) for _, row in rows)]
        if differing:
            both = " and ".join(dict.fromkeys([candidates[0], *differing]))
            raise UserError(f"{path}: found transcripts in {both}, expected --hypotheses-field to say which counts")
        if candidates:
            break
    else:
        raise UserError(
            f"{path}: found the fields {', '.join(names)}, expected --hypotheses-field to say which has the transcripts"
        )
    if candidates is plain and _NEMO_ROW <= set(names):
        raise UserError(
            f"{path}: found NeMo's rows without {_NEMO}, in which 'text' is the reference, expected {_NEMO}, or "
            "--hypotheses-field text"
        )
    unread = "" if candidates is plain or not plain else f"; {' and '.join(map(repr, plain))} not read, a reference"
    return candidates[0], unread


def _row(where: str, row: dict[str, Any], field: str) -> Row:
    """Return one row with its id, its recording, or both."""
    audio = [row[name].get("path") if isinstance(row[name], dict) else row[name] for name in AUDIO if name in row]
    values = [*(row[name] for name in IDS if name in row), *audio]
    names = [str(value) for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    if not names:
        raise UserError(f"{where}: found no id and no recording, expected one of {', '.join((*IDS[:2], *AUDIO[:2]))} …")
    if not isinstance(row.get(field), str):
        found = f"{field} = {row[field]!r:.40}" if field in row else f"no {field!r}"
        raise UserError(f"{where}: found {found}, expected a text (an empty one where nothing was recognized)")
    start = next((row[name] for name in FIELDS["start"] if name in row), None)
    try:
        start = None if start in (None, "") else float(start)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: found the start {start!r:.40}, expected seconds") from error
    return Row(tuple(names), row[field], where, row["set"] if isinstance(row.get("set"), str) else "", start)


def stem(name: str) -> str:
    """Return the name of a recording without folders and the ending of its format."""
    return name_of(re.split(r"[/\\]", name)[-1])
