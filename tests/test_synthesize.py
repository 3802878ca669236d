"""From recordings to a voice that speaks, as a user does it: train, fine-tune with other symbols, synthesize."""

import dataclasses
import io
import json
import logging
import re
import sys

import jax
import numpy as np
import pytest
import soundfile

from speech_jax import synthesize as front_door
from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.artifacts.voice import VoiceParts, load_voice_parts, save_voice
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.types import Bucket
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.decoding.config import DecodeConfig
from speech_jax.finetuning.config import StartConfig
from speech_jax.inference.voice import Voice
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.models.tacotron2 import init_params
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.objective import build_task
from speech_jax.runs.resolve import resolve
from speech_jax.runs.start import read_start
from speech_jax.runs.train import train
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.tacotron2_task import network_config
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import make_front_end
from speech_jax.training.checkpoint import load_params
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig
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
        task=Tacotron2TaskConfig(
            model=NETWORK, audio=AUDIO, guided=1.0, reduction=((0, 2), (2, 1)), speakers="data", speak=2
        ),
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
    result = train(config(corpus, out))
    assert result.programs == 2
    return out


def test_training_logs_what_a_voice_is_judged_by(voice):
    rows = [json.loads(line) for line in (voice / "metrics.jsonl").read_text().splitlines()]
    metrics = [row["metrics"] for row in rows if row["kind"] == "train"]
    assert [row["reduction"] for row in metrics] == [2, 2, 1, 1]
    assert {"before", "after", "stop", "guided", "focus"} <= set(metrics[0])
    found = next(row["metrics"] for row in rows if row["kind"] == "eval")
    assert {"old/loss", "old/focus", "old/coverage", "old/failures"} <= set(found)
    assert {"old/free_focus", "old/free_coverage", "old/free_failures"} <= set(found)
    for step in (2, 4):
        left = {path.name for path in (voice / "evaluations" / str(step)).iterdir()}
        pictures = {f"old_{name}.png" for name in ("alignment", "mel", "stop", "free_alignment", "free_mel")}
        assert left == pictures | {"old_teacher_forced.wav", "old_free.wav"}
    sound, rate = soundfile.read(voice / "evaluations" / "4" / "old_teacher_forced.wav")
    assert rate == 16_000 and 0.8 < len(sound) / rate < 1.1  # the longest of the set
    with pytest.raises(UserError, match="expected a recognizer"):
        load_recognizer_parts(voice)


def other_voice(corpus, folder):  # noqa: F811
    """The recordings of the new set by another speaker, with a letter that the old ones do not have; one that is no
    number throughout, and one with a text that nobody can say in its time."""
    rows = [u._replace(speaker="ana", text=f"{u.text} ñ") for u in read_manifest(corpus / "new.jsonl")]
    broken = np.full(8_000, 0.1, np.float32)
    broken[4_000:4_010] = np.nan
    soundfile.write(folder / "nan.wav", broken, 16_000, subtype="FLOAT")
    rows += [
        rows[0]._replace(id="nan", audio=str(folder / "nan.wav"), seconds=0.5),
        rows[1]._replace(id="long", text="one " * 100),
    ]
    write_manifest(folder / "ana.jsonl", rows)
    return DataConfig(sources=(SourceConfig(path=str(folder / "ana.jsonl")),), plan=PlanConfig(num_buckets=1, rows=8))


@pytest.fixture(scope="module")
def tuned(corpus, voice, tmp_path_factory):  # noqa: F811
    """The voice with another language's symbols and another speaker, and what was logged."""
    folder = tmp_path_factory.mktemp("tuned")
    task = dataclasses.replace(config(corpus, "x").task, frontend=FrontEndConfig(units="graphemes", language="es"))
    wanted = config(
        corpus, folder / "run", task=task, data=other_voice(corpus, folder), pre=data(corpus, "old", num_buckets=1),
        alpha=AlphaConfig(start=0.3), init_from=str(voice), start=StartConfig(tokenizer="new"), evaluate=(),
        trainer=TrainerConfig(steps=3, log_every=1, eval_every=0, checkpoint=CheckpointConfig(every=3)),
        optimizer=OptimizerConfig(warmup_steps=0, peak_lr=1e-6),
    )  # fmt: skip
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("speech_jax")
    log.addHandler(handler)
    log.setLevel("INFO")
    try:
        train(wanted)
    finally:
        log.removeHandler(handler)
    return folder / "run", "\n".join(lines), wanted


