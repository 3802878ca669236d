"""Lists of recordings of other programs, read as manifests by the names of their fields, and what is read of them."""

import csv
import gzip
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.data.sources.folder import read_folder
from speech_jax.data.sources.lhotse import lhotse_rows
from speech_jax.data.sources.ljspeech import read_ljspeech

RATE = 8000


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Return a folder of 2 s of noise under several names."""
    (tmp_path / "clips").mkdir()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE)
    for name in ("a.wav", "b.wav", "clips/c.wav"):
        soundfile.write(tmp_path / name, samples, RATE)
    return tmp_path


def lines(path, *rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def samples_of(row):
    return read_recording(row, RATE)


def part(folder, start, end):
    return soundfile.read(folder / "a.wav", dtype="float32")[0][int(start * RATE) : int(end * RATE)]


def test_offset_and_duration_are_the_part_that_is_read(folder):
    nemo = {"audio_filepath": "a.wav", "text": "a gentle cat", "offset": 0.5, "duration": 1.0, "pred_text": "x"}
    ours = {"id": "a", "audio": "a.wav", "text": "a gentle cat", "offset": 0.5, "duration": 1.0}
    (folder / "t.csv").write_text("file,text,start,duration\na.wav,a gentle cat,0.5,1.0\n")
    (folder / "e.csv").write_text("file,text,start_time,end_time\na.wav,a gentle cat,0.5,1.5\n")
    tables = [folder / "t.csv", folder / "e.csv"]
    for path in (lines(folder / "n.json", nemo), lines(folder / "m.jsonl", ours), *tables):
        (row,) = read_manifest(path)
        assert (row.text, row.start, row.end, row.seconds) == ("a gentle cat", 0.5, 1.5, 1.0)
        np.testing.assert_array_equal(samples_of(row), part(folder, 0.5, 1.5))
    (row,) = read_manifest(lines(folder / "n.json", {"audio_filepath": "a.wav", "text": "x", "duration": 1.25}))
    np.testing.assert_array_equal(samples_of(row), part(folder, 0, 1.25))


def test_a_list_says_how_it_was_read(folder, caplog):
    rows = [{"audio_filepath": f"{name}.wav", "text": name, "duration": 2.0, "pred_text": "x"} for name in "ab"]
    assert [u.id for u in read_manifest(lines(folder / "n.json", *rows))] == ["a", "b"]
    assert "read as a manifest of NeMo, 2 rows; fields that nothing reads: pred_text" in caplog.text
    caplog.clear()
    read_manifest(lines(folder / "m.jsonl", {"id": "a", "audio": "a.wav", "text": "x", "note": 1}))
    assert "fields that nothing reads: note" in caplog.text
    caplog.clear()
    read_manifest(lines(folder / "m.jsonl", {"id": "a", "audio": "a.wav", "text": "x"}))
    assert not caplog.text


def test_nemo_takes_relative_paths_from_the_current_folder_too(folder, monkeypatch):
    (folder / "lists").mkdir()
    path = lines(folder / "lists" / "n.json", {"audio_filepath": "clips/c.wav", "text": "x", "duration": 2.0})
    monkeypatch.chdir(folder)
    (row,) = read_manifest(path)
    assert len(samples_of(row)) == 2 * RATE


def test_a_hugging_face_audio_folder(folder):
    rows = [{"file_name": "a.wav", "transcription": "one"}, {"file_name": "clips/c.wav", "transcription": "two"}]
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    exported = [{"audio": {"bytes": None, "path": row["file_name"]}, "text": row["transcription"]} for row in rows]
    plain = [{"audio": row["file_name"], "text": row["transcription"]} for row in rows]
    others = [lines(folder / "to_json.jsonl", *exported), lines(folder / "plain.jsonl", *plain)]
    for path in (lines(folder / "metadata.jsonl", *rows), folder / "metadata.csv", *others):
        found = [(u.id, u.text, u.seconds) for u in read_manifest(path)]
        assert found == [("a", "one", 2.0), ("clips/c", "two", 2.0)]


def test_common_voice(folder):
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\n"
    (folder / "train.tsv").write_text(header + 'x\tc.wav\t7\t"Non, dit-elle.\t2\tfr\n')
    (row,) = read_manifest(folder / "train.tsv")
    assert (row.id, row.speaker, row.text, row.language) == ("c", "x", '"Non, dit-elle.', "fr")


def recording(name="r", **more):
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    return {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": 16000, "duration": 2.0} | more


def supervision(name, start, duration, **more):
    return {"id": name, "recording_id": "r", "start": start, "duration": duration, "channel": 0, "text": name} | more


def test_supervisions_of_lhotse_are_parts_of_the_recordings_beside_them(folder):
    lines(folder / "x_recordings_dev.jsonl.gz", recording())
    rows = [supervision("s1", 0.5, 1.0, speaker="amy"), supervision("s2", 0, 2.0, language="German")]
    first, second = read_manifest(lines(folder / "x_supervisions_dev.jsonl.gz", *rows))
    assert (first.id, first.text, first.speaker) == ("s1", "s1", "amy")
    np.testing.assert_array_equal(samples_of(first), part(folder, 0.5, 1.5))
    assert second.end is None and second.language == ""
    with pytest.raises(UserError, match=r"found lhotse's recordings, expected the supervisions or cuts"):
        read_manifest(folder / "x_recordings_dev.jsonl.gz")
    (folder / "x_recordings_dev.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"supervisions alone, expected the recordings"):
        read_manifest(folder / "x_supervisions_dev.jsonl.gz")


def test_cuts_of_lhotse_are_trimmed_to_their_supervisions(folder, caplog):
    """As CutSet.trim_to_supervisions does: times are those of the cut, which ends them."""
    cut = {"id": "c", "start": 0.5, "duration": 1.0, "channel": 0, "recording": recording(), "type": "MonoCut"}
    rows = [supervision("s1", 0.25, 0.5), supervision("s2", -0.25, 0.5), supervision("s3", 0.75, 0.5)]
    found = read_manifest(lines(folder / "cuts.jsonl", cut | {"supervisions": rows}))
    assert [(u.start, u.end) for u in found] == [(0.75, 1.25), (0.5, 0.75), (1.25, 1.5)]
    assert "2 supervisions reach up to 0.5 s out of their cut and are clipped; the first: " in caplog.text


def test_each_supervision_that_cannot_be_read_is_a_problem_of_its_own(folder, caplog):
    cut = {"id": "c", "start": 0.0, "duration": 1.0, "recording": recording(), "type": "MonoCut"}
    rows = [supervision("s1", 0.9, 1.0), supervision("s2", 0.25, 0.5), supervision("s3", 2.0, 1.0)]
    problems = []
    path = lines(folder / "cuts.jsonl", cut | {"supervisions": rows})
    assert [u.id for u in lhotse_rows(path, problems.append, set())] == ["s2"]
    assert len(problems) == 2
    assert [u.id for u in read_manifest(path, on_error="skip")] == ["s2"]
    assert "left out: 2 rows: " in caplog.text


@pytest.mark.parametrize(
    "change,expected",
    [
        ({"type": "MixedCut", "tracks": []}, "found a 'MixedCut'"),
        ({"recording": None}, "a cut without a recording"),
        ({"supervisions": []}, "a cut without a supervision"),
        ({"recording": recording(transforms=[{"name": "Speed"}])}, "found a recording with transforms"),
        ({"recording": recording(sources=[{"type": "url", "channels": [0], "source": "x"}])}, "a source of type 'url'"),
        (
            {"recording": recording(sources=[{"type": "file", "channels": [0, 1], "source": "a.wav"}])},
            "found channel 0",
        ),
        ({"supervisions": [supervision("s", 3.0, 1.0)]}, "found a supervision from 3 to 4 s in a cut of 2 s"),
        ({"supervisions": [supervision("s", -0.75, 2.0)]}, "found a supervision from -0.75 to 1.25 s in a cut of 2 s"),
    ],
)
def test_cuts_whose_sound_is_no_part_of_a_file_are_refused(folder, change, expected):
    cut = {"id": "c", "start": 0, "duration": 2.0, "recording": recording(), "supervisions": [supervision("s", 0, 1.0)]}
    with pytest.raises(UserError, match=rf"cuts.jsonl:1: .*{expected}"):
        read_manifest(lines(folder / "cuts.jsonl", cut | change))


@pytest.mark.parametrize(
    "row,expected",
    [
        ({"audio": "a.wav", "audio_filepath": "b.wav", "text": "x"}, "found audio = 'a.wav' and audio_filepath"),
        ({"audio_filepath": "a.wav", "text": "x", "transcript": "y"}, "found text = 'x' and transcript = 'y'"),
        ({"audio_filepath": "a.wav", "text": "x", "start": 1, "offset": 0.5}, "found start = 1 and offset = 0.5"),
        ({"audio_filepath": "a.wav", "text": "x", "offset": 0.5, "duration": 1, "end": 1.8}, "expected end = 1.5"),
        ({"audio_filepath": "a.wav", "text": "x", "seconds": 2, "duration": 1}, "expected seconds = 1"),
        ({"audio_filepath": "a.wav", "text": "x", "duration": 0}, "duration = 0"),
        ({"audio_filepath": "a.wav", "text": "x", "duration": "1.0"}, "duration = '1.0', expected seconds"),
        ({"audio_filepath": "a.wav"}, "lacks the field 'text'"),
        ({"id": "a", "audio": "a.wav", "text": "x", "start_ms": 500}, "found start_ms = 500, which nothing reads"),
        ({"audio": "a.wav", "text": "x", "segmentEnd": "1.5"}, "found segmentEnd = '1.5', which nothing reads"),
    ],
)
def test_names_that_disagree_and_times_that_are_none_are_named(folder, row, expected):
    with pytest.raises(UserError, match=rf"n.json:1: .*{expected}"):
        read_manifest(lines(folder / "n.json", row))


def test_a_row_of_a_csv_may_have_several_lines(folder):
    for separator, name in ((",", "t.csv"), ("\t", "t.tsv")):
        (folder / name).write_text(
            f'path{separator}text\na.wav{separator}"the father told us\na ""story"""\n\nb.wav{separator}ok\n'
        )
        first, second = read_manifest(folder / name)
        assert first.text == 'the father told us a "story"' and second.text == "ok"
        assert second.where == f"{folder}/{name}:5"


