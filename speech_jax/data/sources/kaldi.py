"""Source: a Kaldi data directory. Needs wav.scp and text; segments, utt2spk and utt2dur are optional.

Format: kaldi-asr.org/doc/data_prep.html. As with Kaldi's own validate_data_dir.sh, files must be sorted (bytewise,
LC_ALL=C) and have the same ids: programs that read them in parallel lose data silently otherwise.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import measured
from speech_jax.data.utterances import Utterance, Utterances


def read_kaldi(folder: str | Path, *, allow_pipes: bool = False, on_error: str = "raise") -> Utterances:
    """Read the utterances of a Kaldi data directory, in the order of `text`.

    A relative path in wav.scp is relative to the directory if the file exists there, else to the current directory, as
    in Kaldi's recipes.

    Args:
        folder: the directory.
        allow_pipes: accept commands in wav.scp, the lines that end in "|".
        on_error: "raise", or "skip": leave out rows whose recording cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: ids are unsorted, repeated or missing in a file, a time is wrong, or a command is not allowed; the
            message names file and line.
    """
    folder = Path(folder)
    wavs = _table(folder / "wav.scp", "lines 'RECORDING FILE'")
    texts = _table(folder / "text", "lines 'UTTERANCE WORDS'", empty=True)
    speakers = _optional(folder / "utt2spk", "lines 'UTTERANCE SPEAKER'")
    durations = _optional(folder / "utt2dur", "lines 'UTTERANCE SECONDS'")
    segments = _optional(folder / "segments", "lines 'UTTERANCE RECORDING START END'")
    if speakers is not None:
        _demand(texts, speakers, folder / "utt2spk")
        _demand(speakers, texts, folder / "text")
    spoken_in = segments if segments is not None else wavs
    _demand(texts, spoken_in, folder / ("segments" if segments is not None else "wav.scp"))
    _demand(spoken_in, texts, folder / "text")

    result = []
    for name, (where, text) in texts.items():
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
        result.append(
            Utterance(
                id=name,
                audio=_audio(*wavs[recording], folder, allow_pipes),
                start=start,
                end=end,
                text=text,
                speaker=speakers[name][1] if speakers is not None else "",
                seconds=seconds,
                where=where,
            )
        )
    if allow_pipes:
        result = [_pipe_seconds(u) if math.isnan(u.seconds) and u.audio.endswith("|") else u for u in result]
    return measured(Utterances.of(result), folder, on_error)


def _table(path: Path, expected: str, *, empty: bool = False) -> dict[str, tuple[str, str]]:
    """Read a file as id -> (FILE:LINE, rest of the line), and check that ids are sorted and unique."""
    table: dict[str, tuple[str, str]] = {}
    last = ""
    for where, line in read_lines(path, expected):
        name, *rest = line.split(maxsplit=1)
        if not rest and not empty:
            raise UserError(f"{where}: found {line!r}, expected {expected}")
        if name in table:
            raise UserError(f"{where}: found id {name!r} again, expected one line an id (see {table[name][0]})")
        if name.encode() < last.encode():
            raise UserError(f"{where}: found id {name!r} after {last!r}, expected ids sorted as by LC_ALL=C sort")
        last = name
        table[name] = (where, rest[0].strip() if rest else "")
    if not table:
        raise UserError(f"{path}: found an empty file, expected {expected}")
    return table


def _optional(path: Path, expected: str) -> dict[str, tuple[str, str]] | None:
    return _table(path, expected) if path.exists() else None


def _demand(ids: dict[str, tuple[str, str]], others: dict[str, tuple[str, str]], path: Path) -> None:
    """Raise UserError unless every id of the first table is in the second, which was read from `path`."""
    for name, (where, _) in ids.items():
        if name not in others:
            raise UserError(f"{where}: found id {name!r}, expected it in {path} too")


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


def _audio(where: str, entry: str, folder: Path, allow_pipes: bool) -> str:
    if entry.endswith("|"):
        if not allow_pipes:
            raise UserError(f"{where}: found the command {entry!r}, expected a file (allow_pipes lets it run)")
        return entry
    path = os.path.join(folder, entry)
    return path if os.path.exists(path) or not os.path.exists(entry) else entry


def _pipe_seconds(utterance: Utterance) -> Utterance:
    """Measure the output of a command, which has to be run for that."""
    import io

    from speech_jax.audio.io import read_audio
    from speech_jax.data.recordings import run_pipe

    rate = 16_000
    try:
        data = run_pipe(utterance.audio, allow_pipes=True)
        audio = read_audio(io.BytesIO(data), rate, start=utterance.start, name=utterance.audio)
    except UserError:
        return utterance  # `measured` reports it
    return utterance._replace(seconds=len(audio) / rate)
