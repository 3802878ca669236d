"""Manifests: the list of recordings in JSON lines that `prepare` writes and training reads.

    {"id": "amy-1", "audio": "wav/amy-1.flac", "text": "good morning", "speaker": "amy", "domain": "a", "seconds": 1.92}

Required: id, audio, text. Optional: start, end (seconds into the recording; end null = to its end), speaker, domain,
seconds (measured if missing), mel (a file of mel frames that belong to the recording, see data/mels.py), language (of
the text, such as "de": `evaluate` normalizes by it). A relative path is relative to the manifest's folder, so a
prepared folder can be moved. Fields that nothing reads are named in the log.

The lists of other programs are read, too; the names of their fields tell which one it is: NeMo's manifests, JSON lines
of a Hugging Face audio folder (data/rows.py), CSV and TSV (sources/folder.py), cuts and supervisions of lhotse
(sources/lhotse.py).
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from speech_jax.audio.io import is_reference, probe
from speech_jax.core.cache import ArrayCache, code_version
from speech_jax.core.columns import CategoryColumn, StringColumn
from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError
from speech_jax.core.files import MAX_LINE, open_atomic, open_decompressed, read_lines, split_lines
from speech_jax.core.log import log
from speech_jax.core.workers import parallel_map
from speech_jax.data.rows import (
    MAX_SECONDS,
    NAMES,
    NOT_TEXT,
    OPTIONAL_TEXTS,
    OTHER_NAMES,
    like_a_time,
    no_constant,
    parse_json,
    parse_row,
    unread,
)
from speech_jax.data.utterances import PathColumn, PlaceColumn, Utterance, Utterances, real_path
from speech_jax.text.texts import Texts

COPIES = 200  # rows whose files are compared at most to find copies of recordings
CACHED_ROWS = 50_000  # the columns of smaller manifests are not cached
PARALLEL_BYTES = 8 << 20  # smaller manifests are parsed by this process alone
_JOB_BYTES = 4 << 20
_FOLDERS_UP = 2  # from a manifest to a folder that holds it and its recordings
_MANY_LINES = re.compile(r"\s*(\[\s*(\{.*)?|\{\s*)$")
_SHOWN = 3  # rows that are left out and named in the log
_EXPECTED = "a manifest (JSON lines)"
_ABSOLUTE = "\0"  # marks the folder of a path that is not relative to the manifest; no text contains this character
_REQUIRED = ("id", "audio", "text")
_OPTIONAL = ("start", "end", "speaker", "domain", "seconds", "mel", "language")
_CODE = ("speech_jax.core.columns", "speech_jax.data.rows", "speech_jax.data.utterances", __name__)
TABLES = (".csv", ".tsv")  # endings of lists that `sources.folder` reads
BINARY_LISTS = {".parquet": "a Parquet file", ".arrow": "an Arrow file"}


def read_manifest(path: str | Path, *, on_error: str = "raise") -> Utterances:
    r"""Read and check a manifest.

    Rows without `seconds` are measured from the recording's header. A large manifest is parsed on all cores, and its
    columns are cached next to it, in .NAME.rows-HASH.npz, under the SHA-256 of the manifest.

    Args:
        path: the manifest, a file of JSON lines; or the list of another program, see the module. A line of the log says
            which.
        on_error: "raise"; "skip": leave out a row whose recording cannot be measured, with a warning; or "keep": keep
            it without `seconds`.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong; the message names file and line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from speech_jax.data.manifest import read_manifest
        >>> path = Path(tempfile.mkdtemp()) / "train.jsonl"
        >>> row = '{"id": "amy-1", "audio": "wav/1.flac", "text": "good morning", "speaker": "amy", "seconds": 1.92}'
        >>> _ = path.write_text(row + "\n")
        >>> utterances = read_manifest(path)
        >>> utterances[0].text, utterances.seconds.tolist(), utterances[0].audio == str(path.parent / "wav/1.flac")
        ('good morning', [1.92], True)
    """
    if not str(path):
        raise UserError("manifest: found '', expected a file")
    path = Path(path)
    kind = kind_of(path)
    if kind == "table":
        from speech_jax.data.sources.folder import read_folder  # which imports this module

        return read_folder(path, on_error=on_error)
    if kind == "lhotse":
        from speech_jax.data.sources.lhotse import read_lhotse  # which imports this module

        return read_lhotse(path, on_error=on_error)
    cache = ArrayCache.beside(path)
    rows = _read_cache(path, cache)
    if rows is None:
        digest = hashlib.sha256()
        rows, other_fields = _read_columns(path, digest, named=kind == "manifest")
        say_kind(path, kind, len(rows), other_fields)
        check_ids(rows)
        if len(rows) >= CACHED_ROWS and not np.isnan(rows.seconds).any():
            cache.save("rows", _cache_key(digest.hexdigest()), rows.arrays(), keep=1)
    rows = rows.replace(texts=Texts(rows.texts.column, cache))
    return measured(_resolved(rows, path, kind), path, on_error)


Problem = Callable[[UserError], None]  # is handed the error of a row; the row is left out if it returns
Kind = Literal["manifest", "nemo", "list", "table", "lhotse", "parquet"]


def kind_of(path: Path) -> Kind:
    """Return the kind of a list of recordings, by its ending or the names of its first row's fields.

    Returns:
        "manifest": ours. "nemo": a manifest of NeMo. "list": JSON lines with other names or without ids, such as those
        of a Hugging Face audio folder. "table": CSV or TSV. "lhotse": cuts or supervisions of lhotse. A file that
        cannot be read or parsed is a "manifest", whose reader names what is wrong.

    Raises:
        UserError: It is a list that cannot be read as it is; the message says what to do.
    """
    if path.is_dir():
        raise UserError(f"{path}: found a directory, expected a manifest, which `prepare` makes of one")
    if path.suffix.lower() in TABLES:
        return "table"
    if path.suffix.lower() in BINARY_LISTS:
        way = "reads it" if path.suffix.lower() == ".parquet" else "reads what datasets' to_parquet writes"
        raise UserError(f"{path}: found {BINARY_LISTS[path.suffix.lower()]}, expected a list; `prepare folder` {way}")
    try:
        line = next(read_lines(path, _EXPECTED), ("", ""))[1]
    except UserError:
        return "manifest"
    if _MANY_LINES.match(line):
        raise UserError(f"{path}: found JSON over several lines or in an array, expected one object per line")
    try:
        row = parse_json(line, "")
    except UserError:
        return "manifest"
    if "sources" in row and "sampling_rate" in row:
        raise UserError(f"{path}: found lhotse's recordings, expected the supervisions or cuts, which have the texts")
    if "supervisions" in row or row.get("type") in ("MixedCut", "PaddingCut") or "recording_id" in row:
        return "lhotse"
    if "audio_filepath" in row:
        return "nemo"
    return "manifest" if "id" in row or not row.keys() & {"audio", *OTHER_NAMES} else "list"


def raise_problem(error: UserError) -> NoReturn:
    """Stop at the first row that is wrong."""
    raise error


class LeftOut(list[str]):
    """Problems of rows that are left out; as text, for the log, the first few and their number."""

    def __str__(self) -> str:
        if len(self) == 1:
            return self[0]
        more = f"; and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
        return f"{len(self)} rows: {'; '.join(self[:_SHOWN])}{more}"


def say_left_out(problems: LeftOut) -> None:
    """Log the rows that are left out, if there are any."""
    if problems:
        log.warning("left out: %s", problems)


def say_kind(path: Path, kind: Kind, rows: int, fields: Iterable[str]) -> None:
    """Log the kind of a list that is not ours, and the fields that nothing reads."""
    name = {
        "manifest": "a manifest", "nemo": "a manifest of NeMo", "list": "JSON lines of another program",
        "table": "a table with a header line", "lhotse": "lhotse's supervisions", "parquet": "a Parquet set",
    }[kind]  # fmt: skip
    rest = unread(fields)
    if rest or kind != "manifest":
        log.warning("%s: read as %s, %d rows%s", path, name, rows, rest and f"; {rest}")


def _read_cache(path: Path, cache: ArrayCache) -> Utterances | None:
    """Return the columns that an earlier call cached for exactly these bytes of the manifest, or None."""
    if not path.is_file() or not cache.has("rows"):
        return None
    try:
        with open(path, "rb") as file:
            arrays = cache.load("rows", _cache_key(hashlib.file_digest(file, "sha256").hexdigest()))
        return None if arrays is None else Utterances.from_arrays(arrays)
    except (OSError, KeyError, ValueError):
        return None


def _cache_key(digest: str) -> str:
    return json.dumps({"code": code_version(*_CODE), "manifest": digest})


def _read_columns(path: Path, digest, *, named: bool) -> tuple[Utterances, set[str]]:
    """Parse a manifest, feeding its bytes to `digest`. Paths stay as written: see `_resolved`.

    Returns:
        (the rows, the names of all fields that are not ours).
    """
    other_fields: set[str] = set()

    def parts(jobs: Iterable[tuple], workers: int) -> Iterator[Utterances]:
        for rows, fields in parallel_map(_parse_part, jobs, workers=workers):
            other_fields.update(fields)
            yield rows

    check_file(path, _EXPECTED)
    try:
        with open_decompressed(path) as file:
            large = os.fstat(file.fileno()).st_size >= PARALLEL_BYTES
            rows = Utterances.concatenate(parts(_jobs(file, path, digest, named), 0 if large else 1))
            return rows, other_fields
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}, expected {_EXPECTED}") from error


def _jobs(file: IO[bytes], path: Path, digest, named: bool) -> Iterator[tuple[bytes, str, int, bool]]:
    """Yield the arguments of `_parse_part`: the file in parts of whole lines."""
    rest, first = b"", 1
    while block := file.read(_JOB_BYTES):
        digest.update(block)
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            if len(rest) > MAX_LINE:
                break  # an error, whatever follows
            continue
        part = rest + block[:cut]
        yield part, str(path), first, named
        first += part.count(b"\n")
        rest = block[cut:]
    if rest:
        yield rest, str(path), first, named


def _parse_part(data: bytes, path: str, first: int, named: bool) -> tuple[Utterances, set[str]]:
    """Parse a part of a manifest that begins at line `first`. Returns (the rows, names of fields that are not ours)."""
    try:
        return _parse_good(data, path, first)
    except Exception:  # the careful parser names the error, or accepts the line after all
        rows, fields = [], set()
        for where, line in split_lines(io.BytesIO(data), path, _EXPECTED, first):
            row = parse_json(line, where)
            fields.update(row)
            rows.append(parse_row(row, where, named=named))
        return _with_raw_paths(rows), fields.difference(NAMES)


def _parse_good(data: bytes, path: str, first: int) -> tuple[Utterances, set[str]]:
    """Parse correct lines with our names, checked column by column. Raises an exception for all others."""
    text = data.decode("utf-8-sig" if first == 1 else "utf-8")
    columns: dict[str, list] = {name: [] for name in _REQUIRED + _OPTIONAL}
    appends = [(name, columns[name].append) for name in _OPTIONAL]
    add_id, add_audio, add_text = (columns[name].append for name in _REQUIRED)
    numbers: list[int] = []
    ours, other_fields = frozenset(NAMES), set()
    decode = json.JSONDecoder(parse_constant=no_constant).decode
    for number, line in enumerate(text.split("\n"), first):
        if not line or line.isspace():
            continue
        row = decode(line)
        if not ours.issuperset(row):
            other_fields.update(row)
        add_id(row["id"])
        add_audio(row["audio"])
        add_text(row["text"])
        for name, append in appends:
            append(row.get(name))
        numbers.append(number)
        if len(line) > MAX_LINE // 4:
            raise ValueError("perhaps too long")
    if not OTHER_NAMES.isdisjoint(other_fields) or any(map(like_a_time, other_fields)):
        raise ValueError("names that mean the same as ours")
    for name in OPTIONAL_TEXTS:
        columns[name] = [value if value is not None else "" for value in columns[name]]
    for name in (*_REQUIRED, *OPTIONAL_TEXTS):
        if set(map(type, columns[name])) - {str} or NOT_TEXT.search("".join(columns[name])):
            raise ValueError(name)
    if not all(columns["id"]) or not all(columns["audio"]):
        raise ValueError("an empty id or audio")
    starts, ends, seconds = (_numbers(columns[name]) for name in ("start", "end", "seconds"))
    starts = np.where(np.isnan(starts), 0.0, starts) + 0.0  # no minus zero
    if (ends <= starts).any():
        raise ValueError("end before start")
    rows = Utterances(
        ids=StringColumn.from_strings(columns["id"]),
        audio=_raw_paths(columns["audio"]),
        starts=starts,
        ends=ends,
        texts=Texts(StringColumn.from_strings(columns["text"])),
        speakers=CategoryColumn.from_strings(columns["speaker"]),
        domains=CategoryColumn.from_strings(columns["domain"]),
        seconds=seconds,
        places=PlaceColumn(
            CategoryColumn.from_strings(itertools.repeat(f"{path}:", len(numbers))), np.array(numbers, np.int64)
        ),
        mels=_raw_paths(columns["mel"], mels=True),
        languages=CategoryColumn.from_strings(columns["language"]),
    )
    return rows, other_fields - ours


def _numbers(values: list) -> np.ndarray:
    """Return times as an array, NaN for None. Raises ValueError for anything that is not a time."""
    if set(map(type, values)) - {int, float, type(None)}:
        raise ValueError("not a number")
    array = np.array([math.nan if value is None else value for value in values], np.float64)
    if not (np.isnan(array) | ((array >= 0) & (array <= MAX_SECONDS))).all():
        raise ValueError("not a time")
    return array


def _raw_paths(paths: Iterable[str], *, mels: bool = False) -> PathColumn:
    """Return paths as written; the folders of those that are not relative to the manifest are marked."""

    def cut(path: str) -> tuple[str, str]:
        at = path.rfind("/") + 1
        absolute = not path if mels else _is_no_path(path)
        return (_ABSOLUTE + path[:at] if absolute else path[:at]), path[at:]

    return PathColumn.from_pairs(map(cut, paths))


def manifest_rows(path: Path, kind: Kind, problem: Problem, fields: set[str]) -> Utterances:
    """Return the rows of JSON lines of a kind, not measured.

    Args:
        path: the list.
        kind: its kind.
        problem: is handed the errors of wrong rows.
        fields: is filled with the names of the fields.
    """
    rows = []
    for where, line in read_lines(path, _EXPECTED):
        try:
            row = parse_json(line, where)
            fields.update(row)
            rows.append(parse_row(row, where, named=kind == "manifest"))
        except UserError as error:
            problem(error)
    return _resolved(_with_raw_paths(rows), path, kind)


def _with_raw_paths(rows: Iterable[Utterance]) -> Utterances:
    """Return rows whose paths are as written in columns as `_resolved` takes them."""
    rows = Utterances.of(rows)
    audio = _raw_paths(row.audio for row in rows)
    return rows.replace(audio=audio, mels=_raw_paths((row.mel for row in rows), mels=True))


def _resolved(rows: Utterances, path: Path, kind: Kind) -> Utterances:
    """Return the rows with resolved paths, and with the manifest's own path in their places."""

    def resolve_folder(folder: str) -> str:
        if folder.startswith(_ABSOLUTE):
            return folder[1:]
        resolved = os.path.join(path.parent, folder)
        if kind == "nemo" and not os.path.isdir(resolved) and os.path.isdir(folder):
            return folder  # NeMo takes them from the current directory
        return resolved

    return rows.replace(
        audio=rows.audio._replace(folders=rows.audio.folders.rename(resolve_folder)),
        mels=rows.mels._replace(folders=rows.mels.folders.rename(resolve_folder)),
        places=rows.places._replace(files=rows.places.files.rename(lambda _: f"{path}:")),
    )


