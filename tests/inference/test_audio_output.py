"""From frames to what is heard: streaming, standard output, the vocoder's place, and what it took."""

import dataclasses
import io
import subprocess
import sys
import time
import wave
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from speech_jax import synthesize as front_door
from speech_jax.artifacts.vocoder import VocoderParts, save_vocoder
from speech_jax.artifacts.voice import VoiceParts, load_voice_parts, save_voice
from speech_jax.audio.presets import nvidia_tacotron2, r9y9_released
from speech_jax.core.compile_clock import _Clock, compile_seconds
from speech_jax.core.errors import UserError
from speech_jax.inference import audio_output as sound
from speech_jax.inference import text_to_speech
from speech_jax.inference.audio_output import find_vocoder, samples16, sound_file, stdout_sound, wav_header
from speech_jax.inference.voice import Voice
from speech_jax.models import wavenet
from speech_jax.models.tacotron2 import init_params
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.tacotron2_task import network_config
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.tasks.wavenet_task import network_config as wavenet_config
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import make_front_end
from tests.test_synthesize import AUDIO, NETWORK


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """The folder of a voice of two speakers that has learned nothing but not to stop: it speaks all the same."""
    task = Tacotron2TaskConfig(
        model=dataclasses.replace(NETWORK, speakers=2, speaker_width=4), audio=AUDIO, speakers="data"
    )
    front_end = make_front_end(FrontEndConfig())
    params, state = init_params(make_parts(network_config(task)), front_end.vocab_size, jax.random.key(0))
    params["decoder"]["stop"]["bias"] -= 4.0
    parts = VoiceParts(task, front_end, *jax.device_get((params, state)), ("ann", "joe"))
    folder = tmp_path_factory.mktemp("voice") / "run"
    save_voice(folder, parts)
    return folder


def run_of(voice, *arguments):
    return ["--checkpoint", str(voice), "--iterations", "2", *arguments]


def test_a_stream_is_the_chunks_put_together_and_its_frames_are_those_of_the_first_try(voice, tmp_path, capsys):
    report = tmp_path / "report.jsonl"
    front_door.main(run_of(voice, "--text", "one two\n\nthree", "--speaker", "joe", "--stream", "--chunk-steps", "9",
                           "--out", str(tmp_path / "a.wav"), "--report", str(report)))  # fmt: skip
    shown = capsys.readouterr()
    assert shown.out == "" and "real-time factor" in shown.err and "first sound after" in shown.err
    streamed, rate = soundfile.read(tmp_path / "a.wav")
    speaker = Voice(load_voice_parts(voice))
    assert speaker.speakers == ("ann", "joe")

    def mel(text, who):
        return np.concatenate([part for part, _ in speaker.stream(text, chunk_steps=9, speaker=who)])

    vocoder = find_vocoder("griffin-lim", speaker.task.audio, "x", iterations=2)
    pause = np.zeros(int(0.2 * rate))
    waves = [np.concatenate(list(vocoder.stream([mel(text, 1)]))) for text in ("one two", "three")]
    frames = min(len(mel("three", 0)), len(mel("three", 1)))
    assert np.abs(mel("three", 0)[:frames] - mel("three", 1)[:frames]).max() > 1e-4
    np.testing.assert_allclose(streamed, np.concatenate([waves[0], pause, waves[1]]), atol=1e-4)
    assert [line.count('"tries": 1') for line in report.read_text().splitlines()] == [1, 1]


