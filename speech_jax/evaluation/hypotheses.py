"""Transcripts of other systems for the utterances of an evaluation, and transcripts of this one as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.report import Item
from speech_jax.evaluation.transcript_files import Format, Row, read_transcripts, stem
from speech_jax.text.normalize import normalize

Key = tuple[str, str]  # set and id of an utterance
_TOLERANCE = 0.01  # seconds between the beginnings of one utterance in two files


class Hypotheses(NamedTuple):
    """Transcripts by set and id of the utterances, and the description of their file for reports."""

    texts: dict[Key, str]
    description: str


def write_hypotheses(items: Iterable[Item]) -> str:
    """Return one JSON object per line, with set, id, reference and hypothesis."""
    rows = ({"set": i.set, "id": i.id, "reference": i.reference, "hypothesis": i.hypothesis} for i in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_hypotheses(
    path: str,
    sets: Mapping[str, Sequence[Utterance]],
    *,
    format: Format | Literal[""] = "",
    field: str = "",
) -> Hypotheses:
    """Read the transcripts of the utterances of some sets.

    A row belongs to the utterance of its id, else of its recording's path or name, and of its start where utterances
    share a recording. A row without a set applies to every set. An empty text is a transcript.

    Args:
        path: transcript file or folder; see evaluation/transcript_files.py.
        sets: utterances of each set by name.
        format: the file's format; empty takes that of its name or of its lines.
        field: name of the field with the transcripts; empty takes the one whose name says so.

    Raises:
        UserError: a line cannot be read, an utterance has two transcripts or none, or the file's format is ambiguous.
    """
    index = _Index(sets)
    file = read_transcripts(path, index.knows, format=format, field=field)
    best: dict[Key, tuple[bool, Row]] = {}
    others: list[Row] = []
    for row in file.rows:
        keys = index.find(row)
        if not keys:
            others.append(row)
        for key in keys:
            exact = bool(row.set)  # one of this very set counts more than one of any
            if key in best and best[key][0] == exact:
                raise UserError(
                    f"{row.where}: found a transcript of {key[1]!r} again, expected one (see {best[key][1].where})"
                )
            if key not in best or exact:
                best[key] = exact, row
    keys = [(name, utterance.id) for name, utterances in sets.items() for utterance in utterances]
    if not best:
        first = f"the first is {file.rows[0].names[0]!r}" if file.rows else "it has no rows"
        raise UserError(
            f"{path}: found no utterance of the manifests ({file.description}; {first}), expected their ids, such as "
            f"{keys[0][1]!r}, or the names of their recordings"
        )
    if others:
        log.warning(
            "%s: %d of %d transcripts belong to no utterance of the manifests, the first to %r",
            path, len(others), len(file.rows), others[0].names[0],
        )  # fmt: skip
    missing = [key[1] for key in keys if key not in best]
    count = f"{len(missing)} of {len(keys)} utterances, the first {missing[0]!r}" if missing else ""
    if missing and not file.lists_words:
        raise UserError(
            f"{path}: found no transcript of {count}; expected one for each (an empty text where nothing was "
            f"recognized; read as {file.description})"
        )
    if missing:
        log.warning("%s: it has no words of %s, which count as empty transcripts", path, count)
    references = {(name, u.id): u.text for name, utterances in sets.items() for u in utterances}
    texts = {key: best[key][1].text if key in best else "" for key in keys}
    if texts == references and any(text != normalize(text, "none") for text in texts.values()):
        log.warning(
            "%s: every transcript is its reference, capitals and punctuation included; is it a list of references?",
            path,
        )
    return Hypotheses(texts, file.description)


class _Index:
    """Utterances by id and by recording."""

    def __init__(self, sets: Mapping[str, Sequence[Utterance]]):
        self._ids: dict[str, list[tuple[str, Utterance]]] = {}
        self._recordings: dict[str, list[tuple[str, Utterance]]] = {}
        for name, utterances in sets.items():
            for utterance in utterances:
                self._ids.setdefault(utterance.id, []).append((name, utterance))
                self._recordings.setdefault(stem(utterance.audio), []).append((name, utterance))

    def knows(self, name: str) -> bool:
        """Return True if an utterance or its recording has this name."""
        return name in self._ids or stem(name) in self._ids or stem(name) in self._recordings

    def find(self, row: Row) -> list[Key]:
        """Return the utterances of a row: none, one, or one of each set. Raise UserError where its names disagree."""
        keys: list[Key] = []
        for name in row.names:
            found = self._ids.get(name) or self._of_recording(name, row.start) or self._ids.get(stem(name), [])
            if row.set:
                # "A/test" and "test" are one set: an evaluation of several names them by more of their paths.
                found = [f for f in found if f[0] == row.set] or [
                    f for f in found if f"/{f[0]}".endswith(f"/{row.set}") or f"/{row.set}".endswith(f"/{f[0]}")
                ]
            if len({set_name for set_name, _ in found}) < len(found):
                count = f"{name!r}, which {len(found)} utterances of a set have"
                raise UserError(f"{row.where}: found the recording {count}, expected their ids or starts")
            other = [(set_name, utterance.id) for set_name, utterance in found]
            if keys and other and other != keys:
                pair = f"{keys[0][1]!r} and {other[0][1]!r}"
                raise UserError(f"{row.where}: found names of two utterances, {pair}, expected those of one")
            keys = keys or other
        return keys

    def _of_recording(self, name: str, start: float | None) -> list[tuple[str, Utterance]]:
        """Return the utterances of a recording by as much of its path as is the same."""
        found = self._recordings.get(stem(name), [])
        if len(found) > 1:
            shared = [_shared_parts(name, utterance.audio) for _, utterance in found]
            found = [each for each, count in zip(found, shared, strict=True) if count == max(shared)]
        if len(found) > 1 and start is not None:
            found = [each for each in found if abs(each[1].start - start) <= _TOLERANCE]
        return found


def _shared_parts(first: str, second: str) -> int:
    """Return the number of folders at the end of two paths that are equal."""
    count = 0
    for one, other in zip(first.split("/")[-2::-1], second.split("/")[-2::-1], strict=False):
        if one != other:
            break
        count += 1
    return count
