"""A vocoder from recordings to sound: training, fine-tuning with replay, frames of a voice, and its folder alone."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
import soundfile

from speech_jax import synthesize
from speech_jax.artifacts.folder import write_run
from speech_jax.artifacts.vocoder import VocoderParts, load_vocoder_parts, save_vocoder
from speech_jax.artifacts.voice import VoiceParts, save_voice
from speech_jax.audio.config import fingerprint
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.types import Checkpointed
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.data.manifest import read_manifest
from speech_jax.data.mels import read_mel, write_mel
from speech_jax.inference.audio_output import find_vocoder
from speech_jax.inference.vocoder import WaveNetVocoder, load_vocoder
from speech_jax.models.config import AttentionConfig, ConditionConfig, ConformerConfig, Tacotron2Config, WaveNetConfig
from speech_jax.models.tacotron2 import init_params
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.train import train
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import network_shapes
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import make_front_end
from speech_jax.text.tokenizer import BLANK, Tokenizer
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig

RATE, HOP, BANDS = 4_000, 32, 10
AUDIO = dataclasses.replace(
    nvidia_tacotron2(), sample_rate=RATE, window=64, hop=HOP, n_fft=64, num_mels=BANDS, fmax=2_000.0
)
NETWORK = WaveNetConfig(
    layers=3,
    cycles=1,
    kernel_size=2,
    residual=8,
    gate=16,
    skip=8,
    head=8,
    condition=ConditionConfig(width=8, context=1),
)
TASK = WaveNetTaskConfig(model=NETWORK, audio=AUDIO, crop_frames=8, pre_emphasis=0.8, clip_seconds=0.05)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three manifests of short tones (old, new, held out), and the folder that they are in."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for domain in ("a", "b", "c"):
        rows = []
        for number in range(6):
            n = int(RATE * (0.2 + 0.02 * number))
            sound = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(n) / RATE) + 0.01 * rng.normal(size=n)
            soundfile.write(folder / f"{domain}{number}.wav", sound, RATE)
            rows.append(
                {"id": f"{domain}{number}", "audio": f"{domain}{number}.wav", "text": "ba", "seconds": n / RATE}
            )
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def data(path):
    return DataConfig(sources=(SourceConfig(path=str(path)),), plan=PlanConfig(num_buckets=1, rows=8))


def run(recordings, out, **changes) -> TrainConfig:
    config = TrainConfig(
        out_dir=str(out),
        data=data(recordings / "a.jsonl"),
        task=TASK,
        evaluate=(EvalConfig("c", data(recordings / "c.jsonl")),),
        optimizer=OptimizerConfig(schedule="constant", peak_lr=3e-3, warmup_steps=2, weight_decay=0.0),
        trainer=TrainerConfig(steps=6, step=StepConfig(ema=0.9), eval_every=0, log_every=3,
                              checkpoint=CheckpointConfig(every=3, metric="c/loss")),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def trained(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "vocoder"
    result = train(run(recordings, out))
    return out, result


def test_a_run_leaves_a_vocoder_that_can_be_heard(trained):
    out, result = trained
    report = result.reports["c"]
    assert np.isfinite(report.metrics["loss"]) and report.metrics["mel_distance"] > 0
    assert set(report.audio) == {"target", "made"} and set(report.images) == {"mel"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("nll" in line.get("metrics", {}) for line in lines)
    parts = load_vocoder_parts(out)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts.params, dict(result.state.ema))
    vocoder = load_vocoder(out, engine="scan")
    mel = (np.random.default_rng(0).normal(size=(20, BANDS)) - 5).astype(np.float32)
    whole = vocoder.wave(mel, seed=1)
    assert whole.shape == (20 * HOP,) and whole.dtype == np.float32 and 0 < np.abs(whole).max() <= 1
    for cut in (1, 3, 20):
        pieces = [mel[i : i + cut] for i in range(0, 20, cut)]
        np.testing.assert_array_equal(np.concatenate(list(vocoder.stream(pieces, seed=1))), whole)
    assert np.abs(vocoder.wave(mel, seed=2) - whole).max() > 1e-3
    assert vocoder.wave(mel[:1]).shape == (HOP,)
    folds = load_vocoder(out, engine="fold", folds=3)
    assert folds.wave(mel).shape == whole.shape
    for number in (-1, 10**9):
        with pytest.raises(UserError, match=f"^folds: found {number}, expected 0 to 4096$"):
            load_vocoder(out, engine="fold", folds=number)


def test_it_goes_on_where_it_was(recordings, trained, tmp_path):
    """Three steps, and then three more in a new run of the same folder: the same parameters as six at once."""
    _, result = trained
    config = run(recordings, tmp_path / "cut")
    train(dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, steps=3)))
    again = train(config)
    assert int(again.state.step) == int(result.state.step) == 6
    for ours, theirs in ((again.state.params, result.state.params), (again.state.ema, result.state.ema)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def test_fine_tuning_keeps_the_old_voice_by_replay(recordings, trained, tmp_path):
    out, _ = trained
    config = run(
        recordings, tmp_path / "tuned", task=None, init_from=str(out), data=data(recordings / "b.jsonl"),
        pre=data(recordings / "a.jsonl"), alpha=AlphaConfig(start=0.3),
    )  # fmt: skip
    result = train(config)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    named = set().union(*(line.get("metrics", {}) for line in lines))
    assert {"pre/nll", "task/nll"} <= named and np.isfinite(result.reports["c"].metrics["loss"])
    assert load_vocoder_parts(tmp_path / "tuned").task == TASK


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A voice that was not trained, with two frames a step."""
    network = Tacotron2Config(
        num_mels=BANDS, embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8,
        postnet_layers=2, postnet=8, attention=AttentionConfig(width=8, filters=2, filter_length=3), reduction=2,
    )  # fmt: skip
    front_end = make_front_end(FrontEndConfig())
    params, state = jax.device_get(init_params(make_parts(network), front_end.vocab_size, jax.random.key(0)))
    task = Tacotron2TaskConfig(model=network, audio=AUDIO)
    out = tmp_path_factory.mktemp("voice") / "run"
    save_voice(out, VoiceParts(task, front_end, params, state))
    return out


