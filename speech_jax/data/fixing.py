"""Repair lists of recordings: `python -m speech_jax.prepare fix LIST… --out DIR`.

For any list that can be read it does what Kaldi's fix_data_dir.sh and validate_data_dir.sh do for theirs: it sorts the
rows, leaves out those that cannot be learned from, and says which and why.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from speech_jax.audio.io import CLIP_SECONDS, decode, is_reference, probe
from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic, write_file
from speech_jax.data.manifest import Problem, content_of, kind_of, manifest_rows, write_manifest
from speech_jax.data.rows import unread
from speech_jax.data.sources.folder import is_table, parse_columns, table_of, table_rows
from speech_jax.data.sources.kaldi import kaldi_rows
from speech_jax.data.sources.lhotse import lhotse_rows
from speech_jax.data.sources.ljspeech import is_ljspeech, ljspeech_rows
from speech_jax.data.utterances import Utterance, real_path
from speech_jax.text.normalize import normalize

REASONS = {
    "not_read": "rows that cannot be read",
    "unreadable": "recordings that are missing or cannot be read",
    "no_sound": "recordings or parts of length 0",
    "outside": "parts that begin or end after their recording",
    "other_rate": "recordings at another sample rate than --sample-rate",
    "empty_text": "texts that are empty or normalize to nothing",
    "too_fast": "texts of more letters per second than --max-letters",
    "repeated_id": "ids that an earlier row has",
    "repeated_recording": "recordings, or copies of them, that an earlier row has",
    "overlap": "parts that overlap with an earlier one of the recording by more than --max-overlap",
}
"""Why a row is left out, in the order in which it is checked."""
_LONGEST = 1e6  # seconds of a recording that is decoded at most
_SAME = 1e-3  # seconds by which an end that was rounded is the recording's
_SHOWN = 20  # rows of each reason that are printed; the files have all


@dataclass(frozen=True)
class Options:
    """Options of `prepare fix`."""

    lists: tyro.conf.Positional[tuple[Path, ...]]
    """Manifests, or other lists that can be read as such: of NeMo, Hugging Face or lhotse, CSV and TSV files, LJSpeech
    folders or their metadata.csv, Kaldi directories. They are not changed."""
    out: Path
    """Folder to write to: NAME.jsonl, a manifest, and the reports NAME.fix.txt and NAME.fix.json of each list."""
    max_letters: Annotated[float, Range(0, 1e6)] = 30.0
    """Most letters per second of a text; more cannot be spoken. 0 allows any number."""
    max_overlap: Annotated[float, Range(0, 1e7)] = 0.1
    """Longest time in seconds by which two parts of a recording may overlap; 1e7 allows any."""
    sample_rate: Annotated[int, Range(0, 1_000_000)] = 0
    """Leave out recordings at another sample rate, in Hz. 0 keeps them, as they are resampled; the report counts them
    by rate."""
    columns: str = ""
    """For CSV files and LJSpeech folders, as `--columns` of `prepare folder` and `prepare ljspeech`."""
    threads: Annotated[int, Range(1, 1024)] = 2
    """Threads that decode recordings."""


class File(NamedTuple):
    """A recording that was decoded to its end.

    Attributes:
        seconds: its length; NaN if it cannot be read.
        rate: samples per second.
        problem: why it cannot be read, or "".
        findings: what is wrong with it although it can be read.
    """

    seconds: float
    rate: int = 0
    problem: str = ""
    findings: tuple[str, ...] = ()


class Fixed(NamedTuple):
    """A list after its repair.

    Attributes:
        rows: what is left, sorted by id.
        total: rows of the list, with those that cannot be read.
        unsorted: rows whose id is before that of the row before them.
        clipped: ids of parts that ended up to CLIP_SECONDS after their recording and now end with it.
        removed: reason -> (id or "", what was found) of each row that was left out.
        rates: sample rate -> number of recordings.
        findings: recording and what is wrong with it although it was kept.
        unread: the fields of the list that nothing reads, as a text.
        shared: rows that were kept although another list of the call has their recording, and which.
    """

    rows: list[Utterance]
    total: int
    unsorted: int
    clipped: list[str]
    removed: dict[str, list[tuple[str, str]]]
    rates: dict[int, int]
    findings: list[str]
    unread: str = ""
    shared: tuple[str, ...] = ()


def fix_all(options: Options) -> list[Path]:
    """Repair lists; return the manifests that were written.

    Raises:
        UserError: A list cannot be read at all, nothing is left of it, or a file of another origin would be replaced.
    """
    if not options.lists:
        raise UserError("prepare fix: found no list, expected manifests or folders of recordings with their texts")
    names = [_name(path) for path in options.lists]
    for path, name in zip(options.lists, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{path}: found two lists that would be written as {name}.jsonl, expected one per call")
        manifest = options.out / f"{name}.jsonl"
        if manifest.resolve() == path.resolve():
            raise UserError(f"--out: found {options.out}, where {path} would be replaced; expected another folder")
        if manifest.exists() and not manifest.with_suffix(".fix.json").exists():
            raise UserError(f"{manifest}: found a file that `prepare fix` did not write, expected another --out")
    written = []
    earlier: dict[object, list[Utterance]] = {}  # the rows of the lists before by their recordings
    for path, name in zip(options.lists, names, strict=True):
        removed: dict[str, list[tuple[str, str]]] = {reason: [] for reason in REASONS}
        not_read = removed["not_read"]
        fields: set[str] = set()
        rows = read_any(path, lambda error, rows=not_read: rows.append(("", str(error))), options.columns, fields)
        fixed = fix(rows, removed, options)._replace(unread=unread(fields))
        if len(names) > 1:
            fixed = fixed._replace(shared=_shared(fixed.rows, earlier))
        text = report_text(path, fixed)
        manifest = options.out / f"{name}.jsonl"
        whole = report_text(path, fixed, shown=None)
        write_file(manifest.with_suffix(".fix.txt"), whole + "\n")
        with open_atomic(manifest.with_suffix(".fix.json")) as file:
            json.dump(report_json(path, fixed), file, indent=1, ensure_ascii=False)
        if not fixed.rows:
            print(text)
            raise UserError(f"{path}: nothing is left of {fixed.total} rows, see {manifest.with_suffix('.fix.txt')}")
        write_manifest(manifest, fixed.rows)
        print(f"{text}\n{manifest}")
        written.append(manifest)
    return written


def read_any(path: Path, problem: Problem, columns: str, fields: set[str]) -> list[Utterance]:
    """Return the rows of a list or a folder of any kind; `problem` is handed the errors of wrong ones.

    Args:
        path: the list or the folder.
        problem: called with each error.
        columns: "field=column,…" for a CSV file, "column,…" for LJSpeech's layout.
        fields: is filled with the names of the list's fields.
    """
    if path.is_dir() and (path / "wav.scp").exists():
        return kaldi_rows(path, problem)
    listed = path / "metadata.csv" if (path / "metadata.csv").is_file() else table_of(path)
    if "=" not in columns and (columns or is_ljspeech(listed)):
        names = tuple(name.strip() for name in columns.split(",") if name.strip())
        return list(ljspeech_rows(listed, problem, columns=names))
    if is_table(listed):
        return list(table_rows(listed, problem, fields, parse_columns(columns)))
    if columns:
        raise UserError(f"--columns: found {columns!r} for {listed}, expected it for CSV files and LJSpeech folders")
    kind = kind_of(listed)
    if kind == "lhotse":
        return list(lhotse_rows(listed, problem, fields))
    return list(manifest_rows(listed, kind, problem, fields))


def fix(rows: Sequence[Utterance], removed: dict[str, list[tuple[str, str]]], options: Options) -> Fixed:
    """Sort the rows of a list, and leave out those that cannot be learned from.

    Args:
        rows: the list.
        removed: reason -> (id, what was found), to which rows are added.
        options: what is left out.
    """
    total = len(rows) + len(removed["not_read"])
    unsorted = sum(b.id.encode() < a.id.encode() for a, b in zip(rows, rows[1:], strict=False))
    audio = sorted({u.audio for u in rows if not is_reference(u.audio)})
    with ThreadPoolExecutor(options.threads) as pool:
        files = dict(zip(audio, pool.map(_decode, audio), strict=True))
    clipped: list[str] = []
    rows = _keep(rows, "unreadable", lambda u: files[u.audio].problem if u.audio in files else "", removed)
    rows = _keep([_measured(u, files, clipped) for u in rows], "no_sound", _no_sound, removed)
    rows = _keep(rows, "outside", lambda u: _outside(u, files), removed)
    rows = _keep(rows, "other_rate", lambda u: _other_rate(u, files, options.sample_rate), removed)
    rows = _keep(rows, "empty_text", _empty_text, removed)
    rows = _keep(rows, "too_fast", lambda u: _too_fast(u, options.max_letters), removed)
    rows = _keep(rows, "repeated_id", _first_of(lambda u: u.id), removed)
    copies = _copies(files)
    rows = _keep(
        rows, "repeated_recording", _first_of(lambda u: (copies.get(u.audio, u.audio), u.start, u.end)), removed
    )
    rows = _without_overlaps(rows, options.max_overlap, copies, removed)
    rows = sorted(rows, key=lambda u: u.id.encode())
    used = {u.audio for u in rows} & files.keys()
    rates = collections.Counter(files[name].rate for name in used)
    findings = [f"{name}: {text}" for name in sorted(used) for text in files[name].findings]
    kept = {u.id for u in rows}
    return Fixed(rows, total, unsorted, [name for name in clipped if name in kept], removed, dict(rates), findings)


def report_text(path: Path, fixed: Fixed, *, shown: int | None = _SHOWN) -> str:
    """Return the report of a list as text, with at most `shown` rows of each reason, or all."""
    lines = [f"{path}: {len(fixed.rows)} of {fixed.total} rows are kept"]
    lines += [f"  {len(fixed.removed[reason]):6} {words}" for reason, words in REASONS.items() if fixed.removed[reason]]
    if fixed.unsorted:
        lines.append(f"  {fixed.unsorted:6} rows were not in the order of their ids: sorted")
    if fixed.clipped:
        lines.append(f"  {len(fixed.clipped):6} parts ended up to {CLIP_SECONDS:g} s after their recording: clipped")
    if len(fixed.rates) > 1:
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(fixed.rates.items()))
        lines.append(f"  recordings of several sample rates: {rates}")
    if fixed.unread:
        lines.append(f"  {fixed.unread}")
    if fixed.shared:
        lines.append(f"  {len(fixed.shared):6} rows are kept whose recording is in another of these lists, too")
    for kept in (fixed.findings, fixed.shared):
        lines += [f"  kept: {text}" for text in kept[:shown]]
        if shown is not None and len(kept) > shown:
            lines.append(f"  kept: {len(kept) - shown} more of these")
    for reason, rows in fixed.removed.items():
        lines += [f"left out ({reason}): {found}" for _, found in rows[:shown]]
        if shown is not None and len(rows) > shown:
            lines.append(f"left out ({reason}): {len(rows) - shown} more")
    return "\n".join(lines)


def report_json(path: Path, fixed: Fixed) -> dict:
    """Return the report of a list as JSON."""
    return {
        "list": str(path), "rows": fixed.total, "kept": len(fixed.rows), "unsorted": fixed.unsorted,
        "clipped": fixed.clipped, "rates": {str(rate): count for rate, count in sorted(fixed.rates.items())},
        "counts": {reason: len(rows) for reason, rows in fixed.removed.items()},
        "removed": {reason: [{"id": name, "found": found} for name, found in rows]
                    for reason, rows in fixed.removed.items() if rows},
        "findings": fixed.findings, "unread": fixed.unread, "shared": list(fixed.shared),
    }  # fmt: skip


def _name(path: Path) -> str:
    """Return the name of a list's result: of its file without endings, or of its folder."""
    path = path.resolve() if not path.name or path.is_dir() else path
    return path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _keep(
    rows: Iterable[Utterance], reason: str, fault: Callable[[Utterance], str], removed: dict[str, list[tuple[str, str]]]
) -> list[Utterance]:
    """Return the rows without a fault, adding the others to `removed`."""
    kept = []
    for row in rows:
        found = fault(row)
        if found:
            removed[reason].append((row.id, f"{row.where}: {row.id}: {found}"))
        else:
            kept.append(row)
    return kept


