"""Source: a Kaldi data directory. Needs wav.scp and text; segments, utt2spk, utt2lang and utt2dur are optional.

Format: kaldi-asr.org/doc/data_prep.html. As with Kaldi's own validate_data_dir.sh, files must be sorted (bytewise,
LC_ALL=C) and have the same ids: programs that read them in parallel lose data silently otherwise. With on_error "skip"
they are sorted, and what only some of them have is left out and named, as by fix_data_dir.sh.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from speech_jax.audio.io import decode
from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.core.log import log
from speech_jax.data.manifest import LeftOut, Problem, measured, raise_problem, say_left_out
from speech_jax.data.recordings import ALLOW, run_pipe
from speech_jax.data.utterances import Utterance, Utterances


def read_kaldi(folder: str | Path, *, allow_pipes: bool = False, on_error: str = "raise") -> Utterances:
    """Read the utterances of a Kaldi data directory, in the order of `text`.

    A relative path in wav.scp is relative to the directory if the file exists there, else to the current directory, as
    in Kaldi's recipes.

    Args:
        folder: the directory.
        allow_pipes: accept commands in wav.scp, the lines that end in "|".
        on_error: "raise", or "skip": leave out rows that are wrong, that a file lacks or whose recording cannot be
            measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: ids are unsorted, repeated or missing in a file, a time is wrong, or a command is not allowed; the
            message names file and line.
    """
    folder = Path(folder)
    problems = LeftOut()
    problem = raise_problem if on_error == "raise" else lambda error: problems.append(str(error))
    result = kaldi_rows(folder, problem, allow_pipes=allow_pipes)
    if allow_pipes:
        result = list(_with_pipe_seconds(result, problem))
    say_left_out(problems)
    return measured(Utterances.of(result), folder, on_error)


def kaldi_rows(folder: Path, problem: Problem, *, allow_pipes: bool = False) -> list[Utterance]:
    """Return the rows of a directory, sorted by id; `problem` is handed the errors of wrong ones."""

    def table(name: str, expected: str, *, empty: bool = False) -> dict[str, tuple[str, str]]:
        return _table(folder / name, expected, problem, empty=empty)

    def optional(name: str, expected: str) -> dict[str, tuple[str, str]] | None:
        return table(name, expected) if (folder / name).exists() else None

    wavs = table("wav.scp", "lines 'RECORDING FILE'")
    for where, entry in wavs.values():
        if entry.endswith("|") and not allow_pipes:
            raise UserError(f"{where}: found the command {entry!r}, expected a file ({ALLOW})")
    texts = table("text", "lines 'UTTERANCE WORDS'", empty=True)
    speakers = optional("utt2spk", "lines 'UTTERANCE SPEAKER'")
    languages = optional("utt2lang", "lines 'UTTERANCE LANGUAGE'")
    durations = optional("utt2dur", "lines 'UTTERANCE SECONDS'")
    segments = optional("segments", "lines 'UTTERANCE RECORDING START END'")
    spoken_in = segments if segments is not None else wavs
    names = _shared(
        {"text": texts, "segments" if segments is not None else "wav.scp": spoken_in}
        | {name: of for name, of in (("utt2spk", speakers), ("utt2lang", languages)) if of is not None},
        folder,
        problem,
    )

    def utterance(name: str) -> Utterance:
        where, text = texts[name]
        start, end, recording = 0.0, None, name
        if segments is not None:
            recording, start, end = _segment(*segments[name])
            if recording not in wavs:
                place = segments[name][0]
                raise UserError(f"{place}: found recording {recording!r}, expected one that is in {folder / 'wav.scp'}")
        seconds = math.nan
        if durations is not None and name in durations and end is None:
            seconds = _seconds(durations[name][1], durations[name][0])
        elif end is not None:
            seconds = end - start
        return Utterance(
            id=name,
            audio=_audio(wavs[recording][1], folder),
            start=start,
            end=end,
            text=text,
            speaker=speakers[name][1] if speakers is not None else "",
            language=languages[name][1] if languages is not None else "",
            seconds=seconds,
            where=where,
        )

    result = []
    for name in names:
        try:
            result.append(utterance(name))
        except UserError as error:
            problem(error)
    return result


def _table(path: Path, expected: str, problem: Problem, *, empty: bool) -> dict[str, tuple[str, str]]:
    """Read a file as id -> (FILE:LINE, rest of the line), and check that ids are sorted and unique."""
    table: dict[str, tuple[str, str]] = {}
    last, unsorted = "", False
    for where, line in read_lines(path, expected):
        name, *rest = line.split(maxsplit=1)
        try:
            if not rest and not empty:
                raise UserError(f"{where}: found {line!r}, expected {expected}")
            if name in table:
                raise UserError(f"{where}: found id {name!r} again, expected one line an id (see {table[name][0]})")
        except UserError as error:
            problem(error)
            continue
        if name.encode() < last.encode() and not unsorted:
            unsorted = True
            line = f"{where}: found id {name!r} after {last!r}, expected ids sorted as by LC_ALL=C sort"
            if problem is raise_problem:
                raise UserError(line)
            log.warning("%s; they are sorted here", line)
        last = name
        table[name] = (where, rest[0].strip() if rest else "")
    if not table:
        raise UserError(f"{path}: found an empty file, expected {expected}")
    return table


def _shared(tables: dict[str, dict[str, tuple[str, str]]], folder: Path, problem: Problem) -> list[str]:
    """Return the ids that all tables have, sorted; `problem` is handed an error for each other id."""
    names: dict[str, str] = {name: where for table in tables.values() for name, (where, _) in table.items()}
    shared = []
    for name in sorted(names, key=str.encode):
        lacking = [file for file, table in tables.items() if name not in table]
        if not lacking:
            shared.append(name)
            continue
        where = next(table[name][0] for table in tables.values() if name in table)
        missing = " and ".join(str(folder / file) for file in lacking)
        problem(UserError(f"{where}: found id {name!r}, expected it in {missing} too"))
    return shared


def _segment(where: str, rest: str) -> tuple[str, float, float | None]:
    fields = rest.split()
    if len(fields) != 3:
        raise UserError(f"{where}: found {len(fields) + 1} fields, expected 'UTTERANCE RECORDING START END'")
    start = _seconds(fields[1], where)
    if fields[2] == "-1":  # Kaldi's "to the end of the recording"
        return fields[0], start, None
    end = _seconds(fields[2], where)
    if end <= start:
        raise UserError(f"{where}: found start {fields[1]} and end {fields[2]}, expected end after start")
    return fields[0], start, end


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e7:
        raise UserError(f"{where}: found {text!r}, expected seconds")
    return value


def _audio(entry: str, folder: Path) -> str:
    if entry.endswith("|"):
        return entry
    path = os.path.join(folder, entry)
    return path if os.path.exists(path) or not os.path.exists(entry) else entry


def _with_pipe_seconds(utterances: Iterable[Utterance], problem: Problem) -> Iterator[Utterance]:
    """Yield the rows, with the length of what their commands write; these have to be run for that."""
    for utterance in utterances:
        if math.isnan(utterance.seconds) and utterance.audio.endswith("|"):
            try:
                utterance = utterance._replace(seconds=_pipe_seconds(utterance))
            except UserError as error:
                problem(UserError(f"{utterance.where}: {error}"))
                continue
        yield utterance


def _pipe_seconds(utterance: Utterance) -> float:
    data = run_pipe(utterance.audio, allow_pipes=True)
    recording = decode(io.BytesIO(data), None, start=utterance.start, name=utterance.audio)
    return len(recording.samples) / recording.rate