def test_the_first_chunk_comes_after_a_bounded_number_of_steps(voice, monkeypatch):
    """However long the text: counted in calls of the program that takes `chunk_steps` steps."""
    from speech_jax.decoding import tacotron2

    counted = []
    real = tacotron2._advance
    monkeypatch.setattr(
        tacotron2, "_advance", lambda *args, **options: (counted.append(options["steps"]), real(*args, **options))[1]
    )
    speaker = Voice(load_voice_parts(voice))
    vocoder = find_vocoder("griffin-lim", speaker.task.audio, "x", iterations=1)
    reach = 2 * (5 // 2)  # of the post-net of this voice: two layers
    need = -(-(sound.stream_wave.__globals__["BLOCK"] + 4 + 1 + reach) // speaker.reduction)
    for text in ("one two three four five", "one two three four five " * 8):
        counted.clear()
        made = text_to_speech.stream(speaker, vocoder, text, chunk_steps=24)
        first, _ = next(made)
        assert len(first) and sum(counted) <= 24 * -(-need // 24)
        made.close()


@pytest.mark.parametrize("kind", ["wav", "raw"])
def test_standard_output_has_the_samples_and_nothing_else(voice, tmp_path, kind):
    arguments = run_of(voice, "--text", "one", "two", "--tries", "1", "--pause", "0.1")
    front_door.main([*arguments, "--out", str(tmp_path)])
    want = [soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("0001.wav", "0002.wav")]
    command = [sys.executable, "-m", "speech_jax.synthesize", *arguments, "--out", "-", "--format", kind]
    done = subprocess.run(command, capture_output=True, timeout=600)
    assert done.returncode in (0, 2) and b"real-time factor" in done.stderr
    if kind == "wav":
        with wave.open(io.BytesIO(done.stdout)) as file:  # its length is left open, as in every pipe
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
    got = np.frombuffer(done.stdout[44 if kind == "wav" else 0 :], "<i2")
    np.testing.assert_array_equal(got, np.concatenate([want[0], np.zeros(1600, np.int16), want[1]]))


def test_what_libraries_print_does_not_get_into_the_sound(capfdbinary):
    with stdout_sound(8_000, "raw", enabled=True) as write:
        print("a line of some library")
        write(np.array([0.5, -1.0, 2.0]))
    shown = capfdbinary.readouterr()
    assert shown.out == samples16([0.5, -1.0, 1.0]).astype("<i2").tobytes()
    assert b"a line of some library" in shown.err


def test_a_header_says_what_follows(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 1000)
    whole = wav_header(22_050, len(samples)) + samples16(samples).astype("<i2").tobytes()
    read, rate = soundfile.read(io.BytesIO(whole), dtype="int16")
    assert rate == 22_050
    with sound_file(tmp_path / "a.wav", 22_050) as write:
        write(samples[:300])
        write(samples[300:])
    np.testing.assert_array_equal(read, soundfile.read(tmp_path / "a.wav", dtype="int16")[0])
    with pytest.raises(UserError), sound_file(tmp_path / "b.wav", 22_050) as write:
        write(samples)
        raise UserError("the voice broke off")
    assert not (tmp_path / "b.wav").exists()


def a_vocoder(out, audio):
    """A small WaveNet's folder, not trained, that hears these mel frames."""
    network = wavenet.WaveNetConfig(layers=2, cycles=1, kernel_size=2, residual=8, gate=16, skip=8, head=8)
    task = WaveNetTaskConfig(model=network, audio=audio, crop_frames=8)
    save_vocoder(out, VocoderParts(task, jax.device_get(wavenet.init_params(wavenet_config(task), jax.random.key(0)))))
    return str(out)


def test_a_vocoder_of_other_mel_settings_is_refused_with_both_sides(tmp_path):
    other = a_vocoder(tmp_path / "other", r9y9_released())
    with pytest.raises(UserError) as error:
        find_vocoder(other, nvidia_tacotron2(), "runs/voice")
    message = str(error.value)
    assert message.startswith(f"{other}: found audio.scale = 0.7071") and "runs/voice: audio.scale = 1.0" in message
    assert "audio.fmin = 125.0" in message and "audio.fmin = 0.0" in message and "\n" not in message
    dithered = dataclasses.replace(nvidia_tacotron2(), dither=1.0)  # which counts for nothing
    fitting = a_vocoder(tmp_path / "fitting", dithered)
    waves = [
        find_vocoder(fitting, nvidia_tacotron2(), "runs/voice", seed=seed, engine="scan").wave(np.zeros((4, 80)))
        for seed in (3, 3, 4)
    ]
    assert waves[0].shape == (4 * 256,) and np.abs(waves[0] - waves[2]).max() > 1e-3
    np.testing.assert_array_equal(waves[0], waves[1])


def test_compiling_is_told_apart():
    clock = _Clock()
    for begin, end in ((1.0, 2.0), (3.0, 4.0), (2.5, 5.0), (6.0, 6.5)):
        clock.add(begin, end)
    assert clock.seconds() == pytest.approx(1.0 + 2.5 + 0.5)
    before, began = compile_seconds(), time.perf_counter()

    @jax.jit
    def fresh(x):
        return jnp.sin(x @ x.T).sum() + len(x)

    fresh(jnp.ones((7, 3))).block_until_ready()
    first = compile_seconds() - before
    assert 0 < first <= time.perf_counter() - began
    fresh(jnp.ones((7, 3))).block_until_ready()
    assert compile_seconds() - before < first + 0.01


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("a.WAV", ("WAV", "PCM_16"), 22_050),
        ("a.flac", ("FLAC", "PCM_16"), 22_050),
        ("a.Mp3", ("MP3", "MPEG_LAYER_III"), 22_050),
        ("a.ogg", ("OGG", "VORBIS"), 22_050),
        ("a.opus", ("OGG", "OPUS"), 24_000),  # which has no 22,050 Hz
    ],
)
def test_the_ending_of_a_name_says_the_format(tmp_path, name, kind, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * 22_050) / 22_050)
    assert sound.is_sound_file(str(tmp_path / name))
    with sound_file(tmp_path / name, 22_050) as write:
        for part in np.array_split(tone, 7):
            write(part)
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype) == kind and info.samplerate == rate
    samples, _ = soundfile.read(tmp_path / name)
    assert len(samples) / rate == pytest.approx(3, abs=0.06)
    middle = samples[rate : 2 * rate]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.35, abs=0.02)


