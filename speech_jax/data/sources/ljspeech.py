"""Source: LJSpeech's layout (keithito.com/LJ-Speech-Dataset), metadata.csv of ID|text|normalized text and wavs/."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.data.manifest import Problem, check_ids, measured, raise_problem
from speech_jax.data.rows import FIELDS, name_of
from speech_jax.data.sources.folder import find_recording
from speech_jax.data.utterances import Utterance, Utterances

COLUMNS = ("id", "text", "normalized", "speaker", "language", "-")
_SHARE = 5  # a normalized text has at least one word in so many of the written one
_WORD = re.compile(r"\w+")


def read_ljspeech(
    source: str | Path, *, speaker: str = "", columns: Sequence[str] = (), on_error: str = "raise"
) -> Utterances:
    """Read the utterances of a set in LJSpeech's layout, with the normalized text where there is one.

    The id may have the ending of the file and the name of the folder (`wavs/LJ001-0001.wav`). A recording that is not
    beside the list is looked up from the current folder, as those of VITS' file lists.

    Args:
        source: the folder of metadata.csv, or another file of such lines beside the recordings or their folder.
        speaker: name of the speaker of lines that name none.
        columns: the columns in their order, of COLUMNS; "-" is one that is not read. Empty: id, text and, where there
            is a third, normalized.
        on_error: "raise", or "skip": leave out rows whose recording cannot be measured, with a warning.

    Returns:
        The rows.

    Raises:
        UserError: anything else is wrong, or a third column that is not named cannot be the normalized text; the
            message names file and line.
    """
    result = Utterances.of(ljspeech_rows(Path(source), raise_problem, speaker=speaker, columns=columns))
    check_ids(result)
    return measured(result, Path(source), on_error)


def is_ljspeech(path: Path) -> bool:
    """Return True for a file whose first line has fields between "|", but no names of columns."""
    if path.suffix.lower() not in (".csv", ".txt"):
        return False
    fields = next(read_lines(path, "lines 'ID|text'"), ("", ""))[1].lower().split("|")
    return len(fields) > 1 and not {field.strip() for field in fields} & {*FIELDS["audio"], *FIELDS["text"]}


def ljspeech_rows(
    source: Path, problem: Problem, *, speaker: str = "", columns: Sequence[str] = ()
) -> Iterator[Utterance]:
    """Yield the rows of a set; `problem` is handed the errors of wrong ones."""
    path = source / "metadata.csv" if source.is_dir() else source
    _check_columns(columns)
    expected = f"lines '{'|'.join(columns)}'" if columns else "lines 'ID|text|normalized text' (--columns names others)"
    lines = [(where, [field.strip() for field in line.split("|")]) for where, line in read_lines(path, expected)]
    if not columns:
        _check_third(lines)
    for where, fields in lines:
        try:
            names = columns or ("id", "text", "normalized")[: max(2, len(fields))]
            if len(fields) != len(names) or not fields[names.index("id")]:
                raise UserError(f"{where}: found {len(fields)} fields, expected {expected}")
            row = dict(zip(names, fields, strict=True))
            name = row["id"]
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"{where}: found id {name!r}, expected the name of a file in wavs/")
            audio = find_recording(path.parent, name)
            if not os.path.isfile(audio):
                audio = find_recording(Path.cwd(), name)  # as those of VITS' lists
            yield Utterance(
                id=name_of(name).removeprefix("wavs/"),
                audio=audio if os.path.isfile(audio) else str(path.parent / "wavs" / f"{name_of(name)}.wav"),
                text=row.get("normalized") or row.get("text", ""),
                speaker=row.get("speaker") or speaker,
                language=row.get("language", ""),
                where=where,
            )
        except UserError as error:
            problem(error)


def _check_columns(columns: Sequence[str]) -> None:
    """Raise UserError unless columns that are named are known, and an id and a text are among them."""
    read = [name for name in columns if name != "-"]
    complete = not columns or ("id" in read and ("text" in read or "normalized" in read))
    if not complete or not set(read) <= set(COLUMNS) or len(set(read)) < len(read):
        raise UserError(f"--columns: found {','.join(columns)}, expected id, text and others of {', '.join(COLUMNS)}")


def _check_third(lines: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Raise UserError if most third columns share few words with the second: it is then no normalized text of it."""
    pairs = [
        (where, *(set(_WORD.findall(field.casefold())) for field in fields[1:]))
        for where, fields in lines
        if len(fields) == 3 and fields[2]
    ]
    strange = [where for where, text, third in pairs if _SHARE * len(text & third) < max(len(text), len(third))]
    if len(strange) * 2 > len(pairs):
        count = f"{len(strange)} of {len(pairs)} lines"
        raise UserError(
            f"{strange[0]}: found a third column that shares few words with the second in {count}, expected its "
            "normalized text; `prepare ljspeech --columns id,text,speaker` (or id,speaker,text, or id,text,normalized) "
            "says what the columns are"
        )
