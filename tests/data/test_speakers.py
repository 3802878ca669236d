"""Who speaks: a table of names, each utterance's place in it, and one clear line for whoever is not there."""

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.config import SourceConfig
from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources import load_source
from speech_jax.data.speakers import find_speaker, speaker_ids, speaker_table
from speech_jax.data.utterances import Utterance


def utterance(number, speaker):
    return Utterance(f"u{number}", "a.wav", text="a", speaker=speaker, seconds=1.0, where=f"m.jsonl:{number}")


ROWS = [utterance(i, name) for i, name in enumerate(["joe", "ann", "joe", "7"], 1)]


def test_names_become_numbers_by_their_place_in_the_table():
    assert speaker_table(ROWS) == ("7", "ann", "joe")
    np.testing.assert_array_equal(speaker_ids(ROWS, ("joe", "x", "ann", "7")), [0, 2, 0, 3])


def test_a_speaker_that_the_voice_does_not_have_is_named():
    with pytest.raises(UserError, match=r"^m.jsonl:2: u2: found speaker 'ann', expected one of the voice's: 'joe'$"):
        speaker_ids(ROWS, ("joe",))
    with pytest.raises(UserError, match="m.jsonl:5: u5: found no speaker"):
        speaker_table([*ROWS, utterance(5, "")])
    with pytest.raises(UserError, match="u5: found no speaker, expected one of"):
        speaker_ids([utterance(5, "")], ("joe",))


def test_a_speaker_is_asked_for_by_name_or_number():
    table = ("7", "ann", "joe")
    assert [find_speaker(wanted, table, 3) for wanted in ("", "ann", "2", "7")] == [0, 1, 2, 0]
    for wanted in ("3", "-1", "Ann", "²"):
        with pytest.raises(UserError, match=f"--speaker: found '{wanted}', expected one of '7', 'ann', 'joe' or a"):
            find_speaker(wanted, table, 3)
    assert find_speaker("0", (), 0) == 0
    with pytest.raises(UserError, match="expected nothing: the voice has one speaker"):
        find_speaker("ann", (), 0)
    many = tuple(f"s{i}" for i in range(20))
    with pytest.raises(UserError, match="'s7' and 12 more"):
        find_speaker("nobody", many, 20)


def test_a_source_keeps_the_speakers_that_are_asked_for(tmp_path):
    write_manifest(tmp_path / "m.jsonl", ROWS)
    found = load_source(SourceConfig(path=str(tmp_path / "m.jsonl"), speakers=("joe", "7")))
    assert [u.id for u in found] == ["u1", "u3", "u4"]
    with pytest.raises(UserError, match="found no utterance of speaker 'bob'"):
        load_source(SourceConfig(path=str(tmp_path / "m.jsonl"), speakers=("joe", "bob")))
