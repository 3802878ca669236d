"""The texts of a speech set as one column, normalized and counted once, on all cores, and cached next to the set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from jaxtyping import Int

from speech_jax.core.cache import ArrayCache, code_version
from speech_jax.core.columns import StringColumn
from speech_jax.core.errors import UserError
from speech_jax.core.workers import parallel_map
from speech_jax.text.normalize import normalize

if TYPE_CHECKING:
    from speech_jax.text.tokenizer import Tokenizer

PARALLEL_BYTES = 8 << 20  # texts of fewer bytes are not worth child processes
CACHED_TEXTS = 50_000  # results for fewer texts are not worth a file
_JOB_TEXTS = 1 << 14
_ENGLISH = ("", "_capitals", "_context", "_dates", "_figures", "_tables", "_web")
_READING = ("normalize", "characters", "tags", "numbers", *(f"english{part}" for part in _ENGLISH))
_CODE = (*(f"speech_jax.text.{name}" for name in (*_READING, "tokenizer")), __name__)


class Characters(NamedTuple):
    """The characters of normalized texts.

    Attributes:
        used: every character that occurs.
        counts: int64 [texts], characters of each text.
    """

    used: frozenset[str]
    counts: Int[np.ndarray, "texts"]


class Texts(Sequence[str]):
    """The texts of a set in a column, with the results computed from them.

    Attributes:
        cache: stores results for large sets between runs; None keeps them in memory only.
        parts: the sets that were added to give this one, if any.

    Example:
        >>> from speech_jax.text.texts import Texts
        >>> texts = Texts.from_strings(["Good morning!", "It's 9:30."])
        >>> list(texts.normalized("en")), sorted(texts.characters("en").used)[:4]
        (['good morning', "it's nine thirty"], [' ', "'", 'd', 'e'])
    """

    def __init__(self, column: StringColumn | None, cache: ArrayCache | None = None, parts: tuple[Texts, ...] = ()):
        self._column, self.cache, self.parts = column, cache, parts
        self._normalized: dict[str, StringColumn] = {}
        self._characters: dict[str, Characters] = {}

    @staticmethod
    def from_strings(strings: Iterable[str]) -> Texts:
        """Return the strings as `Texts`, unchanged if they are `Texts` already."""
        return strings if isinstance(strings, Texts) else Texts(StringColumn.from_strings(strings))

    @property
    def column(self) -> StringColumn:
        """The texts as written."""
        if self._column is None:
            self._column = StringColumn.concatenate([part.column for part in self.parts])
        return self._column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringColumn: ...
    def __getitem__(self, index):
        return self.column[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.column)

    def __add__(self, other: Texts) -> Texts:
        """Return the texts of both sets. Results computed for either are reused."""
        return Texts(None, None, (self.parts or (self,)) + (other.parts or (other,)))

    def __reduce__(self):
        return Texts, (self.column,)  # without results, which other processes do not need

    def normalized(self, language: str) -> StringColumn:
        """Return the texts normalized for `language`; "" returns them as written."""
        if not language:
            return self.column
        if language not in self._normalized:
            if self.parts:
                return StringColumn.concatenate([part.normalized(language) for part in self.parts])
            jobs = ((piece, language) for piece in self.column.pieces(_JOB_TEXTS))
            self._normalized[language] = StringColumn.concatenate(list(self._map(_normalize, jobs)))
        return self._normalized[language]

    def characters(self, language: str) -> Characters:
        """Return the characters of the normalized texts, and the number of characters of each text."""
        if self.parts:
            sets = [part.characters(language) for part in self.parts]
            used = frozenset().union(*(part.used for part in sets))
            return Characters(used, np.concatenate([part.counts for part in sets]))
        if language not in self._characters:
            arrays = self._cached("characters", {"language": language}, lambda: self._count_characters(language))
            used = frozenset(arrays["used"].tobytes().decode("utf-32-le", "surrogatepass"))
            self._characters[language] = Characters(used, arrays["counts"].astype(np.int64))
        return self._characters[language]

    def label_counts(self, tokenizer: Tokenizer) -> Int[np.ndarray, "texts"]:
        """Return the number of labels of each text, or -1 for the first text that `tokenizer` cannot encode.

        The values after that text are undefined.
        """
        if self.parts:
            return np.concatenate([part.label_counts(tokenizer) for part in self.parts])
        if tokenizer.kind == "char":
            used, counts = self.characters(tokenizer.language)
            if used <= tokenizer.characters():
                return counts
            return self._count_labels(tokenizer)["counts"]
        settings = {"tokenizer": tokenizer.to_json()}
        return self._cached("labels", settings, lambda: self._count_labels(tokenizer))["counts"].astype(np.int64)

    def forget(self) -> None:
        """Free the normalized texts; they are recomputed on demand."""
        for texts in (self, *self.parts):
            texts._normalized.clear()

    def _count_characters(self, language: str) -> dict[str, np.ndarray]:
        done = self._normalized.get(language)
        column = self.column if done is None else done
        jobs = ((piece, language if done is None else "") for piece in column.pieces(_JOB_TEXTS))
        used, counts = set(), [np.zeros(0, np.int32)]
        for part in self._map(_count_characters, jobs):
            used |= part.used
            counts.append(part.counts)
        data = "".join(sorted(used)).encode("utf-32-le", "surrogatepass")
        return {"used": np.frombuffer(data, np.uint8), "counts": np.concatenate(counts)}

    def _count_labels(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        column = self.column
        if tokenizer.language in self._normalized:  # normalization is idempotent
            column = self._normalized[tokenizer.language]
            tokenizer = dataclasses.replace(tokenizer, language="")
        jobs = ((piece, tokenizer) for piece in column.pieces(_JOB_TEXTS))
        counts = []
        for part in self._map(_count_labels, jobs):
            counts.append(part)
            if (part < 0).any():
                break
        rest = len(self) - sum(map(len, counts))
        return {"counts": np.concatenate([*counts, np.zeros(rest, np.int32)])}

    def _map(self, function: Callable, jobs: Iterable[tuple]) -> Iterator:
        large = self.column.data.nbytes >= PARALLEL_BYTES
        return parallel_map(function, jobs) if large else (function(*job) for job in jobs)

    def _cached(self, kind: str, settings: dict, compute: Callable[[], dict]) -> dict[str, np.ndarray]:
        """Return the arrays of an earlier run with the same texts and settings, or else compute them."""
        if self.cache is None or len(self) < CACHED_TEXTS:
            return compute()
        key = json.dumps({"code": code_version(*_CODE), "texts": self.column.digest(), **settings}, sort_keys=True)
        arrays = self.cache.load(kind, key)
        if arrays is None or arrays.get("counts", np.zeros(0)).shape != (len(self),):
            arrays = compute()
            if (arrays["counts"] >= 0).all():
                self.cache.save(kind, key, arrays)
        return arrays


def _normalize(column: StringColumn, language: str) -> StringColumn:
    return StringColumn.from_strings(normalize(text, language) for text in column)


def _count_characters(column: StringColumn, language: str) -> Characters:
    column = _normalize(column, language) if language else column
    return Characters(column.characters(), column.lengths().astype(np.int32))


def _count_labels(column: StringColumn, tokenizer: Tokenizer) -> np.ndarray:
    counts = np.zeros(len(column), np.int32)
    for row, text in enumerate(column):
        try:
            counts[row] = len(tokenizer.encode(text))
        except UserError:
            counts[row] = -1
            break
    return counts