def test_a_voices_frames_of_recordings_train_a_vocoder(recordings, voice, tmp_path):
    out = tmp_path / "frames"
    code = synthesize.main(
        ["--checkpoint", str(voice), "--teacher-forced", str(recordings / "a.jsonl"), "--out", str(out)]
    )
    assert code == 0
    rows = read_manifest(out / "manifest.jsonl")
    assert [row.id for row in rows] == [f"a{i}" for i in range(6)]
    assert '"mel": "mels/000000.safetensors"' in (out / "manifest.jsonl").read_text()
    for row in rows:
        mel = read_mel(row.mel, AUDIO)
        assert mel.shape == (int(row.seconds * RATE) // HOP + 1, BANDS) and np.isfinite(mel).all()
    again = tmp_path / "again"
    synthesize.main(["--checkpoint", str(voice), "--teacher-forced", str(recordings / "a.jsonl"), "--out", str(again)])
    np.testing.assert_array_equal(read_mel(again / "mels" / "000003.safetensors"), read_mel(rows[3].mel))

    aligned = dataclasses.replace(TASK, mels="manifest")
    trainer = TrainerConfig(steps=2, log_every=1, tensorboard=False, checkpoint=CheckpointConfig(metric="c/loss"))
    sets = (EvalConfig("c", data(out / "manifest.jsonl")),)
    config = run(
        recordings, tmp_path / "run", task=aligned, data=data(out / "manifest.jsonl"), trainer=trainer, evaluate=sets
    )
    assert np.isfinite(train(config).reports["c"].metrics["loss"])

    other = dataclasses.replace(aligned, audio=dataclasses.replace(AUDIO, fmin=50.0))
    strict = dataclasses.replace(config.data, on_error="raise")
    trainer = dataclasses.replace(trainer, checkpoint=CheckpointConfig())
    config = dataclasses.replace(config, evaluate=(), trainer=trainer)
    with pytest.raises(UserError, match=r"safetensors: found audio.fmin = 0.0.*the vocoder: audio.fmin = 50.0"):
        train(dataclasses.replace(config, task=other, data=strict, out_dir=str(tmp_path / "no")))
    with pytest.raises(UserError, match="found no field 'mel'"):
        plain = dataclasses.replace(data(recordings / "a.jsonl"), on_error="raise")
        train(dataclasses.replace(config, data=plain, out_dir=str(tmp_path / "no2")))


def test_a_vocoder_of_several_speakers_takes_on_more(recordings, tmp_path):
    """Each recording's own speaker; fine-tuning adds a name to the table, whose vector begins as the mean."""
    for domain, who in (("a", ("kim", "lee")), ("b", ("max",))):
        rows = [json.loads(line) for line in (recordings / f"{domain}.jsonl").read_text().splitlines()]
        rows = [row | {"speaker": who[n % len(who)]} for n, row in enumerate(rows)]
        rows = [row | {"audio": str(recordings / row["audio"])} for row in rows]
        (tmp_path / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = dataclasses.replace(TASK, speakers="data")
    still = TrainerConfig(steps=2, log_every=1, tensorboard=False, checkpoint=CheckpointConfig())
    config = run(recordings, tmp_path / "one", task=task, data=data(tmp_path / "a.jsonl"), trainer=still, evaluate=())
    train(config)
    before = load_vocoder_parts(tmp_path / "one")
    assert before.speakers == ("kim", "lee") and before.params["speakers"].shape[0] == 2
    frozen = dataclasses.replace(config.optimizer, groups=(("speakers", None), (".*", 1.0)))
    tuned = dataclasses.replace(
        config, out_dir=str(tmp_path / "two"), init_from=config.out_dir, task=None, data=data(tmp_path / "b.jsonl"),
        optimizer=frozen,
    )  # fmt: skip
    train(tuned)
    after = load_vocoder_parts(tmp_path / "two")
    assert after.speakers == ("kim", "lee", "max")
    np.testing.assert_array_equal(after.params["speakers"][:2], before.params["speakers"])
    np.testing.assert_allclose(after.params["speakers"][2], before.params["speakers"].mean(axis=0), rtol=1e-6)
    loaded = load_vocoder(tmp_path / "two", engine="scan")
    mel = (np.random.default_rng(0).normal(size=(6, BANDS)) - 5).astype(np.float32)
    assert np.abs(loaded.wave(mel, speaker=0) - loaded.wave(mel, speaker=1)).max() > 1e-4
    assert find_vocoder(str(tmp_path / "two"), AUDIO, "voice", speaker="max").wave(mel).shape == (6 * HOP,)
    with pytest.raises(UserError, match="found 'eve', expected one of 'kim', 'lee', 'max'"):
        find_vocoder(str(tmp_path / "two"), AUDIO, "voice", speaker="eve")


def test_text_to_sound_through_both_networks(trained, voice, tmp_path, capsys):
    """`synthesize --vocoder RUN`: whole and streamed the samples are the same, as both networks are."""
    flags = ["--checkpoint", str(voice), "--vocoder", str(trained[0]), "--text", "ba", "--tries", "1"]
    flags += ["--decode.frames-per-symbol", "8", "--decode.frames-more", "8", "--decode.saturated-frames", "0"]
    synthesize.main([*flags, "--out", str(tmp_path / "whole.wav")])
    synthesize.main([*flags, "--stream", "--chunk-steps", "3", "--out", str(tmp_path / "streamed.wav")])
    whole, rate = soundfile.read(tmp_path / "whole.wav")
    streamed, _ = soundfile.read(tmp_path / "streamed.wav")
    assert rate == RATE and len(whole) % HOP == 0 and np.abs(whole).max() > 0.01
    np.testing.assert_allclose(streamed, whole, atol=2e-3)
    assert "real-time factor" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["griffin-lim", "network"])
def test_recordings_are_made_again_with_the_same_ids(recordings, trained, tmp_path, way, capsys):
    flags = ["--checkpoint", str(trained[0]), "--resynthesize", str(recordings / "c.jsonl"), "--out", str(tmp_path)]
    flags += ["--iterations", "8"] if way == "griffin-lim" else ["--vocoder", str(trained[0]), "--engine", "scan"]
    assert synthesize.main(flags) == 0
    originals, rows = read_manifest(recordings / "c.jsonl"), read_manifest(tmp_path / "manifest.jsonl")
    assert [row.id for row in rows] == [row.id for row in originals]
    for original, row in zip(originals, rows, strict=True):
        made, rate = soundfile.read(row.audio)
        assert rate == RATE and abs(len(made) - original.seconds * RATE) <= 2 * HOP and np.abs(made).max() > 0.01
    if way == "griffin-lim":  # a tone stays the tone it was
        tone, made = (soundfile.read(row.audio)[0] for row in (originals[5], rows[5]))
        peak, again = (np.argmax(np.abs(np.fft.rfft(x, RATE))) for x in (tone, made))
        assert abs(int(peak) - int(again)) <= RATE / 64
    assert "real-time factor" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected a voice's or a vocoder's"):
        (tmp_path / "other").mkdir()
        recognizer_like = save_other(tmp_path / "other" / "run")
        synthesize.main(["--checkpoint", str(recognizer_like), "--resynthesize", "x.jsonl", "--out", "y"])


def test_a_low_temperature_leaves_little_to_chance(trained, recordings, tmp_path):
    mel = np.random.default_rng(0).standard_normal((12, BANDS)).astype(np.float32)
    spread = [
        np.abs(np.subtract(*(heard.wave(mel, seed=seed) for seed in (0, 1)))).mean()
        for heard in (load_vocoder(trained[0], temperature=t) for t in (1.0, 0.01))
    ]
    assert spread[1] < 0.1 * spread[0]
    flags = ["--checkpoint", str(trained[0]), "--resynthesize", str(recordings / "c.jsonl"), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="--temperature: found 0.0, expected 0.001 to 10"):
        synthesize.main([*flags, "--vocoder", str(trained[0]), "--temperature", "0"])


def save_other(out):
    """A run's folder that is neither a voice nor a vocoder."""
    task = CTCTaskConfig(model=ConformerConfig(width=8, layers=1, heads=2, kernel_size=3))
    tokenizer = Tokenizer("char", (BLANK, "a", "b"))
    params, state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), network_shapes(task, 3))
    write_run(out, Checkpointed(task, tokenizer), params, state, expected=network_shapes(task, 3))
    return out


