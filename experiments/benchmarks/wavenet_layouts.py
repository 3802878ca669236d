"""Where the scan keeps what a WaveNet's layers have seen: one flat ring against a ring for each layer, side by side.

    python experiments/benchmarks/wavenet_layouts.py [--presets small medium base] [--batch 1 16] [--steps 512]

Prints samples a second of all rows together, the ratio, and what compiling took. Random weights. The smallest of
several rounds, the two layouts in turn, so that other load on the machine meets both.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp

from speech_jax.decoding.wavenet import layout_for, sample, start, step_weights
from speech_jax.decoding.wavenet_draw import make_noise
from speech_jax.models import wavenet as presets

HOP = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=["small", "medium", "base"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    print(
        f"{'preset':8} {'batch':>5} {'rings kB':>9} {'flat/s':>9} {'layers/s':>9} {'ratio':>6} {'chosen':>7} compile s"
    )
    for name in options.presets:
        config = getattr(presets, name)()
        shape, weights = step_weights(config, presets.init_params(config, jax.random.key(0)))
        for batch in options.batch:
            cond = 0.1 * jax.random.normal(jax.random.key(1), (batch, options.steps // HOP, config.layers, config.gate))
            seeds = jnp.zeros((batch, 2), jnp.uint32)
            noise = make_noise(shape, seeds, jnp.zeros(batch, jnp.int32), options.steps)
            best, compiling = {}, {}
            programs = {}
            for layout in ("flat", "layers"):
                state = start(shape, weights, batch, layout)
                began = time.perf_counter()
                compiled = sample.lower(shape, weights, state, cond, HOP, noise).compile()
                compiling[layout] = time.perf_counter() - began
                programs[layout] = (compiled, state)
            for _ in range(options.rounds):
                for layout, (compiled, state) in programs.items():
                    began = time.perf_counter()
                    jax.block_until_ready(compiled(weights, state, cond, noise))
                    best[layout] = min(best.get(layout, 1e9), time.perf_counter() - began)
            rate = {layout: batch * options.steps / seconds for layout, seconds in best.items()}
            rings = (config.receptive_field - 1) * config.residual * 4 * batch / 1e3
            print(
                f"{name:8} {batch:5} {rings:9.0f} {rate['flat']:9.0f} {rate['layers']:9.0f} "
                f"{rate['flat'] / rate['layers']:6.2f} {layout_for(shape, weights, batch):>7} "
                f"{compiling['flat']:.1f} {compiling['layers']:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