def shared_recording(trained: Iterable[Utterance], held_out: Iterable[Utterance]) -> tuple[Utterance, Utterance] | None:
    """Find a segment of a recording that two sets share, in one file or in a copy of it, see `_content`.

    Returns:
        (utterance of `trained`, utterance of `held_out`), the first of `held_out` that overlaps with one of `trained`,
        else the first that is a copy of one; None if there is none.
    """
    trained, held_out = Utterances.of(trained), Utterances.of(held_out)
    files, other_files = trained.file_hashes, held_out.file_hashes
    by_file: dict[str, list[Utterance]] = {}
    for utterance in trained.take(np.flatnonzero(_is_in(files, other_files))):  # equal hashes: compare one by one
        by_file.setdefault(real_path(utterance.audio), []).append(utterance)
    for other in held_out.take(np.flatnonzero(_is_in(other_files, files))) if by_file else ():
        for one in by_file.get(real_path(other.audio), ()):
            if one.start < (other.end or math.inf) and other.start < (one.end or math.inf):
                return one, other
    return next(((one, other) for one, other in _copies(trained, held_out) if one is not None), None)


def has_recordings(first: Utterances, second: Utterances) -> bool:
    """Return True if `first` has all recordings of `second`: the same segments of files, or copies, see `_content`."""
    rest = second.take(np.flatnonzero(~_is_in(second.segment_hashes(), first.segment_hashes())))
    if not _is_in(rest.content_hashes, first.content_hashes).all():
        return False
    return all(one is not None for one, _ in _copies(first, rest))


