"""The manifest: what is written is read, relative paths move with the folder, and every wrong line is named."""

import json
import logging
import math
import os

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.core.files import read_lines
from speech_jax.data import manifest
from speech_jax.data.manifest import (
    check_ids,
    has_recordings,
    listed_twice,
    measured,
    read_manifest,
    shared_recording,
    write_manifest,
)
from speech_jax.data.rows import parse_json, parse_row
from speech_jax.data.utterances import Utterance, Utterances

GOOD = '{"id": "a", "audio": "a.wav", "text": "x", "seconds": 1}'


def test_written_is_read(tmp_path):
    rows = [
        Utterance("a", str(tmp_path / "wav" / "a.wav"), 0.5, 1.25, "héllo wörld", "amy", "tel", 0.75),
        Utterance("b", "/elsewhere/b.flac", text="", seconds=3.5, language="de"),
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


def read_line_by_line(path):
    """The manifest as the careful parser reads it, a line at a time."""

    def resolve(field, is_path):
        return os.path.join(path.parent, field) if is_path else field

    rows = []
    for where, line in read_lines(path, "a manifest (JSON lines)"):
        row = parse_row(parse_json(line, where), where, named=manifest.kind_of(path) == "manifest")
        audio = resolve(row.audio, not (row.audio.endswith("|") or row.audio.startswith("tfds:")))
        rows.append(row._replace(audio=audio, mel=resolve(row.mel, bool(row.mel))))
    check_ids(rows)
    return measured(rows, path, "raise")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
ROWS = st.dictionaries(
    st.sampled_from(["id", "audio", "text", "start", "end", "seconds", "speaker", "domain", "x"]), VALUES, max_size=9
).map(json.dumps)
TIMES = st.none() | st.integers(0, 9) | st.floats(0, 9) | st.just(-0.0)
NEARLY_GOOD = st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=3), "audio": st.sampled_from(["a", "b/c", "/b/c/", "x/y |", "tfds:a|b|/c#1"])},
    optional={
        "text": st.text(max_size=3) | st.just("\0"),
        "start": TIMES,
        "end": TIMES,
        "seconds": TIMES,
        "speaker": st.none() | st.text(max_size=2),
        "mel": st.none() | st.sampled_from(["", "m/1", "/m/1", "x|", 3]),
        "language": st.none() | st.sampled_from(["", "de", 3]),
    },
).map(lambda row: json.dumps({"text": "x", "seconds": 1.5} | row))
LINES = st.lists(
    ROWS.map(str.encode) | NEARLY_GOOD.map(str.encode) | st.binary(max_size=60) | st.just(GOOD.encode()), max_size=4
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
def test_any_bytes_give_a_manifest_or_a_user_error(tmp_path, lines):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        rows = read_manifest(path)
    except UserError as error:
        assert "\n" not in str(error)
        with pytest.raises(UserError) as slow:
            read_line_by_line(path)
        assert str(slow.value) == str(error)
    else:
        assert rows == Utterances.of(read_line_by_line(path))
        assert len({u.id for u in rows}) == len(rows)
        assert all(u.id and u.audio and 0 <= u.seconds < math.inf and 0 <= u.start for u in rows)


def write_many(path, count, change=lambda row: row):
    """A manifest of `count` rows, row `i` put through `change`."""
    rows = (
        {"id": f"u{i}", "audio": f"w/{i % 7}/{i}.flac", "text": f"text {i}", "seconds": i + 0.5} for i in range(count)
    )
    path.write_text("".join(json.dumps(change(row)) + "\n" + "\n" * (i % 3) for i, row in enumerate(rows)))


@pytest.fixture
def small_parts(monkeypatch):
    """Every manifest is large: parsed by child processes, and cached."""
    monkeypatch.setattr(manifest, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(manifest, "CACHED_ROWS", 1)
    monkeypatch.setattr(manifest, "_JOB_BYTES", 2000)


def entries(folder):
    return [p for p in folder.iterdir() if p.suffix == ".npz"]


def test_parts_make_the_whole(tmp_path, small_parts):
    path = tmp_path / "m.jsonl"
    write_many(path, 300)
    rows = read_manifest(path)
    assert rows == Utterances.of(read_line_by_line(path)) and len(entries(tmp_path)) == 1
    assert read_manifest(path) == rows  # from the cache
    assert rows[299].where == f"{path}:598" and rows[-1].audio == f"{tmp_path}/w/5/299.flac"


@pytest.mark.parametrize(
    ("row", "change", "expected"),
    [
        (150, {"seconds": "x"}, "seconds = 'x'"),
        (299, {"text": 3}, "text = 3"),
        (200, {"id": "u7"}, "id 'u7' again.*m.jsonl:14"),
    ],
)
def test_an_error_in_a_late_part_is_named(tmp_path, small_parts, row, change, expected):
    path = tmp_path / "m.jsonl"
    # The last row is wrong too, but that comes later.
    write_many(
        path,
        301,
        lambda r: r | {f"u{row}": change, "u300": {"audio": 3} if "id" not in change else {}}.get(r["id"], {}),
    )
    with pytest.raises(UserError, match=expected) as caught:
        read_manifest(path)
    line = row + 1 + row // 3 * 3 + (0, 0, 1)[row % 3]
    assert str(caught.value).startswith(f"{path}:{line}: ") and not entries(tmp_path)


def test_the_cache_moves_with_its_folder_and_is_of_these_bytes(tmp_path, small_parts, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    write_many(one / "m.jsonl", 20)
    first = read_manifest(one / "m.jsonl")
    one.rename(two)
    path = two / "m.jsonl"
    monkeypatch.setattr(manifest, "_read_columns", None)  # nothing is parsed
    moved = read_manifest(path)
    assert moved[3].audio == f"{two}/w/3/3.flac" and moved[3].where == first[3].where.replace("one", "two")
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"text 3", b"tixt 3"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither size nor time betray the change
    monkeypatch.undo()
    assert read_manifest(path)[3].text == "tixt 3"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other", "compressed"])
def test_a_damaged_cache_is_ignored(tmp_path, small_parts, damage):
    path = tmp_path / "m.jsonl"
    write_many(path, 60)
    rows = read_manifest(path)
    (entry,) = entries(tmp_path)
    data = bytearray(entry.read_bytes())
    with np.load(entry) as file:
        arrays = dict(file)
    if damage == "cut":
        entry.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "other":  # arrays that do not fit each other
        np.savez(entry.open("wb"), **arrays | {"seconds": np.zeros(3)})
    else:
        np.savez_compressed(entry.open("wb"), **arrays | {"seconds": arrays["seconds"] + 1})
    assert read_manifest(path) == rows


def test_no_cache_where_nothing_can_be_written(tmp_path, small_parts, monkeypatch):
    path = tmp_path / "m.jsonl"
    write_many(path, 20)

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert len(read_manifest(path)) == 20 and not entries(tmp_path)


def test_measured_seconds_are_not_cached(tmp_path, small_parts):
    soundfile.write(tmp_path / "a.wav", np.full(800, 0.1), 8000)
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a.wav", "text": "x"}\n')
    assert read_manifest(tmp_path / "m.jsonl").seconds.tolist() == [pytest.approx(0.1)] and not entries(tmp_path)


def test_shared_recordings_are_found_by_where_they_lie(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    train = [Utterance(f"t{i}", f"{tmp_path}/real/{i}.wav", 0.0, 2.0, seconds=2.0) for i in range(9)]
    other = [("x", "link/5.wav", 3.0), ("y", "link/../real/5.wav", 1.0)]
    other = [Utterance(name, f"{tmp_path}/{file}", start, seconds=1.0) for name, file, start in other]
    assert shared_recording(train, other) == (train[5], other[1])
    assert shared_recording(train, other[:1]) is None and shared_recording(train, []) is None
    pipes = [Utterance(name, audio, seconds=1.0) for name, audio in (("p", "sox real/1.wav |"), ("q", "1.wav |"))]
    assert shared_recording(train + pipes[:1], pipes) == (pipes[0], pipes[0])


def test_a_copied_folder_has_the_same_recordings_and_other_audio_of_the_same_texts_has_not(tmp_path):
    def rows(folder, level=0.1):
        (tmp_path / folder).mkdir()
        for i in range(5):
            soundfile.write(tmp_path / folder / f"{i}.wav", np.full(800, level + i / 100), 8000)
        made = [Utterance(f"u{i}", f"{tmp_path}/{folder}/{i}.wav", text="yes", seconds=0.1) for i in range(5)]
        return Utterances.of(made)

    first, copy, noisy = rows("a"), rows("b"), rows("c", level=0.2)
    assert has_recordings(first, copy[::-1]) and has_recordings(first, first[:2] + copy[2:])
    assert not has_recordings(first, noisy) and not has_recordings(first[1:], copy)
    assert shared_recording(first, noisy[:3] + copy[3:]) == (first[3], copy[3])
    assert shared_recording(first, noisy) is None
    assert listed_twice([first, noisy]) is None and listed_twice([first]) is None
    assert listed_twice([first, noisy, copy[2:3]]) == (first[2], copy[2])
    again = first[1]._replace(id="other", text="no", audio=f"{tmp_path}/b/../a/1.wav")
    assert listed_twice([first, Utterances.of([again])]) == (first[1], again)
    missing = Utterances.of(row._replace(audio=f"{row.audio}.gone") for row in first)
    assert not has_recordings(first, missing)
