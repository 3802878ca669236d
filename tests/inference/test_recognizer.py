"""The interface of recognizers: every way through it gives the same text, and scores are log-probabilities."""

import dataclasses
import itertools
import math
import re

import jax
import numpy as np
import pytest
import soundfile

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError
from speech_jax.inference.config import WindowConfig
from speech_jax.inference.ctc_recognizer import CTCRecognizer
from speech_jax.inference.recognizer import Recognizer
from speech_jax.models.conformer import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import build_model, network_shapes
from speech_jax.text.tokenizer import BLANK, Tokenizer
from tests.support import tones


def test_one_many_batch_and_long_agree():
    recognizer: Recognizer = tones.recognizer(core_seconds=2.0, context_seconds=0.8)
    texts = ["abc", "de fa", "j"]
    recordings = [tones.say(text) for text in texts]
    assert [recognizer.transcribe(audio).text for audio in recordings] == texts
    assert [t.text for t in recognizer.transcribe_many(recordings)] == texts
    assert [recognizer.transcribe_long(audio).text for audio in recordings] == texts
    batch = np.zeros((3, max(map(len, recordings))), np.float32)
    for row, audio in enumerate(recordings):
        batch[row, : len(audio)] = audio
    transcripts = recognizer.transcribe_batch(batch, np.array([len(a) for a in recordings], np.int32))
    assert [t.text for t in transcripts] == texts and transcripts[0].seconds == len(recordings[0]) / 16_000
    assert recognizer.language == "" and recognizer.longest > 16_000


def test_a_recording_longer_than_those_of_training_is_cut_at_its_pauses():
    recognizer = tones.recognizer()
    audio = np.concatenate([tones.say("bad"), np.zeros(8000, np.float32), tones.say("cab")])  # 0.7, 0.5 and 0.7 s
    assert recognizer.longest == 28 * 16_000 and recognizer._spans(audio) == [(0, len(audio))]
    knows = dataclasses.replace(recognizer, row_seconds=0.8)
    assert knows.longest == 16_000 and len(knows._spans(audio)) == 2
    assert knows.transcribe(audio).text == "bad cab" and knows.transcribe(tones.say("bad")).text == "bad"
    for whole in (dataclasses.replace(recognizer, row_seconds=2.0), dataclasses.replace(knows, segment="none")):
        assert whole._spans(audio) == [(0, len(audio))]


def test_a_file_is_read_at_the_recognizers_rate(tmp_path):
    recognizer = tones.recognizer(core_seconds=2.0, context_seconds=0.8)
    faster = np.repeat(tones.say("bad"), 2)  # 32 kHz
    soundfile.write(tmp_path / "bad.wav", faster, 32_000, subtype="FLOAT")
    assert recognizer.transcribe(str(tmp_path / "bad.wav")).text == "bad"
    assert [t.text for t in recognizer.transcribe_many([tmp_path / "bad.wav", tones.say("j")])] == ["bad", "j"]
    with pytest.raises(UserError, match="none.wav"):
        recognizer.transcribe(tmp_path / "none.wav")


@pytest.mark.parametrize(
    "audio, found",
    [
        (np.ones((800, 2), np.float32), "float32 of shape (800, 2)"),
        (np.ones(800, np.int16), "int16 of shape (800,)"),
        (np.array([0.1, np.nan]), "NaN or infinity"),
        (np.array([0.1, -30000.0], np.float32), "samples up to 30000"),
        (None, "object of shape ()"),
    ],
)
def test_an_array_that_is_no_recording_is_refused(audio, found):
    with pytest.raises(UserError, match=f"recording: found {re.escape(found)}, expected a path"):
        tones.recognizer(core_seconds=2.0, context_seconds=0.8).transcribe(audio)


@pytest.mark.parametrize("seconds", [1e9, -1.0, math.nan])
def test_the_size_of_a_batch_of_windows_is_bounded(seconds):
    with pytest.raises(UserError, match="windows.batch_seconds: found .*, expected 0 to 36000"):
        WindowConfig(batch_seconds=seconds)


def test_score_is_the_log_probability_of_a_text():
    """Over all texts of a tiny vocabulary and a few frames, probabilities sum to 1."""
    task = CTCTaskConfig(
        model=ConformerConfig(width=8, layers=1, heads=2, kernel_size=3, subsampling_channels=4, conv_norm="layer"),
        audio=AudioConfig(dither=0.0),
    )
    network = build_model(task, 3)
    shapes = network_shapes(task, 3)
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(s.dtype), shapes)
    recognizer = CTCRecognizer(network, params, state, Tokenizer("char", (BLANK, "a", "b")), task.audio)
    audio = rng.normal(0, 0.1, 1600).astype(np.float32)  # 0.1 s: three output frames
    _, frames = recognizer.log_probs(audio[None], np.array([len(audio)], np.int32))
    texts = ["".join(t) for n in range(frames[0] + 1) for t in itertools.product("ab", repeat=n)]
    scores = [recognizer.score(audio, text) for text in texts]
    assert sum(math.exp(s) for s in scores) == pytest.approx(1.0, abs=1e-4)
    assert recognizer.score(audio, "ab" * 40) == -math.inf
    with pytest.raises(UserError, match="outside the tokenizer"):
        recognizer.score(audio, "x")
