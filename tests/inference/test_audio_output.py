"""From frames to what is heard: streaming, standard output, the vocoder's place, and what it took."""

import dataclasses
import io
import subprocess
import sys
import time
import wave

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
from speech_jax.inference.audio_output import find_vocoder, samples16, stdout_sound, wav_file, wav_header
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
    front_door.main(run_of(voice, "--text", "one two. three", "--speaker", "joe", "--stream", "--chunk-steps", "9",
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
    waves = [np.concatenate(list(vocoder.stream([mel(text, 1)]))) for text in ("one two.", "three")]
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
    with wav_file(tmp_path / "a.wav", 22_050) as write:
        write(samples[:300])
        write(samples[300:])
    np.testing.assert_array_equal(read, soundfile.read(tmp_path / "a.wav", dtype="int16")[0])
    with pytest.raises(UserError), wav_file(tmp_path / "b.wav", 22_050) as write:
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
