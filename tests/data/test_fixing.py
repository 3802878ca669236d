"""`prepare fix`: what it leaves out of a list of any kind, what it reports, and that it changes no list."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.fixing import REASONS
from speech_jax.data.manifest import read_manifest
from speech_jax.prepare import main

RATE = 8000


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Return a folder of recordings of 1 and 3 s, a copy, one at another rate, one that is none, one of length 0."""
    for seed, (name, seconds, rate) in enumerate([("one", 1, RATE), ("three", 3, RATE), ("other", 1, 2 * RATE)]):
        samples = np.random.default_rng(seed).uniform(-0.5, 0.5, seconds * rate)
        soundfile.write(tmp_path / f"{name}.wav", samples, rate)
    shutil.copy(tmp_path / "one.wav", tmp_path / "copy.wav")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("no recording")
    return tmp_path


def fix(folder, rows, *flags, name="n.jsonl"):
    """Return (the ids that are kept, reason -> ids or messages) of a list."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    assert main(["fix", str(path), "--out", str(folder / "out"), *flags]) == 0
    assert path.read_bytes() == before
    report = json.loads((folder / "out" / "n.fix.json").read_text())
    removed = {reason: [row["id"] or row["found"] for row in rows] for reason, rows in report["removed"].items()}
    assert report["counts"] == {reason: len(removed.get(reason, [])) for reason in REASONS}
    assert report["rows"] == report["kept"] + sum(report["counts"].values()) == len(rows)
    kept = [u.id for u in read_manifest(folder / "out" / "n.jsonl")]
    assert len(kept) == report["kept"]
    return kept, removed, report


def row(name, audio="three.wav", text="yes", **more):
    return {"id": name, "audio": audio, "text": text} | more


def test_each_reason(folder):
    rows = [
        row("z", "three.wav", start=2.0, end=2.5),
        row("three", "three.wav", start=0.0, end=1.0),
        row("one", "one.wav"),
        row("copy", "copy.wav"),
        row("one", "other.wav"),
        row("gone", "none.wav"),
        row("text", "text.wav"),
        row("zero", "zero.wav"),
        row("after", start=3.5),
        row("beyond", start=2.5, end=4.0),
        row("a", start=2.6, end=3.2),
        row("late", start=0.75, end=1.5),
        row("empty", start=1.5, end=2.0, text=" "),
        row("sign", start=1.5, end=2.0, text="..."),
        row("fast", start=1.5, end=2.0, text="letters" * 9),
        {"id": "none", "audio": "one.wav"},
    ]
    kept, removed, report = fix(folder, rows)
    assert kept == ["a", "one", "three", "z"]
    (unread,) = removed.pop("not_read")
    assert unread.startswith(f"{folder}/n.jsonl:16: lacks the field 'text'")
    assert removed == {
        "unreadable": ["gone", "text", "zero"],
        "outside": ["after", "beyond"],
        "empty_text": ["empty", "sign"],
        "too_fast": ["fast"],
        "repeated_id": ["one"],
        "repeated_recording": ["copy"],
        "overlap": ["late"],
    }
    assert report["clipped"] == ["a"] and report["unsorted"] > 0
    text = (folder / "out" / "n.fix.txt").read_text()
    assert "4 of 16 rows are kept" in text and "left out (unreadable): " in text and "none.wav: no such file" in text


def test_a_good_row_is_kept_where_an_earlier_one_of_its_id_is_bad(folder):
    kept, removed, _ = fix(folder, [row("a", "none.wav"), row("a", "one.wav")])
    assert kept == ["a"] and removed == {"unreadable": ["a"]}


def test_flags_say_what_is_left_out(folder):
    rows = [row("a", end=1.0), row("b", start=0.5, end=1.5, text="letters" * 9), row("c", "other.wav")]
    kept, _, report = fix(folder, rows, "--max-overlap", "1e7", "--max-letters", "0")
    assert kept == ["a", "b", "c"] and report["rates"] == {"8000": 1, "16000": 1}
    _, removed, _ = fix(folder, rows, "--sample-rate", "8000")
    assert removed == {"other_rate": ["c"], "too_fast": ["b"]}


def test_lists_of_every_kind(folder):
    """Kaldi, LJSpeech, CSV, NeMo and lhotse, with one good row and one whose recording is missing each."""
    kaldi, lj, hugging = (folder / name for name in ("kaldi", "lj", "hf"))
    for each in (kaldi, lj, hugging):
        each.mkdir()
    (kaldi / "wav.scp").write_text("b ../none.wav\na ../one.wav\n")
    (kaldi / "text").write_text("b B\na A\nc C\n")
    (lj / "metadata.csv").write_text("../one|no\none|Yes.|yes\ntwo|Yes.|yes\n")
    shutil.copy(folder / "one.wav", lj / "one.wav")
    (hugging / "metadata.csv").write_text("file_name,text\n../one.wav,yes\nnone.wav,no\n")
    (folder / "nemo.json").write_text(
        '{"audio_filepath": "one.wav", "text": "yes", "duration": 1.0}\n{"audio_filepath": "none.wav", "text": "no"}\n'
    )
    (folder / "recordings.jsonl").write_text(
        '{"id": "r", "sources": [{"type": "file", "channels": [0], "source": "one.wav"}], "sampling_rate": 8000}\n'
    )
    supervision = {"id": "s", "recording_id": "r", "start": 0, "duration": 1.0, "channel": 0, "text": "yes"}
    (folder / "supervisions.jsonl").write_text(
        json.dumps(supervision) + "\n" + json.dumps(supervision | {"id": "t", "recording_id": "none"}) + "\n"
    )
    lists = [kaldi, lj, hugging, folder / "nemo.json", folder / "supervisions.jsonl"]
    assert main(["fix", *map(str, lists), "--out", str(folder / "out")]) == 0
    kept = {path.stem: [u.id for u in read_manifest(path)] for path in (folder / "out").glob("*.jsonl")}
    assert kept == {"kaldi": ["a"], "lj": ["one"], "hf": ["../one"], "nemo": ["one"], "supervisions": ["s"]}


def test_what_is_not_from_it_is_not_replaced(folder):
    rows = [row("a", "one.wav")]
    fix(folder, rows)
    fix(folder, rows)  # its own result is
    (folder / "out" / "n.fix.json").unlink()
    with pytest.raises(UserError, match="a file that `prepare fix` did not write"):
        fix(folder, rows)
    with pytest.raises(UserError, match="would be replaced"):
        main(["fix", str(folder / "n.jsonl"), "--out", str(folder)])
    (folder / "n.jsonl").write_text('{"id": "a", "audio": "none.wav", "text": "x"}\n')
    with pytest.raises(UserError, match="nothing is left of 1 rows"):
        main(["fix", str(folder / "n.jsonl"), "--out", str(folder / "other")])


def test_recordings_that_two_lists_share_and_fields_that_are_not_read_are_named(folder):
    lists = {
        "train": [row("a", "one.wav", end=1.0), row("b", "other.wav")],
        "test": [row("c", "copy.wav", start=0.75, end=1.5, channel=2), row("d")],
    }
    paths = [folder / f"{name}.jsonl" for name in lists]
    for path, rows in zip(paths, lists.values(), strict=True):
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["fix", *map(str, paths), "--out", str(folder / "out")]) == 0
    report = json.loads((folder / "out" / "test.fix.json").read_text())
    assert report["kept"] == 2 and report["unread"].startswith("fields that nothing reads: channel (channels are")
    assert report["shared"] == [f"{folder}/test.jsonl:1: c: the recording of a ({folder}/train.jsonl:1)"]
    assert "1 rows are kept whose recording is in another" in (folder / "out" / "test.fix.txt").read_text()
