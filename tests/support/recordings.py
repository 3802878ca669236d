"""A small set of recordings for the tests of this folder."""

from pathlib import Path

import numpy as np
import soundfile

from speech_jax.data.utterances import Utterance

RATE = 8000


class Letters:
    """A tokenizer as the data plane sees it."""

    def encode(self, text):
        return [1 + ord(c) - ord("a") for c in text]


def small_set(folder: Path, count=30, seed=0) -> list[Utterance]:
    """WAV files of noise, 0.2 to 2 s, with as many letters as a tenth of a second each."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        samples = rng.uniform(-0.5, 0.5, int(rng.integers(1600, 16000)))
        path = folder / f"{i:03d}.wav"
        soundfile.write(path, samples, RATE)
        text = "".join(rng.choice(list("abcde"), len(samples) // 800))
        result.append(
            Utterance(f"u{i:03d}", str(path), text=text, seconds=len(samples) / RATE, where=f"m.jsonl:{i + 1}")
        )
    return result