def _first_of(key: Callable[[Utterance], object]) -> Callable[[Utterance], str]:
    """Return a function that finds a fault in every row but the first of the same key."""
    seen: dict[object, Utterance] = {}

    def fault(row: Utterance) -> str:
        first = seen.setdefault(key(row), row)
        return "" if first is row else f"the same as {first.id} ({first.where})"

    return fault


def _decode(audio: str) -> File:
    try:
        recording = decode(audio, probe(audio).rate, max_seconds=_LONGEST)
    except UserError as error:
        return File(math.nan, problem=str(error))
    texts = tuple(finding.text for finding in recording.findings)
    return File(len(recording.samples) / recording.rate, recording.rate, findings=texts)


def _measured(row: Utterance, files: dict[str, File], clipped: list[str]) -> Utterance:
    """Return a row with its measured length; an end just after the recording is moved to it."""
    if row.audio not in files:  # a pipe or a record of a shard
        return row
    whole = files[row.audio].seconds
    if row.end is not None and whole - _SAME <= row.end <= whole + CLIP_SECONDS and row.start < whole:
        if row.end > whole + _SAME:
            clipped.append(row.id)
        row = row._replace(end=None)
    return row._replace(seconds=round((whole if row.end is None else row.end) - row.start, 6))


def _no_sound(row: Utterance) -> str:
    return f"{max(row.seconds, 0.0):g} s from {row.start:g} s" if row.start == 0 and row.seconds <= 0 else ""


