"""Digests of what a run learns from its recordings, so that a resume notices that they have changed.

Folders are not part of them: a data set may be moved. The sizes of audio files stand for their content.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from typing import Any

import numpy as np

from speech_jax.audio.io import is_reference
from speech_jax.data.utterances import PathColumn, Utterances

SIZED_ROWS = 50_000  # rows whose file sizes are compared at most,
SIZED_SECONDS = 0.1  # and the time after which no further sizes are read: on a mounted bucket each takes a while
NO_SIZE = -1  # of a pipe, a record of a shard, an example of tfds, or a file that is not there


def contents_of(
    utterances: Utterances, *, texts: bool, speakers: bool, files: PathColumn, sized: int | None = None
) -> dict[str, Any]:
    """Return digests of the rows in their order, as JSON.

    Args:
        utterances: the rows.
        texts: the texts are learned from.
        speakers: the names of the speakers are learned from.
        files: the files that are read for the rows.
        sized: number of rows whose file sizes count, as an earlier call returned it; None takes as many as are read
            in SIZED_SECONDS, at most SIZED_ROWS. They are spread evenly over the set.

    Returns:
        "rows": their number; "ids", "texts", "times", "speakers", "sizes": digests; "sized": see `sized`.

    Example:
        >>> from speech_jax.data.contents import contents_of
        >>> from speech_jax.data.utterances import Utterance, Utterances
        >>> rows = Utterances.of([Utterance("a", "a.wav", text="yes"), Utterance("b", "b.wav", text="no")])
        >>> first = contents_of(rows, texts=True, speakers=False, files=rows.audio)
        >>> turned = contents_of(rows[::-1], texts=True, speakers=False, files=rows[::-1].audio)
        >>> [name for name in first if first[name] != turned[name]]
        ['ids', 'texts']
    """
    columns: dict[str, Any] = {"ids": utterances.ids}
    columns |= {"texts": utterances.texts.column} if texts else {}
    columns |= {"speakers": utterances.speakers} if speakers else {}
    contents: dict[str, Any] = {"rows": len(utterances)}
    for name, column in columns.items():
        digest = hashlib.blake2b(digest_size=16)
        column.update(digest)
        contents[name] = digest.hexdigest()
    times = np.stack([utterances.starts, utterances.ends, utterances.seconds])
    contents["times"] = _digest(np.where(np.isnan(times), np.nan, times).astype("<f8"))
    sizes = _sizes(files, len(utterances), sized)
    return contents | {"sized": len(sizes), "sizes": _digest(sizes.astype("<i8"))}


def _sizes(files: PathColumn, rows: int, count: int | None) -> np.ndarray:
    """Return int64 sizes in bytes of the files of `count` rows, or of as many as can be read quickly."""
    stride = max(1, round(0.618 * rows))  # any number of first rows of this order is spread evenly
    while math.gcd(stride, rows) > 1:
        stride += 1
    deadline = time.monotonic() + SIZED_SECONDS
    sizes: list[int] = []
    known: dict[str, int] = {}  # many rows may be segments of one file
    for turn in range(min(rows, SIZED_ROWS) if count is None else min(rows, count)):
        file = files.text(turn * stride % rows)
        if file not in known:
            known[file] = _size(file)
        sizes.append(known[file])
        if count is None and turn % 100 == 99 and time.monotonic() > deadline:
            break
    return np.array(sizes, np.int64)


def _size(file: str) -> int:
    if not file or is_reference(file):
        return NO_SIZE
    try:
        return os.stat(file).st_size
    except OSError:
        return NO_SIZE


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
