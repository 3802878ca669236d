"""The rows of a speech set: `Utterance`, one row, and `Utterances`, a million of them in NumPy columns."""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Float, Int

from speech_jax.core.cache import ArrayCache
from speech_jax.core.columns import CategoryColumn, StringColumn
from speech_jax.text.texts import Texts

_PIECE = 1 << 12  # rows that an iteration makes at a time


class Utterance(NamedTuple):
    """One row of a speech set.

    Attributes:
        id: its name, unique in the set.
        audio: the recording: a file, a record of a shard, a Kaldi pipe or an example of tfds.
        start: seconds into the recording.
        end: seconds into the recording; None = to its end.
        text: the transcript as written.
        speaker: the speaker's name, or "".
        domain: the domain's name, or "".
        seconds: length in seconds; NaN = unknown.
        where: FILE:LINE, for messages.
        mel: a file of mel frames that belong to the recording (data/mels.py), or "".
        language: language of the transcript such as "de", or "".

    Example:
        >>> from speech_jax.data.utterances import Utterance
        >>> Utterance("amy-1", "wav/1.flac", text="Good morning.", speaker="amy", seconds=1.92).text
        'Good morning.'
    """

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
    language: str = ""


def real_path(audio: str) -> str:
    """Return a recording with the real path of its folder, so that two spellings of one file are equal.

    Links to folders are resolved, links to files are not: a set has many files, but few folders.
    """
    if audio.endswith("|"):
        return audio
    cut = audio.rfind("/") + 1
    return os.path.join(_real_folder(audio[:cut]), audio[cut:])


def _real_folder(folder: str) -> str:
    return folder if folder.startswith("tfds:") else _resolve(os.path.join(os.getcwd(), folder))


@functools.lru_cache(maxsize=1 << 16)
def _resolve(folder: str) -> str:
    return os.path.realpath(folder)


class PathColumn(NamedTuple):
    """Paths, split after the last "/", because many share a folder.

    Attributes:
        folders: the beginnings, "" or up to a "/".
        names: the rest.
    """

    folders: CategoryColumn
    names: StringColumn

    @staticmethod
    def from_strings(paths: Iterable[str]) -> PathColumn:
        """Return the column of some paths."""
        cuts = ((path, path.rfind("/") + 1) for path in paths)
        return PathColumn.from_pairs((path[:cut], path[cut:]) for path, cut in cuts)

    @staticmethod
    def from_pairs(pairs: Iterable[tuple[str, str]]) -> PathColumn:
        """Return the column of some paths, each as (folder, name)."""
        pairs = list(pairs)
        folders = CategoryColumn.from_strings(folder for folder, _ in pairs)
        return PathColumn(folders, StringColumn.from_strings(name for _, name in pairs))

    def text(self, row: int) -> str:
        """Return one path."""
        return self.folders[row] + self.names[row]

    def texts(self) -> Iterator[str]:
        """Iterate over the paths."""
        return map(operator.add, self.folders, self.names)

    def take(self, rows: Any) -> PathColumn:
        """Return the rows of a slice or an array of row numbers."""
        return PathColumn(*(_take(column, rows) for column in self))

    @staticmethod
    def concatenate(columns: Sequence[PathColumn]) -> PathColumn:
        """Return the paths of all columns, one column after the other."""
        folders, names = zip(*columns, strict=True)
        return PathColumn(CategoryColumn.concatenate(folders), StringColumn.concatenate(names))


class PlaceColumn(NamedTuple):
    """Places such as FILE:LINE or FILE#RECORD: a text that many rows share, and a number.

    Attributes:
        files: the texts before the numbers.
        numbers: int64 [rows]; -1 = there is no number.
    """

    files: CategoryColumn
    numbers: Int[np.ndarray, "rows"]

    @staticmethod
    def from_strings(places: Iterable[str]) -> PlaceColumn:
        """Return the column of some places."""
        pairs = list(map(_split_number, places))
        files = CategoryColumn.from_strings(file for file, _ in pairs)
        return PlaceColumn(files, np.array([number for _, number in pairs], np.int64))

    def text(self, row: int) -> str:
        """Return one place."""
        return _join_number(self.files[row], int(self.numbers[row]))

    def texts(self) -> Iterator[str]:
        """Iterate over the places."""
        return map(_join_number, self.files, self.numbers.tolist())

    def take(self, rows: Any) -> PlaceColumn:
        """Return the rows of a slice or an array of row numbers."""
        return PlaceColumn(_take(self.files, rows), self.numbers[rows])

    @staticmethod
    def concatenate(columns: Sequence[PlaceColumn]) -> PlaceColumn:
        """Return the places of all columns, one column after the other."""
        files, numbers = zip(*columns, strict=True)
        return PlaceColumn(CategoryColumn.concatenate(files), np.concatenate(numbers))


