"""The interface of recognizers: every way through it gives the same text, and scores are log-probabilities."""

import itertools
import math

import jax
import numpy as np
import pytest

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError
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
