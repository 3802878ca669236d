"""Kaldi, LJSpeech, folders with a CSV and shards all become the one manifest; what is wrong in them is named."""

import dataclasses
import shutil

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.data import shards
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.data.manifest import write_manifest
from speech_jax.data.recordings import read_recording, run_pipe
from speech_jax.data.sources import load_source, load_sources
from speech_jax.data.utterances import Utterance

RATE = 8000


def wav(path, n=8000, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, n)
    soundfile.write(path, samples, RATE)
    return soundfile.read(path, dtype="float32")[0]


@pytest.fixture
def kaldi(tmp_path):
    folder = tmp_path / "data"
    wav(folder / "r1.wav", 16000, 1)
    wav(folder / "r2.wav", 24000, 2)
    (folder / "wav.scp").write_text(f"r1 r1.wav\nr2 {folder}/r2.wav\n")
    (folder / "segments").write_text("s-1 r1 0.25 1.00\ns-2 r2 0.5 2.5\ns-3 r2 2.5 -1\n")
    (folder / "text").write_text("s-1 HELLO THERE\ns-2 GOOD DAY\ns-3\n")
    (folder / "utt2spk").write_text("s-1 amy\ns-2 bob\ns-3 bob\n")
    return folder


def test_kaldi_names_languages(kaldi):
    (kaldi / "utt2lang").write_text("s-1 en\ns-2 de\ns-3 de\n")
    assert [row.language for row in load("kaldi", kaldi)] == ["en", "de", "de"]
    (kaldi / "utt2lang").write_text("s-1 en\ns-3 de\n")
    fails("kaldi", kaldi, r"text:2: found id 's-2', expected it in .*utt2lang", on_error="raise")


def load(kind, path, **options):
    return load_source(SourceConfig(kind=kind, path=str(path), domain="d"), **options)


def fails(kind, path, expected, **options):
    with pytest.raises(UserError, match=expected) as caught:
        load(kind, path, **options)
    assert "\n" not in str(caught.value)


def test_kaldi_segments(kaldi):
    rows = load("kaldi", kaldi)
    assert [(u.id, u.text, u.speaker, u.start, u.end, u.domain) for u in rows] == [
        ("s-1", "HELLO THERE", "amy", 0.25, 1.0, "d"),
        ("s-2", "GOOD DAY", "bob", 0.5, 2.5, "d"),
        ("s-3", "", "bob", 2.5, None, "d"),
    ]
    assert [u.seconds for u in rows] == [0.75, 2.0, 0.5]
    whole = soundfile.read(kaldi / "r2.wav", dtype="float32")[0]
    np.testing.assert_array_equal(read_recording(rows[1], RATE), whole[4000:20000])
    np.testing.assert_array_equal(read_recording(rows[2], RATE), whole[20000:])


def test_kaldi_without_segments(kaldi):
    for name in ("segments", "utt2spk"):
        (kaldi / name).unlink()
    (kaldi / "text").write_text("r1 ONE\nr2 TWO\n")
    assert [(u.id, u.text, u.seconds) for u in load("kaldi", kaldi)] == [("r1", "ONE", 2.0), ("r2", "TWO", 3.0)]