class Utterances(Sequence[Utterance]):
    """An immutable sequence of `Utterance`, stored in columns: about 200 bytes per row, most of them its text.

    Rows are created on access. Slices, `take` and `+` return `Utterances`. Two are equal if all their rows are equal.

    Attributes:
        ids: names of the rows.
        audio: recordings.
        starts: float64 [rows], seconds into the recording.
        ends: float64 [rows], seconds into the recording; NaN = to its end.
        texts: transcripts.
        speakers: names of speakers, or "".
        domains: names of domains, or "".
        seconds: float64 [rows]; NaN = unknown.
        places: FILE:LINE of the rows.
        mels: files of mel frames, or "".
        languages: languages of the transcripts, or "".

    Example:
        >>> from speech_jax.data.utterances import Utterance, Utterances
        >>> rows = [Utterance(f"u{i}", f"wav/{i}.flac", text="good morning", seconds=1.5 + i) for i in range(3)]
        >>> utterances = Utterances.of(rows)
        >>> utterances[1].audio, utterances[1:].seconds.tolist(), utterances == Utterances.of(iter(rows))
        ('wav/1.flac', [2.5, 3.5], True)
    """

    _COLUMNS = (
        "ids", "audio", "starts", "ends", "texts", "speakers", "domains", "seconds", "places", "mels", "languages",
    )  # fmt: skip

    def __init__(
        self,
        *,
        ids: StringColumn,
        audio: PathColumn,
        starts: Float[np.ndarray, "rows"],
        ends: Float[np.ndarray, "rows"],
        texts: Texts,
        speakers: CategoryColumn,
        domains: CategoryColumn,
        seconds: Float[np.ndarray, "rows"],
        places: PlaceColumn,
        mels: PathColumn,
        languages: CategoryColumn,
    ):
        self.ids, self.audio, self.starts, self.ends, self.texts = ids, audio, starts, ends, texts
        self.speakers, self.domains, self.seconds, self.places, self.mels = speakers, domains, seconds, places, mels
        self.languages = languages

    @staticmethod
    def of(rows: Iterable[Utterance]) -> Utterances:
        """Return rows as columns, unchanged if they are `Utterances` already."""
        if isinstance(rows, Utterances):
            return rows
        ids, audio, starts, ends, texts, speakers, domains, seconds, places, mels, languages = (
            zip(*rows, strict=True) if (rows := list(rows)) else [()] * len(Utterance._fields)
        )
        return Utterances(
            ids=StringColumn.from_strings(ids),
            audio=PathColumn.from_strings(audio),
            starts=np.array(starts, np.float64),
            ends=np.array([math.nan if end is None else end for end in ends], np.float64),
            texts=Texts.from_strings(texts),
            speakers=CategoryColumn.from_strings(speakers),
            domains=CategoryColumn.from_strings(domains),
            seconds=np.array(seconds, np.float64),
            places=PlaceColumn.from_strings(places),
            mels=PathColumn.from_strings(mels),
            languages=CategoryColumn.from_strings(languages),
        )

    @staticmethod
    def concatenate(sets: Iterable[Utterances]) -> Utterances:
        """Return the rows of all sets, one set after the other. Sets of an iterator are freed early."""
        columns: dict[str, list] = {name: [] for name in Utterances._COLUMNS}
        for rows in sets:
            for name, parts in columns.items():
                parts.append(getattr(rows, name))
        if not columns["ids"]:
            return Utterances.of(())
        rows = None
        order = sorted(columns, key=lambda name: name != "texts")  # the largest first, to lower the peak of memory
        return Utterances(**{name: _join(columns.pop(name)) for name in order})

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Utterances: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(index)
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        end = float(self.ends[row])
        return Utterance(
            id=self.ids[row],
            audio=self.audio.text(row),
            start=float(self.starts[row]),
            end=None if math.isnan(end) else end,
            text=self.texts[row],
            speaker=self.speakers[row],
            domain=self.domains[row],
            seconds=float(self.seconds[row]),
            where=self.places.text(row),
            mel=self.mels.text(row),
            language=self.languages[row],
        )

    def __iter__(self) -> Iterator[Utterance]:
        for first in range(0, len(self), _PIECE):
            piece = self[first : first + _PIECE]
            yield from map(
                Utterance,
                piece.ids,
                piece.audio.texts(),
                piece.starts.tolist(),
                (None if math.isnan(end) else end for end in piece.ends.tolist()),
                piece.texts,
                piece.speakers,
                piece.domains,
                piece.seconds.tolist(),
                piece.places.texts(),
                piece.mels.texts(),
                piece.languages,
            )

    def __add__(self, other: Iterable[Utterance]) -> Utterances:
        return Utterances.concatenate([self, Utterances.of(other)])

    def __radd__(self, other: Iterable[Utterance]) -> Utterances:
        return Utterances.concatenate([Utterances.of(other), self])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Utterances):
            return NotImplemented
        if len(self) != len(other) or self.digest() != other.digest():
            return False
        return list(self.languages) == list(other.languages)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Utterances({len(self)} rows)"

    def take(self, rows: slice | Int[np.ndarray, "k"]) -> Utterances:
        """Return the rows of a slice or an array of row numbers, in that order."""
        return Utterances(**{name: _take(getattr(self, name), rows) for name in self._COLUMNS})

    def replace(self, **columns: Any) -> Utterances:
        """Return the rows with the given columns replaced."""
        return Utterances(**{name: columns.get(name, getattr(self, name)) for name in self._COLUMNS})

    def with_domain(self, domain: str) -> Utterances:
        """Return the rows with `domain` as the domain of those that name none."""
        return self.replace(domains=self.domains.rename(lambda name: name or domain))

    def with_language(self, language: str) -> Utterances:
        """Return the rows with `language` as the language of those that name none."""
        return self.replace(languages=self.languages.rename(lambda name: name or language))

    @functools.cached_property
    def file_hashes(self) -> Int[np.ndarray, "rows"]:
        """A hash of each row's recording: equal for equal `real_path` in this process."""
        folders, names = self.audio
        pipes = (names.sizes() > 0) & (np.append(names.data, 0)[names.offsets[1:] - 1] == ord("|"))
        spelled, real = (
            np.array([hash(function(folder)) for folder in folders.names], np.int64)[folders.codes]
            for function in (str, _real_folder)
        )
        return _mix(names.hashes(), np.where(pipes, spelled, real))

    def segment_hashes(self) -> Int[np.ndarray, "rows"]:
        """Return a hash of each row's (real path of the audio, start, end): equal for equal ones in this process."""
        return _mix(self.file_hashes, _milliseconds(self.starts), _milliseconds(self.ends))

    @functools.cached_property
    def content_hashes(self) -> Int[np.ndarray, "rows"]:
        """A hash of each row's (id, start, seconds), which a copy of its file has too."""
        return _mix(self.ids.hashes(), _milliseconds(self.starts), _milliseconds(self.seconds))

    def digest(self) -> str:
        """Return the SHA-256 of all rows in hexadecimal, without the languages: nothing is trained on them."""
        digest = hashlib.sha256(str(len(self)).encode())
        for column in (self.ids, *self.audio, self.texts.column, self.speakers, self.domains):
            column.update(digest)
        for numbers in (self.starts, self.ends, self.seconds):
            digest.update(np.where(np.isnan(numbers), np.nan, numbers).astype("<f8").tobytes())
        self.places.files.update(digest)
        digest.update(self.places.numbers.astype("<i8").tobytes())
        for column in self.mels:
            column.update(digest)
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns as plain arrays by name, which `from_arrays` turns into the same rows."""
        arrays = {}
        for name, column in _parts(self).items():
            if isinstance(column, np.ndarray):
                arrays[name] = column
            elif isinstance(column, StringColumn):
                arrays |= {f"{name}.data": column.data, f"{name}.offsets": column.offsets}
            else:
                arrays |= {f"{name}.codes": column.codes, f"{name}.data": column.names.data}
                arrays[f"{name}.offsets"] = column.names.offsets
        return arrays

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray], cache: ArrayCache | None = None) -> Utterances:
        """Return the rows of `arrays()`.

        Args:
            arrays: the columns.
            cache: stores results computed from the texts; None keeps them in memory only.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """

        def strings(name: str) -> StringColumn:
            return StringColumn(arrays[f"{name}.data"], arrays[f"{name}.offsets"])

        def categories(name: str) -> CategoryColumn:
            return CategoryColumn(arrays[f"{name}.codes"], strings(name))

        def paths(name: str) -> PathColumn:
            return PathColumn(categories(f"{name}.folders"), strings(f"{name}.names"))

        rows = Utterances(
            ids=strings("ids"),
            audio=paths("audio"),
            starts=arrays["starts"],
            ends=arrays["ends"],
            texts=Texts(strings("texts"), cache),
            speakers=categories("speakers"),
            domains=categories("domains"),
            seconds=arrays["seconds"],
            places=PlaceColumn(categories("places.files"), arrays["places.numbers"]),
            mels=paths("mels"),
            languages=categories("languages"),
        )
        for name, column in _parts(rows).items():
            if isinstance(column, np.ndarray):
                fits = column.dtype == (np.int64 if name == "places.numbers" else np.float64)
            else:
                fits = column.is_valid()
            if not fits or len(column) != len(rows):
                raise ValueError(f"{name}: not a column of {len(rows)} rows")
        return rows


class SharedRows:
    """Utterances in a temporary file that processes of this machine share: a pickle contains only the file's name.

    The file is removed with this object, or by `close`.

    Attributes:
        path: the file.
        layout: column -> (dtype, length, offset in the file).
    """

    def __init__(self, utterances: Utterances, folder: str | Path):
        self._utterances = utterances
        handle, self.path = tempfile.mkstemp(prefix="speech_jax_rows_", dir=folder)
        self.layout: dict[str, tuple[str, int, int]] = {}
        self.close = weakref.finalize(self, _remove, self.path)
        with os.fdopen(handle, "wb") as file:
            for name, array in utterances.arrays().items():
                file.write(b"\0" * (-file.tell() % 64))
                self.layout[name] = array.dtype.str, len(array), file.tell()
                file.write(np.ascontiguousarray(array).data)

    def __getitem__(self, row: int) -> Utterance:
        return self._utterances[row]

    def __reduce__(self):
        return _map_rows, (self.path, self.layout)


def _map_rows(path: str, layout: dict[str, tuple[str, int, int]]) -> Utterances:
    """Return the rows of `SharedRows` as a memory map, which processes share."""
    data = np.memmap(path, np.uint8, "r")
    arrays = {}
    for name, (dtype, count, begin) in layout.items():
        arrays[name] = data[begin : begin + count * np.dtype(dtype).itemsize].view(dtype)
    return Utterances.from_arrays(arrays)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _mix(*columns: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "rows"]:
    """Return one hash per row of several columns of hashes or whole numbers."""
    hashes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        hashes = (hashes ^ column) * -7046029254386353131  # 2**64 divided by the golden ratio; overflow is meant
    return hashes


def _milliseconds(seconds: Float[np.ndarray, "rows"]) -> Int[np.ndarray, "rows"]:
    """Return times as whole milliseconds, -1 where they are unknown."""
    return np.round(np.where(np.isnan(seconds), -1e-3, seconds) * 1000).astype(np.int64)


def _take(column: Any, rows: Any) -> Any:
    if isinstance(column, Texts):
        whole = isinstance(rows, slice) and rows.indices(len(column)) == (0, len(column), 1)
        return column if whole else Texts(_take(column.column, rows), column.cache)
    if isinstance(column, PathColumn | PlaceColumn):
        return column.take(rows)
    return column[rows] if isinstance(column, np.ndarray) or isinstance(rows, slice) else column.take(rows)


def _join(columns: list) -> Any:
    if len(columns) == 1:
        return columns[0]
    if isinstance(columns[0], Texts):
        cache = next((texts.cache for texts in columns if texts.cache is not None), None)
        return Texts(StringColumn.concatenate([texts.column for texts in columns]), cache)
    return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else type(columns[0]).concatenate(columns)


def _parts(rows: Utterances) -> dict[str, StringColumn | CategoryColumn | np.ndarray]:
    """Return the plain columns that the columns consist of."""
    parts: dict[str, Any] = {}
    for name in Utterances._COLUMNS:
        column = getattr(rows, name)
        if isinstance(column, PathColumn | PlaceColumn):
            parts |= {f"{name}.{part}": value for part, value in column._asdict().items()}
        else:
            parts[name] = column.column if isinstance(column, Texts) else column
    return parts


def _split_number(place: str) -> tuple[str, int]:
    """Split "m.jsonl:12" into ("m.jsonl:", 12); -1 if the place does not end in a plain number."""
    text = place.rstrip("0123456789")
    number = place[len(text) :]
    if not number or len(number) > 18 or (number[0] == "0" and number != "0"):
        return place, -1
    return text, int(number)


def _join_number(text: str, number: int) -> str:
    return text if number < 0 else f"{text}{number}"
