"""The front door transcribe: every form of input and output, and what happens to bad recordings."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile

from speech_jax import transcribe as front_door
from speech_jax.core.errors import UserError, run_front_door
from tests.support.tones import recognizer, say


@pytest.fixture(autouse=True)
def tones(monkeypatch):
    """`--checkpoint tones` is the network that reads beeps."""
    monkeypatch.setattr(
        "speech_jax.inference.recognizer.load_recognizer", lambda path, which, windows, beam, adapter: recognizer()
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, text in (("b.wav", "bad"), ("a.flac", "cab a"), ("sub/c.WAV", "jig")):
        soundfile.write(tmp_path / "in" / name, say(text), 16000)
    (tmp_path / "in" / "notes.txt").write_text("not a recording")
    return tmp_path / "in"


def run(*arguments):
    return front_door.main([*map(str, arguments), "--checkpoint", "tones"])


def test_one_recording_is_its_text(folder, capsys):
    assert run(folder / "b.wav") == 0
    out, err = capsys.readouterr()
    assert out == "bad\n"
    assert "1 recordings" in err and "real-time factor" in err


def test_folder_is_searched_and_sorted(folder, capsys):
    assert run(folder) == 0
    lines = [f"{folder}/{name}\t{text}" for name, text in (("a.flac", "cab a"), ("b.wav", "bad"), ("sub/c.WAV", "jig"))]
    assert capsys.readouterr().out.splitlines() == lines


def test_paths_from_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder}/b.wav\n\n{folder}/a.flac\n"))
    assert run("-") == 0
    assert capsys.readouterr().out == f"{folder}/b.wav\tbad\n{folder}/a.flac\tcab a\n"


def test_bad_recordings_are_named_and_the_others_done(folder, capsys):
    (folder / "broken.wav").write_bytes(b"RIFF nonsense")
    (folder / "empty.wav").touch()
    bad = np.full(16000, np.nan, np.float32)
    soundfile.write(folder / "nan.wav", bad, 16000, subtype="FLOAT")
    soundfile.write(folder / "stereo_8_bit.wav", np.stack([say("bee")] * 2, axis=1), 16000, subtype="PCM_U8")
    soundfile.write(folder / "tiny.wav", np.zeros(1), 16000)
    assert run(folder, folder / "missing.wav", folder / "b.wav") == 2
    out, err = capsys.readouterr()
    texts = dict(line.split("\t") for line in out.splitlines())
    assert texts[f"{folder}/b.wav"] == "bad" and texts[f"{folder}/sub/c.WAV"] == "jig"
    assert texts[f"{folder}/stereo_8_bit.wav"] == "bee" and texts.get(f"{folder}/tiny.wav", "") == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    for name in ("broken.wav", "empty.wav", "nan.wav", "missing.wav"):
        assert sum(f"{folder}/{name}" in line for line in errors) == 1, name
    assert "recordings could not be transcribed" in errors[-1] and "Traceback" not in err


def test_too_long_is_refused(folder, capsys):
    assert run(folder / "a.flac", folder / "b.wav", "--max-hours", 0.0002) == 2  # 0.72 s
    out, err = capsys.readouterr()
    assert "bad" in out and "cab" not in out and "a.flac" in err


def test_json_is_one_array_and_jsonl_one_object_a_line(folder, capsys):
    assert run(folder, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert run(folder, "--format", "jsonl") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    first = rows[0]
    assert first["audio"] == f"{folder}/a.flac" and first["text"] == "cab a"
    assert [word["text"] for word in first["words"]] == ["cab", "a"]
    assert first["seconds"] == pytest.approx(len(say("cab a")) / 16000, abs=1e-3)
    # The beeps are at 0.08 + 0.2 n s and 0.12 s long; an output frame is 40 ms.
    for word, at, letters in zip(first["words"], (0.08, 0.88), (3, 1), strict=True):
        assert word["start"] == pytest.approx(at, abs=0.041)
        assert word["end"] == pytest.approx(at + 0.2 * letters - 0.08, abs=0.041)
        assert 0.5 < word["confidence"] <= 1


def test_json_of_nothing_is_an_empty_array(tmp_path, capsys):
    assert run(tmp_path / "missing.wav", "--format", "json") == 2
    assert json.loads(capsys.readouterr().out) == []


def test_srt(folder, capsys):
    assert run(folder / "b.wav", "--format", "srt") == 0
    number, times, text = capsys.readouterr().out.strip().splitlines()
    assert number == "1" and text == "bad" and times.startswith("00:00:00,0") and " --> 00:00:00,6" in times
    with pytest.raises(UserError, match="--out"):
        run(folder, "--format", "srt")


def test_one_file_a_recording(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, folder / "sub" / "c.WAV", "--format", "srt", "--out", out) == 0
    assert capsys.readouterr().out == ""
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.srt")) == [
        "a.flac.srt",
        "b.wav.srt",
        "sub/c.WAV-2.srt",
        "sub/c.WAV.srt",
    ]
    assert (out / "b.wav.srt").read_text().endswith("bad\n")
    assert run(folder / "b.wav", "--out", out) == 0
    assert (out / "b.wav.txt").read_text() == "bad\n"


@pytest.mark.parametrize("arguments", [[], ["EMPTY"], ["in/b.wav", "--out", "in/b.wav"]])
def test_one_line_and_exit_code_2(folder, tmp_path, capsys, monkeypatch, arguments):
    (tmp_path / "EMPTY").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments, "--checkpoint", "tones"])
    with pytest.raises(SystemExit) as exit_:
        run_front_door(front_door.main)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "expected" in err