def test_numbers_after_a_dot_belong_to_the_name(folder):
    for number in (1, 2):
        soundfile.write(folder / f"rec.{number}", np.zeros(RATE), RATE, format="WAV")
    (folder / "t.csv").write_text("path,text\nrec.1,a\nrec.2,b\n")
    assert [u.id for u in read_manifest(folder / "t.csv")] == ["rec.1", "rec.2"]


def test_a_duration_alone_in_a_table_is_the_recordings_to_the_digits_written(folder, caplog):
    (folder / "t.csv").write_text("path,text,duration\na.wav,x,2\nb.wav,y,1.25\n")
    whole, first = read_manifest(folder / "t.csv")
    assert (whole.end, whole.seconds, first.end, first.seconds) == (None, 2.0, 1.25, 1.25)
    assert "duration is not the recording's in 1 rows" in caplog.text


def lj(folder, text, **options):
    (folder / "wavs").mkdir(exist_ok=True)
    soundfile.write(folder / "wavs" / "LJ1.wav", np.zeros(RATE), RATE)
    (folder / "metadata.csv").write_text(text)
    return [(u.id, u.text, u.speaker) for u in read_ljspeech(folder, **options)]


@pytest.mark.parametrize("name", ["LJ1", "LJ1.wav", "wavs/LJ1.wav", " LJ1 "])
def test_ids_of_ljspeech_may_be_file_names(folder, name):
    assert lj(folder, f"{name}|No. 1| number no 1 \n") == [("LJ1", "number no 1", "")]


