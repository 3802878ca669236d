"""How a WaveNet's dilated causal convolutions are best computed, forward and backward: four ways, side by side.

    python experiments/benchmarks/wavenet_training.py [--samples 2048] [--rounds 4]

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

from speech_jax.models.wavenet import causal_conv

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(0.05 * rng.normal(size=shape), jnp.float32)

    for layers, width, kernel, dilations in STACKS:
        params = {"taps": random(layers, kernel, width, 2 * width), "skip": random(layers, width, width),
                  "out": random(layers, width, width)}  # fmt: skip
        x = random(1, options.samples, width)
        ways, best, compiling = {}, {}, {}
        for name, conv in (("conv", causal_conv), ("taps", taps), ("beside", beside), ("after", after)):
            began = time.perf_counter()
            gradient = jax.jit(jax.value_and_grad(partial(loss, conv, dilations=dilations)))
            ways[name] = gradient.lower(params, x).compile()
            compiling[name] = time.perf_counter() - began
        for _ in range(options.rounds):
            for name, compiled in ways.items():
                began = time.perf_counter()
                jax.block_until_ready(compiled(params, x))
                best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
        print(f"{layers} layers of {width}, kernel {kernel}: ", end="")
        print(", ".join(f"{name} {best[name]:.3f} s (compiled in {compiling[name]:.1f})" for name in ways), flush=True)


if __name__ == "__main__":
    main()