@pytest.mark.parametrize(
    "name,content,expected",
    [
        ("text", "s-2 B\ns-1 A\ns-3 C\n", r"text:2: found id 's-1' after 's-2', expected ids sorted"),
        ("text", "s-1 A\ns-1 A\ns-2 B\n", r"text:2: found id 's-1' again"),
        ("text", "s-1 A\ns-2 B\ns-3 C\ns-4 D\n", r"text:4: found id 's-4', expected it in .*utt2spk"),
        ("text", "s-1 A\ns-2 B\n", r"segments:3: found id 's-3', expected it in .*text"),
        ("utt2spk", "s-1 amy\ns-3 bob\n", r"text:2: found id 's-2', expected it in .*utt2spk"),
        ("utt2spk", "s-1\ns-2 b\ns-3 b\n", r"utt2spk:1: found 's-1', expected lines"),
        ("segments", "s-1 r1 0 1\ns-2 r9 0 1\ns-3 r2 0 1\n", r"segments:2: found recording 'r9'"),
        ("segments", "s-1 r1 0 1\ns-3 r2 0 1\n", r"text:2: found id 's-2', expected it in .*segments"),
        ("segments", "s-1 r1 0 1\ns-2 r2 1 x\ns-3 r2 0 1\n", r"segments:2: found 'x', expected seconds"),
        ("segments", "s-1 r1 0 1\ns-2 r2 2 1\ns-3 r2 0 1\n", r"segments:2: .*end after start"),
        ("segments", "s-1 r1 0\ns-2 r2 0 1\ns-3 r2 0 1\n", r"segments:1: found 3 fields"),
        ("wav.scp", "r2 r2.wav\nr1 r1.wav\n", r"wav.scp:2: found id 'r1' after 'r2'"),
        ("wav.scp", "r1 r1.wav\nr2 none.wav\n", r"text:3: .*none.wav: no such file"),
        ("wav.scp", "r1 touch owned |\nr2 r2.wav\n", r"wav.scp:1: found the command 'touch owned \|'"),
        ("wav.scp", b"r1 \xff.wav\n", r"wav.scp:1: found bytes that are not UTF-8"),
        ("wav.scp", "", r"wav.scp: found an empty file"),
    ],
)
def test_kaldi_wrong_lines_are_named(kaldi, name, content, expected):
    (kaldi / name).write_bytes(content.encode() if isinstance(content, str) else content)
    fails("kaldi", kaldi, expected)


def test_kaldi_without_wav_scp(kaldi):
    (kaldi / "wav.scp").unlink()
    fails("kaldi", kaldi, "wav.scp: No such file")


def test_kaldi_pipes(kaldi, monkeypatch):
    """Run when allowed, joined without a shell; the audio is the file's."""
    monkeypatch.chdir(kaldi)
    (kaldi / "wav.scp").write_text("r1 cat r1.wav | cat |\nr2 cat 'r2.wav' |\n")
    fails("kaldi", kaldi, "allow_pipes")
    rows = load("kaldi", kaldi, allow_pipes=True)
    whole = soundfile.read(kaldi / "r1.wav", dtype="float32")[0]
    np.testing.assert_array_equal(read_recording(rows[0], RATE, allow_pipes=True), whole[2000:8000])
    assert rows[2].seconds == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(UserError, match="allow_pipes"):
        read_recording(rows[0], RATE)


SHELL = [
    "cat a; touch owned |",
    "cat a && touch owned |",
    "cat a > owned |",
    "cat `touch owned` |",
    "cat $(touch owned) |",
    "touch owned & |",
    "cat < a |",
    "cat 'a |",
    "| |",
    " |",
]


