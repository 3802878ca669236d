"""Columns of strings in NumPy arrays: a million strings are two arrays instead of a million Python objects."""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int

_PIECE = 1 << 14  # strings handled at a time, so that no copy is as large as the column
_ENCODING = ("utf-8", "surrogatepass")  # paths may contain lone surrogates


class StringColumn(Sequence[str]):
    """An immutable sequence of strings: one UTF-8 buffer and the offsets of the strings in it.

    Attributes:
        data: uint8 [bytes], the concatenated strings.
        offsets: int64 [strings + 1]; string i is `data[offsets[i]:offsets[i + 1]]`.

    Example:
        >>> from speech_jax.core.columns import StringColumn
        >>> column = StringColumn.from_strings(["good", "morning", "é"])
        >>> column[1], len(column), column.data.nbytes
        ('morning', 3, 13)
    """

    __slots__ = ("data", "offsets")

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data, self.offsets = data, offsets

    @staticmethod
    def from_strings(strings: Iterable[str]) -> StringColumn:
        """Return the column of some strings."""
        strings = list(strings)
        data = "".join(strings).encode(*_ENCODING)
        sizes = np.fromiter(map(len, strings), np.int64, len(strings))
        if len(data) != sizes.sum():  # not only ASCII
            sizes = np.fromiter((len(s.encode(*_ENCODING)) for s in strings), np.int64, len(strings))
        return StringColumn.from_sizes(np.frombuffer(data, np.uint8), sizes)

    @staticmethod
    def from_sizes(data: np.ndarray, sizes: Int[np.ndarray, "n"]) -> StringColumn:
        """Return the column of concatenated strings that have `sizes` bytes each."""
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        return StringColumn(data, offsets)

    @staticmethod
    def concatenate(columns: Sequence[StringColumn]) -> StringColumn:
        """Return the strings of all columns, one column after the other."""
        if len(columns) == 1:
            return columns[0]
        sizes = [column.sizes() for column in columns] or [np.zeros(0, np.int64)]
        data = [column.data for column in columns] or [np.zeros(0, np.uint8)]
        return StringColumn.from_sizes(np.concatenate(data), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringColumn: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step != 1:
                return self.take(np.arange(first, last, step))
            last = max(first, last)
            begin, end = self.offsets[first], self.offsets[last]
            return StringColumn(self.data[begin:end], self.offsets[first : last + 1] - begin)
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        index %= len(self)
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces(_PIECE):
            offsets = piece.offsets.tolist()
            data = piece.data.tobytes()
            if data.isascii():
                text = data.decode()
                yield from (text[a:b] for a, b in itertools.pairwise(offsets))
            else:
                yield from (data[a:b].decode(*_ENCODING) for a, b in itertools.pairwise(offsets))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringColumn):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StringColumn({len(self)} strings, {self.data.nbytes} bytes)"

    def pieces(self, count: int) -> Iterator[StringColumn]:
        """Iterate over the column in slices of `count` strings."""
        return (self[first : first + count] for first in range(0, len(self), count))

    def sizes(self) -> Int[np.ndarray, "n"]:
        """Return the number of bytes of each string."""
        return np.diff(self.offsets)

    def lengths(self) -> Int[np.ndarray, "n"]:
        """Return the number of characters of each string."""
        parts = []
        for piece in self.pieces(_PIECE):
            begins = np.zeros(len(piece.data) + 1, np.int64)  # characters before each byte
            np.cumsum((piece.data & 0xC0) != 0x80, out=begins[1:])
            parts.append(np.diff(begins[piece.offsets]))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def characters(self) -> frozenset[str]:
        """Return every character that occurs."""
        characters: set[str] = set()
        ascii_seen = np.zeros(256, bool)
        for piece in self.pieces(_PIECE):
            counts = np.bincount(piece.data, minlength=256) > 0
            ascii_seen |= counts
            if counts[128:].any():
                characters.update(piece.data.tobytes().decode(*_ENCODING))
        return frozenset(characters.union(chr(code) for code in np.flatnonzero(ascii_seen[:128])))

    def hashes(self) -> Int[np.ndarray, "n"]:
        """Return a hash of each string: equal for equal strings in this process, rarely equal for others."""
        return np.fromiter(map(hash, self), np.int64, len(self))

    def take(self, rows: Int[np.ndarray, "k"]) -> StringColumn:
        """Return the strings of some rows, in the order of `rows`."""
        rows = np.asarray(rows, np.int64)
        sizes = self.sizes()[rows]
        data = np.empty(int(sizes.sum()), np.uint8)
        filled = 0
        for first in range(0, len(rows), _PIECE):
            part, lengths = rows[first : first + _PIECE], sizes[first : first + _PIECE]
            size = int(lengths.sum())
            begins = np.cumsum(lengths) - lengths
            positions = np.repeat(self.offsets[part] - begins, lengths) + np.arange(size)
            data[filled : filled + size] = self.data[positions]
            filled += size
        return StringColumn.from_sizes(data, sizes)

    def update(self, digest: Any) -> None:
        """Feed the column's content to a hash of hashlib."""
        digest.update(self.sizes().astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.data))

    def digest(self) -> str:
        """Return the SHA-256 of the column's content, in hexadecimal."""
        digest = hashlib.sha256()
        self.update(digest)
        return digest.hexdigest()

    def is_valid(self) -> bool:
        """Return True if offsets and buffer are consistent, for columns that were read from a file."""
        offsets, data = self.offsets, self.data
        shapes = offsets.ndim == 1 == data.ndim and offsets.dtype == np.int64 and data.dtype == np.uint8
        if not shapes or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(data):
            return False
        return bool((np.diff(offsets) >= 0).all())


