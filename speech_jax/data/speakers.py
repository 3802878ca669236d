"""Who speaks: the table of names that a voice of several speakers carries, and each utterance's place in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance, Utterances

_SHOWN = 8  # names that an error lists


def speaker_table(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    """The names of the speakers, sorted. Raises UserError for an utterance that names none."""
    rows = Utterances.of(utterances)
    names = rows.speakers.used()
    if "" in names:
        first = rows[list(rows.speakers).index("")]
        raise UserError(f'{_place(first)}: found no speaker, expected a name (task.speakers is "data")')
    return tuple(sorted(names))


def speaker_ids(utterances: Sequence[Utterance], table: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Each utterance's number in the table. Raises UserError naming a speaker that is not in it, and the table."""
    rows = Utterances.of(utterances)
    places = {name: i for i, name in enumerate(table)}
    numbers = np.array([places.get(name, -1) for name in rows.speakers.names], np.int32)[rows.speakers.codes]
    for row in np.flatnonzero(numbers < 0)[:1]:
        utterance = rows[row]
        speaker = f"speaker {utterance.speaker!r}" if utterance.speaker else "no speaker"
        raise UserError(f"{_place(utterance)}: found {speaker}, expected one of the voice's: {named(table)}")
    return numbers


def find_speaker(wanted: str, table: Sequence[str], count: int) -> int:
    """The number of a speaker that is named, or numbered from 0 as in the table; "" is the first. count: speakers of
    the voice, 0 or 1 where it has one. Raises UserError that lists the names."""
    if wanted in table:
        return list(table).index(wanted)
    if not wanted:
        return 0
    if wanted.isascii() and wanted.isdigit() and int(wanted) < max(count, 1):
        return int(wanted)
    known = f"one of {named(table)}" if table else "nothing: the voice has one speaker"
    raise UserError(f"--speaker: found {wanted!r}, expected {known}" + (" or a number from 0" if table else ""))


def named(table: Sequence[str]) -> str:
    """The first names of a table."""
    return ", ".join(map(repr, table[:_SHOWN])) + (f" and {len(table) - _SHOWN} more" if len(table) > _SHOWN else "")


def _place(utterance: Utterance) -> str:
    return f"{utterance.where}: {utterance.id}" if utterance.where else utterance.id
