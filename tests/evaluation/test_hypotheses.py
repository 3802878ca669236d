"""Transcripts of other systems: every format gives the same texts, and what is ambiguous or missing is named."""

import json

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.hypotheses import read_hypotheses, write_hypotheses
from speech_jax.evaluation.report import Item

SET = [Utterance(f"u{n}", f"/data/clips/rec{n}.wav", text=f"reference {n}") for n in (1, 2)]
TEXTS = {("s", "u1"): "a b", ("s", "u2"): "c"}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


NEMO = [{"audio_filepath": f"/x/rec{n}.wav", "duration": 1.5, "text": f"reference {n}"} for n in (1, 2)]
FILES = {  # name: (content, what the report says of it)
    "kaldi": ("u1 a b\nu2 c\n", "lines 'id words …'"),
    "h.txt": ("u1\ta b\r\nu2\tc\r\n", "lines 'id words …'"),
    "tab_within": ("u1 a\tb\nu2 c\n", "lines 'id words …'"),
    "paths": ("/data/clips/rec1.wav\ta b\nrec2.wav\tc\n", "lines 'id words …'"),  # of transcribe --format text
    "bom.txt": ("\ufeffu1 a b\nu2 c\n", "lines 'id words …'"),
    "h.trn": ("a b (u1)\nc (u2)\n", "sclite's trn"),
    "trn": (";; sclite\na b (u1)\n  c  (u2)\n", "sclite's trn"),
    "h.ctm": ("u1 1 0.5 0.2 b 0.9\nu1 1 0.1 0.2 a\nu2 A 0 1 c\n", "ctm"),
    "ctm": ("u1 1 0.10 0.20 a 0.99\nu1 1 0.50 0.20 b 0.90\nu2 1 0.00 1.00 c 0.50\n", "ctm"),
    "h.stm": ("u1 A amy 0.00 1.00 <o,f0> a b\nu2 A bob 0.00 1.00 c\n", "stm"),
    "h.csv": ('id,text\nu1,"a b"\nu2,c\n', "CSV, column 'text'"),
    "no_header.csv": ("u1,a b\nu2,c\n", "CSV, column 'text'"),
    "csv": ("file_name;transcription\nclips/rec1.wav;a b\nclips/rec2.wav;c\n", "CSV, column 'transcription'"),
    "h.tsv": ("path\tsentence\tprediction\nrec1.wav\tr\ta\tb\nrec2.wav\tr\tc\n", "TSV, column 'prediction';"),
    "own": (lines(*({"set": "x/s", "id": i, "reference": "r", "hypothesis": t} for (_, i), t in TEXTS.items())),
            "JSON rows, field 'hypothesis'"),
    "h.json": (json.dumps([{"id": i, "text": t} for (_, i), t in TEXTS.items()], indent=1), "JSON rows, field 'text'"),
    "map": (json.dumps({"u1": "a b", "u2": "c"}), "JSON, a text by id"),
    "bom": ("\ufeff" + lines({"id": "u1", "text": "a b"}, {"id": "u2", "text": "c"}), "JSON rows, field 'text'"),
    "nemo": (lines(*(row | {"pred_text": t} for row, t in zip(NEMO, TEXTS.values(), strict=True))),
             "JSON rows, field 'pred_text'; 'text' not read, a reference"),
    "nemo_model": (lines(*(row | {"pred_text_m": t} for row, t in zip(NEMO, TEXTS.values(), strict=True))),
                   "JSON rows, field 'pred_text_m'"),
    "hf": (lines(*({"audio": {"path": f"rec{n}.wav"}, "sentence": "r", "prediction": t}
                   for n, t in enumerate(TEXTS.values(), 1))), "JSON rows, field 'prediction'; 'sentence' not read"),
    "utf16": ("u1 a b\nu2 c\n".encode("utf-16"), "lines 'id words …'"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_texts(tmp_path, name):
    content, description = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_hypotheses(str(tmp_path / name), {"s": SET})
    assert {key: " ".join(text.split()) for key, text in found.texts.items()} == TEXTS
    assert found.description.startswith(description)


@pytest.mark.parametrize("ending", [".json", ".txt"])
def test_a_folder_of_whisper(tmp_path, ending):
    """A file per recording; other kinds of the same transcripts lie beside."""
    for n, text in enumerate(TEXTS.values(), 1):
        segments = {"segments": [{"start": 0.0, "end": 1.0, "text": f" {t}"} for t in text.split()], "language": "en"}
        value = segments | {"text": f" {text}"} if n == 1 else segments  # WhisperX has no text of the whole
        (tmp_path / f"rec{n}{ending}").write_text(json.dumps(value) if ending == ".json" else f"{text}\n")
        (tmp_path / f"rec{n}.vtt").write_text("WEBVTT\n")
    found = read_hypotheses(str(tmp_path), {"s": SET})
    assert {key: text.strip() for key, text in found.texts.items()} == TEXTS
    assert found.description == f"2 files {ending}, a recording each"
    one = read_hypotheses(str(tmp_path / "rec1.json"), {"s": SET[:1]}) if ending == ".json" else None
    assert one is None or (one.texts[("s", "u1")].strip(), one.description) == ("a b", "Whisper's JSON")


def test_segments_of_one_recording_are_told_by_their_start(tmp_path):
    rows = [Utterance(f"s{n}", "/data/long.wav", start=float(10 * n), text="r") for n in range(3)]
    path = tmp_path / "h.jsonl"
    path.write_text(lines(*({"audio_filepath": "long.wav", "offset": 10.0 * n, "text": "r", "pred_text": f"{n}"}
                            for n in (2, 0, 1))))  # fmt: skip
    assert read_hypotheses(str(path), {"s": rows}).texts == {("s", f"s{n}"): f"{n}" for n in range(3)}
    path.write_text(lines({"audio_filepath": "long.wav", "hypothesis": "x"}))
    with pytest.raises(UserError, match="h.jsonl.*: found the recording 'long.wav', which 3 utterances of a set have"):
        read_hypotheses(str(path), {"s": rows})


def test_recordings_of_one_name_are_told_by_their_folders(tmp_path):
    rows = [Utterance(name, f"/data/{name}/1.wav") for name in ("amy", "bob")]
    (tmp_path / "h.txt").write_text("bob/1.wav b\n/y/amy/1.wav a\n")
    assert read_hypotheses(str(tmp_path / "h.txt"), {"s": rows}).texts == {("s", "amy"): "a", ("s", "bob"): "b"}


def test_own_transcripts_of_several_sets_are_scored_on_one(tmp_path, caplog):
    items = [Item(u.id, "r", f"{name} {u.id}", name) for name in ("A/t", "B/t") for u in SET]
    path = tmp_path / "h.jsonl"
    path.write_text(write_hypotheses(items))
    both = read_hypotheses(str(path), {"A/t": SET, "B/t": SET}).texts
    assert both == {(item.set, item.id): item.hypothesis for item in items} and not caplog.records
    path.write_text(write_hypotheses(items[:2]))
    assert read_hypotheses(str(path), {"t": SET}).texts[("t", "u2")] == "A/t u2"
    path.write_text(write_hypotheses(items))
    with pytest.raises(UserError, match="a transcript of 'u1' again"):  # of A/t or of B/t?
        read_hypotheses(str(path), {"t": SET})
    assert read_hypotheses(str(path), {"x/B/t": SET}).texts[("x/B/t", "u1")] == "B/t u1"
    assert "h.jsonl: 2 of 4 transcripts belong to no utterance of the manifests, the first to 'u1'" in caplog.text


def test_silence_has_no_words_in_a_ctm(tmp_path, caplog):
    (tmp_path / "h.ctm").write_text("u1 1 0.1 0.2 a\n")
    assert read_hypotheses(str(tmp_path / "h.ctm"), {"s": SET}).texts == {("s", "u1"): "a", ("s", "u2"): ""}
    assert "h.ctm: it has no words of 1 of 2 utterances, the first 'u2', which count as empty" in caplog.text


def test_a_list_of_references_is_noticed(tmp_path, caplog):
    rows = [utterance._replace(text=f"Reference, {n}.") for n, utterance in enumerate(SET)]
    (tmp_path / "h").write_text("".join(f"{row.id} {row.text}\n" for row in rows))
    read_hypotheses(str(tmp_path / "h"), {"s": rows})
    assert "h: every transcript is its reference, capitals and punctuation included" in caplog.text


AMBIGUOUS = "u1 1 0.5 0.2 a\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h", "u1 a\nu1 b\n", "h:2: found a transcript of 'u1' again, expected one .see .*h:1"),
        ("h", "u2 a\n", "h: found no id of the manifests, the first line is 'u2 a'"),
        ("h.jsonl", '{"id": "u2", "text": "a"}', "h.jsonl: found no utterance of the manifests .*the first is 'u2'"),
        ("h", '{"id": "u1"}\n', "found the fields id, expected --hypotheses-field to say which has the transcripts"),
        ("h", '{"id": "u1", "text": 3}\n', "found text = 3, expected a text"),
        ("h", '{"id": "u1", "text": null}\n', "found text = None, expected a text"),
        ("h", '{"text": "a"}\n{"text": "b"}\n', "h:1: found no id and no recording, expected one of id, key, audio"),
        ("h", '{"id": \n', "h:1: found no JSON, expected an object"),
        ("h", "[1]", "h: row 1: found no JSON object"),
        (
            "h",
            lines({"id": "u1", "pred_text": "a", "text": "r"}, {"id": "u2", "text": "r"}),
            "h:2: found no 'pred_text'",
        ),
        ("h", lines({"id": "u1", "hypothesis": "a", "prediction": "b"}), "hypothesis and prediction, expected --hypot"),
        ("h", lines({"id": "u1", "text": "a", "sentence": "b"}), "transcripts in text and sentence, expected --hypo"),
        ("h", lines(NEMO[0]), "found NeMo's rows without pred_text, in which 'text' is the reference"),
        ("h", lines({"id": "u1", "audio": "rec2.wav", "text": "a"}), "found names of two utterances, 'u1' and 'u2'"),
        ("h", AMBIGUOUS, r"taken for ctm \(.*\) and for kaldi \(.*\), expected --hypotheses-format"),
        ("h.csv", "a,b\n1,2\n", "found a table that begins with 'a,b', expected a header"),
        ("h.csv", "text,id\na,b,u1\n", "h.csv:2: found 3 cells, expected 2: text, id"),
        ("h.trn", "u1 a b\n", "h.trn:1: found 'u1 a b', expected sclite's trn"),
        ("h", "", "h: found nothing, expected transcripts"),
        ("h", b"u1 a\nu1 \xff\n", "h:2: found bytes that are not UTF-8"),
        ("h", "u1 a\n".encode("utf-16-le"), "h:1: found a zero byte, as in UTF-16 without its mark"),
        ("h.csv", "u1,r,a\nu2,r,b\n", "h.csv:1: found 3 columns without a header, expected a first line that names"),
        ("h.tsv", "u1\ta\nu2\tr\tb\n", "h.tsv:1: found 3 columns without a header"),
        ("h.trn", "{ a / b } c (u1)\n", "h.trn:1: found '{ a / b }', a mark of references"),
        ("h", '{"id": "u1", "text": NaN}\n', "h: found text = nan, expected a text"),
    ],
)
def test_what_is_ambiguous_or_missing_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    sets = {"s": SET if "'u2'" in message and "names" in message else SET[:1]}
    with pytest.raises(UserError, match=message) as error:
        read_hypotheses(str(tmp_path / name), sets)
    assert "\n" not in str(error.value)


def test_flags_decide(tmp_path):
    path = tmp_path / "h"
    path.write_text(AMBIGUOUS)
    for format, text in (("kaldi", "1 0.5 0.2 a"), ("ctm", "a")):
        assert read_hypotheses(str(path), {"s": SET[:1]}, format=format).texts == {("s", "u1"): text}
    path.write_text(lines({"id": "u1", "hypothesis": "a", "raw": "b"}))
    assert read_hypotheses(str(path), {"s": SET[:1]}, field="raw").texts == {("s", "u1"): "b"}
    with pytest.raises(UserError, match="--hypotheses-field: found 'x', expected one of id, hypothesis, raw"):
        read_hypotheses(str(path), {"s": SET[:1]}, field="x")