def test_a_new_language_and_a_new_speaker_keep_what_both_have(voice, tuned):
    run, log, _ = tuned
    assert "vocabulary: 13 kept, 1 new ('ñ')" in log and "speakers: 1 kept, 1 new ('ana')" in log
    old, new = load_voice_parts(voice), load_voice_parts(run)
    assert old.speakers == ("tone",) and new.speakers == ("tone", "ana")
    before, after = load_params(voice)[0], load_params(run)[0]
    for i, name in enumerate(new.front_end.symbols.names):
        if name != "ñ":
            j = old.front_end.symbols.names.index(name)
            np.testing.assert_allclose(after["embedding"][i], before["embedding"][j], atol=1e-4)
    np.testing.assert_allclose(after["speakers"], np.repeat(before["speakers"], 2, axis=0), atol=1e-4)
    for symbols in ("ñ", "one ñ"):
        (piece,) = Voice(new, DecodeConfig(frames_more=20)).synthesize([symbols], tries=1, speaker=1)
        assert np.isfinite(piece.mel).all() and piece.weights.shape[1] == len(symbols)


def test_bad_recordings_are_named_and_the_others_are_learned(tuned):
    _, log, _ = tuned
    assert re.search(r"skipped \(1 so far\): .*ana.jsonl:21: nan: .*nan.wav: found NaN", log)
    assert re.search(
        r"left out: .*ana.jsonl:22: long: found (399|400) symbols in 0\.\d+ s, \d+ frames, expected at", log
    )


def test_a_checkpoint_of_other_symbols_or_mel_settings_is_refused(corpus, voice, tmp_path):  # noqa: F811
    start = {"out_dir": str(tmp_path / "x"), "init_from": str(voice)}
    task = config(corpus, "x").task
    other = dataclasses.replace(task, frontend=FrontEndConfig(units="graphemes", language="es"))
    with pytest.raises(
        UserError, match="found a voice that reads .'units': 'tacotron2', .* the config's task.frontend"
    ):
        train(config(corpus, "x", task=other, **start))
    other = dataclasses.replace(task, audio=dataclasses.replace(AUDIO, hop=256))
    with pytest.raises(UserError, match=r"found audio.hop = 320; expected the features of the config: audio.hop = 256"):
        train(config(corpus, "x", task=other, **start))


def test_which_speakers_a_fine_tuning_has(corpus, tuned, voice):  # noqa: F811
    """add, keep and new; a speaker that the voice will not have is named before anything is trained."""
    _, _, wanted = tuned
    alone = dataclasses.replace(wanted, out_dir=str(voice) + "_x", pre=None, alpha=AlphaConfig())
    assert resolve(alone).speakers == ("tone", "ana")
    assert resolve(dataclasses.replace(alone, start=StartConfig(tokenizer="new", speakers="new"))).speakers == ("ana",)
    kept = dataclasses.replace(alone, start=StartConfig(tokenizer="new", speakers="keep"))
    assert resolve(kept).config.task.model.speakers == 1
    with pytest.raises(UserError, match=r"ana.jsonl:1: new0: found speaker 'ana', expected one of the voice's: 'tone'"):
        train(kept)
    single = dataclasses.replace(wanted.task, speakers="one")
    with pytest.raises(UserError, match=r"found a table of speakers \('tone'\) and task.speakers 'one'"):
        train(dataclasses.replace(alone, task=single))


def test_a_voice_without_a_table_takes_on_speakers(corpus, tmp_path):  # noqa: F811
    task = dataclasses.replace(config(corpus, "x").task, speakers="one")
    front_end = make_front_end(FrontEndConfig())
    made = jax.jit(lambda: init_params(make_parts(network_config(task)), front_end.vocab_size, jax.random.key(3)))()
    save_voice(tmp_path / "one", VoiceParts(task, front_end, *jax.device_get(made)))
    wanted = config(corpus, tmp_path / "more", init_from=str(tmp_path / "one"))
    run = resolve(wanted)
    assert run.speakers == ("tone",) and run.config.task.model.speakers == 1
    task = build_task(run.config, run.reader).task
    spec = task.batch_spec(Bucket(8, 16_000, 8))
    assert spec["speaker"].shape == (8,)
    start = read_start(run, task, spec)
    assert start.fresh == ("speakers",) and start.params["speakers"].shape == (1, 64)
    old, new = made[0]["decoder"]["stop"]["kernel"], start.params["decoder"]["stop"]["kernel"]
    places = NETWORK.decoder_rnn + NETWORK.encoder_width
    np.testing.assert_array_equal(new, np.concatenate([old, np.zeros((64, 2))])[: places + 64])
    with pytest.raises(UserError, match="found no table of speakers"):
        resolve(dataclasses.replace(wanted, start=StartConfig(speakers="keep")))


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
    front_door.main([*arguments[:-8], "--tries", "2", "--iterations", "2", "--out", str(tmp_path / "b"),
                     "--report", str(tmp_path / "b.md")])  # fmt: skip
    assert (tmp_path / "a" / "0001.wav").read_bytes() == (tmp_path / "b" / "0001.wav").read_bytes()
    assert "| 0002.wav" in (tmp_path / "b.md").read_text()


