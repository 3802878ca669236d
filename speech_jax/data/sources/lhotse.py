"""Source: lhotse's cuts, or its supervisions beside the file of their recordings, as JSON lines (also gzipped).

Each supervision becomes a row: a part of a recording and its text. A cut's supervisions lie in time from the start of
the cut and end with it, as in `CutSet.trim_to_supervisions`; more than CLIP_SECONDS outside of it are an error. See
lhotse.readthedocs.io/en/latest/corpus.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speech_jax.audio.io import CLIP_SECONDS
from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.core.log import log
from speech_jax.data.manifest import LeftOut, Problem, check_ids, measured, raise_problem, say_kind, say_left_out
from speech_jax.data.rows import parse_json, parse_row, short
from speech_jax.data.utterances import Utterance, Utterances

_SUPERVISION = frozenset(("id", "recording_id", "start", "duration", "channel", "text", "speaker", "language"))
_ROUNDED = 0.01  # seconds that a supervision may be longer than its cut without being called clipped
_CHANGES = ("transforms", "tracks")  # fields that say that the sound is not that of the file


def read_lhotse(path: str | Path, *, on_error: str = "raise") -> Utterances:
    """Read the utterances of a file of lhotse's cuts or supervisions.

    The recordings of supervisions are looked up in the file beside it whose name has "recordings" in place of
    "supervisions". A relative path is relative to the file if the recording exists there, else to the current
    directory, as in lhotse.

    Args:
        path: the file.
        on_error: "raise", or "skip": leave out rows that are wrong, whose sound is no part of a file or whose recording
            cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong, or the sound of a row is not a whole channel of a file: it is mixed, changed
            or one of several channels. The message names file and line.
    """
    path = Path(path)
    fields: set[str] = set()
    problems = LeftOut()
    problem = (lambda error: problems.append(str(error))) if on_error == "skip" else raise_problem
    result = Utterances.of(lhotse_rows(path, problem, fields))
    say_left_out(problems)
    say_kind(path, "lhotse", len(result), fields)
    check_ids(result)
    return measured(result, path, on_error)


def lhotse_rows(path: Path, problem: Problem, fields: set[str]) -> Iterator[Utterance]:
    """Yield the rows of a file; `problem` is handed the errors of wrong ones, `fields` the fields that are not read."""
    recordings: dict[str, tuple[str, dict]] | None = None
    found: dict[str, str] = {}
    clipped: list[str] = []

    def find(name: str) -> str:
        if name not in found:
            beside = os.path.join(path.parent, name)
            found[name] = beside if os.path.exists(beside) or not os.path.exists(name) else name
        return found[name]

    for where, line in read_lines(path, "lhotse's cuts or supervisions (JSON lines)"):
        try:
            row = parse_json(line, where)
            if "recording_id" not in row:
                begin, length, recording, supervisions = _cut(row, where)
                for each in supervisions:
                    fields.update(_unread(each))
                    try:
                        start, duration = _part_of_cut(each, where, length, clipped)
                        yield _utterance(each, where, recording, find, round(begin + start, 9), round(duration, 9))
                    except UserError as error:
                        problem(error)
                continue
            if recordings is None:
                recordings = _recordings(path)
            if row["recording_id"] not in recordings:
                expected = "one that the file of the recordings has"
                raise UserError(f"{where}: found recording_id = {short(row['recording_id'])}, expected {expected}")
            recording = recordings[row["recording_id"]][1]
            yield _utterance(row, where, recording, find, _time(row, "start", where), _time(row, "duration", where))
            fields.update(_unread(row))
        except UserError as error:
            problem(error)
    if clipped:
        text = "%s: %d supervisions reach up to %g s out of their cut and are clipped; the first: %s"
        log.warning(text, path, len(clipped), CLIP_SECONDS, clipped[0])


def recordings_of(path: Path) -> Path | None:
    """Return the file of the recordings beside a file of supervisions; None if there is none."""
    name = "recordings".join(path.name.rsplit("supervisions", 1)).removesuffix(".gz")
    files = (path.with_name(each) for each in (name, f"{name}.gz"))
    return next((file for file in files if file.name != path.name and file.exists()), None)


def _recordings(path: Path) -> dict[str, tuple[str, dict]]:
    """Return the recordings of a file of supervisions by their ids, each with its FILE:LINE."""
    file = recordings_of(path)
    if file is None:
        expected = "the recordings in a file of the same name with 'recordings' for 'supervisions' beside it"
        raise UserError(f"{path}: found lhotse's supervisions alone, expected {expected}")
    result: dict[str, tuple[str, dict]] = {}
    for where, line in read_lines(file, "lhotse's recordings (JSON lines)"):
        row = parse_json(line, where)
        if not isinstance(row.get("id"), str) or not isinstance(row.get("sources"), list):
            raise UserError(f"{where}: lacks id and sources, expected a recording of lhotse")
        if row["id"] in result:
            first = result[row["id"]][0]
            raise UserError(f"{where}: found id {row['id']!r} again, expected one line an id (see {first})")
        result[row["id"]] = where, row
    return result


def _cut(cut: Mapping[str, Any], where: str) -> tuple[float, float, Mapping[str, Any], list[dict]]:
    """Return (start, duration, recording, supervisions) of a cut."""
    if cut.get("type") not in ("MonoCut", "MultiCut", None):
        raise UserError(f"{where}: found a {short(cut['type'])}, whose sound is no part of a file; expected a MonoCut")
    recording, supervisions = cut.get("recording"), cut.get("supervisions")
    if not isinstance(recording, dict):
        raise UserError(f"{where}: found a cut without a recording, expected one (features are computed from it)")
    if not isinstance(supervisions, list) or not all(isinstance(each, dict) for each in supervisions):
        raise UserError(f"{where}: found supervisions = {short(supervisions)}, expected a list of objects")
    if not supervisions:
        raise UserError(f"{where}: found a cut without a supervision, expected a text")
    return _time(cut, "start", where), _time(cut, "duration", where), recording, supervisions


def _part_of_cut(row: Mapping[str, Any], where: str, length: float, clipped: list[str]) -> tuple[float, float]:
    """Return (start, duration) of a supervision in its cut of `length` seconds; `clipped` gets it if it reaches out."""
    offset = row.get("start")
    if isinstance(offset, bool) or not isinstance(offset, int | float):
        raise UserError(f"{where}: found start = {short(offset)} in a supervision, expected seconds")
    duration = _time(row, "duration", where)
    start, stop = max(0.0, offset), min(length, offset + duration)
    if stop - start < max(duration - CLIP_SECONDS, duration / 2):
        raise UserError(
            f"{where}: found a supervision from {offset:g} to {offset + duration:g} s in a cut of {length:g} s, "
            "expected it inside: its text is of more than the cut"
        )
    if stop - start < duration - _ROUNDED:
        clipped.append(f"{where} ({short(row.get('id'))})")
    return start, stop - start


def _utterance(
    row: Mapping[str, Any], where: str, recording: Mapping[str, Any], find: Callable[[str], str], start: float,
    duration: float,
) -> Utterance:  # fmt: skip
    """Return the row of a supervision that begins at `start` in its recording."""
    sources = recording.get("sources")
    changed = next((name for name in _CHANGES if recording.get(name)), None)
    if changed:
        raise UserError(f"{where}: found a recording with {changed}, expected the sound of a file (lhotse can save it)")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise UserError(f"{where}: found sources = {short(sources)}, expected one file")
    kind, name, channels = (sources[0].get(field) for field in ("type", "source", "channels"))
    if kind != "file" or not isinstance(name, str) or not name:
        raise UserError(f"{where}: found a source of type {short(kind)}, expected a file (lhotse can save it)")
    channel = row.get("channel", 0)
    wanted = channel if isinstance(channel, list) else [channel]
    if not isinstance(channels, list) or any(each not in wanted for each in channels):
        raise UserError(
            f"{where}: found channel {short(channel)} of a file with channels {short(channels)}, expected all: write "
            "each channel as a file of its own first"
        )
    fields = {"id": row.get("id"), "audio": find(name), "text": row.get("text") or "", "start": start}
    fields |= {"duration": duration, "speaker": row.get("speaker"), "language": _code(row)}
    utterance = parse_row(fields, where)
    whole = start == 0 and duration == recording.get("duration")
    return utterance._replace(end=None) if whole else utterance


def _code(row: Mapping[str, Any]) -> Any:
    """Return the language of a supervision, None for a name such as "English", as only codes are known."""
    language = row.get("language")
    return None if isinstance(language, str) and not re.fullmatch(r"[a-z]{2,3}([-_]\w+)*", language) else language


def _unread(row: Mapping[str, Any]) -> set[str]:
    names = set(row.keys() - _SUPERVISION)
    return names | {"language (a name, no code such as en)"} if row.get("language") and not _code(row) else names


def _time(row: Mapping[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e7:
        raise UserError(f"{where}: found {name} = {short(value)}, expected seconds")
    return float(value)
