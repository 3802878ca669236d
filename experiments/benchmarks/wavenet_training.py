"""Ways to compute a WaveNet's training step on a CPU, forward and backward, compared.

    python experiments/benchmarks/wavenet_training.py [--samples 2048] [--rounds 5]

First the whole network (`models.wavenet.stack`) of three presets with `prevent_recomputation` and without it: seconds
of a loss and its gradients, and the median and the range of the ratios. Then its dilated causal convolutions in four
ways.

"conv" is XLA's dilated convolution; "taps" one product a tap of shifted slices; "beside" one product of the slices side
by side; "after" one product for all taps, whose results are shifted. Two small stacks: 64 channels with kernel 2 and
128 with kernel 3. Prints seconds (the best round, the four in turn) and what compiling took.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.models import wavenet
from speech_jax.models.wavenet import causal_conv

PRESETS = ("small", "medium", "base")
STACKS = ((4, 64, 2, (4, 8, 16, 32)), (3, 128, 3, (1, 4, 16)))  # layers, channels, kernel, dilations


def shifted(x, by: int):
    return jnp.pad(x, ((0, 0), (by, 0), (0, 0)))[:, : x.shape[1]]


def taps(x, w, dilation):
    return sum(shifted(x, (len(w) - 1 - j) * dilation) @ w[j] for j in range(len(w)))


def beside(x, w, dilation):
    slices = [shifted(x, (len(w) - 1 - j) * dilation) for j in range(len(w))]
    return jnp.concatenate(slices, axis=-1) @ w.reshape(-1, w.shape[-1])


def after(x, w, dilation):
    kernel, inputs, outputs = w.shape
    made = x @ jnp.moveaxis(w, 0, 1).reshape(inputs, kernel * outputs)
    parts = jnp.split(made, kernel, axis=-1)
    return sum(shifted(part, (kernel - 1 - j) * dilation) for j, part in enumerate(parts))


def loss(conv, params, x, dilations):
    skips = 0.0
    for layer, dilation in enumerate(dilations):
        left, right = jnp.split(conv(x, params["taps"][layer], dilation), 2, axis=-1)
        z = jnp.tanh(left) * jax.nn.sigmoid(right)
        skips += z @ params["skip"][layer]
        x = (x + z @ params["out"][layer]) * 0.7
    return jnp.mean(skips**2)


def in_turns(ways: dict, rounds: int, *args) -> dict:
    """{way: seconds of each round}; the first round is not counted."""
    spent = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, compiled in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled(*args))
            spent[name].append(time.perf_counter() - began)
    return {name: np.array(times[1:]) for name, times in spent.items()}


def whole(preset: str, samples: int, rounds: int) -> None:
    config = getattr(wavenet, preset)()
    rng = np.random.default_rng(1)
    params = wavenet.init_params(config, jax.random.key(0))
    before = jnp.asarray(0.1 * rng.normal(size=(2, samples)), jnp.float32)
    vectors = jnp.asarray(rng.normal(size=(2, samples // config.hop, config.condition.width)), jnp.float32)

    def nats(params, before):
        mean, scale = jnp.moveaxis(wavenet.stack(config, params, before, vectors), -1, 0)
        return jnp.mean(0.5 * jnp.square((before - mean) * jnp.exp(-scale)) + scale)

    ways, once = {}, wavenet.prevent_recomputation
    for name, function in (("as it is", once), ("without", lambda x, zero: x)):
        wavenet.prevent_recomputation = function
        ways[name] = jax.jit(lambda *given: jax.value_and_grad(nats)(*given)).lower(params, before).compile()
    wavenet.prevent_recomputation = once
    spent = in_turns(ways, rounds, params, before)
    ratios = spent["as it is"] / spent["without"]
    times = ", ".join(f"{name} {np.median(spent[name]):.3f} s" for name in ways)
    print(f"{preset}, 2 x {samples} samples: {times}; ratio {np.median(ratios):.2f} "
          f"({ratios.min():.2f}–{ratios.max():.2f}), {2 * samples / np.median(spent['as it is']):,.0f} samples/s",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for preset in PRESETS:
        whole(preset, options.samples, options.rounds)
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(0.05 * rng.normal(size=shape), jnp.float32)

    for layers, width, kernel, dilations in STACKS:
        params = {"taps": random(layers, kernel, width, 2 * width), "skip": random(layers, width, width),
                  "out": random(layers, width, width)}  # fmt: skip
        x = random(1, options.samples, width)
        ways, compiling = {}, {}
        for name, conv in (("conv", causal_conv), ("taps", taps), ("beside", beside), ("after", after)):
            began = time.perf_counter()
            gradient = jax.jit(jax.value_and_grad(partial(loss, conv, dilations=dilations)))
            ways[name] = gradient.lower(params, x).compile()
            compiling[name] = time.perf_counter() - began
        spent = in_turns(ways, options.rounds, params, x)
        print(f"{layers} layers of {width}, kernel {kernel}: ", end="")
        print(
            ", ".join(f"{name} {min(spent[name]):.3f} s (compiled in {compiling[name]:.1f})" for name in ways),
            flush=True,
        )


if __name__ == "__main__":
    main()
