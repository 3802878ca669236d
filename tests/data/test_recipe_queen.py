"""The Amazon Queen's resource file, made small: entries, scripts, voices, splits."""

import json
import os
import struct
from pathlib import Path

import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import queen
from tests.support.packages import make_deb, name_with, sound

FILE = "./usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"


def text(string: str, at: int, align: int) -> bytes:
    """A length-prefixed string at byte `at` of its data, filled up so that the next begins aligned."""
    content = bytes([len(string)]) + string.encode("latin-1")
    return content + bytes(-(at + len(content)) % align) if string else content


def items(lines: dict[int, str], at: int) -> bytes:
    data = b""
    for number, line in lines.items():
        data += b"\xff\xff" + struct.pack(">h", number)
        data += text(line, at + len(data), 4)
    return data


def dialogue(key: int, joe: dict[int, str], person: dict[int, str], again=("", ""), levels: int = -2) -> bytes:
    joe_at = 32 + 96 * abs(levels)
    joe_list = items(joe, joe_at)
    person_at = joe_at + len(joe_list) + (-len(joe_list) % 4)
    person_list = items(person, person_at)
    second_at = person_at + len(person_list) + len(person_list) % 2
    header = struct.pack(">5h6h3H", levels, 7, key, len(joe), len(person), *[0] * 6, person_at, 0, second_at)
    data = bytearray(header.ljust(joe_at, b"\0") + joe_list)
    data = data.ljust(person_at, b"\0") + person_list
    data = data.ljust(second_at, b"\0") + text(again[0], second_at, 2)
    data += text(again[1], len(data), 2)
    return bytes(20) + bytes(data)


def cutscene(lines: list[str]) -> bytes:
    data = struct.pack(">Hh", 1, -len(lines)) + bytes(4)
    data = data + struct.pack(">H", 30)
    data = data.ljust(30, b"\0") + text("*FL", 30, 2)
    for line in lines:
        data += text(line, len(data), 2)
    return bytes(20) + data


def resource(entries: dict[str, bytes], compression: int = 1) -> bytes:
    table, content = b"", b""
    start = 15 + 21 * len(entries)
    for name, data in entries.items():
        table += struct.pack(">12sBII", name.encode(), 1, start + len(content), len(data))
        content += data
    return b"QTBL" + b"CEM10\0" + b"\0\0" + bytes([compression]) + struct.pack(">H", len(entries)) + table + content


def voice(seed: int, seconds: float = 0.7) -> bytes:
    return sound(seconds, seed, rate=11_025, format="MP3")


def lines_of(entries: dict[str, bytes]) -> dict[str, tuple[str, str, str]]:
    return {line.voice: (line.source, line.text, line.speaker) for line in queen.read_lines(entries)}


def test_dialogue_voices():
    joe = {0: "Hello there.", 0x1B: "What *07is this?*WTWell.", 3: "Up*GDand down"}
    person = {0x40B: "Walk*XY00(237,112) here*FL", 5: "No voice"}
    entries = {"AND1.DOG": dialogue(9, joe, person, again=("You again", "Me*03 again"))}
    names = (
        "090000J1 09SSSSJ1 09001BJ1 09001BJ2 09001BJ3 090003J1 090003J2 09040BP1 09040BP2 09XXXXP1 09XXXXJ1 09XXXXJ2"
    )
    entries |= {f"{name}.SB": b"" for name in names.split()}
    assert lines_of(entries) == {
        "090000J1": ("AND1.DOG", "Hello there.", "joe"),
        "09SSSSJ1": ("AND1.DOG", "Hello there.", "joe"),
        "09001BJ1": ("AND1.DOG", "What", "joe"),
        "09001BJ2": ("AND1.DOG", "is this?", "joe"),
        "09001BJ3": ("AND1.DOG", "Well.", "joe"),
        "090003J2": ("AND1.DOG", "and down", "joe"),  # what stands before *GD has no voice
        "09040BP1": ("AND1.DOG", "Walk", "and"),
        "09040BP2": ("AND1.DOG", "here", "and"),
        "09XXXXP1": ("AND1.DOG", "You again", "and"),
        "09XXXXJ1": ("AND1.DOG", "Me", "joe"),
        "09XXXXJ2": ("AND1.DOG", "again", "joe"),
    }