@pytest.mark.parametrize(
    "line,columns", [("LJ1|This is it.|anna", "id,text,speaker"), ("LJ1|anna|This is it.", "id,speaker,text")]
)
def test_a_speaker_in_ljspeech_is_never_taken_for_a_text(folder, line, columns):
    with pytest.raises(UserError, match=r"metadata.csv:1: .*shares few words .*--columns"):
        lj(folder, line + "\n")
    assert lj(folder, line + "\n", columns=columns.split(",")) == [("LJ1", "This is it.", "anna")]
    with pytest.raises(UserError, match="--columns: found id,words"):
        lj(folder, line + "\n", columns=["id", "words"])


def test_a_folder_may_hold_a_metadata_file_of_hugging_face_and_a_table_any_ending(folder):
    lines(folder / "metadata.jsonl", {"file_name": "a.wav", "text": "one"})
    (folder / "list.txt").write_text("file,text\na.wav,two\n")
    assert [u.text for u in read_folder(folder)] == ["one"]
    assert [u.text for u in read_folder(folder / "list.txt")] == ["two"]
    (folder / "list.txt").write_text("clip,words,text\na.wav,two,2\n")
    assert [u.text for u in read_folder(folder / "list.txt", columns={"audio": "clip", "text": "words"})] == ["two"]
    with pytest.raises(UserError, match="--columns: found columns for"):
        read_folder(folder, columns={"text": "words"})


