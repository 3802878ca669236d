"""A language of beeps and a network without parameters that reads it: recognition whose right answer is known.

Every letter is a tone in the middle of a mel band of its own, 120 ms long, then 80 ms of silence.
"""

import jax.numpy as jnp
import numpy as np

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.mel import mel_matrix
from speech_jax.core.types import Model
from speech_jax.inference.config import WindowConfig
from speech_jax.inference.ctc_recognizer import CTCRecognizer
from speech_jax.text.tokenizer import BLANK, Tokenizer

AUDIO = AudioConfig(normalize="none", pre_emphasis=0.0, dither=0.0)
LETTERS = " abcdefghij"
TOKENIZER = Tokenizer("char", (BLANK, *LETTERS))
BANDS = np.arange(len(LETTERS)) * 5 + 20
FACTOR = 4
LETTER_SECONDS = 0.2


def say(text: str, seed: int = 0) -> np.ndarray:
    """The beeps of a text, float32 in [-1, 1] at 16 kHz, with a little noise."""
    rate, n_fft = AUDIO.sample_rate, AUDIO.n_fft
    centers = np.argmax(mel_matrix(AUDIO), axis=0) * rate / n_fft
    time = np.arange(int(0.12 * rate)) / rate
    silence = np.zeros(int(0.08 * rate))
    envelope = np.hanning(len(time)) ** 0.5
    parts = [silence]
    for letter in text:
        tone = 0.5 * envelope * np.sin(2 * np.pi * centers[BANDS[LETTERS.index(letter)]] * time)
        parts += [tone, silence]
    audio = np.concatenate(parts)
    return (audio + 1e-4 * np.random.default_rng(seed).standard_normal(len(audio))).astype(np.float32)


def _apply(params, model_state, batch, *, key, train):
    features, mask = batch["features"], batch["mask"]
    features = jnp.where(mask[..., None], features, -20.0)
    short = -features.shape[1] % FACTOR
    features = jnp.pad(features, ((0, 0), (0, short), (0, 0)), constant_values=-20.0)
    mask = jnp.pad(mask, ((0, 0), (0, short))).reshape(len(mask), -1, FACTOR)
    pooled = features.reshape(len(features), -1, FACTOR, features.shape[-1]).mean(axis=2)
    blank = jnp.full((*pooled.shape[:2], 1), -4.0)
    return {"logits": jnp.concatenate([blank, pooled[..., BANDS]], axis=-1), "mask": mask[..., 0]}, model_state


def recognizer(**windows) -> CTCRecognizer:
    """Reads the beeps. windows: fields of WindowConfig."""
    network = Model(init=lambda key, batch: ({}, {}), apply=_apply)
    return CTCRecognizer(network, {}, {}, TOKENIZER, AUDIO, WindowConfig(**windows), "tones")