def test_the_first_that_claims_a_voice_gets_it():
    entries = {
        "A.DOG": dialogue(12, {}, {4: "First"}),
        "B.DOG": dialogue(12, {}, {4: "Second"}),
        "120004P1.SB": b"",
    }
    assert lines_of(entries) == {"120004P1": ("A.DOG", "First", "a")}


def test_cutscene_voices():
    lines = ["Look!*08There.", "", "The^_ end", *["*"] * 8, "Number twelve"]
    entries = {"C5A.CUT": cutscene(lines)}
    entries |= {f"{name}.SB": b"" for name in ("C5A__011", "C5A__012", "C5A__031", "C5A__121")}
    assert lines_of(entries) == {
        "C5A__011": ("C5A.CUT", "Look!", ""),
        "C5A__012": ("C5A.CUT", "There.", ""),
        "C5A__031": ("C5A.CUT", "The end", ""),
        "C5A__121": ("C5A.CUT", "Number twelve", ""),
    }


def test_remarks_count_from_forty_one_and_go_in_groups_of_forty():
    lines = [f"Remark {n}*03" for n in range(1, 82)]
    entries = {"QUEEN2.JAS": "\r\n".join(lines).encode()}
    entries |= {f"{name}.SB": b"" for name in ("JOE00401", "JOE00411", "JOE00801", "JOE00811", "JOE01211")}
    assert lines_of(entries) == {
        "JOE00411": ("JAS0", "Remark 1", "joe"),
        "JOE00801": ("JAS0", "Remark 40", "joe"),
        "JOE00811": ("JAS1", "Remark 41", "joe"),
        "JOE01211": ("JAS2", "Remark 81", "joe"),
    }


def small_game() -> dict[str, bytes]:
    train = name_with(7, 20, "TRAIN%d.DOG")
    dev = name_with(1, 20, "D%d.CUT")
    test = name_with(0, 20, "T%d.CUT")
    entries = {
        train: dialogue(1, {}, {1: "Only here.", 2: "said in the TEST!", 3: "Said in dev", 4: "Other set?", 5: "..."}),
        dev: cutscene(["Said in dev.", "Fine"]),
        test: cutscene(["Said in the test?", "Also fine"]),
    }
    for seed, number in enumerate(range(1, 6)):
        entries[f"01{number:04X}P1.SB"] = voice(seed)
    for seed, name in enumerate((dev, test)):
        for number in (1, 2):
            entries[f"{name[:-4]:_<5}{number:02d}1.SB"] = voice(10 * seed + number, 0.5 + seed)
    return entries


