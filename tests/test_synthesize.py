"""From recordings to a voice that speaks, as a user does it: train, fine-tune with other symbols, synthesize."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import soundfile

from speech_jax import synthesize as front_door
from speech_jax import train as trainer
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.errors import UserError, run_front_door
from speech_jax.finetuning.restore import StartConfig
from speech_jax.models.attention_tts import AttentionConfig
from speech_jax.models.tacotron2 import Tacotron2Config
from speech_jax.objectives.schedules import AlphaConfig
from speech_jax.recognizer import load_recognizer_parts
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.frontend import FrontEndConfig
from speech_jax.training.checkpoint import CheckpointConfig, load_params
from speech_jax.training.loop import TrainerConfig
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.voice import Voice, load_voice_parts, pieces
from tests.test_train import corpus, data  # noqa: F401

NETWORK = Tacotron2Config(
    embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=12, decoder_rnn=12, postnet_layers=2,
    postnet=8, attention=AttentionConfig(kind="gmm", width=8, mixtures=2), reduction=2,
)  # fmt: skip
AUDIO = dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, num_mels=20, hop=320)


def config(corpus, out, **changes):  # noqa: F811
    base = TrainConfig(
        out_dir=str(out),
        data=data(corpus, "old"),
        task=Tacotron2TaskConfig(model=NETWORK, audio=AUDIO, guided=1.0, reduction=((0, 2), (2, 1))),
        evaluate=(EvalConfig("old", data(corpus, "old_test", num_buckets=1)),),
        optimizer=OptimizerConfig(warmup_steps=2),
        trainer=TrainerConfig(
            steps=4, eval_every=2, log_every=1, checkpoint=CheckpointConfig(every=2, metric="old/loss")
        ),
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def voice(corpus, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("voice") / "run"
    result = trainer.train(config(corpus, out))
    assert result.programs == 2
    return out


def test_training_logs_what_a_voice_is_judged_by(voice):
    rows = [json.loads(line) for line in (voice / "metrics.jsonl").read_text().splitlines()]
    train = [row["metrics"] for row in rows if row["kind"] == "train"]
    assert [row["reduction"] for row in train] == [2, 2, 1, 1]
    assert {"before", "after", "stop", "guided", "focus"} <= set(train[0])
    found = next(row["metrics"] for row in rows if row["kind"] == "eval")
    assert {"old/loss", "old/focus", "old/coverage", "old/failures"} <= set(found)
    with pytest.raises(UserError, match="expected a recogniser"):
        load_recognizer_parts(voice)


def test_a_new_language_keeps_the_symbols_that_both_have(corpus, voice, tmp_path, caplog):  # noqa: F811
    task = dataclasses.replace(config(corpus, "x").task, frontend=FrontEndConfig(units="graphemes", language="es"))
    tuned = config(
        corpus, tmp_path / "new", task=task, data=data(corpus, "new", num_buckets=1), pre=data(corpus, "old"),
        alpha=AlphaConfig(start=0.3), init_from=str(voice), start=StartConfig(tokenizer="new"), evaluate=(),
        trainer=TrainerConfig(steps=1, log_every=1, eval_every=0, checkpoint=CheckpointConfig(every=1)),
        optimizer=OptimizerConfig(warmup_steps=0, peak_lr=1e-6),
    )  # fmt: skip
    with caplog.at_level("INFO", logger="speech_jax"):
        trainer.train(tuned)
    assert "vocabulary: 12 kept, 0 new" in caplog.text
    old, new = load_voice_parts(voice), load_voice_parts(tmp_path / "new")
    before, after = load_params(voice)[0]["embedding"], load_params(tmp_path / "new")[0]["embedding"]
    for i, name in enumerate(new.front_end.symbols.names):
        j = old.front_end.symbols.names.index(name)
        np.testing.assert_allclose(after[i], before[j], atol=1e-4)


def test_text_becomes_recordings_that_repeat_and_a_report(voice, tmp_path):
    arguments = ["--checkpoint", str(voice), "--text", "one two.", "five", "--out", str(tmp_path / "a"), "--iterations",
                 "2", "--tries", "2", "--report", str(tmp_path / "report.jsonl")]  # fmt: skip
    code = front_door.main(arguments)
    rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [row["recording"] for row in rows] == ["0001.wav", "0002.wav"]
    assert code == (2 if any(row["failure"] for row in rows) else 0)  # hardly trained: it may well fail, and says so
    for row in rows:
        assert row["tries"] == (2 if row["failure"] else 1) or row["tries"] == 2
    sound, rate = soundfile.read(tmp_path / "a" / "0001.wav")
    assert rate == 16_000 and len(sound) > 0 and np.abs(sound).max() <= 1
    front_door.main([*arguments[:-6], "--tries", "2", "--iterations", "2", "--out", str(tmp_path / "b"),
                     "--report", str(tmp_path / "b.md")])  # fmt: skip
    assert (tmp_path / "a" / "0001.wav").read_bytes() == (tmp_path / "b" / "0001.wav").read_bytes()
    assert "| 0002.wav" in (tmp_path / "b.md").read_text()


def test_streamed_frames_are_the_first_try(voice):
    speaker = Voice(load_voice_parts(voice), rows=2)
    (said,) = speaker.say(["one two"], tries=1)
    np.testing.assert_allclose(np.concatenate(list(speaker.stream("one two", chunk_steps=7))), said.mel, atol=1e-5)
    again = speaker.say(["five", "one two", "three four five"], tries=1)
    assert len(again) == 3 and again[2].text == "three four five"


@pytest.mark.parametrize(
    "text, message",
    [("", "something to speak"), ("?!...", "something to speak"), ("one \N{SNOWMAN} two", "SNOWMAN")],
)
def test_a_text_that_cannot_be_spoken_is_named_and_the_others_go_on(voice, tmp_path, capsys, text, message):
    code = front_door.main(["--checkpoint", str(voice), "--text", text, "two", "--out", str(tmp_path), "--tries", "1",
                            "--iterations", "1"])  # fmt: skip
    assert code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: text 1")]
    assert len(errors) == 1 and message in errors[0]
    assert (tmp_path / "0002.wav").exists() and not (tmp_path / "0001.wav").exists()


def test_bad_flags_get_one_line(voice, tmp_path, capsys, monkeypatch):
    def line(*arguments):
        monkeypatch.setattr(sys, "argv", ["synthesize", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_front_door(front_door.main)
        assert stop.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    run = str(voice)
    assert "found no text" in line("--checkpoint", run)
    assert "expected a folder" in line("--checkpoint", run, "--text", "a", "b", "--out", "x.wav")
    assert "--speaker: found 3" in line("--checkpoint", run, "--text", "a", "--speaker", "3")
    assert "nothing.txt" in line("--checkpoint", run, "--file", str(tmp_path / "nothing.txt"))


def test_texts_come_from_flags_files_and_standard_input(tmp_path):
    (tmp_path / "lines.txt").write_text("three\n\nfour\n")
    said = dataclasses.replace(
        front_door.SynthesizeConfig(checkpoint="x"), text=("one", "-"), file=str(tmp_path / "lines.txt")
    )
    assert front_door.read_texts(said, io.StringIO("two\n\n")) == ["one", "two", "three", "four"]


def test_long_text_is_cut_where_it_may_be_and_nothing_is_lost():
    text = "First sentence. Second one! Is it? " + "word " * 100 + "end, " + "x" * 450
    found = pieces(text, 60)
    assert found[:3] == ["First sentence.", "Second one!", "Is it?"]
    assert max(map(len, found)) <= 60
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert pieces("a" * 10_000, 200) == ["a" * 200] * 50
    assert pieces("one, two, three, four, five, six", 20) == ["one, two, three,", "four, five, six"]
