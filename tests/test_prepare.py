"""The front door `prepare`: manifests, shards, statistics; resumed where it stopped; one clear line where it cannot."""

import io
import json
import os
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError, run_front_door
from speech_jax.data import preparing, shards
from speech_jax.data.config import SourceConfig
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import librispeech
from speech_jax.data.recordings import read_recording
from speech_jax.data.sources import load_source
from speech_jax.prepare import main


def flac(n, seed=0):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).uniform(-0.5, 0.5, n), 16000, format="FLAC")
    return buffer.getvalue()


@pytest.fixture
def lj(tmp_path):
    """12 utterances in LJSpeech's layout; two recordings are damaged, one only behind an intact header."""
    folder = tmp_path / "lj"
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for i in range(12):
        data = flac(8000 + 1000 * i, i)
        if i == 3:
            data = b"no audio at all"
        if i == 7:
            data = data[: len(data) // 2]
        (folder / "wavs" / f"LJ-{i:02d}.flac").write_bytes(data)
        lines.append(f"LJ-{i:02d}|No. {i}|number {i}\n")
    (folder / "metadata.csv").write_text("".join(lines))
    return folder


def prepare_lj(lj, out, *more):
    return main(["ljspeech", "--source", str(lj), "--out", str(out), "--dev", "2", "--test", "2", *more])


def test_manifests_shards_and_statistics(tmp_path, lj, capsys):
    out = tmp_path / "out"
    assert prepare_lj(lj, out, "--shards", "2", "--language", "de") == 0
    splits = {name: read_manifest(out / f"{name}.jsonl") for name in ("dev", "test", "train")}
    assert [u.id for u in splits["dev"]] == ["LJ-00", "LJ-01"]
    assert {k: len(v) for k, v in splits.items()} == {"dev": 2, "test": 2, "train": 6}
    ids = {u.id for rows in splits.values() for u in rows}
    assert ids == {f"LJ-{i:02d}" for i in range(12)} - {"LJ-03", "LJ-07"}
    printed = capsys.readouterr().out
    assert "2 recordings left out" in printed and "LJ-03.flac" in printed and "LJ-07.flac" in printed
    assert "train: 6 utterances, 0.00 h, 1 speakers" in printed
    numbers = json.loads((out / "statistics.json").read_text())
    seconds = [u.seconds for u in splits["train"]]
    assert numbers["splits"]["train"]["hours"] == pytest.approx(sum(seconds) / 3600)
    assert sum(count for _, _, count in numbers["splits"]["train"]["histogram"]) == 6
    for split, rows in splits.items():
        sharded = {u.id: u for u in read_manifest(out / f"{split}.sharded.jsonl")}
        assert sharded.keys() == {u.id for u in rows} and {u.language for u in sharded.values()} == {"de"}
        for u in rows:
            np.testing.assert_allclose(read_recording(sharded[u.id], 16000), read_recording(u, 16000), atol=1e-4)
    again = load_source(SourceConfig(kind="shards", path=str(out / "shards"), split="train"))
    assert {(u.id, u.text) for u in again} == {(u.id, u.text) for u in splits["train"]}


def test_a_second_run_does_nothing_again_and_says_the_same(tmp_path, lj, capsys, monkeypatch):
    out = tmp_path / "out"
    prepare_lj(lj, out, "--shards", "2")
    first = capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.array_record")}
    reads = []
    monkeypatch.setattr(preparing, "decode_recording", lambda u, rate: reads.append(u.id))
    prepare_lj(lj, out, "--shards", "2")
    second = capsys.readouterr().out
    assert reads == [] and {p: p.stat().st_mtime_ns for p in out.rglob("*.array_record")} == before
    assert first.splitlines()[-3:] == second.splitlines()[-3:] and "kept" in second


def test_a_stopped_run_goes_on(tmp_path, lj, monkeypatch):
    """Stopped while it decodes, then while it writes shards: nothing is done twice, and the result is the same."""
    prepare_lj(lj, tmp_path / "straight", "--shards", "3")
    out = tmp_path / "stopped"
    original, reads = preparing.decode_recording, []

    def stops_after(limit):
        def read(utterance, rate, **options):
            if len(reads) >= limit:
                raise KeyboardInterrupt
            reads.append(utterance.id)
            return original(utterance, rate, **options)

        reads.clear()
        monkeypatch.setattr(preparing, "decode_recording", read)

    stops_after(5)
    with pytest.raises(KeyboardInterrupt):
        prepare_lj(lj, out, "--shards", "3", "--threads", "1")
    noted = sum(len(p.read_text().splitlines()) for p in out.glob(".*.verified"))
    assert 3 <= noted <= 5
    stops_after(11 - noted + 5)  # 11 have a readable header
    with pytest.raises(KeyboardInterrupt):
        prepare_lj(lj, out, "--shards", "3", "--threads", "1")
    assert len(list(out.rglob("*.array_record"))) < 8 and not list(out.rglob("*.part"))
    stops_after(1000)
    prepare_lj(lj, out, "--shards", "3", "--threads", "1")
    assert len(reads) < 10
    for path in (tmp_path / "straight").rglob("*.jsonl"):
        assert (out / path.name).read_text() == path.read_text()


def test_no_verify_keeps_what_only_decoding_would_find(tmp_path, lj):
    prepare_lj(lj, tmp_path / "out", "--no-verify")
    rows = [u.id for p in preparing.manifests(tmp_path / "out") for u in read_manifest(p)]
    assert "LJ-07" in rows and "LJ-03" not in rows


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["nothing", "--out", "OUT"], "found recipe 'nothing', expected one of folder, kaldi"),
        (["kaldi", "--source", "NONE", "--out", "OUT"], "wav.scp: No such file"),
        (["folder", "--source", "NONE", "--out", "OUT"], "No such file"),
        (["ljspeech", "--source", "LJ", "--out", "OUT", "--dev", "11"], "expected more than dev"),
        (["librispeech", "--source", "LJ", "--out", "OUT"], "found the parts none"),
        (["ljspeech", "--source", "LJ", "--out", "LJ/metadata.csv/x"], "cannot be written"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(tmp_path, lj, capsys, monkeypatch, argv, expected):
    names = {"NONE": str(tmp_path / "none"), "LJ": str(lj), "OUT": str(tmp_path / "out")}
    argv = [names.get(a, a.replace("LJ/", f"{lj}/")) for a in argv]
    monkeypatch.setattr(sys, "argv", ["prepare", *argv])
    with pytest.raises(SystemExit) as stopped:
        run_front_door(main)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(lines) == 1 and expected in lines[0]


def test_another_set_into_the_same_folder_is_refused(tmp_path, lj):
    prepare_lj(lj, tmp_path / "out", "--no-verify")
    before = (tmp_path / "out" / "train.jsonl").read_text()
    with pytest.raises(UserError, match=r"recipe.json: found other options \(--dev '2', now '3'\), expected the same"):
        main(["ljspeech", "--source", str(lj), "--out", str(tmp_path / "out"), "--dev", "3", "--test", "2"])
    with pytest.raises(UserError, match=r"recipe.json: found another recipe \('ljspeech', now 'kaldi'\)"):
        main(["kaldi", "--source", str(lj), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "train.jsonl").read_text() == before


TREE = {
    "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": flac(16000, 1),
    "LibriSpeech/dev-clean/84/121123/84-121123-0001.flac": flac(24000, 2),
    "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt": b"84-121123-0000 GO\n84-121123-0001 DO YOU HEAR\n",
    "LibriSpeech/test-other/367/130732/367-130732-0000.flac": flac(8000, 3),
    "LibriSpeech/test-other/367/130732/367-130732.trans.txt": b"367-130732-0000 LOBSTERS AND LOBSTERS\n",
    "LibriSpeech/README.TXT": b"read me",
}


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def check_librispeech(out):
    dev, test = read_manifest(out / "dev-clean.jsonl"), read_manifest(out / "test-other.jsonl")
    assert [(u.id, u.speaker, u.text, u.seconds) for u in dev] == [
        ("84-121123-0000", "84", "GO", 1.0),
        ("84-121123-0001", "84", "DO YOU HEAR", 1.5),
    ]
    assert [(u.id, u.seconds, u.language) for u in test] == [("367-130732-0000", 0.5, "en")]


def test_librispeech_from_its_tree(tmp_path):
    for name, data in TREE.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    main(["librispeech", "--source", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    check_librispeech(tmp_path / "out")
    with pytest.raises(UserError, match="expected train-clean-100"):
        librispeech.prepare(tmp_path / "other", librispeech.Options(tmp_path / "in", ("train-clean-100", "dev-clean")))


def test_librispeech_from_its_tars(tmp_path):
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in" / "dev-clean.tar.gz", {k: v for k, v in TREE.items() if "dev" in k})
    tar(tmp_path / "in" / "test-other.tar.gz", {k: v for k, v in TREE.items() if "test" in k})
    main(["librispeech", "--source", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    check_librispeech(tmp_path / "out")
    kept = tmp_path / "out" / "audio" / "dev-clean" / "84" / "121123" / "84-121123-0000.flac"
    before = kept.stat().st_mtime_ns
    librispeech.unpack(tmp_path / "in" / "dev-clean.tar.gz", tmp_path / "out" / "audio")
    assert kept.stat().st_mtime_ns == before


def test_librispeech_tars_that_attack(tmp_path, monkeypatch):
    def fails(expected):
        with pytest.raises(UserError, match=expected):
            librispeech.unpack(tmp_path / "x.tar", tmp_path / "deep" / "out")
        assert not list(tmp_path.rglob("owned.flac"))

    tar(tmp_path / "x.tar", {"LibriSpeech/dev-clean/1/2/../../../../../../owned.flac": b"x"}, "w")
    fails("outside")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("LibriSpeech/dev-clean/1")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
    fails("link|absolute")
    tar(tmp_path / "x.tar", TREE, "w")
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:20_000])
    fails("damaged")
    (tmp_path / "x.tar").write_bytes(b"no tar" * 500)
    fails("damaged")
    tar(tmp_path / "x.tar", TREE, "w")
    for limit, value in (("MAX_MEMBER", 1000), ("MAX_TOTAL", 30_000), ("MAX_MEMBERS", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(librispeech, limit, value)
            fails("more than LibriSpeech holds")


def test_kaldi_commands_become_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.flac").write_bytes(flac(16000))
    (data / "wav.scp").write_text(f"a cat {data}/a.flac |\nb cat {data}/none.flac |\n")
    (data / "text").write_text("a HELLO\nb DAY\n")
    argv = ["kaldi", "--source", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="allow_pipes"):
        main(argv)
    main([*argv, "--allow-pipes", "--language", "de"])
    (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.language, row.text, row.seconds) == ("de", "HELLO", 1.0)
    assert row.audio.startswith(str(tmp_path / "out" / "audio"))
    np.testing.assert_allclose(read_recording(row, 16000), soundfile.read(data / "a.flac")[0], atol=1e-4)


def test_a_split_that_got_nothing_is_named(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.1), 8000)
    (tmp_path / "set.csv").write_text("file,text,speaker\na.wav,hello,amy")
    main(["folder", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--dev", "0.01"])
    assert "no dev.jsonl: the fraction 0.01 holds no speaker or id of so few" in caplog.text


def test_folder_deals_speakers_to_splits(tmp_path):
    lines = ["file,text,speaker"]
    for i in range(60):
        soundfile.write(tmp_path / f"{i}.wav", np.full(1600, 0.1), 8000)
        lines.append(f"{i}.wav,text {i},speaker{i // 3}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    main(["folder", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--dev", "0.2", "--test", "0.2"])
    splits = {p.stem: read_manifest(p) for p in preparing.manifests(tmp_path / "out")}
    speakers = {name: {u.speaker for u in rows} for name, rows in splits.items()}
    assert set(splits) == {"train", "dev", "test"} and sum(map(len, splits.values())) == 60
    assert not (speakers["train"] & speakers["dev"] or speakers["train"] & speakers["test"])
    assert not speakers["dev"] & speakers["test"]


def test_folder_names_one_speaker_and_splits_all_the_same(tmp_path):
    lines = ["file,text"]
    for i in range(20):
        soundfile.write(tmp_path / f"{i}.wav", np.full(1600, 0.1), 8000)
        lines.append(f"{i}.wav,text {i}")
    (tmp_path / "set.csv").write_text("\n".join(lines))
    main(["folder", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--dev", "0.3", "--speaker", "me"])
    splits = [read_manifest(p) for p in preparing.manifests(tmp_path / "out")]
    assert len(splits) == 2 and {u.speaker for rows in splits for u in rows} == {"me"}


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, lj, monkeypatch):
    out = tmp_path / "out"
    prepare_lj(lj, out)
    kept = (out / "train.jsonl").read_text()

    class Full:
        def __init__(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_lj(lj, out, "--shards", "2")
    assert (out / "train.jsonl").read_text() == kept and not list(out.rglob("*.part"))


@pytest.fixture
def padded(tmp_path):
    """6 utterances in LJSpeech's layout: 0.5 s of silence, 1 s of noise, 0.25·i s of silence."""
    folder = tmp_path / "padded"
    (folder / "wavs").mkdir(parents=True)
    for i in range(6):
        noise = np.random.default_rng(i).uniform(-0.5, 0.5, 16000)
        audio = np.concatenate([np.zeros(8000), noise, np.zeros(4000 * i)])
        soundfile.write(folder / "wavs" / f"P-{i}.flac", audio, 16000)
    (folder / "metadata.csv").write_text("".join(f"P-{i}|No. {i}|number {i}\n" for i in range(6)))
    return folder


TRIM = ("--trim.by", "energy", "--trim.margin", "0.05")


def test_trimmed_rows_hold_the_sound_and_the_report_what_was_cut(tmp_path, padded, capsys, monkeypatch):
    """In the pass that verifies: every recording is decoded once, and a second run changes nothing."""
    reads, original = [], preparing.decode_recording
    monkeypatch.setattr(preparing, "decode_recording", lambda u, *rest: (reads.append(u.id), original(u, *rest))[1])
    out = tmp_path / "out"
    prepare_lj(padded, out, *TRIM)
    assert sorted(reads) == [f"P-{i}" for i in range(6)]
    rows = [u for split in ("dev", "test", "train") for u in read_manifest(out / f"{split}.jsonl")]
    assert len(rows) == 6
    for u in rows:
        assert u.start == pytest.approx(0.45, abs=0.021)
        assert u.start + u.seconds == pytest.approx(min(1.55, 1.5 + 0.25 * int(u.id[-1])), abs=0.021)
        audio = original(u, 16000).samples
        assert len(audio) / 16000 == pytest.approx(u.seconds, abs=1e-3)
        assert np.abs(audio[:480]).max() == 0 and np.abs(audio[1200:-1200]).min() >= 0 and np.std(audio) > 0.25
    printed = capsys.readouterr().out
    assert "test: trimmed 2 of 2 utterances by energy" in printed
    report = json.loads((out / "test.trim.json").read_text())
    cut = sum(c["head"] + c["tail"] for c in report["most_cut"])
    assert report["seconds_cut"] == pytest.approx(cut, abs=1e-3) and report["seconds_before"] > cut > 1
    before = {path.name: path.read_text() for path in out.glob("*.json*")}
    prepare_lj(padded, out, *TRIM)
    assert len(reads) == 6 and {path.name: path.read_text() for path in out.glob("*.json*")} == before


def test_trimming_in_two_ways_is_refused(tmp_path, padded):
    out = tmp_path / "out"
    prepare_lj(padded, out)  # untrimmed rows may be trimmed later
    prepare_lj(padded, out, *TRIM)
    before = (out / "train.jsonl").read_text()
    for more in (("--trim.by", "energy"), ()):
        with pytest.raises(UserError, match=r"\.dev\.trimmed: found rows trimmed with .*0\.05.*; take another --out"):
            prepare_lj(padded, out, *more)
    with pytest.raises(UserError, match="found --no-verify, expected verify"):
        prepare_lj(padded, out, "--no-verify", *TRIM)
    assert (out / "train.jsonl").read_text() == before


@pytest.fixture
def clips(tmp_path):
    """A project with two recordings, their list, and one that is missing."""
    project = tmp_path / "project"
    (project / "clips").mkdir(parents=True)
    for name in ("a", "b"):
        (project / "clips" / f"{name}.flac").write_bytes(flac(16000))
    (project / "list.csv").write_text("file,text\na.flac,helo wrold\nb.flac,good\nnone.flac,gone\n")
    return project


def prepare_clips(project, *more):
    assert main(["folder", "--source", str(project / "list.csv"), "--out", str(project / "data" / "mine"), *more]) == 0
    return project / "data" / "mine" / "train.jsonl"


def test_a_corrected_list_is_read_again(clips, capsys):
    prepare_clips(clips, "--shards", "1")
    text = (clips / "list.csv").read_text()
    (clips / "list.csv").write_text(text.replace("helo wrold", "hello world"))
    capsys.readouterr()
    manifest = prepare_clips(clips, "--shards", "1")
    printed = capsys.readouterr().out
    assert "list.csv has changed" in printed and "1 texts have changed, 0 utterances are new, 0 are gone" in printed
    for name in ("train", "train.sharded"):
        rows = read_manifest(manifest.with_name(f"{name}.jsonl"))
        assert {u.id: u.text for u in rows} == {"a": "hello world", "b": "good"}
    prepare_clips(clips, "--shards", "1")
    assert "its manifests are kept" in capsys.readouterr().out


def test_a_part_that_a_corrected_list_leaves_empty_is_removed(clips):
    names = [f"s{i}" for i in range(40)]
    rows = "".join(f"{'ab'[i % 2]}.flac,x,{name},{name}\n" for i, name in enumerate(names))
    (clips / "list.csv").write_text("file,text,speaker,id\n" + rows)
    dev = prepare_clips(clips, "--dev", "0.5").with_name("dev.jsonl")
    held_out = {u.id for u in read_manifest(dev)}
    rows = "".join(line + "\n" for line in rows.splitlines() if line.rpartition(",")[2] not in held_out)
    (clips / "list.csv").write_text("file,text,speaker,id\n" + rows)
    manifest = prepare_clips(clips, "--dev", "0.5")
    assert not dev.exists() and len(read_manifest(manifest)) == 40 - len(held_out)


def test_a_project_can_be_moved(clips):
    manifest = prepare_clips(clips)
    assert "../../clips/a.flac" in manifest.read_text()
    moved = clips.with_name("elsewhere")
    clips.rename(moved)
    for row in read_manifest(moved / "data" / "mine" / "train.jsonl"):
        assert len(read_recording(row, 16000)) == 16000


def test_what_is_left_out_is_printed_once_and_the_rest_is_not_counted(clips, capsys, caplog):
    prepare_clips(clips, "--dev", "0.000001")  # a warning, but not of a recording
    out = capsys.readouterr()
    assert (out.out + out.err + caplog.text).count("none.flac: no such file") == 1
    assert "1 recordings left out" in out.out


def test_texts_that_are_empty_or_hold_tags_are_counted_and_named(clips, capsys):
    (clips / "list.csv").write_text("file,text\na.flac,so [laughter] well <unk>\nb.flac,\n")
    prepare_clips(clips)
    printed = capsys.readouterr().out
    assert "kept, but empty text: 1 recordings (training leaves it out): train.jsonl: b" in printed
    assert "train.jsonl: a: [laughter] <unk>" in printed


def test_the_first_recordings_that_are_left_out_are_printed_and_all_are_in_the_report(clips, capsys):
    rows = "".join(f"none{i}.flac,x\n" for i in range(30))
    (clips / "list.csv").write_text("file,text\na.flac,x\n" + rows)
    out = prepare_clips(clips).parent
    printed = capsys.readouterr().out
    assert printed.count("no such file") == 20 and "30 recordings left out, all named in" in printed
    assert len(json.loads((out / "statistics.json").read_text())["left_out"]) == 30


def test_recordings_in_folders_of_parts_of_a_set_are_said_to_be_one_set(clips, caplog):
    for name in ("train", "test"):
        (clips / name).mkdir()
        (clips / name / "a.flac").write_bytes(flac(16000))
    (clips / "list.csv").write_text("file,text\ntrain/a.flac,x\ntest/a.flac,y\n")
    prepare_clips(clips)
    assert "the recordings lie in folders named test and train, but all rows are split as one set" in caplog.text


def test_recordings_with_rows_in_several_parts_are_counted(clips, caplog):
    rows = "".join(f"a{i},a.flac,x\n" for i in range(20)) + "b,b.flac,y\n"
    (clips / "list.csv").write_text("id,file,text\n" + rows)
    prepare_clips(clips, "--dev", "0.5")
    assert "1 recordings have rows in several of dev, train (a speaker's rows are kept in one)" in caplog.text


def test_a_folder_whose_name_is_not_utf8(clips, capsys):
    """A manifest with relative paths can be written in it, one with absolute paths cannot."""
    other = clips.with_name(os.fsdecode(b"m\xfcller"))
    clips.rename(other)
    assert len(read_manifest(prepare_clips(other))) == 2
    assert main(["fix", str(other / "list.csv"), "--out", str(other / "data" / "fixed")]) == 0
    assert "ller/list.csv: 1 of 3 rows are kept" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"found the recording .*ller/clips/a.flac', whose name is not UTF-8"):
        main(["fix", str(other / "list.csv"), "--out", str(clips / "a" / "b" / "c")])


def test_a_recipe_that_fails_at_once_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="words_per_minute"):
        main(["synthetic", "--out", str(tmp_path / "out"), "--words-per-minute", "300", "200"])
    assert not (tmp_path / "out").exists()


def test_a_column_is_chosen_where_several_mean_the_same(clips):
    (clips / "list.csv").write_text("file,text,sentence,reader\na.flac,one,One.,amy\n")
    with pytest.raises(UserError, match=r"list.csv:2: found text = 'one' and sentence = 'One.'.*--columns"):
        prepare_clips(clips)
    (row,) = read_manifest(prepare_clips(clips, "--columns", "text=sentence,speaker=reader"))
    assert (row.text, row.speaker) == ("One.", "amy")
    with pytest.raises(UserError, match="--columns text=word: found columns"):
        main(["folder", "--source", str(clips / "list.csv"), "--out", str(clips / "o"), "--columns", "text=word"])


def test_an_unsorted_and_incomplete_kaldi_directory(clips, capsys):
    (clips / "wav.scp").write_text("b clips/b.flac\na clips/a.flac\n")
    (clips / "text").write_text("a one\nc three\n")
    assert main(["kaldi", "--source", str(clips), "--out", str(clips / "out")]) == 0
    assert [u.id for u in read_manifest(clips / "out" / "train.jsonl")] == ["a"]
    printed = capsys.readouterr().out
    assert "2 recordings left out" in printed and "found id 'b', expected it in" in printed and "id 'c'" in printed


@pytest.fixture
def faulty(tmp_path):
    """A CSV and recordings that can be read, each with a fault."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 16000) * np.repeat(np.linspace(0.2, 1, 100), 160)
    soundfile.write(folder / "good.wav", samples, 16000)
    soundfile.write(folder / "silent.wav", 0 * samples, 16000)
    soundfile.write(folder / "clipped.wav", np.clip(50 * samples, -1, 1), 16000)
    soundfile.write(folder / "low.wav", samples[::2], 8000)
    soundfile.write(folder / "call.wav", np.stack([samples, -samples], 1), 16000)
    (folder / "joined.wav").write_bytes(2 * (folder / "good.wav").read_bytes())
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:20_000])
    rows = ["good.wav,,", "silent.wav,,", "clipped.wav,,", "low.wav,,", "call.wav,,", "joined.wav,,", "cut.wav,,",
            "good.wav,0.5,1.3", "good.wav,0.6,2.5"]  # fmt: skip
    (folder / "list.csv").write_text("audio,start,end,text\n" + "".join(f"{row},yes\n" for row in rows))
    return folder


def test_recordings_with_faults_are_kept_counted_and_named(tmp_path, faulty, capsys):
    out = tmp_path / "out"
    for _ in range(2):  # the second call reads its notes
        assert main(["folder", "--source", str(faulty), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        statistics = json.loads((out / "statistics.json").read_text())
        found = {kind: sorted(line.split(": ")[1] for line in lines) for kind, lines in statistics["findings"].items()}
        assert found == {
            "length": ["joined"], "clipped segment": ["good-0.500"], "opposite phase": ["call"],
            "silent": ["call", "silent"], "clipped": ["clipped"], "lower rate": ["low"],
        }  # fmt: skip
        assert "kept, but silent: 2 recordings (no sample is above -60 dB): train.jsonl: " in printed
        assert len(statistics["left_out"]) == 2 and "2 recordings left out" in printed
        rows = {u.id: u for u in read_manifest(out / "train.jsonl")}
        assert rows["joined"].seconds == 2 and (rows["good-0.500"].end, rows["good-0.500"].seconds) == (1.0, 0.5)


def test_one_channel_is_taken_once_for_all(tmp_path, faulty, capsys):
    out = tmp_path / "out"
    command = ["folder", "--source", str(faulty), "--out", str(out)]
    for _ in range(2):
        assert main([*command, "--channel", "right"]) == 0
        statistics = json.loads((out / "statistics.json").read_text())
        assert "opposite phase" not in statistics["findings"] and len(statistics["findings"]["silent"]) == 1
    rows = {u.id: u for u in read_manifest(out / "train.jsonl")}
    assert os.path.samefile(rows["good"].audio, faulty / "good.wav") and "/channel-right/" in rows["call"].audio
    original = read_recording(rows["call"]._replace(audio=str(faulty / "call.wav")), 16000, channel="2")
    np.testing.assert_allclose(read_recording(rows["call"], 16000), original, atol=1e-4)
    with pytest.raises(UserError, match="other options"):
        main(command)
    with pytest.raises(UserError, match="--channel: found 'both'"):
        main([*command, "--channel", "both"])
