"""Likelihood lost by 8-bit weights and vectors: `python -m experiments.real_vocoder.quantization RUN TEST.jsonl`.

A trained WaveNet of kernel size 2 is teacher-forced on held-out recordings (0.75 s of every third of 24), all samples
at once in NumPy, with some of its matrices or of the vectors that they are multiplied with rounded and the rest in
float32. Prints nats per sample above those without rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from experiments.real_vocoder.likelihood import CLIPS, followed
from speech_jax.artifacts.vocoder import load_vocoder_parts
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.inference.vocoder import WaveNetVocoder
from speech_jax.kernels.wavenet.native_pack import NARROW
from speech_jax.objectives.waveform import waveform_nll

Bits = Callable[[str, int], int]  # (what, layer) -> bits; 0: not rounded
WEIGHTS = ("taps", "out", "skip", "head")  # matrices; the head's two as layers 0 and 1
VECTORS = ("x", "z", "hidden")  # inputs of taps, of out and skip, of the head's matrices
WARM_UP = 200


def rounded(values: np.ndarray, bits: int, axis: int | None) -> np.ndarray:
    """Symmetric, with a scale for each vector along the axis, or one for all."""
    if not bits:
        return values
    scale = np.abs(values).max(axis=axis, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.rint(values / np.where(scale > 0, scale, 1)) * scale).astype(np.float32)


def nats(vocoder: WaveNetVocoder, clips: list, weights: Bits, vectors: Bits, axis: int | None = 0) -> float:
    shape, w, total, count = vocoder.net.shape, vocoder.net.weights, 0.0, 0
    w = type(w)(*(np.asarray(array, np.float32) for array in w))
    half, config = w.taps.shape[-1] // 2, vocoder.net.config
    last = int(w.head2.shape[1] > NARROW)  # a narrow last product is not rounded
    for cond, given, before in clips:
        earlier = np.append(before, given[:-1])
        x = (w.first[earlier] if config.output == "mulaw" else earlier[:, None] * w.first) + w.first_bias
        skips = w.skip_bias
        for layer, dilation in enumerate(shape.dilations):
            old, now = (rounded(tap, weights("taps", layer), axis) for tap in w.taps[layer])
            rough = rounded(x, vectors("x", layer), 1)
            a = cond[:, layer] + rough @ now
            a[dilation:] += rough[:-dilation] @ old
            z = rounded(np.tanh(a[:, :half]) / (1 + np.exp(-a[:, half:])), vectors("z", layer), 1)
            skips = skips + z @ rounded(w.skip[layer], weights("skip", layer), axis)
            x = x + z @ rounded(w.out[layer], weights("out", layer), axis) + w.out_bias[layer]
            x = x * np.float32(shape.residual_scale)
        hidden = rounded(np.maximum(skips, 0), vectors("hidden", 0), 1)
        hidden = np.maximum(hidden @ rounded(w.head1, weights("head", 0), axis) + w.head1_bias, 0)
        hidden = rounded(hidden, last * vectors("hidden", 1), 1)
        outputs = hidden @ rounded(w.head2, last * weights("head", 1), axis) + w.head2_bias
        each = waveform_nll(config.output, jnp.asarray(outputs), jnp.asarray(given),
                            min_log_scale=config.min_log_scale, levels=config.levels)  # fmt: skip
        each = np.asarray(each)[WARM_UP:]
        total, count = total + each.sum(dtype=np.float64), count + len(each)
    return total / count


def only(names: tuple[str, ...], bits: int = 8, layers: range = range(99)) -> Bits:
    return lambda name, layer: bits if name in names and layer in layers else 0


def engine(fine: int, bits: int = 16) -> Bits:
    """The native step since 6a192e4: x of the first layer is not rounded, `fine` layers and the head have more bits."""
    return lambda name, layer: 0 if (name, layer) == ("x", 0) else bits if name == "hidden" or layer < fine else 8


def main(run: str, test: str) -> None:
    vocoder, clips = WaveNetVocoder(load_vocoder_parts(run), "native"), []
    for utterance in read_manifest(test)[:CLIPS:3]:
        cond, given, share = followed(vocoder, read_recording(utterance, vocoder.audio.sample_rate))
        row, rows = cond.shape[1] // 3, int(0.75 * vocoder.audio.sample_rate) // share + 1
        begin, cond = row * share, np.repeat(cond[0, row : row + rows], share, axis=0)
        clips.append((cond, given[0, begin : begin + len(cond)], given[0, begin - 1]))
    none = only(())
    base = nats(vocoder, clips, none, none)
    print(f"{'float32, nats a sample':48s} {base:.4f}")

    def show(name: str, weights: Bits = none, vectors: Bits = none, axis: int | None = 0) -> None:
        print(f"{name:48s} {nats(vocoder, clips, weights, vectors, axis) - base:+.4f}", flush=True)

    layers = range(len(vocoder.net.shape.dilations))
    show("8 bits everywhere", only(WEIGHTS), only(VECTORS))
    show("weights, a scale for each column", only(WEIGHTS))
    show("weights, a scale for each matrix", only(WEIGHTS), axis=None)
    for name in WEIGHTS:
        show(f"weights of {name}", only((name,)))
    show("vectors", vectors=only(VECTORS))
    for name in VECTORS:
        show(f"vectors {name}", vectors=only((name,)))
    for layer in layers[:5]:
        show(f"vectors x and z of layer {layer}", vectors=only(("x", "z"), layers=range(layer, layer + 1)))
    show(f"vectors x and z of layers 5 to {layers[-1]}", vectors=only(("x", "z"), layers=range(5, len(layers))))
    for bits in (9, 10, 12, 16):
        show(f"vectors of {bits} bits", vectors=only(VECTORS, bits))
    show("weights; vectors but the first layer's x", only(WEIGHTS), engine(0, 8))
    for fine in (0, 1, 2, 3):
        show(f"the same, 16 bits in the head and {fine} layers", only(WEIGHTS), engine(fine))
    show("the same, 16 bits everywhere", only(WEIGHTS), engine(99))


if __name__ == "__main__":
    main(*sys.argv[1:])