@pytest.mark.parametrize("command", SHELL)
def test_a_pipe_never_meets_a_shell(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        run_pipe(command, allow_pipes=True)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_fails_or_never_ends(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="false ended with 1"):
        run_pipe("false | cat |", allow_pipes=True)
    with pytest.raises(UserError, match="no_such_program"):
        run_pipe("no_such_program_at_all x |", allow_pipes=True)
    assert run_pipe("yes | head -c 4 |", allow_pipes=True) == b"y\ny\n"
    monkeypatch.setattr("speech_jax.data.recordings.PIPE_TIMEOUT", 0.3)
    with pytest.raises(UserError, match="not done after 0.3 s"):
        run_pipe("sleep 60 |", allow_pipes=True)
    monkeypatch.setattr("speech_jax.data.recordings.PIPE_TIMEOUT", 60)
    monkeypatch.setattr("speech_jax.data.recordings.MAX_PIPE_BYTES", 1 << 20)
    with pytest.raises(UserError, match="more than 1048576 bytes"):
        run_pipe("yes |", allow_pipes=True)


def test_ljspeech(tmp_path):
    wav(tmp_path / "wavs" / "LJ-1.wav", 8000)
    wav(tmp_path / "wavs" / "LJ-2.flac", 4000)
    (tmp_path / "metadata.csv").write_text('LJ-1|Dr. "X"|doctor "x"\nLJ-2|Yes||\n'.replace("||", "|"))
    assert [(u.id, u.text, u.seconds) for u in load("ljspeech", tmp_path)] == [
        ("LJ-1", 'doctor "x"', 1.0),
        ("LJ-2", "Yes", 0.5),
    ]
    wrong = {
        "LJ-1": "metadata.csv:1: found 1 fields",
        "../x|a|a": "metadata.csv:1: found id '../x'",
        "LJ-1|a|a\nLJ-1|a|a": "metadata.csv:2: found id 'LJ-1' again",
        "LJ-9|a|a": "LJ-9.wav: no such file",
    }
    for line, expected in wrong.items():
        (tmp_path / "metadata.csv").write_text(line + "\n")
        fails("ljspeech", tmp_path, expected)


def test_folder_with_csv_and_common_voice_tsv(tmp_path):
    wav(tmp_path / "a.wav", 8000)
    wav(tmp_path / "clips" / "b.mp3", 16000)
    (tmp_path / "set.csv").write_text(
        'file,transcript,speaker,start,end\na.wav,"one, two",amy,0.25,0.75\na.wav,three,amy,,\n'
    )
    rows = load("folder", tmp_path)
    assert [(u.id, u.text, u.speaker, u.seconds) for u in rows] == [
        ("a-0.250", "one, two", "amy", 0.5),
        ("a", "three", "amy", 1.0),
    ]
    (tmp_path / "validated.tsv").write_text('client_id\tpath\tsentence\tlocale\nx1\tb.mp3\tHe said "no.\ten\n')
    (row,) = load("folder", tmp_path / "validated.tsv")
    assert (row.id, row.speaker, row.text, row.language) == ("b", "x1", 'He said "no.', "en")
    assert row.seconds == pytest.approx(2, abs=0.1)
    fails("folder", tmp_path, "2 CSV or TSV files")


@pytest.mark.parametrize(
    "content,expected",
    [
        ("", "set.csv: found an empty file"),
        ("file,words\na.wav,x\n", r"set.csv:1: found columns \['file', 'words'\]"),
        ("file,text\na.wav\n", "set.csv:2: found 1 fields, expected 2"),
        ("file,text\n,x\n", "set.csv:2: found no recording"),
        ('file,text\na.wav,"x\n', "set.csv:2: found a line that is not CSV"),
        ("file,text,seconds\na.wav,x,long\n", "set.csv:2: found seconds = 'long', expected seconds"),
        ("file,text\nnone.wav,x\n", "set.csv:2: .*none.wav: no such file"),
        ("file,text\n", "set.csv: found no utterances"),
    ],
)
def test_folder_wrong_lines_are_named(tmp_path, content, expected):
    wav(tmp_path / "a.wav")
    (tmp_path / "set.csv").write_text(content)
    fails("folder", tmp_path / "set.csv", expected)


def test_shards_hold_what_went_in(tmp_path):
    audio = [wav(tmp_path / f"{i}.wav", 3000 + 500 * i, i) for i in range(5)]
    rows = [
        Utterance(f"u{i}", str(tmp_path / f"{i}.wav"), text=f"tëxt {i}", speaker="amy", seconds=1.0) for i in range(5)
    ]
    for i, part in enumerate(shards.deal(rows, 2)):
        shards.write_shard(tmp_path / shards.shard_name("train", i, 2), part, lambda u: audio[int(u.id[1:])], RATE)
    found = load_source(SourceConfig(kind="shards", path=str(tmp_path), split="train"))
    assert sorted((u.id, u.text, u.speaker, u.seconds) for u in found) == [
        (f"u{i}", f"tëxt {i}", "amy", (3000 + 500 * i) / RATE) for i in range(5)
    ]
    for u in found:
        np.testing.assert_allclose(read_recording(u, RATE), audio[int(u.id[1:])], atol=1e-4)
    # through a manifest, in a folder that has moved
    write_manifest(tmp_path / "train.jsonl", found)
    shutil.copytree(tmp_path, tmp_path.parent / "moved")
    again = load("manifest", tmp_path.parent / "moved" / "train.jsonl")
    assert str(tmp_path.parent / "moved") in again[0].audio
    np.testing.assert_array_equal(read_recording(again[3], RATE), read_recording(found[3], RATE))

    (tmp_path / shards.shard_name("train", 1, 2)).unlink()
    fails("shards", tmp_path, "train-00001-of-00002.array_record is missing")


def test_a_damaged_shard_is_noticed(tmp_path):
    audio = wav(tmp_path / "a.wav")
    path = tmp_path / shards.shard_name("t", 0, 1)
    (u,) = shards.write_shard(path, [Utterance("a", "a", text="x")], lambda u: audio, RATE)
    data = bytearray(path.read_bytes())
    place = data.index(b"fLaC") + 3000
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_recording(u, RATE)
    for broken in (b"", b"no shard at all" * 100, bytes(data[:1000])):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"t-00000-of-00001\.array_record"):
            read_recording(u, RATE)
    for reference in (f"{path}#x", f"{path}#99", f"{tmp_path}/none.array_record#0"):
        with pytest.raises(UserError):
            read_recording(u._replace(audio=reference), RATE)


