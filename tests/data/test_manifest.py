"""The manifest: what is written is read, relative paths move with the folder, and every wrong line is named."""

import json
import logging
import math

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.utterances import Utterance

GOOD = '{"id": "a", "audio": "a.wav", "text": "x", "seconds": 1}'


def test_written_is_read(tmp_path):
    rows = [
        Utterance("a", str(tmp_path / "wav" / "a.wav"), 0.5, 1.25, "héllo wörld", "amy", "tel", 0.75),
        Utterance("b", "/elsewhere/b.flac", text="", seconds=3.5),
        Utterance("c", "sox x.wav -t wav - |", text="c", seconds=1.0),
        Utterance("d", str(tmp_path / "s-00000-of-00001.array_record#3"), text="d", seconds=1.0),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    found = read_manifest(tmp_path / "m.jsonl")
    assert [u._replace(where="") for u in found] == rows
    assert [u.where for u in found] == [f"{tmp_path}/m.jsonl:{n}" for n in (1, 2, 3, 4)]


def test_a_folder_can_be_moved(tmp_path):
    (tmp_path / "one" / "wav").mkdir(parents=True)
    soundfile.write(tmp_path / "one" / "wav" / "a.wav", np.full(800, 0.1), 8000)
    write_manifest(tmp_path / "one" / "m.jsonl", [Utterance("a", str(tmp_path / "one" / "wav" / "a.wav"), text="x")])
    (tmp_path / "one").rename(tmp_path / "two")
    (row,) = read_manifest(tmp_path / "two" / "m.jsonl")
    assert row.seconds == pytest.approx(0.1)  # measured from the moved file


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a", "a.wav", text="x", seconds=1.0)])
    before = path.read_bytes()

    def rows():
        yield Utterance("b", "b.wav", text="y", seconds=1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, rows())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    "line,expected",
    [
        ("not json", "no JSON"),
        ('{"id": "b", "audio": "b.wav", "text": "x"', "no JSON"),
        ('["id"]', "type list"),
        ('{"audio": "b.wav", "text": "x"}', "lacks the field 'id'"),
        ('{"id": "b", "text": "x"}', "lacks the field 'audio'"),
        ('{"id": "b", "audio": "b.wav"}', "lacks the field 'text'"),
        ('{"id": 7, "audio": "b.wav", "text": "x"}', "id = 7, expected a string"),
        ('{"id": "", "audio": "b.wav", "text": "x"}', "empty id"),
        ('{"id": "b", "audio": "b.wav", "text": null}', "text = None"),
        ('{"id": "b", "audio": "b\\u0000.wav", "text": "x"}', "character in audio"),
        ('{"id": "b", "audio": "b.wav", "text": "\\ud800"}', "character in text"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "seconds": "2"}', "seconds = '2'"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "seconds": -1}', "seconds = -1"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "seconds": true}', "seconds = True"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "seconds": NaN}', "no JSON"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "seconds": 1e999}', "seconds = inf"),
        ('{"id": "b", "audio": "b.wav", "text": "x", "start": 3, "end": 2}', "end after start"),
        ('{"id": "a", "audio": "b.wav", "text": "x", "seconds": 1}', "id 'a' again.*m.jsonl:1"),
        ('{"id": "b", "audio": "none.wav", "text": "x"}', "none.wav: no such file"),
        ("[" * 100_000, "no JSON"),
        ('"' + "x" * 2_000_000, "more than 1048576 bytes"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, expected):
    (tmp_path / "m.jsonl").write_text(GOOD + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=expected) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/m.jsonl:3: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", None])
def test_empty_or_missing(tmp_path, data):
    if data is not None:
        (tmp_path / "m.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=f"{tmp_path}/m.jsonl: "):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="directory"):
        read_manifest(tmp_path)


def test_what_cannot_be_measured_can_be_left_out(tmp_path, caplog):
    (tmp_path / "m.jsonl").write_text(GOOD + '\n{"id": "b", "audio": "none.wav", "text": "x"}\n')
    with caplog.at_level(logging.WARNING):
        assert [u.id for u in read_manifest(tmp_path / "m.jsonl", on_error="skip")] == ["a"]
    assert "m.jsonl:2: " in caplog.text and "none.wav" in caplog.text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
ROWS = st.dictionaries(
    st.sampled_from(["id", "audio", "text", "start", "end", "seconds", "speaker", "domain", "x"]), VALUES, max_size=9
).map(json.dumps)
LINES = st.lists(ROWS.map(str.encode) | st.binary(max_size=60) | st.just(GOOD.encode()), max_size=4)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
def test_any_bytes_give_a_manifest_or_a_user_error(tmp_path, lines):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        rows = read_manifest(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len({u.id for u in rows}) == len(rows)
        assert all(u.id and u.audio and 0 <= u.seconds < math.inf and 0 <= u.start for u in rows)