def test_prepare(tmp_path, caplog):
    entries = small_game()
    entries["010001P1.SB"] = b"\xff\xe3 damaged"
    entries["010006P1.SB"] = voice(99)  # no line of the script
    make_deb(tmp_path / "debs", queen.PACKAGE, {FILE: resource(entries)})
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"id": "o", "audio": "o.wav", "text": "other set", "seconds": 1}) + "\n")
    options = queen.Options(packages=tmp_path / "debs")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="expected recordings"):  # a package without one readable voice
        make_deb(
            tmp_path / "bad", queen.PACKAGE, {FILE: resource(entries | {n: b"" for n in entries if n[-3:] == ".SB"})}
        )
        queen.prepare(tmp_path / "none", queen.Options(packages=tmp_path / "bad"))
    queen.prepare(out, options)
    assert "010001p1" in caplog.text
    rows = {split: read_manifest(out / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert [u.text for u in rows["train"]] == ["Other set?"]
    assert [u.text for u in rows["dev"]] == ["Said in dev.", "Fine"]
    assert [u.text for u in rows["test"]] == ["Said in the test?", "Also fine"]
    for u in [u for part in rows.values() for u in part]:
        info = soundfile.info(u.audio)
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
        assert info.frames / 16_000 == pytest.approx(u.seconds, abs=1e-5)
        assert u.domain == "queen" and u.language == "en" and Path(u.audio).is_relative_to(out)
    # MP3 pads a little at both ends.
    assert rows["test"][0].seconds == pytest.approx(1.5, abs=0.25)
    assert rows["train"][0].speaker == "train"

    # A second run decodes nothing again; what is missing is made.
    (Path(rows["dev"][0].audio)).unlink()
    before = {path: os.stat(path).st_mtime_ns for path in (out / "audio").iterdir()}
    queen.prepare(out, options)
    after = {path: os.stat(path).st_mtime_ns for path in (out / "audio").iterdir()}
    assert set(after) - set(before) == {Path(rows["dev"][0].audio)}
    assert all(after[path] == time for path, time in before.items())

    with pytest.raises(UserError, match="found audio of 16000 Hz from an earlier run, expected 8000"):
        queen.prepare(out, queen.Options(packages=tmp_path / "debs", sample_rate=8000))


def test_sentences_of_another_test_set_leave_train_and_dev(tmp_path):
    make_deb(tmp_path / "debs", queen.PACKAGE, {FILE: resource(small_game())})
    other = tmp_path / "other.jsonl"
    rows = [
        {"id": str(i), "audio": "o.wav", "text": t, "seconds": 1}
        for i, t in enumerate(("other set", "FINE", "also fine"))
    ]
    other.write_text("\n".join(map(json.dumps, rows)))
    queen.prepare(tmp_path / "out", queen.Options(packages=tmp_path / "debs", exclude=(other,)))
    texts = {s: [u.text for u in read_manifest(tmp_path / f"out/{s}.jsonl")] for s in ("train", "dev", "test")}
    assert texts == {"train": ["Only here."], "dev": ["Said in dev."], "test": ["Said in the test?", "Also fine"]}


def test_damaged_files(tmp_path):
    path = tmp_path / "queen.1c"
    good = resource({"A.DOG": dialogue(1, {}, {1: "Text"})})
    for content, message in (
        (b"", "no table QTBL"),
        (b"RIFF" + good[4:], "no table QTBL"),
        (resource({}, compression=2), "found speech compression 2"),
        (good[:20], "cut off in row 0 of 1"),
        (good[:-3], "cut off: row 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"queen.1c.*{message}"):
            queen.read_entries(path)
    for name, content in (
        ("A.DOG", bytes(25)),
        ("A.CUT", cutscene(["Text"] * 5)[:-4]),
        ("B.DOG", dialogue(1, {}, {1: "x"})[:-9]),
    ):
        with pytest.raises(UserError, match=f"{name} is damaged"):
            queen.read_lines({name: content})
    with pytest.raises(UserError, match=f"queen.1c.*{queen.PACKAGE}"):
        make_deb(tmp_path / "debs", queen.PACKAGE, {"./usr/share/doc/x": b""})
        queen.prepare(tmp_path / "out", queen.Options(packages=tmp_path / "debs"))


@pytest.mark.skipif(
    "SPEECH_JAX_PACKAGES" not in os.environ, reason="set SPEECH_JAX_PACKAGES to a folder of the .deb files"
)
def test_the_real_package(tmp_path):
    queen.prepare(tmp_path, queen.Options(packages=Path(os.environ["SPEECH_JAX_PACKAGES"])))
    rows = {split: read_manifest(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: len(part) for split, part in rows.items()} == {"train": 5245, "dev": 338, "test": 476}
    assert sum(u.seconds for u in rows["train"]) / 3600 == pytest.approx(3.71, abs=0.01)
    assert len(list((tmp_path / "audio").iterdir())) == 6544
