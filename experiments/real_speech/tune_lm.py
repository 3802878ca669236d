"""Word error rate on the dev parts by weight of the language model and word bonus, from scores computed once.

python -m experiments.real_speech.tune_lm CHECKPOINT LM.arpa MANIFEST…
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.decoding.beam import BeamSearch
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.language_model import load_language_model
from speech_jax.evaluation.wer import wer
from speech_jax.inference.recognizer import load_recognizer
from speech_jax.text.normalize import normalize

WEIGHTS, BONUSES = (0.3, 0.5, 0.7, 0.9), (0.0, 1.0, 2.0, 3.0)


def main(checkpoint: str, lm: str, *manifests: str) -> None:
    recognizer = load_recognizer(checkpoint, "last")
    model = load_language_model(lm, recognizer.tokenizer)
    for manifest in manifests:
        references, scores = [], []
        for utterance in read_manifest(manifest):
            audio = read_recording(utterance, recognizer.audio.sample_rate)
            padded = np.zeros((1, -(-len(audio) // 48_000) * 48_000), np.float32)  # few shapes, so few compilations
            padded[0, : len(audio)] = audio
            log_probs, frames = recognizer.log_probs(padded, np.array([len(audio)]))
            references.append(normalize(utterance.text, "en"))
            scores.append(log_probs[0, : frames[0]])

        def error_rate(config: BeamConfig, with_lm: bool, references=references, scores=scores) -> float:
            search = BeamSearch(recognizer.tokenizer, config, model if with_lm else None)
            return 100 * wer(references, [recognizer.tokenizer.decode(search.search(s)) for s in scores]).rate

        plain = error_rate(BeamConfig(16, word_insertion_bonus=0.0), False)
        print(f"{manifest}: beam of 16 without a model {plain:.2f} %")
        print("weight \\ bonus" + "".join(f"{bonus:8.1f}" for bonus in BONUSES))
        table = {(w, b): error_rate(BeamConfig(16, lm, w, b), True) for w, b in itertools.product(WEIGHTS, BONUSES)}
        for weight in WEIGHTS:
            print(f"{weight:14.1f}" + "".join(f"{table[weight, bonus]:8.2f}" for bonus in BONUSES), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