def test_streamed_frames_are_the_first_try(voice):
    speaker = Voice(load_voice_parts(voice), rows=2)
    (piece,) = speaker.synthesize(["one two"], tries=1)
    parts = list(speaker.stream("one two", chunk_steps=7))
    np.testing.assert_allclose(np.concatenate([mel for mel, _ in parts]), piece.mel, atol=1e-5)
    assert [piece is None for _, piece in parts] == [True] * (len(parts) - 1) + [False]
    assert parts[-1][1].score == pytest.approx(piece.score, abs=1e-5)
    again = speaker.synthesize(["five", "one two", "three four five"], tries=1)
    assert len(again) == 3 and again[2].text == "three four five"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "something to speak"),
        ("?!...", "something to speak"),
        ("one \N{SNOWMAN} two", "SNOWMAN"),
        ("\N{GRINNING FACE}", "GRINNING FACE"),
    ],
)
def test_a_text_that_cannot_be_spoken_is_named_and_the_others_go_on(voice, tmp_path, capsys, text, message):
    code = front_door.main(["--checkpoint", str(voice), "--text", text, "two", "--out", str(tmp_path), "--tries", "1",
                            "--iterations", "1"])  # fmt: skip
    assert code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: text 1")]
    assert len(errors) == 1 and message in errors[0]
    assert (tmp_path / "0002.wav").exists() and not (tmp_path / "0001.wav").exists()


def test_tags_and_letters_that_english_lacks_are_counted(voice, tmp_path, capsys):
    texts = ["one [laughter] two <unk>", "ılık çay, lütfen [laughter]"]
    front_door.main(["--checkpoint", str(voice), "--text", *texts, "--out", str(tmp_path), "--tries", "1",
                     "--iterations", "1"])  # fmt: skip
    shown = capsys.readouterr().err
    assert "left out: 3 tags, which are no words: [laughter] 2, <unk> 1\n" in shown
    assert "warning: 4 letters of the texts (" in shown and "'ı' 2, 'ç' 1, 'ü' 1) are not English" in shown


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
    found = line("--checkpoint", run, "--text", "a", "--speaker", "bob")
    assert "--speaker: found 'bob', expected one of 'tone' or a number from 0" in found
    found = line("--checkpoint", run, "--text", "a", "--vocoder", str(tmp_path / "none"))
    assert "expected griffin-lim or a vocoder's checkpoint folder" in found
    text = ("--checkpoint", run, "--text", "a")
    for flag in ("chunk-steps", "tries", "pause", "iterations", "temperature", "seed", "decode.frames-per-symbol",
                 "decode.frames-more", "decode.reduction", "decode.stop-threshold"):  # fmt: skip
        for value in ("nan", "-3000000000", "1e12", "3000000000000"):
            wrong = line(*text, f"--{flag}", value)
            assert "out of" in wrong or f"--{flag}" in wrong or flag.replace("-", "_") in wrong, wrong
    assert line(*text, "--decode.reduction", "9").endswith("decode.reduction: found 9, expected 0 to the voice's 2")
    assert "expected a name that ends in .wav, .flac, .mp3, .ogg, .opus or" in line(*text, "--out", "hello.aac")
    assert "expected a sound file or a folder" in line(*text, "--out", "")
    assert "expected a folder for several" in line("--checkpoint", run, "--resynthesize", "m", "--out", "a.mp3")
    assert "nothing.txt" in line("--checkpoint", run, "--file", str(tmp_path / "nothing.txt"))


def test_texts_come_from_flags_files_and_standard_input(tmp_path):
    (tmp_path / "lines.txt").write_text("three\n\nfour\n")
    said = dataclasses.replace(
        front_door.SynthesizeConfig(checkpoint="x"), text=("one", "-"), file=str(tmp_path / "lines.txt")
    )
    assert front_door.read_texts(said, io.StringIO("two\n\n")) == [
        ("text 1", "one"), ("standard input:1", "two"),
        (f"{tmp_path}/lines.txt:1", "three"), (f"{tmp_path}/lines.txt:3", "four"),
    ]  # fmt: skip


def test_ten_thousand_characters_are_spoken_piece_by_piece(voice, tmp_path):
    report = tmp_path / "report.jsonl"
    front_door.main(["--checkpoint", str(voice), "--text", "one two " * 1_250, "--out", str(tmp_path / "a.wav"),
                     "--tries", "1", "--iterations", "0", "--decode.frames-per-symbol", "0.1",
                     "--decode.frames-more", "4", "--report", str(report)])  # fmt: skip
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert " ".join(row["text"] for row in rows) == ("one two " * 1_250).strip() and len(rows) >= 50
    assert soundfile.info(tmp_path / "a.wav").frames > 0
