"""Sampling from a WaveNet by a cached `lax.scan`: what each layer has seen lies in rings that the loop writes in place.

XLA copies a state that is read and written in many places of a step, all of it and every step. Two layouts avoid that:

- "flat": one ring for all layers. One gather takes all that the step needs before its first product, one scatter
  writes all that it saw after its last.
- "layers": a ring for each layer, read and written by itself. Where rings are short, copies cost less than a gather.

`layout_for` chooses. Engines have one shape: `start(shape, weights, batch)` and `sample(shape, weights, state, cond,
hop, noise)`, as in wavenet_plain.py, which all of them must equal. A program is compiled for the shapes of `cond` and
`noise` alone: wavenet_stream.py calls it again and again with chunks of one size, whatever the utterance's length.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from speech_jax.core.types import PyTree
from speech_jax.kernels.wavenet.draw import draw
from speech_jax.kernels.wavenet.reference import first_layer, gate, head
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights, before_first
from speech_jax.models.wavenet import WaveNetConfig, layer_condition

Layout = Literal["flat", "layers"]
FLAT_FROM = 400_000  # bytes of all rings of all rows from which the flat layout is faster (measured, see `layout_for`)


# ---- a network as an engine's weights


def step_weights(config: WaveNetConfig, params: PyTree) -> tuple[StepShape, StepWeights]:
    """What engines take of a network's parameters: stacked over the layers, the skips' factor folded in."""
    layers = [params[f"layers_{layer}"] for layer in range(config.layers)]

    def stacked(name: str) -> Array:
        return jnp.stack([jnp.asarray(layer[name], jnp.float32) for layer in layers])

    weights = StepWeights(
        first=params["first"]["kernel"],
        first_bias=params["first"]["bias"],
        taps=stacked("taps"),
        out=stacked("out"),
        out_bias=stacked("out_bias"),
        skip=stacked("skip") * config.skip_factor,
        skip_bias=params["skip_bias"],
        head1=params["head1"]["kernel"],
        head1_bias=params["head1"]["bias"],
        head2=params["head2"]["kernel"],
        head2_bias=params["head2"]["bias"],
    )
    shape = StepShape(
        config.dilations, config.output, config.residual_scale, config.mixtures, config.classes, config.min_log_scale
    )
    return shape, StepWeights(*(jnp.asarray(a, jnp.float32) for a in weights))


def layers_condition(
    config: WaveNetConfig, params: PyTree, vectors: Float[Array, "batch rows channels"], speaker: Array | None = None
) -> Float[Array, "batch rows layers gate"]:
    """`cond` of the engines: what each layer adds to its convolution, with the gates' biases and the speaker's part."""
    return jnp.stack([layer_condition(config, params, n, vectors, speaker) for n in range(config.layers)], axis=2)


# ---- the engine


class FlatRings(NamedTuple):
    """values [slots, batch, residual]: the rings of all layers, one after the other; time: samples made so far."""

    values: Array
    time: Int[Array, ""]


class LayerRings(NamedTuple):
    """values: for each layer [(k - 1) · d, batch, residual]; time: samples made so far."""

    values: tuple[Array, ...]
    time: Int[Array, ""]


def layout_for(shape: StepShape, weights: StepWeights, batch: int) -> Layout:
    """Flat from 400 kB of rings on, where XLA once copied the others each step: it made 1.42 times as many samples a
    second at 524 kB (`medium`, one row), as many at 32 kB (`small`). On CPUs it no longer does, and rings of their own
    make 1.0 to 1.15 times as many at every size (experiments/benchmarks/wavenet_layouts.txt); on a TPU or GPU neither
    has been timed."""
    _, kernel, residual, _ = weights.taps.shape
    return "flat" if (kernel - 1) * sum(shape.dilations) * residual * 4 * batch >= FLAT_FROM else "layers"


def start(shape: StepShape, weights: StepWeights, batch: int, layout: Layout | None = None) -> StepState:
    """Before the first sample. layout: `layout_for`'s choice where none is given."""
    _, kernel, residual, _ = weights.taps.shape
    zero = jnp.zeros((), jnp.int32)
    lengths = [(kernel - 1) * d for d in shape.dilations]
    if (layout or layout_for(shape, weights, batch)) == "flat":
        history = FlatRings(jnp.zeros((sum(lengths), batch, residual), jnp.float32), zero)
    else:
        history = LayerRings(tuple(jnp.zeros((n, batch, residual), jnp.float32) for n in lengths), zero)
    return StepState(history, before_first(shape, batch))


@partial(jax.jit, static_argnums=(0, 4))
def sample(
    shape: StepShape,
    weights: StepWeights,
    state: StepState,
    cond: Float[Array, "batch rows layers gate"],
    hop: int,
    noise: Float[Array, "batch time n"],
) -> tuple[Array, StepState]:
    """(float32 [batch, time] in [-1, 1], for "mulaw" the classes, int32; the state after it). time = rows · hop."""
    step = _flat_step if isinstance(state.history, FlatRings) else _layers_step
    merged = _merge(weights)
    batch, rows = cond.shape[:2]
    noise = jnp.moveaxis(noise, 1, 0).reshape(rows, hop, batch, -1)

    def one(row: Array, state: StepState, noise_now: Array) -> tuple[StepState, Array]:
        y, history = step(shape, weights, merged, state, row)
        drawn = draw(shape, y, noise_now)
        return StepState(history, drawn), drawn

    def one_row(state: StepState, now: tuple[Array, Array]) -> tuple[StepState, Array]:
        row, noise_of_row = now
        if hop == 1:
            state, drawn = one(row, state, noise_of_row[0])
            return state, drawn[None]
        return jax.lax.scan(partial(one, row), state, noise_of_row)

    state, made = jax.lax.scan(one_row, state, (jnp.transpose(cond, (1, 2, 0, 3)), noise))
    return jnp.moveaxis(made.reshape(rows * hop, batch), 0, 1), state