@pytest.fixture(scope="module")
def vocoder(trained):
    return load_vocoder(trained[0], engine="scan")


@pytest.mark.parametrize("mel, message", [
    (np.zeros((0, BANDS), np.float32), "found no frames"),
    (np.full((3, BANDS), np.nan, np.float32), "frame 0 that is not finite"),
    (np.zeros((3, BANDS + 1), np.float32), f"expected float frames of {BANDS} bands"),
    (np.zeros((3, BANDS), np.int32), "found int32"),
    (np.zeros(BANDS, np.float32), "expected float frames"),
])  # fmt: skip
def test_bad_frames_are_named(vocoder, mel, message):
    with pytest.raises(UserError, match=message):
        vocoder.wave(mel)
    if mel.ndim == 2 and mel.dtype == np.float32:
        with pytest.raises(UserError, match=message):
            list(vocoder.stream([mel]))


def test_frames_of_another_contract_are_named_on_both_sides(vocoder, tmp_path):
    other = dataclasses.replace(AUDIO, log="log10")
    with pytest.raises(
        UserError, match="VOICE: found audio.log = 'log10'; expected the features of .*: audio.log = 'natural'"
    ):
        vocoder.check_audio(other, "VOICE")
    vocoder.check_audio(AUDIO, "VOICE")
    write_mel(tmp_path / "m.safetensors", np.zeros((2, BANDS)), other)
    with pytest.raises(UserError, match="'log10'.*'natural'"):
        vocoder.read(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="found speaker 1, expected 0 to 0"):
        vocoder.wave(np.zeros((2, BANDS), np.float32), speaker=1)


