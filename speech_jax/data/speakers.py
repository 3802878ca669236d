"""Speaker tables: the names of a voice's speakers, and each utterance's index in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance, Utterances

_SHOWN = 8  # names that an error lists


def speaker_table(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    """Return the sorted names of the speakers. Raises UserError for an utterance without a speaker."""
    rows = Utterances.of(utterances)
    names = rows.speakers.used()
    if "" in names:
        first = rows[list(rows.speakers).index("")]
        raise UserError(f'{_place(first)}: found no speaker, expected a name (task.speakers is "data")')
    return tuple(sorted(names))


def speaker_ids(utterances: Sequence[Utterance], table: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Return the index of each utterance's speaker in a table.

    Args:
        utterances: n rows.
        table: names of the voice's speakers.

    Returns:
        int32 [n].

    Raises:
        UserError: a speaker is not in the table; the message lists its names.
    """
    rows = Utterances.of(utterances)
    places = {name: i for i, name in enumerate(table)}
    numbers = np.array([places.get(name, -1) for name in rows.speakers.names], np.int32)[rows.speakers.codes]
    for row in np.flatnonzero(numbers < 0)[:1]:
        utterance = rows[row]
        speaker = f"speaker {utterance.speaker!r}" if utterance.speaker else "no speaker"
        raise UserError(f"{_place(utterance)}: found {speaker}, expected one of the voice's: {named(table)}")
    return numbers


def find_speaker(speaker: str, table: Sequence[str], count: int) -> int:
    """Return the index of a speaker that the user chose.

    Args:
        speaker: the name, or the index in the table; "" is the first speaker.
        table: names of the voice's speakers.
        count: number of the voice's speakers; 0 or 1 if it has only one.

    Raises:
        UserError: there is no such speaker; the message lists the names.
    """
    if speaker in table:
        return list(table).index(speaker)
    if not speaker:
        return 0
    if speaker.isascii() and speaker.isdigit() and int(speaker) < max(count, 1):
        return int(speaker)
    choices = f"one of {named(table)} or a number from 0" if table else "nothing: the voice has one speaker"
    raise UserError(f"--speaker: found {speaker!r}, expected {choices}")


def named(table: Sequence[str]) -> str:
    """Return the first names of a table as text."""
    return ", ".join(map(repr, table[:_SHOWN])) + (f" and {len(table) - _SHOWN} more" if len(table) > _SHOWN else "")


def _place(utterance: Utterance) -> str:
    return f"{utterance.where}: {utterance.id}" if utterance.where else utterance.id