def listed_twice(sets: Sequence[Utterances]) -> tuple[Utterance, Utterance] | None:
    """Return two rows of some sets that are one segment of a file, or copies, see `_content`; None if none are."""
    segments = np.concatenate([rows.segment_hashes() for rows in sets])
    contents = np.concatenate([rows.content_hashes for rows in sets])
    for hashes, key in ((segments, lambda row: real_path(row.audio)), (contents, _content)):
        ordered = np.sort(hashes)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(twice):
            continue
        utterances = Utterances.concatenate(sets)
        seen: dict[Any, Utterance] = {}
        for row in np.flatnonzero(_is_in(hashes, _spread(np.unique(twice)))).tolist():
            name = int(hashes[row]), key(utterances[row])
            if name in seen:
                return seen[name], utterances[row]
            seen[name] = utterances[row]
    return None


def _copies(first: Utterances, second: Utterances) -> Iterator[tuple[Utterance | None, Utterance]]:
    """Yield (its copy in `first` or None, row) for rows of `second` whose id and times `first` has.

    More than COPIES rows are not all compared, but COPIES that are spread evenly.
    """
    hashes, others = first.content_hashes, second.content_hashes
    rows = _spread(np.flatnonzero(_is_in(others, hashes)))
    candidates: dict[int, list[int]] = {}
    for row in np.flatnonzero(_is_in(hashes, others[rows])).tolist():
        candidates.setdefault(int(hashes[row]), []).append(row)
    for row in rows.tolist():
        other, content = second[row], _content(second[row])
        same = (first[place] for place in candidates[int(others[row])])
        yield next((one for one in same if _content(one) == content), None), other