class CategoryColumn(Sequence[str]):
    """An immutable sequence of strings with few distinct values: a code per string, and a table of the values.

    Attributes:
        codes: int32 [strings], indices into `names`.
        names: the table; it may contain strings that no code refers to.
    """

    __slots__ = ("codes", "names")

    def __init__(self, codes: np.ndarray, names: StringColumn):
        self.codes, self.names = codes, names

    @staticmethod
    def from_strings(strings: Iterable[str]) -> CategoryColumn:
        """Return the column of some strings."""
        table: dict[str, int] = {}
        codes = [table.setdefault(string, len(table)) for string in strings]
        return CategoryColumn(np.array(codes, np.int32), StringColumn.from_strings(table))

    @staticmethod
    def concatenate(columns: Sequence[CategoryColumn]) -> CategoryColumn:
        """Return the strings of all columns, one column after the other, with one table."""
        if len(columns) == 1:
            return columns[0]
        table: dict[str, int] = {}
        codes = [np.zeros(0, np.int32)]
        for column in columns:
            places = [table.setdefault(name, len(table)) for name in column.names]
            codes.append(np.array(places, np.int32)[column.codes])
        return CategoryColumn(np.concatenate(codes), StringColumn.from_strings(table))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> CategoryColumn: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return CategoryColumn(self.codes[index], self.names)
        return self.names[int(self.codes[index])]

    def __iter__(self) -> Iterator[str]:
        names = list(self.names)
        for first in range(0, len(self), _PIECE):
            yield from (names[code] for code in self.codes[first : first + _PIECE].tolist())

    def __repr__(self) -> str:
        return f"CategoryColumn({len(self)} strings, {len(self.names)} names)"

    def take(self, rows: Int[np.ndarray, "k"]) -> CategoryColumn:
        """Return the strings of some rows, in the order of `rows`."""
        return CategoryColumn(self.codes[rows], self.names)

    def used(self) -> list[str]:
        """Return the distinct strings that occur, in the order of their first occurrence."""
        return list(self.canonical().names)

    def canonical(self) -> CategoryColumn:
        """Return the same strings with a table of those that occur, each once, in the order of first occurrence."""
        merged: dict[str, int] = {}
        same = np.array([merged.setdefault(name, len(merged)) for name in self.names], np.int64)
        codes = same[self.codes]
        used, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        names = list(merged)
        return CategoryColumn(place[inverse], StringColumn.from_strings(names[used[i]] for i in order))

    def rename(self, function: Any) -> CategoryColumn:
        """Return the column with `function(string)` in place of each string."""
        return CategoryColumn(self.codes, StringColumn.from_strings(map(function, self.names)))

    def update(self, digest: Any) -> None:
        """Feed the column's content to a hash of hashlib."""
        column = self.canonical()
        digest.update(column.codes.astype("<i4").tobytes())
        column.names.update(digest)

    def is_valid(self) -> bool:
        """Return True if codes and table are consistent, for columns that were read from a file."""
        if not self.names.is_valid() or self.codes.ndim != 1 or self.codes.dtype != np.int32:
            return False
        return len(self.codes) == 0 or bool((self.codes.min() >= 0) and (self.codes.max() < len(self.names)))
