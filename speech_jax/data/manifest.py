"""Manifests: the list of recordings in JSON lines that `prepare` writes and training reads.

    {"id": "amy-1", "audio": "wav/amy-1.flac", "text": "good morning", "speaker": "amy", "domain": "a", "seconds": 1.92}

Required: id, audio, text. Optional: start, end (seconds into the recording; end null = to its end), speaker, domain,
seconds (measured if missing), mel (a file of mel frames that belong to the recording, see data/mels.py), language (of
the text, such as "de": `evaluate` normalizes by it). A relative path is relative to the manifest's folder, so a
prepared folder can be moved. Other fields are ignored.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speech_jax.audio.io import is_reference, probe
from speech_jax.core.cache import ArrayCache, code_version
from speech_jax.core.columns import CategoryColumn, StringColumn
from speech_jax.core.errors import UserError
from speech_jax.core.files import MAX_LINE, open_atomic, split_lines
from speech_jax.core.log import log
from speech_jax.core.workers import parallel_map
from speech_jax.data.utterances import PathColumn, PlaceColumn, Utterance, Utterances, real_path
from speech_jax.text.texts import Texts

MAX_SECONDS = 1e7
COPIES = 200  # rows whose files are compared at most to find copies of recordings
CACHED_ROWS = 50_000  # the columns of smaller manifests are not cached
PARALLEL_BYTES = 8 << 20  # smaller manifests are parsed by this process alone
_JOB_BYTES = 4 << 20
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_EXPECTED = "a manifest (JSON lines)"
_ABSOLUTE = "\0"  # marks the folder of a path that is not relative to the manifest; no text contains this character
_REQUIRED = ("id", "audio", "text")
_OPTIONAL = ("start", "end", "speaker", "domain", "seconds", "mel", "language")
_OPTIONAL_TEXTS = ("speaker", "domain", "mel", "language")
_CODE = ("speech_jax.core.columns", "speech_jax.data.utterances", __name__)


def read_manifest(path: str | Path, *, on_error: str = "raise") -> Utterances:
    r"""Read and check a manifest.

    Rows without `seconds` are measured from the recording's header. A large manifest is parsed on all cores, and its
    columns are cached next to it, in .NAME.rows-HASH.npz, under the SHA-256 of the manifest.

    Args:
        path: the manifest, a file of JSON lines.
        on_error: "raise", or "skip": warn of a row whose recording cannot be measured, and leave it out.

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
    path = Path(path)
    cache = ArrayCache.beside(path)
    rows = _read_cache(path, cache)
    if rows is None:
        digest = hashlib.sha256()
        rows = _read_columns(path, digest)
        check_ids(rows)
        if len(rows) >= CACHED_ROWS and not np.isnan(rows.seconds).any():
            cache.save("rows", _cache_key(digest.hexdigest()), rows.arrays(), keep=1)
    rows = rows.replace(texts=Texts(rows.texts.column, cache))
    return measured(_resolved(rows, path), path, on_error)


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


def _read_columns(path: Path, digest) -> Utterances:
    """Parse a manifest, feeding its bytes to `digest`. Paths stay as written: see `_resolved`."""
    try:
        with open(path, "rb") as file:
            jobs = _jobs(file, path, digest)
            large = os.fstat(file.fileno()).st_size >= PARALLEL_BYTES
            return Utterances.concatenate(parallel_map(_parse_part, jobs, workers=0 if large else 1))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected {_EXPECTED}") from error


def _jobs(file: io.BufferedReader, path: Path, digest) -> Iterator[tuple[bytes, str, int]]:
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
        yield part, str(path), first
        first += part.count(b"\n")
        rest = block[cut:]
    if rest:
        yield rest, str(path), first


def _parse_part(data: bytes, path: str, first: int) -> Utterances:
    """Parse a part of a manifest that begins at line `first`."""
    try:
        return _parse_good(data, path, first)
    except Exception:  # the careful parser names the error, or accepts the line after all
        pieces = split_lines(io.BytesIO(data), path, _EXPECTED, first)
        rows = Utterances.of([_parse(line, where) for where, line in pieces])
        return rows.replace(
            audio=_raw_paths(row.audio for row in rows),
            mels=_raw_paths((row.mel for row in rows), mels=True),
        )


