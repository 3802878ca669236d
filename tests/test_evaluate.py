"""The front door evaluate: beeps whose transcripts are known, other people's transcripts, comparisons, bad input."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from speech_jax import evaluate as front_door
from speech_jax.audio.config import fingerprint
from speech_jax.config import TrainConfig
from speech_jax.core.config_dict import to_dict
from speech_jax.core.errors import UserError
from speech_jax.core.types import TrainState
from speech_jax.data.config import DataConfig
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.normalization import choose_normalization
from speech_jax.inference import recognizer as recognizer_module
from speech_jax.inference.scoring import set_names
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import ctc_task
from speech_jax.text.tokenizer import train_tokenizer
from speech_jax.training.checkpoint import Checkpoints
from speech_jax.training.config import CheckpointConfig
from tests.support.tones import recognizer, say

# id: (what the manifest says, what is beeped): three errors in eleven words, one of each kind
CLIPS = {
    "one": ("Abba, bad!", "abba bad"),
    "two": ("cab jig", "cab gig"),  # substitution
    "three": ("bee fad hi", "bee hi"),  # deletion
    "four": ("ace", "ace a"),  # insertion
    "long": ("cab a cab", "cab a cab"),
}


@pytest.fixture
def manifests(tmp_path):
    """Two manifests called test.jsonl; the second has the long recording and one that is broken."""
    for name, ids in (("old", ("one", "two")), ("new", ("three", "four", "long", "broken"))):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for clip in ids:
            audio = say(CLIPS[clip][1]) if clip in CLIPS else np.zeros(100, np.float32)
            soundfile.write(folder / f"{clip}.wav", audio, 16000)
            row = {
                "id": clip,
                "audio": f"{clip}.wav",
                "text": CLIPS.get(clip, ("a",))[0],
                "seconds": len(audio) / 16000,
            }
            rows.append(row | {"speaker": clip[0], "domain": name, "language": "en"})
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "new" / "broken.wav").write_bytes(b"RIFF broken")
    return [str(tmp_path / name / "test.jsonl") for name in ("old", "new")]


@pytest.fixture
def tones(monkeypatch):
    reader = recognizer(core_seconds=1.0, context_seconds=0.4)  # "long" is longer than one window
    assert reader.longest < len(say(CLIPS["long"][1])) and reader.longest > len(say(CLIPS["three"][1]))
    monkeypatch.setattr(front_door, "_load_recognizer", lambda config: (reader, config.checkpoint))


def test_tables_reports_and_the_broken_recording(manifests, tones, tmp_path, capsys):
    out = tmp_path / "out"
    code = front_door.main(
        ["--checkpoint", "tones", "--manifest", *manifests, "--out", str(out), "--batch-seconds", "5"]
    )
    screen, errors = capsys.readouterr()
    assert code == 2  # a recording is missing from the figures
    assert "broken" in errors and "1 recordings could not be read" in errors
    report = json.loads((out / "report.json").read_text())
    counts = [report["all"][key] for key in ("substitutions", "deletions", "insertions", "words", "utterances")]
    assert counts == [1, 1, 1, 11, 5]
    assert report["all"]["wer"] == 3 / 11
    assert list(report["set"]) == ["old/test", "new/test"] and report["set"]["old/test"]["wer"] == 1 / 4
    found = {row["id"]: row["hypothesis"] for row in map(json.loads, (out / "hypotheses.jsonl").open())}
    assert found == {clip: beeped for clip, (_, beeped) in CLIPS.items()}
    assert re.search(r"\| all +\| +5 \| +11 \| +27.27 ", screen)
    for text in ("set old/test", "speaker t", "Utterances with most errors", "cab jig"):
        assert text in screen
    assert "not counted" in (out / "report.md").read_text() and "</html>" in (out / "report.html").read_text()


def test_recordings_that_have_gone_are_counted_also_without_seconds(manifests, tones, tmp_path, capsys):
    path = Path(manifests[0])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    gone = {"id": "gone", "audio": "gone.wav", "text": "bad", "language": "en"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, gone, gone | {"id": "too", "seconds": 99.0}]))
    assert front_door.main(["--checkpoint", "tones", "--manifest", str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("gone.wav: no such file") == 2 and "2 recordings could not be read" in errors
    path.write_text(json.dumps(gone) + "\n")
    with pytest.raises(UserError, match=r"gone.wav: no such file.*\(and so all 1 recordings\)"):
        front_door.main(["--checkpoint", "tones", "--manifest", str(path)])


def test_others_transcripts_get_the_same_figures(manifests, tones, tmp_path, capsys):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    front_door.main(["--checkpoint", "tones", "--manifest", manifests[0], "--out", str(ours)])
    (tmp_path / "peer.txt").write_text("one ABBA bad.\ntwo cab, gig\n")
    arguments = ["--hypotheses", str(tmp_path / "peer.txt"), "--manifest", manifests[0], "--out", str(theirs)]
    assert front_door.main(arguments) == 0
    assert f"transcripts: {tmp_path}/peer.txt (lines 'id words …')" in capsys.readouterr().err
    a, b = (json.loads((folder / "report.json").read_text()) for folder in (ours, theirs))
    assert a["all"] == b["all"] and b["name"] == "peer"
    assert (ours / "hypotheses.jsonl").read_text() == (theirs / "hypotheses.jsonl").read_text()
    # and what evaluate wrote, it reads
    again = ["--hypotheses", str(ours / "hypotheses.jsonl"), "--manifest", manifests[0], "--costs", "sclite"]
    assert front_door.main(again) == 0


def test_compare(manifests, tmp_path, capsys):
    for name, text in (("bad", "one a\ntwo b\n"), ("good", "one abba bad\ntwo cab jig\n")):
        (tmp_path / f"{name}.txt").write_text(text)
        arguments = ["--hypotheses", str(tmp_path / f"{name}.txt"), "--manifest", manifests[0]]
        front_door.main([*arguments, "--out", str(tmp_path / name)])
    reports = [str(tmp_path / name / "report.json") for name in ("bad", "good")]
    capsys.readouterr()
    assert front_door.main(["--compare", *reports, "--out", str(tmp_path / "both")]) == 0
    screen = capsys.readouterr().out
    assert re.search(r"\| bad +\| +100\.00 ", screen) and re.search(r"\| good +\| +0\.00 ", screen)
    assert (tmp_path / "both" / "compare.md").read_text() == screen
    assert (tmp_path / "both" / "compare.png").read_bytes().startswith(b"\x89PNG")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GERMAN = {"u1": ("schön", "schon"), "u2": ("weiß 3", "weiss three")}


def test_language_comes_from_the_manifests_or_is_asked_for(tmp_path, capsys, caplog):
    """English normalization would make both German texts equal: 0 % instead of 100 %."""
    rows = [{"id": i, "audio": "x.wav", "text": text, "seconds": 1.0} for i, (text, _) in GERMAN.items()]
    peer = write_rows(tmp_path / "peer.jsonl", [{"id": i, "text": text} for i, (_, text) in GERMAN.items()])

    def evaluate(languages, *arguments):
        named = [row | ({"language": name} if name else {}) for row, name in zip(rows, languages, strict=True)]
        path = write_rows(tmp_path / "test.jsonl", named)
        front_door.main(["--hypotheses", peer, "--manifest", path, "--out", str(tmp_path), *arguments])
        report = json.loads((tmp_path / "report.json").read_text())
        assert f"normalized as: {report['details']['normalized as']}" in capsys.readouterr().err
        return report["details"]["normalized as"], report["all"]["wer"]

    assert evaluate(["de-DE", "de"]) == ("de (from the manifests)", 1.0)
    assert evaluate(["", ""], "--language", "de") == ("de", 1.0)
    assert evaluate(["", ""], "--language", "none") == ("none", 1.0)
    assert evaluate(["en", "de"]) == ("de, en (each utterance by its own language, from the manifests)", 2 / 3)
    assert not caplog.records
    assert evaluate(["de", "de"], "--language", "en") == ("en (the manifests say de)", 0.0)
    assert "--language: texts are normalized as en, but the manifests say de" in caplog.text
    for languages, message in (
        (["", ""], "--language: found none for transcripts of another system, expected one such as en"),
        (["de", ""], r"--language: found none for utterance 'u2' \(.*test.jsonl:2\)"),
        (["tlh", "de"], "--language: found 'tlh' in the manifests"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(languages)


@pytest.mark.parametrize(
    ("tokenizer", "manifests", "description"),
    [
        ("en", "en", "en (as the checkpoint's tokenizer)"),
        ("en", "de", "en (as the checkpoint's tokenizer; the manifests say de)"),
        ("", "de", "de (from the manifests)"),
        ("", "", "none (neither the checkpoint's tokenizer nor the manifests name a language)"),
    ],
)
def test_language_of_a_checkpoint(tokenizer, manifests, description):
    rows = [Utterance("u", "a.wav", text="a", language=manifests)]
    assert choose_normalization(rows, checkpoint=tokenizer).description == description


def test_compare_refuses_and_takes_what_is_common(tmp_path, capsys):
    """The same system on all utterances, on half of them, and on an edited manifest: not one table without a word."""
    rows = [{"id": f"u{n}", "audio": "x.wav", "text": f"a {n}", "seconds": 1.0, "language": "de"} for n in range(6)]
    peer = write_rows(tmp_path / "peer.jsonl", [{"id": row["id"], "text": row["text"]} for row in rows])
    edited = [row | {"text": "b"} if n > 1 else row for n, row in enumerate(rows)]
    reports = []
    for name, part in (("all", rows), ("half", rows[:3]), ("edited", edited)):
        (tmp_path / name).mkdir()
        manifest = write_rows(tmp_path / name / "test.jsonl", part)
        arguments = ["--hypotheses", peer, "--manifest", manifest, "--name", name, "--out", str(tmp_path / name)]
        assert front_door.main(arguments) == 0
        reports.append(str(tmp_path / name / "report.json"))
    with pytest.raises(UserError, match="half: 3 of 6 utterances; edited: other references in 4 utterances, the first"):
        front_door.main(["--compare", *reports])
    capsys.readouterr()
    assert front_door.main(["--compare", *reports, "--common"]) == 0
    screen = capsys.readouterr().out
    assert "- half: 2 of 3 utterances\n- edited: 2 of 6 utterances" in screen
    assert re.search(r"\| edited +\| +0\.00 ", screen) and re.search(r"\| half +\| same \|", screen)


def test_set_names():
    assert set_names(["x/a.jsonl", "x/b.jsonl"]) == ["a", "b"]
    assert set_names(["x/test.jsonl", "y/test.jsonl"]) == ["x/test", "y/test"]
    with pytest.raises(UserError, match="twice"):
        set_names(["a.jsonl", "a.jsonl"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found 0 of --checkpoint"),
        (["--checkpoint", "a", "--hypotheses", "b"], "found 2 of"),
        (["--checkpoint", "a"], "no --manifest"),
        (["--hypotheses", "missing", "--manifest", "MANIFEST"], "missing: No such file"),
        (["--checkpoint", "missing", "--manifest", "MANIFEST"], "missing"),
        (["--checkpoint", "nope", "--manifest", "missing"], "nope: found no checkpoint"),
        (["--checkpoint", "a", "--hypotheses-format", "trn"], "--hypotheses-format: found 'trn' without --hypotheses"),
        (["--compare", "MANIFEST"], "test.jsonl: found no report"),
        (["--compare", "missing"], "missing"),
        (["--common", "--checkpoint", "a"], "--common: found it without --compare"),
        (["--compare", "missing", "--out", "MANIFEST"], "test.jsonl: File exists, expected a folder"),
        (["--checkpoint", "a", "--manifest", "MANIFEST", "--windows.core-seconds", "0"], "core-seconds: found 0.0"),
        (["--hypotheses", "MANIFEST", "--manifest", "MANIFEST", "--language", "klingon"], "klingon"),
    ],
)
def test_bad_input(manifests, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        front_door.main([manifests[0] if a == "MANIFEST" else a for a in arguments])
    assert "\n" not in str(error.value)


# --- from a checkpoint folder alone ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder as the trainer writes it, of a tiny Conformer that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    model = ConformerConfig(width=8, layers=1, heads=2, kernel_size=3, subsampling_channels=4)
    config = TrainConfig(out_dir=str(folder), data=DataConfig(), task=CTCTaskConfig(model=model))
    tokenizer = train_tokenizer(["abcdefghij "])
    task = ctc_task(config.task, tokenizer)
    batch = {"audio": np.zeros((1, 16000), np.float32), "audio_lengths": np.array([16000], np.int32)}
    params, model_state = task.model.init(jax.random.key(3), batch)
    state = TrainState(np.int32(7), params, model_state, (), None)
    assets = {"config": to_dict(config), "tokenizer": tokenizer.to_json()}
    assets["audio_fingerprint"] = fingerprint(config.task.audio)
    checkpoints = Checkpoints(folder, CheckpointConfig(), assets)
    checkpoints.save(7, state, {}, wait=True)
    checkpoints.close()
    return folder, task, state, tokenizer, assets


def test_checkpoint_folder_is_enough(run_folder, manifests):
    """The recognizer of the folder says what the network that was saved says, in both front doors' paths."""
    folder, task, state, tokenizer, _ = run_folder
    loaded = recognizer_module.load_recognizer(folder)
    assert loaded.tokenizer == tokenizer and loaded.factor == 4
    audio = say("cab jig bed")
    batch = {"audio": audio[None], "audio_lengths": np.array([len(audio)], np.int32)}
    outputs, _ = task.model.apply(state.params, state.model_state, batch, key=None, train=False)
    frames = np.asarray(outputs["logits"][0]).argmax(-1)[np.asarray(outputs["mask"][0])]
    collapsed = [k for i, k in enumerate(frames) if k and (i == 0 or frames[i - 1] != k)]
    expected = " ".join(tokenizer.decode(collapsed).split())
    assert expected  # a random network babbles
    assert loaded.transcribe(audio).text == expected
    assert front_door.main(["--checkpoint", str(folder), "--manifest", manifests[0]]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda assets: assets.pop("tokenizer"), "without tokenizer"),
        (lambda assets: assets["config"]["task"]["model"].update(width=16), "another model?"),
        (lambda assets: assets["config"]["task"]["audio"].update(hop=200), "audio settings"),
        (lambda assets: assets["tokenizer"]["pieces"].append("z"), "another model?"),
    ],
)
def test_checkpoint_of_another_model(run_folder, monkeypatch, change, message):
    folder, *_, assets = run_folder
    changed = json.loads(json.dumps(assets))
    change(changed)
    monkeypatch.setattr("speech_jax.training.checkpoint.read_assets", lambda path: changed)
    with pytest.raises(UserError, match=message) as error:
        recognizer_module.load_recognizer(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