WORDS = st.sampled_from(
    "r1 r2 s-1 r1.wav 0 0.5 1e9 nan -1 a.wav file text , |".split() + ["\t", '"', "x" * 5000],
)
CONTENT = st.lists(st.lists(WORDS | st.text(max_size=4), max_size=5).map(" ".join), max_size=5).map("\n".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=st.lists(CONTENT, min_size=3, max_size=3), binary=st.binary(max_size=40))
def test_any_tables_give_utterances_or_a_user_error(tmp_path, tables, binary):
    if not (tmp_path / "r1.wav").exists():
        wav(tmp_path / "r1.wav")
        wav(tmp_path / "a.wav")
    for name, content in zip(("wav.scp", "text", "segments"), tables, strict=True):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    (tmp_path / "metadata.csv").write_bytes(tables[0].replace(" ", "|").encode("utf-8", "surrogatepass") + binary)
    (tmp_path / "set.csv").write_bytes(b"file,text\n" + tables[1].replace(" ", ",").encode("utf-8", "surrogatepass"))
    for kind, path in (("kaldi", tmp_path), ("ljspeech", tmp_path), ("folder", tmp_path / "set.csv")):
        for on_error in ("raise", "skip"):
            try:
                rows = load_source(SourceConfig(kind=kind, path=str(path)), on_error=on_error)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert rows and all(u.id and u.seconds > 0 for u in rows)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda b: len(b).to_bytes(4, "little") + b))
def test_any_record_is_decoded_or_refused(record):
    try:
        fields, _ = shards.decode_record(record, "x.array_record#0")
    except UserError:
        return
    assert isinstance(fields["id"], str)


def test_several_sources_one_list(tmp_path, kaldi, caplog):
    rows = [Utterance("m", str(kaldi / "r1.wav"), text="m", domain="own", seconds=2.0)]
    write_manifest(tmp_path / "m.jsonl", rows)
    sources = (
        SourceConfig(kind="kaldi", path=str(kaldi), domain="k", limit=2),
        SourceConfig(path=str(tmp_path / "m.jsonl"), domain="m"),
    )
    assert [(u.id, u.domain) for u in load_sources(DataConfig(sources))] == [("s-1", "k"), ("s-2", "k"), ("m", "own")]
    assert "it counts twice" not in caplog.text
    assert len(load_sources(DataConfig((sources[1], dataclasses.replace(sources[1], domain="x"))))) == 2
    assert "m.jsonl:1 (m) is the recording of" in caplog.text and "m.jsonl:1, too: it counts twice" in caplog.text
    with pytest.raises(UserError, match="no sources"):
        load_sources(DataConfig())
    fails("manifest", "", "no path")


@pytest.mark.parametrize(
    "command,reason",
    [
        ("/no/such/sph2pipe -f wav a.sph |", "No such file or directory: '/no/such/sph2pipe'"),
        ("cat r1.wav 2>/dev/null |", "found '>' in the command"),
        ("echo no audio |", "it is text"),
        ("false |", "false ended with 1"),
    ],
)
def test_a_pipe_that_cannot_run_says_why(kaldi, caplog, command, reason):
    for name in ("segments", "utt2spk"):
        (kaldi / name).unlink()
    (kaldi / "text").write_text("r1 ONE\nr2 TWO\n")
    (kaldi / "wav.scp").write_text(f"r1 {command}\nr2 {command}\n")
    with pytest.raises(UserError, match="found no utterances"):
        load("kaldi", kaldi, allow_pipes=True, on_error="skip")
    assert caplog.text.count(reason) == 2