@pytest.mark.parametrize(
    "header,line",
    [
        ("ID,duration,wav,spk_id,wrd", "u1,2.0,a.wav,amy,good morning"),  # SpeechBrain
        ("wav_filename,wav_filesize,transcript", "a.wav,32044,good morning"),  # DeepSpeech
        ("client_id,audio_id,audio_file,duration_ms,transcription", "amy,1,a.wav,2000,good morning"),  # Common Voice
    ],
)
def test_columns_of_other_toolkits(folder, header, line):
    (folder / "t.csv").write_text(f"{header}\n{line}\n")
    (row,) = read_manifest(folder / "t.csv")
    assert (row.text, row.end, row.seconds) == ("good morning", None, 2.0) and row.audio == str(folder / "a.wav")
    assert row.speaker == ("amy" if "amy" in line else "")


def test_names_of_files_are_found_in_other_spellings(folder):
    names = {"e\u0301te\u0301.wav": "\u00e9t\u00e9.wav", "n\nb  c.wav": "n\nb  c.wav", "clips/d.wav": "clips\\d.wav"}
    for name in names:
        shutil.copy(folder / "a.wav", folder / name)
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "text"), *((name, "x") for name in names.values())])
    assert [u.audio for u in read_manifest(folder / "t.csv")] == [str(folder / name) for name in names]


def test_fields_that_choose_a_channel_or_a_split_are_not_passed_over(folder, caplog):
    row = {"audio_filepath": "a.wav", "text": "x", "channel_selector": 1, "split": "test", "lang_id": 3}
    read_manifest(lines(folder / "n.json", row))
    expected = "channel_selector, lang_id, split (channels are averaged, --channel takes one; the rows of every split"
    assert expected in caplog.text


@pytest.mark.parametrize("text", ['[\n{"audio": "a.wav"}\n]', '[{"audio": "a.wav"}]', '{\n"audio": "a.wav"}'])
def test_json_that_is_no_lines_is_one_error(folder, text):
    (folder / "m.json").write_text(text)
    with pytest.raises(UserError, match="m.json: found JSON over several lines or in an array"):
        read_manifest(folder / "m.json")


def test_a_folder_without_a_list_names_those_below_it(folder):
    for name in ("test", "train"):
        (folder / "set" / name).mkdir(parents=True)
        (folder / "set" / name / "metadata.csv").write_text("file_name,text\nx.wav,x\n")
    with pytest.raises(UserError, match=r"found 0 CSV or TSV files \(test/metadata.csv, train/metadata.csv\)"):
        read_folder(folder / "set")
    (folder / "set" / "data-00000-of-00001.arrow").touch()  # of datasets' save_to_disk
    with pytest.raises(UserError, match="found an Arrow file, expected a list; `prepare folder` reads what datasets'"):
        read_folder(folder / "set")


def test_rows_that_are_left_out_are_counted_and_a_few_named(folder, caplog):
    rows = [{"id": "a", "audio": "a.wav", "text": "x"}]
    rows += [{"id": f"n{i}", "audio": f"n{i}.wav", "text": "x"} for i in range(50)]
    assert len(read_manifest(lines(folder / "m.jsonl", *rows), on_error="skip")) == 1
    (message,) = caplog.messages
    assert message.startswith("left out: 50 rows: ") and "n2.wav: no such file" in message
    assert message.endswith("; and 47 more") and "n3.wav" not in message


def test_two_codes_of_a_language_must_agree(folder):
    for second, fails in (("en-US", False), ("English", False), ("de", True)):
        (folder / "t.csv").write_text(f"file,text,locale,lang\na.wav,x,en,{second}\n")
        with pytest.raises(UserError, match="found locale = 'en' and lang = 'de'") if fails else nullcontext():
            assert [u.language for u in read_manifest(folder / "t.csv")] == ["en"]


@pytest.mark.parametrize("name,separator", [("t.tsv", "\t"), ("t.csv", "|"), ("t.csv", ", "), ("t.csv", ";")])
def test_tables_with_every_field_in_quotes(folder, name, separator):
    rows = [("file", "text"), ("a.wav", 'so, he said ""no""'), ("b.wav", "y")]
    (folder / name).write_text("".join(separator.join(f'"{field}"' for field in row) + "\n" for row in rows))
    assert [u.text for u in read_manifest(folder / name)] == ['so, he said "no"', "y"]


def test_file_lists_of_vits_name_recordings_from_the_current_folder(folder, monkeypatch):
    (folder / "lists").mkdir()
    (folder / "lists" / "train.txt").write_text("clips/c.wav|7|good morning\n")
    monkeypatch.chdir(folder)
    (row,) = read_ljspeech(folder / "lists" / "train.txt", columns=("id", "speaker", "text"))
    assert (row.audio, row.speaker, row.seconds) == (str(folder / "clips" / "c.wav"), "7", 2.0)