def test_a_folder_may_have_any_name_and_another_ending_is_an_error(tmp_path):
    (tmp_path / "v1.2").mkdir()
    for name in ("voices", ".", "v1.3/", str(tmp_path / "v1.2")):
        assert not sound.is_sound_file(name)
    for name in ("hello.aac", "hello.wav.bak", "v1.2"):
        with pytest.raises(UserError, match=r"--out: found '.*', expected a name that ends in .wav, .flac, .mp3"):
            sound.is_sound_file(name)


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_header_has_its_length_where_standard_output_is_a_file(tmp_path, monkeypatch, mode):
    path = tmp_path / "a.wav"
    with io.TextIOWrapper(open(path, mode)) as file:
        monkeypatch.setattr(sys, "stdout", file)
        with stdout_sound(8_000, "wav", enabled=True) as write:
            write(np.zeros(500))
            write(np.zeros(700))
        monkeypatch.undo()
    with wave.open(str(path)) as recording:
        # a file to append to cannot be changed: its length stays open, as in a pipe
        assert recording.getnframes() == (1200 if mode == "wb" else 0x7FFFFFFF)
    assert path.stat().st_size == 44 + 2400


def test_a_voice_whose_frames_are_not_finite_is_one_error_and_no_file(voice, tmp_path, capsys):
    parts = load_voice_parts(voice)
    broken = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(leaf) * (np.nan if "postnet" in str(path) else 1), parts.params
    )
    save_voice(tmp_path / "nan", parts._replace(params=broken))
    arguments = run_of(tmp_path / "nan", "--text", "one two", "--out", str(tmp_path / "a.wav"))
    for flags in ((), ("--stream",)):
        assert front_door.main([*arguments, *flags]) == 2
        error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: text 1: "))
        assert "is not finite, expected mel frames" in error
        assert not (tmp_path / "a.wav").exists()
    with pytest.raises(UserError, match="found samples that are not finite"):
        samples16(np.array([0.0, np.nan]))


def test_a_voice_returns_a_waveform(voice):
    speaker = Voice(load_voice_parts(voice))
    vocoder = find_vocoder("griffin-lim", speaker.task.audio, "x", iterations=1)
    samples = speaker.wave("One two\n\nThree", vocoder, tries=1, pause=0.5)
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.abs(samples).max() <= 1
    assert speaker.sample_rate == 16_000 and (samples == 0).sum() >= 8_000  # the pause between its pieces
    with pytest.raises(UserError, match="speaker: found 7, expected 0 to 1"):
        speaker.wave("One", vocoder, speaker=7)
    with pytest.raises(UserError, match="text: found None, expected a string"):
        speaker.wave(cast("Any", None), vocoder)


def test_a_long_text_is_spoken_piece_by_piece(voice, monkeypatch):
    """The first sound comes after a bounded number of pieces, and each piece is as in a text that has no more."""
    speaker = Voice(load_voice_parts(voice))
    vocoder = find_vocoder("griffin-lim", speaker.task.audio, "x", iterations=0)
    monkeypatch.setattr(text_to_speech, "PIECES", 2)
    sizes = []
    real = speaker.synthesize
    speaker.synthesize = lambda texts, **options: (sizes.append(len(texts)), real(texts, **options))[1]
    text = "\n\n".join(["one two", "three", "four five six", "seven", "eight"])
    made = text_to_speech.synthesize_pieces(speaker, vocoder, text, tries=1, pause=0)
    next(made)
    assert sizes == [2]
    pieces = [piece for _, finished in made for piece in finished]
    assert sizes == [2, 2, 1]
    whole = real(speaker.front_end.split(text), tries=1)
    for piece, want in zip(pieces, whole[1:], strict=True):
        np.testing.assert_allclose(piece.mel, want.mel, atol=1e-5)


def test_unknown_characters_are_skipped_where_that_is_asked_for(voice, tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_text("One.\nTwo \N{SNOWMAN} three.\n")
    flags = run_of(voice, "--file", str(path), "--out", str(tmp_path), "--tries", "1")
    front_door.main(flags)
    assert f"error: text 2: {path}:2: found '\N{SNOWMAN}'" in capsys.readouterr().err
    assert not (tmp_path / "0002.wav").exists()
    front_door.main([*flags, "--unknown", "skip"])
    shown = capsys.readouterr().err
    assert "left out or replaced: 1 unknown characters" in shown and "texts could not be" not in shown
    assert (tmp_path / "0002.wav").exists()