def _outside(row: Utterance, files: dict[str, File]) -> str:
    if row.audio not in files or (row.seconds > 0 and (row.end or 0) <= files[row.audio].seconds):
        return ""
    end = "" if row.end is None else f" to {row.end:g}"
    return f"the part from {row.start:g}{end} s of a recording of {files[row.audio].seconds:.3f} s"


def _other_rate(row: Utterance, files: dict[str, File], rate: int) -> str:
    if not rate or row.audio not in files or files[row.audio].rate == rate:
        return ""
    return f"{files[row.audio].rate} Hz, expected {rate} Hz"


def _empty_text(row: Utterance) -> str:
    text = row.text
    try:
        text = normalize(text, row.language.partition("-")[0] or "en")
    except UserError:  # a language without rules of its own
        pass
    return "" if any(character.isalnum() for character in text) else f"the text {row.text!r}"


def _too_fast(row: Utterance, most: float) -> str:
    letters = sum(character.isalnum() for character in row.text)
    if not most or math.isnan(row.seconds) or letters <= most * row.seconds:
        return ""
    return f"{letters} letters in {row.seconds:.2f} s"


def _copies(files: dict[str, File]) -> dict[str, str]:
    """Return for each recording the first one of the same content. Only files of one size are read."""
    sizes: dict[int, list[str]] = {}
    for audio, file in files.items():
        if not file.problem:
            sizes.setdefault(os.path.getsize(audio), []).append(audio)
    first: dict[str, str] = {}
    for same in sizes.values():
        contents: dict[str, str] = {}
        for audio in same:
            real = real_path(audio)
            if len(same) > 1:
                with open(audio, "rb") as file:
                    real = contents.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), real)
            first[audio] = real
    return first