class _Merged(NamedTuple):
    """Products that share a factor, as one: a step on a CPU is a row of small products, each with a fixed cost."""

    taps: tuple[Array, ...]  # [k · residual, gate] of each layer
    outs: tuple[Array, ...]  # [half gate, residual + skip], the residual's scale folded in
    out_bias: tuple[Array, ...]


def _merge(weights: StepWeights) -> _Merged:
    layers = range(weights.taps.shape[0])
    return _Merged(
        tuple(weights.taps[n].reshape(-1, weights.taps.shape[-1]) for n in layers),
        tuple(jnp.concatenate([weights.out[n], weights.skip[n]], axis=-1) for n in layers),
        tuple(weights.out_bias[n][None] for n in layers),
    )


def _layer(
    shape: StepShape, merged: _Merged, layer: int, seen: Array, time: Array, added: Array, skips: Array | float
) -> tuple[Array, Array]:
    """(what goes to the next layer, the skips so far). seen: the layer's taps side by side, the current value last."""
    z = gate(seen @ merged.taps[layer] + added)
    made = z @ merged.outs[layer]
    residual = merged.out_bias[layer].shape[-1]
    x = _current(seen, residual, time)
    return (x + made[:, :residual] + merged.out_bias[layer]) * shape.residual_scale, skips + made[:, residual:]


def _current(seen: Float[Array, "*rows taps_residual"], residual: int, time: Array) -> Float[Array, "*rows residual"]:
    """The last of the taps that lie side by side.

    On a CPU a slice at a place that XLA does not know (time is never negative). With one that it knows it would compute
    the values wherever they are used, from the products of all layers before, so that a step grew with the square of
    the layers; an `optimization_barrier` is taken out before that. It is up to 1.4 times as fast so
    (experiments/benchmarks/wavenet.txt). A TPU would take 1.2 times as long, by the roofline model.
    """
    begin = seen.shape[-1] - residual

    def at_unknown_place(seen: Array, time: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(seen, begin + jnp.minimum(time, 0), residual, axis=-1)

    return jax.lax.platform_dependent(seen, time, cpu=at_unknown_place, default=lambda seen, _: seen[..., begin:])


def _layers_step(
    shape: StepShape, weights: StepWeights, merged: _Merged, state: StepState, row: Float[Array, "layers batch gate"]
) -> tuple[Array, LayerRings]:
    rings, time = state.history
    kernel = weights.taps.shape[1]
    x, skips, new = first_layer(shape, weights, state.last), 0.0, []
    for layer, dilation in enumerate(shape.dilations):
        length = (kernel - 1) * dilation
        slots = [(time - m * dilation) % length for m in range(kernel - 1, 0, -1)]  # the oldest first
        earlier = [jax.lax.dynamic_index_in_dim(rings[layer], slot, keepdims=False) for slot in slots]
        seen = jnp.concatenate([*earlier, x], axis=-1)
        now = _current(seen, x.shape[-1], time)
        new.append(jax.lax.dynamic_update_index_in_dim(rings[layer], now, slots[0], axis=0))
        x, skips = _layer(shape, merged, layer, seen, time, row[layer], skips)
    return head(weights, skips), LayerRings(tuple(new), time + 1)


def _flat_step(
    shape: StepShape, weights: StepWeights, merged: _Merged, state: StepState, row: Float[Array, "layers batch gate"]
) -> tuple[Array, FlatRings]:
    values, time = state.history
    kernel = weights.taps.shape[1]
    dilations = np.array(shape.dilations)
    lengths = (kernel - 1) * dilations
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    back = np.arange(kernel - 1, 0, -1)[None] * dilations[:, None]  # [layers, k - 1], the oldest first
    slots = jnp.asarray(begins[:, None]) + (time - jnp.asarray(back)) % jnp.asarray(lengths[:, None])
    past = values.at[slots.reshape(-1)].get(mode="promise_in_bounds", unique_indices=True)
    past = past.reshape(len(dilations), kernel - 1, *values.shape[1:])
    x, skips, seen = first_layer(shape, weights, state.last), 0.0, []
    for layer in range(len(dilations)):
        seen.append(jnp.concatenate([*(past[layer, m] for m in range(kernel - 1)), x], axis=-1))
        x, skips = _layer(shape, merged, layer, seen[-1], time, row[layer], skips)
    # the oldest value has been read, and the new one takes its place
    inputs = _current(jnp.stack(seen), x.shape[-1], time)
    values = values.at[slots[:, 0]].set(inputs, mode="promise_in_bounds", unique_indices=True)
    return head(weights, skips), FlatRings(values, time + 1)
