"""Layouts of the scan's history of a WaveNet's layers: one flat ring against one ring per layer.

    python experiments/benchmarks/wavenet_layouts.py [--presets small medium base] [--batch 1 16] [--steps 512]

Prints samples of all rows together a second of this process's CPU time, which other load on the machine disturbs less
than the clock's, their ratio, samples a second by the clock, and CPU seconds of compiling. Random weights. The best of
several rounds, the two layouts in turn.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp

from speech_jax.decoding.wavenet.scan import layout_for, sample, start, step_weights
from speech_jax.kernels.wavenet.draw import make_noise
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
        "preset batch rings_kB flat/s layers/s ratio chosen clock:flat/s clock:layers/s compiling:flat compiling:layers"
    )
    for name in options.presets:
        config = getattr(presets, name)()
        shape, weights = step_weights(config, presets.init_params(config, jax.random.key(0)))
        for batch in options.batch:
            cond = 0.1 * jax.random.normal(jax.random.key(1), (batch, options.steps // HOP, config.layers, config.gate))
            seeds = jnp.zeros((batch, 2), jnp.uint32)
            noise = make_noise(shape, seeds, jnp.zeros(batch, jnp.int32), options.steps)
            best, clock, compiling = {}, {}, {}
            programs = {}
            for layout in ("flat", "layers"):
                state = start(shape, weights, batch, layout)
                began = time.process_time()
                compiled = sample.lower(shape, weights, state, cond, HOP, noise).compile()
                compiling[layout] = time.process_time() - began
                programs[layout] = (compiled, state)
            for _ in range(options.rounds):
                for layout, (compiled, state) in programs.items():
                    began, spent = time.perf_counter(), time.process_time()
                    jax.block_until_ready(compiled(weights, state, cond, noise))
                    best[layout] = min(best.get(layout, 1e9), time.process_time() - spent)
                    clock[layout] = min(clock.get(layout, 1e9), time.perf_counter() - began)
            rate, by_clock = ({k: batch * options.steps / s for k, s in times.items()} for times in (best, clock))
            rings = (config.receptive_field - 1) * config.residual * 4 * batch / 1e3
            chosen, both = layout_for(shape, weights, batch), ("flat", "layers")
            numbers = [f"{rate[k]:.0f}" for k in both] + [f"{rate['flat'] / rate['layers']:.2f}", chosen]
            numbers += [f"{by_clock[k]:.0f}" for k in both] + [f"{compiling[k]:.1f}" for k in both]
            print(name, batch, f"{rings:.0f}", *numbers, flush=True)


if __name__ == "__main__":
    main()