def _parse_good(data: bytes, path: str, first: int) -> Utterances:
    """Parse correct lines, checked column by column. Raises an exception for all others."""
    text = data.decode("utf-8-sig" if first == 1 else "utf-8")
    columns: dict[str, list] = {name: [] for name in _REQUIRED + _OPTIONAL}
    appends = [(name, columns[name].append) for name in _OPTIONAL]
    add_id, add_audio, add_text = (columns[name].append for name in _REQUIRED)
    numbers: list[int] = []
    decode = json.JSONDecoder(parse_constant=_no_constant).decode
    for number, line in enumerate(text.split("\n"), first):
        if not line or line.isspace():
            continue
        row = decode(line)
        add_id(row["id"])
        add_audio(row["audio"])
        add_text(row["text"])
        for name, append in appends:
            append(row.get(name))
        numbers.append(number)
        if len(line) > MAX_LINE // 4:
            raise ValueError("perhaps too long")
    for name in _OPTIONAL_TEXTS:
        columns[name] = [value if value is not None else "" for value in columns[name]]
    for name in (*_REQUIRED, *_OPTIONAL_TEXTS):
        if set(map(type, columns[name])) - {str} or _NOT_TEXT.search("".join(columns[name])):
            raise ValueError(name)
    if not all(columns["id"]) or not all(columns["audio"]):
        raise ValueError("an empty id or audio")
    starts, ends, seconds = (_numbers(columns[name]) for name in ("start", "end", "seconds"))
    starts = np.where(np.isnan(starts), 0.0, starts) + 0.0  # no minus zero
    if (ends <= starts).any():
        raise ValueError("end before start")
    return Utterances(
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


def _resolved(rows: Utterances, path: Path) -> Utterances:
    """Return the rows with resolved paths, and with the manifest's own path in their places."""

    def resolve_folder(folder: str) -> str:
        return folder[1:] if folder.startswith(_ABSOLUTE) else os.path.join(path.parent, folder)

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
    file, _, record = real_path(utterance.audio).partition(".array_record#")
    content: Any = file
    try:
        with open(file, "rb") as opened:
            content = os.fstat(opened.fileno()).st_size, hashlib.blake2b(opened.read(1 << 18)).digest()
    except OSError:  # reading the recordings will say so
        pass
    return utterance.id, utterance.text, record, content


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
        on_error: "raise", or "skip": leave out rows that cannot be measured, with a warning.

    Returns:
        The rows that have `seconds`.

    Raises:
        UserError: a row cannot be measured; or there are no rows.
    """
    rows = Utterances.of(utterances)
    seconds, kept = rows.seconds.copy(), np.ones(len(rows), bool)
    for row in np.flatnonzero(np.isnan(seconds)).tolist():
        utterance = rows[row]
        try:
            seconds[row] = measure(utterance)
        except UserError as error:
            if on_error == "raise":
                raise UserError(f"{utterance.where}: {error}") from error
            log.warning("left out: %s: %s", utterance.where, error)
            kept[row] = False
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
    """Write a manifest, whole or not at all. Paths inside the manifest's folder are written relative to it."""
    path = Path(path)
    folder = os.path.realpath(path.parent)
    real: Callable[[str], str] = functools.lru_cache(maxsize=None)(lambda path: os.path.realpath(path))  # few folders
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
    prefix = folder.rstrip(os.sep) + os.sep
    return absolute.removeprefix(prefix).replace(os.sep, "/")


def _parse(line: str, where: str) -> Utterance:
    """Parse a line. Paths stay as written."""
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
        audio=_string(row, "audio", where, empty=False),
        start=start,
        end=end,
        text=_string(row, "text", where),
        speaker=_string(row, "speaker", where),
        domain=_string(row, "domain", where),
        seconds=math.nan if seconds is None else seconds,
        where=where,
        mel=_string(row, "mel", where),
        language=_string(row, "language", where),
    )


def _string(row: dict, name: str, where: str, *, empty: bool = True) -> str:
    value = row.get(name)
    if value is None and name in _OPTIONAL_TEXTS:
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
