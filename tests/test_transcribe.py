"""The front door transcribe: every form of input and output, and what happens to bad recordings."""

import io
import json
import os
import shutil
import sys

import av
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
        "speech_jax.inference.recognizer.load_recognizer",
        lambda path, which, windows, beam, adapter, segment: recognizer(),
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, text in (("b.wav", "bad"), ("a.flac", "cab a"), ("sub/c.WAV", "jig")):
        soundfile.write(tmp_path / "in" / name, say(text), 16000)
    (tmp_path / "in" / "notes.txt").write_text("not a recording")
    return tmp_path / "in"


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


def write_aac(path, samples):
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


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
    for separator in ("\n", "\r\n", "\0"):
        pipe(
            monkeypatch,
            f"{folder}/b.wav{separator}{separator}{folder}/a.flac{separator}".replace("\0\0", "\0").encode(),
        )
        assert run("-") == 0
        assert capsys.readouterr().out == f"{folder}/b.wav\tbad\n{folder}/a.flac\tcab a\n"
    pipe(monkeypatch, b"\n")
    with pytest.raises(UserError, match="^-: found nothing on standard input, expected paths"):
        run("-")


@pytest.mark.parametrize("name", ["b.wav", "a.flac", "b.mp3", "b.ogg", "b.m4a"])
def test_a_recording_on_standard_input(folder, capsys, monkeypatch, name):
    if name == "b.m4a":
        write_aac(folder / name, say("bad"))
    elif not (folder / name).exists():
        soundfile.write(folder / name, say("bad"), 16000)
    expected = (run(folder / name), capsys.readouterr().out)
    assert expected[1].strip()
    pipe(monkeypatch, (folder / name).read_bytes())
    assert (run("-"), capsys.readouterr().out) == expected
    pipe(monkeypatch, (folder / name).read_bytes()[:200])
    assert run("-") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: standard input: ") and err.isprintable() is False and len(err) < 400


def test_odd_file_names(folder, capsys):
    """Latin-1, a line end, a tab, and a name whose transcript's name is too long."""
    names = [b"caf\xe9.wav", b"new\nline.wav", b"tab\there.wav", b"x" * 252 + b".wa"]
    odd = folder.parent / "odd"
    odd.mkdir()
    for name in names[:3]:
        shutil.copy(folder / "b.wav", os.path.join(os.fsencode(odd), name))
    assert run(odd) == 0
    shown = [rf"{odd}/{name}" + "\tbad" for name in (r"caf\udce9.wav", r"new\nline.wav", r"tab\there.wav")]
    assert capsys.readouterr().out.splitlines() == shown
    assert run(odd, "--format", "jsonl") == 0
    read = [json.loads(line)["audio"] for line in capsys.readouterr().out.splitlines()]
    assert read == [os.fsdecode(os.path.join(os.fsencode(odd), name)) for name in names[:3]]
    shutil.copy(folder / "b.wav", odd / os.fsdecode(names[3]))
    assert run(odd / "new\nline.wav", odd / os.fsdecode(names[3]), "--out", odd / "out") == 2
    assert "1 of 2 recordings could not be transcribed" in capsys.readouterr().err
    assert [p.read_text() for p in (odd / "out").iterdir()] == ["bad\n"]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_of_one_recording(folder, capsys, form):
    assert run(folder / "b.wav", "--format", form) == 0
    assert capsys.readouterr().out.rstrip("\n").endswith("\nbad")
    with pytest.raises(UserError, match=f"--format {form}: found several inputs"):
        run(folder, "--format", form)
    assert run(folder / "missing.wav", "--format", form) == 2
    assert "missing.wav: no such file" in capsys.readouterr().err
    assert run(folder, "--format", form, "--out", folder.parent / "texts") == 0
    assert sorted(p.name for p in (folder.parent / "texts").rglob(f"*.{form}")) == [f"{n}.{form}" for n in "abc"]


def test_files_of_before_that_are_replaced_are_counted(folder, capsys):
    for expected in ("", "3 files of before were replaced"):
        assert run(folder, "--out", folder.parent / "texts") == 0
        assert expected in capsys.readouterr().err


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
        "a.srt",
        "b.srt",
        "sub/c-2.srt",
        "sub/c.srt",
    ]
    assert (out / "b.srt").read_text().endswith("bad\n")
    (folder / "sub" / "b.flac").write_bytes((folder / "a.flac").read_bytes())
    assert run(folder / "b.wav", folder / "sub" / "b.flac", "--out", tmp_path / "two", "--format", "json") == 0
    assert "sub/b.flac: written to b-2.json, as b.json is another input's\n" in capsys.readouterr().err
    texts = [json.loads((tmp_path / "two" / name).read_text())["text"] for name in ("b.json", "b-2.json")]
    assert texts == ["bad", "cab a"]
    assert run(folder / "b.wav", "--out", out) == 0
    assert (out / "b.txt").read_text() == "bad\n"
    (folder / "a.txt").write_text("a person wrote this")
    assert run(folder / "a.flac", folder / "b.wav", "--out", folder) == 2
    assert (folder / "a.txt").read_text() == "a person wrote this" and (folder / "b.txt").read_text() == "bad\n"
    assert "a.txt: found a file beside the recording, expected none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["EMPTY"], ["in/b.wav", "--out", "in/b.wav"], ["in/b.wav", "--format", "vtt", "--out", "b.vtt"]]
)
def test_one_line_and_exit_code_2(folder, tmp_path, capsys, monkeypatch, arguments):
    (tmp_path / "EMPTY").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments, "--checkpoint", "tones"])
    with pytest.raises(SystemExit) as exit_:
        run_front_door(front_door.main)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "expected" in err


def test_what_is_wrong_with_a_recording_and_other_files_are_said(folder, capsys):
    (folder / "b.wav").write_bytes(2 * (folder / "b.wav").read_bytes())
    (folder / "sub" / "loop").symlink_to(folder)
    assert run(folder) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert f"{folder}: 1 other files are not read (.txt 1), the first {folder}/notes.txt" in err
    assert f"warning: {folder}/b.wav: it holds 2 recordings" in err and "warning: 1 of 3 recordings" in err


def test_a_folder_without_recordings_does_not_stop_the_others(folder, capsys):
    (folder / "empty").mkdir()
    assert run(folder / "b.wav", folder / "empty", folder / "a.flac", "--format", "json") == 2
    out, err = capsys.readouterr()
    assert [row["text"] for row in json.loads(out)] == ["bad", "cab a"]
    assert f"error: {folder}/empty: found no recordings, expected files ending in" in err
    assert "1 of 3 recordings could not be transcribed" in err


def test_an_empty_name_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="found '' among the inputs"):
        front_door.main(["--checkpoint", "tones", "--", ""])


def test_silence_and_what_is_no_file_are_said(folder, capsys):
    soundfile.write(folder / "silent.wav", np.zeros(32000), 16000)
    (folder / "gone.wav").symlink_to(folder / "nothing.wav")
    os.mkfifo(folder / "pipe.wav")
    assert run(folder) == 0
    err = capsys.readouterr().err
    assert f"warning: {folder}/silent.wav: all its samples are 0" in err
    assert f"{folder}: 3 other files are not read (.wav 2, .txt 1)" in err


def test_a_list_of_recordings_is_named_as_one(folder, capsys):
    (folder / "list.jsonl").write_text('{"id": "a", "audio": "a.wav", "text": "x", "start": 0.5}\n')
    assert run(folder / "list.jsonl") == 2
    assert "list.jsonl: found a list, expected recordings; `evaluate --manifest`" in capsys.readouterr().err