def _shared(rows: Iterable[Utterance], earlier: dict[object, list[Utterance]]) -> tuple[str, ...]:
    """Return a line for each row that shares sound with a row of an earlier list, and add the rows to `earlier`."""
    keys = [(content_of(row.audio), row) for row in rows]
    shared = []
    for key, row in keys:
        stop = row.end or math.inf
        other = next((o for o in earlier.get(key, ()) if o.start < stop and row.start < (o.end or math.inf)), None)
        if other is not None:
            shared.append(f"{row.where}: {row.id}: the recording of {other.id} ({other.where})")
    for key, row in keys:
        earlier.setdefault(key, []).append(row)
    return tuple(shared)


def _without_overlaps(
    rows: Sequence[Utterance], most: float, copies: dict[str, str], removed: dict[str, list[tuple[str, str]]]
) -> list[Utterance]:
    """Return the rows without parts that overlap with an earlier part of a recording by more than `most` seconds."""
    parts: dict[str, list[Utterance]] = {}
    overlaps: dict[str, str] = {}
    for row in sorted(rows, key=lambda u: (u.start, u.end or math.inf)):
        stop = row.start + row.seconds
        name = copies.get(row.audio, row.audio)
        kept = parts[name] = [other for other in parts.get(name, ()) if other.start + other.seconds > row.start]
        for other in kept:
            shared = min(stop, other.start + other.seconds) - max(row.start, other.start)
            if shared > most:
                overlaps[row.id] = f"{shared:.2f} s of it are in {other.id} ({other.where})"
                break
        else:
            kept.append(row)
    return _keep(rows, "overlap", lambda u: overlaps.get(u.id, ""), removed)