def test_an_hour_of_frames_is_made_in_pieces_of_one_size(vocoder):
    """The stream takes an hour's frames and gives its first second without having looked at the rest."""
    asked = 0

    def hour():
        nonlocal asked
        for _ in range(3600 * RATE // HOP // 1000):
            asked += 1
            yield np.zeros((1000, BANDS), np.float32)

    chunks = vocoder.stream(hour())
    first = [next(chunks) for _ in range(4)]
    assert sum(map(len, first)) == 4 * 16 * HOP and asked == 1


def test_a_folder_that_is_no_vocoder_or_does_not_fit_is_refused(trained, voice, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="found a checkpoint of Tacotron2TaskConfig, expected a vocoder's"):
        load_vocoder(voice)
    parts = load_vocoder_parts(trained[0])
    wrong = {**parts.params, "skip_bias": np.zeros(9, np.float32)}
    with pytest.raises(UserError, match="skip_bias"):
        save_vocoder(tmp_path / "wrong", VocoderParts(parts.task, wrong))
    save_vocoder(tmp_path / "same", parts)
    assert fingerprint(load_vocoder_parts(tmp_path / "same").task.audio) == fingerprint(AUDIO)
    monkeypatch.setattr(
        sys, "argv", ["synthesize", "--checkpoint", str(trained[0]), "--teacher-forced", "x", "--out", "y"]
    )
    with pytest.raises(SystemExit) as stop:
        run_front_door(synthesize.main)
    assert stop.value.code == 2 and "expected a voice's" in capsys.readouterr().err


def test_the_first_samples_of_frames_that_begin_before_it_are_cut(vocoder):
    """lws' frames: the first lies (window / hop - 1) hops before the recording's first sample."""
    audio = dataclasses.replace(AUDIO, framing="full", padding="zero")
    parts = VocoderParts(dataclasses.replace(TASK, audio=audio), jax.device_get(vocoder.net.params))
    mel = (np.random.default_rng(0).normal(size=(8, BANDS)) - 5).astype(np.float32)
    late, whole = WaveNetVocoder(parts, "scan"), vocoder.wave(mel)
    np.testing.assert_array_equal(late.wave(mel), whole[HOP:])
    np.testing.assert_array_equal(np.concatenate(list(late.stream([mel]))), whole[HOP:])
