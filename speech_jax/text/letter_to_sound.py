"""Pronunciations of English words outside the dictionary, by the network of tasks/g2p.py, run in NumPy.

The network is assets/g2p.safetensors (float16); experiments/g2p/ has its training command and error rates. It runs in
NumPy so that preparing text in a data worker does not start another JAX runtime; a test checks that both agree.
"""

from __future__ import annotations

import functools
import importlib.resources

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from speech_jax.text.dictionary import Pronunciation
from speech_jax.text.letters import CLASSES, letter_ids


@functools.lru_cache(maxsize=1 << 16)
def pronounce(word: str) -> Pronunciation:
    """Predict phonemes with stress of a word of a-z and apostrophes, in about a millisecond; results are cached."""
    return predict_phonemes(word, _packaged())


@functools.cache
def _packaged() -> dict[str, np.ndarray]:
    file = importlib.resources.files("speech_jax.text").joinpath("assets/g2p.safetensors")
    return read_network(file.read_bytes())


def read_network(content: bytes) -> dict[str, np.ndarray]:
    """Read the network's arrays as float32, by the names that tasks/g2p.py writes ("layers_0/input/kernel")."""
    return {name: array.astype(np.float32) for name, array in safetensors.numpy.load(content).items()}


def predict_phonemes(word: str, network: dict[str, np.ndarray]) -> Pronunciation:
    """Return the phonemes on the best CTC path over the letters of `word`."""
    x = network["letters/embedding"][letter_ids(word)]
    layer = 0
    while f"layers_{layer}/recurrent_kernel" in network:
        x = _norm(_gru(x, network, f"layers_{layer}/"), network, f"norm_{layer}/")
        layer += 1
    logits = x @ network["head/kernel"] + network["head/bias"]
    best = logits.reshape(-1, len(CLASSES)).argmax(-1)
    first = np.concatenate([[True], best[1:] != best[:-1]])
    return tuple(CLASSES[i] for i in best[first & (best > 0)])


def _gru(
    x: Float[np.ndarray, "letters d"], network: dict[str, np.ndarray], prefix: str
) -> Float[np.ndarray, "letters 2*width"]:
    """Apply both directions of models/crnn.py's GRU: gates reset, update, new."""
    kernel, bias = network[prefix + "recurrent_kernel"], network[prefix + "recurrent_bias"]
    width = kernel.shape[1]
    gates = (x @ network[prefix + "input/kernel"] + network[prefix + "input/bias"]).reshape(len(x), 2, 3 * width)
    gates = np.stack([gates[:, 0], gates[::-1, 1]], axis=1)
    state, out = np.zeros((2, width), np.float32), np.empty((len(x), 2, width), np.float32)
    for i, gate in enumerate(gates):
        recurrent = (state[:, None] @ kernel)[:, 0] + bias
        reset, update = np.split(_sigmoid(gate[:, : 2 * width] + recurrent[:, : 2 * width]), 2, axis=1)
        new = np.tanh(gate[:, 2 * width :] + reset * recurrent[:, 2 * width :])
        state = (1 - update) * new + update * state
        out[i] = state
    return np.concatenate([out[:, 0], out[::-1, 1]], axis=1)


def _norm(
    x: Float[np.ndarray, "letters d"], network: dict[str, np.ndarray], prefix: str
) -> Float[np.ndarray, "letters d"]:
    centered = x - x.mean(-1, keepdims=True)
    normalized = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-5)
    return normalized * network[prefix + "scale"] + network[prefix + "bias"]


def _sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return 0.5 * (1 + np.tanh(0.5 * x))
