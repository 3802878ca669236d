"""evaluate --speech: beeps that a recognizer reads and voices of known pitch, recordings that cannot be measured."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_jax import evaluate as front_door
from speech_jax.core.errors import UserError
from speech_jax.evaluation.measures import MEASURES
from speech_jax.evaluation.speech_plots import distributions
from speech_jax.evaluation.speech_report import (
    MeasuredPair,
    SpeechEvaluation,
    summarize,
    to_html,
    to_markdown,
    worst_table,
)
from tests.support.tones import recognizer, say

RATE = 16000


def voice(hertz, seconds=0.8):
    """A voice that goes up a little, so that its pitch has a correlation."""
    place = np.arange(int(seconds * RATE)) / RATE / seconds
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * place)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(place))
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 9)) + 1e-4 * noise


# set, id: text, what the reference has, what was synthesized (None: no such line)
RECORDINGS = {
    ("beeps", "same"): ("abba bad", say("abba bad"), say("abba bad")),
    ("beeps", "wrong"): ("cab jig", say("cab jig"), say("cab gig", seed=1)),
    ("voices", "higher"): ("<b>a</b>", voice(200.0), voice(220.0)),
    ("voices", "longer"): ("a", voice(200.0), voice(200.0, 1.0)),
    ("voices", "silent"): ("a", voice(200.0), np.zeros(RATE)),
    ("voices", "nan"): ("a", voice(200.0), np.full(RATE, np.nan)),
    ("voices", "empty"): ("a", voice(200.0), np.zeros(0)),
    ("voices", "broken"): ("a", voice(200.0), b"RIFF broken"),
    ("voices", "forgotten"): ("a", voice(200.0), None),
    ("voices", "invented"): ("a", None, voice(200.0)),
}
LEFT_OUT = ("silent", "nan", "empty", "broken", "forgotten", "invented")


@pytest.fixture
def manifests(tmp_path):
    """(references, synthesized): the paths of two manifests each."""
    for side, column in (("reference", 1), ("synthesized", 2)):
        (tmp_path / side).mkdir()
        for name in ("beeps", "voices"):
            rows = []
            for (group, identity), recording in RECORDINGS.items():
                audio = recording[column]
                if group != name or audio is None:
                    continue
                file = tmp_path / side / f"{identity}.wav"
                if isinstance(audio, bytes):
                    file.write_bytes(audio)
                else:
                    soundfile.write(file, audio, RATE, subtype="FLOAT" if np.isnan(audio).any() else "PCM_16")
                row = {"id": identity, "audio": file.name, "text": recording[0], "domain": name}
                rows.append(row | {"speaker": identity[0], "seconds": len(audio) / RATE if len(audio) > 99 else 0.8})
            (tmp_path / side / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tuple([str(tmp_path / s / f"{n}.jsonl") for n in ("beeps", "voices")] for s in ("reference", "synthesized"))


@pytest.fixture
def tones(monkeypatch):
    reader = recognizer(core_seconds=2.0, context_seconds=0.4)
    monkeypatch.setattr(front_door, "_load_recognizer", lambda config: (reader, config.checkpoint))


def test_figures_page_and_what_is_left_out(manifests, tones, tmp_path, capsys):
    references, speech = manifests
    out = tmp_path / "out"
    arguments = ["--checkpoint", "tones", "--manifest", *references, "--speech", *speech, "--out", str(out)]
    assert front_door.main([*arguments, "--name", "voice", "--measures.examples", "3"]) == 2  # some are left out
    screen, errors = capsys.readouterr()
    for identity in LEFT_OUT:
        assert sum(line.startswith("error:") and identity in line for line in errors.splitlines()) == 1, identity
    assert "error: 6 recordings are not in the figures" in errors

    report = json.loads((out / "report.json").read_text())
    assert report["name"] == "voice" and len(report["left_out"]) == 6
    assert list(report["set"]) == ["beeps", "voices"] and report["all"]["pairs"] == 4
    found = {row["id"]: row for row in report["utterances"]}
    assert found["same"]["mcd"] == 0 and found["same"]["si_sdr"] == 100 and found["same"]["stoi"] == pytest.approx(1)
    assert found["wrong"]["mcd"] > 1 and found["wrong"]["si_sdr"] < 20
    assert found["wrong"]["hypothesis"] == "cab gig" and found["wrong"]["wer"] == 50
    assert found["higher"]["f0_cents"] == pytest.approx(1200 * np.log2(1.1), rel=0.03)
    assert found["higher"]["f0_correlation"] > 0.99
    assert found["longer"]["duration_bias"] == pytest.approx(25, abs=2) and "si_sdr" not in found["longer"]
    beeps = report["set"]["beeps"]
    assert beeps["wer"]["mean"] == 25 and beeps["wer"]["pairs"] == 2 and beeps["wer_reference"]["mean"] == 0
    assert beeps["wer"]["low"] == 0 and beeps["wer"]["high"] == 50
    for name in ("mcd", "mcd_frames", "voicing_error", "duration_error", "segmental_snr", "estoi", "cer"):
        assert report["all"][name]["low"] <= report["all"][name]["mean"] <= report["all"][name]["high"]

    assert "normalized as: none (neither" in errors  # neither the tones' tokenizer nor the manifests say one
    for text in ("MCD dB", "WER %", "beeps", "voices"):
        assert text in screen
    page = (out / "report.html").read_text()
    assert page.count('src="data:audio/flac;base64,') == 2 * 4  # three worst, and the one of the first that is left
    assert page.count('src="data:image/png;base64,') == 1 + 4
    assert "<b>a</b>" not in page and "&lt;b&gt;a&lt;/b&gt;" in page
    for identity in LEFT_OUT:
        assert identity in page and identity in (out / "report.md").read_text()


def test_without_a_recognizer_and_all_well(manifests, tmp_path, capsys):
    references, speech = manifests
    out = tmp_path / "out"
    arguments = ["--manifest", references[0], "--speech", speech[0], "--out", str(out)]
    assert front_door.main([*arguments, "--measures.examples", "0", "--measures.waveform", "never"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert not {"wer", "si_sdr", "dnsmos"} & set(report["measures"]) and "mcd" in report["measures"]
    assert report["name"] == "synthesized" and "Left out" not in (out / "report.html").read_text()
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_a_broken_recording_without_seconds_does_not_stop_the_others(manifests, sides, capsys):
    for side in sides:
        path = Path(manifests[side][0])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        del rows[0]["seconds"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (path.parent / "same.wav").write_bytes(b"RIFF broken")
    assert front_door.main(["--manifest", manifests[0][0], "--speech", manifests[1][0]]) == 2
    screen, errors = capsys.readouterr()
    assert "same.wav: not readable as audio" in errors and "error: 1 recordings" in errors and "MCD dB" in screen


def test_other_words_under_an_id_are_named(manifests, capsys):
    references, speech = manifests
    text = Path(speech[0]).read_text().replace("cab jig", "bad cab").replace("abba bad", "Abba, bad!")
    Path(speech[0]).write_text(text)
    assert front_door.main(["--manifest", references[0], "--speech", speech[0]]) == 0
    assert "warning: 1 pairs have different texts, the first 'wrong'" in capsys.readouterr().err


def test_dnsmos_is_called_a_proxy_in_every_output(manifests, tmp_path, monkeypatch, capsys):
    package = types.ModuleType("speechmos")
    scores = {"ovrl_mos": 2.5, "sig_mos": 3.0, "bak_mos": 3.5, "p808_mos": 2.0}
    package.dnsmos = types.SimpleNamespace(run=lambda audio, sr: scores)
    monkeypatch.setitem(sys.modules, "speechmos", package)
    references, speech = manifests
    arguments = ["--manifest", references[0], "--speech", speech[0], "--out", str(tmp_path), "--measures.dnsmos"]
    assert front_door.main([*arguments, "--measures.examples", "1"]) == 0
    outputs = [capsys.readouterr().out, *((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html", "json"))]
    for output in outputs:
        assert "DNSMOS (a proxy; no listener was asked)" in output
    assert json.loads(outputs[-1])["all"]["dnsmos"]["mean"] == 2.5


def test_a_measure_that_fails_on_one_recording_leaves_the_others(manifests, tmp_path, monkeypatch, capsys):
    calls = []

    def run(audio, sr):
        calls.append(sr)
        if len(calls) == 1:
            raise RuntimeError("out of range")
        return {"ovrl_mos": 2.5, "sig_mos": 3.0, "bak_mos": 3.5, "p808_mos": 2.0}

    package = types.ModuleType("speechmos")
    package.dnsmos = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "speechmos", package)
    references, speech = manifests
    arguments = ["--manifest", references[0], "--speech", speech[0], "--measures.dnsmos"]
    assert front_door.main([*arguments, "--out", str(tmp_path)]) == 2
    assert "same: found RuntimeError (out of range)" in capsys.readouterr().err
    assert json.loads((tmp_path / "report.json").read_text())["all"]["pairs"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speech", "SPEECH"], "found 1 of --speech and 0 of --manifest"),
        (["--speech", "SPEECH", "SPEECH", "--manifest", "REFERENCE"], "found 2 of --speech and 1 of --manifest"),
        (
            ["--speech", "SPEECH", "--manifest", "REFERENCE", "--compare", "a"],
            "--speech with --hypotheses or --compare",
        ),
        (["--speech", "missing", "--manifest", "REFERENCE"], "missing: No such file"),
        (["--speech", "SPEECH", "--manifest", "OTHER"], "beeps.jsonl: found no id"),
        (["--speech", "SPEECH", "--manifest", "REFERENCE", "--checkpoint", "missing"], "missing"),
        (["--speech", "SPEECH", "--manifest", "REFERENCE", "--out", "SPEECH"], "expected a folder"),
        (["--speech", "SPEECH", "--manifest", "REFERENCE", "--measures.order", "99"], "measures.order: found 99"),
        (["--speech", "SPEECH", "--manifest", "REFERENCE", "--measures.max-seconds", "1"], "and so all 2 pairs"),
    ],
)
def test_bad_input(manifests, arguments, message):
    references, speech = manifests
    names = {"SPEECH": speech[0], "REFERENCE": references[0], "OTHER": references[1]}
    with pytest.raises(UserError, match=message) as error:
        front_door.main([names.get(a, a) for a in arguments])
    assert "\n" not in str(error.value)


def test_summary_is_a_ratio_of_sums_with_a_bootstrap_interval():
    random = np.random.default_rng(0)
    errors, words = random.integers(0, 5, 200), random.integers(3, 9, 200)
    items = [
        MeasuredPair(str(i), {"wer": (100.0 * e, float(w))}) for i, (e, w) in enumerate(zip(errors, words, strict=True))
    ]
    found = summarize([*items, MeasuredPair("unmeasured", {"mcd": (1.0, 1.0)})], "wer")
    assert found.mean == pytest.approx(100 * errors.sum() / words.sum()) and found.pairs == 200
    rows = random.integers(0, 200, (4000, 200))
    rates = 100 * errors[rows].sum(axis=1) / words[rows].sum(axis=1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(rates, [0.025, 0.975]), rtol=0.03)
    assert summarize(items, "mcd") is None
    assert summarize(items[:1], "wer")[:3] == (items[0].value("wer"), None, None)  # no interval of one pair
    assert summarize([items[0], MeasuredPair("x", {"wer": (200.0, 0.0)})], "wer").mean == pytest.approx(
        items[0].value("wer") + 200 / words[0]
    )
    assert summarize([MeasuredPair("x", {"wer": (200.0, 0.0)})], "wer") is None


def test_the_worst_are_those_with_the_worst_value():
    values = {"a": 0.3, "b": float("nan"), "c": 0.9, "d": 0.1}
    items = tuple(MeasuredPair(name, {"stoi": (v, 1.0), "mcd": (v, 1.0)}) for name, v in values.items())
    by = {key: [row[0] for row in worst_table(SpeechEvaluation("x", items, key), 4)[1]] for key in ("stoi", "mcd")}
    assert by == {"stoi": ["d", "a", "c", "b"], "mcd": ["c", "a", "d", "b"]}


def test_many_messages_are_cut_and_texts_are_escaped():
    messages = tuple(f"m.jsonl:{i}: <i>{i}</i>" for i in range(50))
    items = (MeasuredPair("<u>", {name: (1.0, 1.0) for name in MEASURES}, text="<s>", hypothesis="<q>"),)
    evaluation = SpeechEvaluation("<h1>", items, left_out=messages)
    page, text = to_html(evaluation), to_markdown(evaluation)
    for output in (page, text):
        assert "m.jsonl:19:" in output and "m.jsonl:20:" not in output and "and 30 more" in output
        assert not any(tag in output for tag in ("<u>", "<i>", "<s>", "<q>"))


@pytest.mark.parametrize("values", [(3.0, 3.0), (0.0, 0.0), (1e9, 1e9 + 1e-6), (2.0, 5.0)])
def test_a_measure_without_spread_has_a_histogram_too(values):
    """A set measured against itself: as many equal values as there are utterances."""
    items = tuple(MeasuredPair(str(n), {"mcd": (value, 1.0)}) for n, value in enumerate(values))
    assert distributions(SpeechEvaluation("same", items)).startswith(b"\x89PNG")