def _content(utterance: Utterance) -> tuple:
    """Return what a row has in common with its copies elsewhere: id, text, and the size and beginning of the file.

    A pipe and an example of tfds have no file: they are the same only as the same words.
    """
    return utterance.id, utterance.text, *content_of(utterance.audio)


def content_of(audio: str) -> tuple:
    """Return what a recording has in common with its copies: the size and beginning of its file, and its record."""
    file, _, record = real_path(audio).partition(".array_record#")
    content: Any = file
    try:
        with open(file, "rb") as opened:
            content = os.fstat(opened.fileno()).st_size, hashlib.blake2b(opened.read(1 << 18)).digest()
    except OSError:  # reading the recordings will say so
        pass
    return record, content


def _is_in(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a mask of the hashes that occur in `others`, as `np.isin`, which takes seconds for a million."""
    if len(others) > len(hashes):
        others = others[_is_in(others, hashes)]
    if not len(others):
        return np.zeros(len(hashes), bool)
    others = np.sort(others)
    return others[np.searchsorted(others, hashes).clip(max=len(others) - 1)] == hashes


def _spread(rows: np.ndarray) -> np.ndarray:
    """Return COPIES of some row numbers, or all of fewer."""
    return rows[:: -(-len(rows) // COPIES) or 1]


def measured(utterances: Iterable[Utterance], path: Path, on_error: str) -> Utterances:
    """Fill in missing `seconds` from the recordings' headers.

    Args:
        utterances: the rows of a set.
        path: the set's path, for messages.
        on_error: "raise"; "skip": leave out rows that cannot be measured, with a warning; or "keep": keep them without
            `seconds`, so that whoever reads them counts them.

    Returns:
        The rows.

    Raises:
        UserError: a row cannot be measured; or there are no rows.
    """
    rows = Utterances.of(utterances)
    seconds, kept, problems = rows.seconds.copy(), np.ones(len(rows), bool), LeftOut()
    for row in np.flatnonzero(np.isnan(seconds)).tolist():
        utterance = rows[row]
        try:
            seconds[row] = measure(utterance)
        except UserError as error:
            if on_error == "raise":
                raise UserError(f"{utterance.where}: {error}") from error
            if on_error == "skip":
                problems.append(f"{utterance.where}: {error}")
                kept[row] = False
    say_left_out(problems)
    if not kept.any():
        raise UserError(f"{path}: found no utterances, expected at least one")
    rows = rows.replace(seconds=seconds)
    return rows if kept.all() else rows.take(np.flatnonzero(kept))


def check_ids(utterances: Sequence[Utterance]) -> None:
    """Raise UserError if an id occurs twice."""
    rows = Utterances.of(utterances)
    hashes = rows.ids.hashes()
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    seen: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else ():
        name, where = rows.ids[row], rows.places.text(row)
        if name in seen:
            first = rows.places.text(seen[name])
            raise UserError(f"{where}: found id {name!r} again, expected one line an id (see {first})")
        seen[name] = row


def measure(utterance: Utterance) -> float:
    """Measure an utterance without `seconds`, from its start and end or the recording's header. Returns seconds."""
    if utterance.end is not None:
        return utterance.end - utterance.start
    if is_reference(utterance.audio):
        raise UserError(f"{utterance.audio}: its length is not known, expected a field 'seconds'")
    seconds = probe(utterance.audio).seconds - utterance.start
    if seconds <= 0:
        raise UserError(f"{utterance.audio}: found {seconds + utterance.start:.3f} s, expected more than start")
    return seconds


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all.

    Paths inside the manifest's folder or one of the two folders above it are written relative to it, so that a folder
    that holds both can be moved; others are absolute.

    Raises UserError if a path is not UTF-8, as manifests are.
    """
    path = Path(path)
    folder = os.path.realpath(path.parent)
    real: Callable[[str], str] = functools.lru_cache(maxsize=None)(lambda path: os.path.realpath(path))  # few folders
    with open_atomic(path) as file:
        for u in utterances:
            row: dict = {"id": u.id, "audio": _relative(u.audio, folder, real), "text": u.text}
            if NOT_TEXT.search(row["audio"]):
                raise UserError(
                    f"{path}: found the recording {row['audio']!r}, whose name is not UTF-8, expected another name of "
                    "its file or folders"
                )
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
            if u.language:
                row["language"] = u.language
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _is_no_path(audio: str) -> bool:
    """Return True for an audio field that is a Kaldi pipe or an example of tfds."""
    return audio.endswith("|") or audio.startswith("tfds:")


def _relative(audio: str, folder: str, real: Callable[[str], str]) -> str:
    if _is_no_path(audio):
        return audio
    absolute = os.path.join(real(os.path.dirname(audio) or "."), os.path.basename(audio))
    for up in range(_FOLDERS_UP + 1):
        prefix = folder.rstrip(os.sep) + os.sep
        if absolute.startswith(prefix) and (prefix != os.sep or not up):
            return "../" * up + absolute.removeprefix(prefix).replace(os.sep, "/")
        folder = os.path.dirname(folder)
    return absolute
