"""The front door `prepare`: manifests, shards, statistics; resumed where it stopped; one clear line where it cannot."""

import io
import json
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
    monkeypatch.setattr(preparing, "read_recording", lambda u, rate: reads.append(u.id))
    prepare_lj(lj, out, "--shards", "2")
    second = capsys.readouterr().out
    assert reads == [] and {p: p.stat().st_mtime_ns for p in out.rglob("*.array_record")} == before
    assert first.splitlines()[-3:] == second.splitlines()[-3:] and "kept" in second


def test_a_stopped_run_goes_on(tmp_path, lj, monkeypatch):
    """Stopped while it decodes, then while it writes shards: nothing is done twice, and the result is the same."""
    prepare_lj(lj, tmp_path / "straight", "--shards", "3")
    out = tmp_path / "stopped"
    original, reads = preparing.read_recording, []

    def stops_after(limit):
        def read(utterance, rate, **options):
            if len(reads) >= limit:
                raise KeyboardInterrupt
            reads.append(utterance.id)
            return original(utterance, rate, **options)

        reads.clear()
        monkeypatch.setattr(preparing, "read_recording", read)

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
    with pytest.raises(UserError, match="another recipe or other options"):
        main(["ljspeech", "--source", str(lj), "--out", str(tmp_path / "out"), "--dev", "3"])
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
    reads, original = [], preparing.read_recording
    monkeypatch.setattr(preparing, "read_recording", lambda u, *rest: (reads.append(u.id), original(u, *rest))[1])
    out = tmp_path / "out"
    prepare_lj(padded, out, *TRIM)
    assert sorted(reads) == [f"P-{i}" for i in range(6)]
    rows = [u for split in ("dev", "test", "train") for u in read_manifest(out / f"{split}.jsonl")]
    assert len(rows) == 6
    for u in rows:
        assert u.start == pytest.approx(0.45, abs=0.021)
        assert u.start + u.seconds == pytest.approx(min(1.55, 1.5 + 0.25 * int(u.id[-1])), abs=0.021)
        audio = original(u, 16000)
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
