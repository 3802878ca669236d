"""WaveNet sampling by a cached `lax.scan`: each layer's past inputs lie in ring buffers that are updated in place.

XLA copies the whole state in every step if the step reads and writes it in many places. Two layouts avoid that:

- "flat": one ring buffer for all layers. One gather reads everything before the first product of a step, one scatter
  writes everything after the last.
- "layers": a ring buffer per layer, read and written separately. For short buffers, copies cost less than a gather.

`layout_for` chooses. Every engine has the interface `start(shape, weights, batch)` and `sample(shape, weights, state,
cond, hop, noise)` of kernels/wavenet/reference.py and must equal it. A program is compiled per shape of `cond` and
`noise`: decoding/wavenet/stream.py calls it with chunks of one size, whatever the utterance's length.
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
from speech_jax.models.config import WaveNetConfig
from speech_jax.models.wavenet import layer_condition

Layout = Literal["flat", "layers"]
FLAT_FROM = 400_000  # bytes of ring buffers of all rows from which the flat layout is faster (see `layout_for`)


# ---- Weights of an engine


def step_weights(config: WaveNetConfig, params: PyTree) -> tuple[StepShape, StepWeights]:
    """Return the engines' shape and weights of a network: stacked over layers, with the skip factor folded in."""
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


def stack_layer_conditions(
    config: WaveNetConfig, params: PyTree, vectors: Float[Array, "batch rows channels"], speaker: Array | None = None
) -> Float[Array, "batch rows layers gate"]:
    """Return the engines' `cond`: each layer's conditioning, with its bias and the speaker's contribution.

    Args:
        config: the network.
        params: its parameters.
        vectors: output of the conditioning network.
        speaker: int [batch] for a network with several speakers, else None.
    """
    return jnp.stack([layer_condition(config, params, n, vectors, speaker) for n in range(config.layers)], axis=2)


# ---- Engine


class FlatRings(NamedTuple):
    """One ring buffer for all layers.

    Attributes:
        values: [slots, batch, residual], the layers one after the other.
        time: number of samples drawn so far.
    """

    values: Array
    time: Int[Array, ""]


class LayerRings(NamedTuple):
    """A ring buffer per layer.

    Attributes:
        values: per layer [(kernel - 1) · dilation, batch, residual].
        time: number of samples drawn so far.
    """

    values: tuple[Array, ...]
    time: Int[Array, ""]


def layout_for(shape: StepShape, weights: StepWeights, batch: int) -> Layout:
    """Return the faster layout: "flat" from 400 kB of ring buffers on.

    From that size XLA used to copy separate buffers in every step: "flat" drew 1.42 times as many samples per second at
    524 kB (`medium`, one row) and as many at 32 kB (`small`). On CPUs XLA no longer copies, and "layers" draws 1.0 to
    1.15 times as many at every size (experiments/benchmarks/wavenet_layouts.txt); on a TPU or GPU neither has been
    timed.
    """
    _, kernel, residual, _ = weights.taps.shape
    return "flat" if (kernel - 1) * sum(shape.dilations) * residual * 4 * batch >= FLAT_FROM else "layers"


def start(shape: StepShape, weights: StepWeights, batch: int, layout: Layout | None = None) -> StepState:
    """Return the state before the first sample.

    Args:
        shape: static sizes of the network.
        weights: its weights.
        batch: rows that are sampled at once.
        layout: layout of the ring buffers; None for that of `layout_for`.
    """
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
    """Draw rows · hop samples per batch row.

    Args:
        shape: static sizes of the network.
        weights: its weights.
        state: as `start` or an earlier call returned it.
        cond: conditioning, as `stack_layer_conditions` returns it.
        hop: samples per row of conditioning.
        noise: random numbers per sample, with time = rows · hop.

    Returns:
        Samples [batch, time], float32 in [-1, 1], for "mulaw" int32 classes; and the state after them.
    """
    step = _flat_step if isinstance(state.history, FlatRings) else _layers_step
    merged = _merge(weights)
    batch, rows = cond.shape[:2]
    noise = jnp.moveaxis(noise, 1, 0).reshape(rows, hop, batch, -1)

    def draw_sample(row: Array, state: StepState, sample_noise: Array) -> tuple[StepState, Array]:
        y, history = step(shape, weights, merged, state, row)
        drawn = draw(shape, y, sample_noise)
        return StepState(history, drawn), drawn

    def draw_row(state: StepState, inputs: tuple[Array, Array]) -> tuple[StepState, Array]:
        row, row_noise = inputs
        if hop == 1:
            state, drawn = draw_sample(row, state, row_noise[0])
            return state, drawn[None]
        return jax.lax.scan(partial(draw_sample, row), state, row_noise)

    state, samples = jax.lax.scan(draw_row, state, (jnp.transpose(cond, (1, 2, 0, 3)), noise))
    return jnp.moveaxis(samples.reshape(rows * hop, batch), 0, 1), state


class _Merged(NamedTuple):
    """Weights of products that share a factor, merged: on a CPU each small product has a fixed cost."""

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
    shape: StepShape, merged: _Merged, layer: int, *, taps: Array, time: Array, cond: Array, skips: Array | float
) -> tuple[Array, Array]:
    """Return (input of the next layer, sum of skips so far); taps are concatenated, the current value last."""
    z = gate(taps @ merged.taps[layer] + cond)
    outputs = z @ merged.outs[layer]
    residual = merged.out_bias[layer].shape[-1]
    x = _current(taps, residual, time)
    return (x + outputs[:, :residual] + merged.out_bias[layer]) * shape.residual_scale, skips + outputs[:, residual:]


def _current(taps: Float[Array, "*rows taps_residual"], residual: int, time: Array) -> Float[Array, "*rows residual"]:
    """Return the last of the concatenated taps.

    On a CPU this slices at an offset that is dynamic to XLA (time is never negative). With a static offset XLA would
    recompute the values at every use, from the products of all layers before, and a step would grow with the square of
    the number of layers; an `optimization_barrier` is removed before that pass. This is up to 1.4 times as fast
    (experiments/benchmarks/wavenet.txt). A TPU would take 1.2 times as long, by the roofline model.
    """
    begin = taps.shape[-1] - residual

    def slice_dynamic(taps: Array, time: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(taps, begin + jnp.minimum(time, 0), residual, axis=-1)

    return jax.lax.platform_dependent(taps, time, cpu=slice_dynamic, default=lambda taps, _: taps[..., begin:])


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
        taps = jnp.concatenate([*earlier, x], axis=-1)
        current = _current(taps, x.shape[-1], time)
        new.append(jax.lax.dynamic_update_index_in_dim(rings[layer], current, slots[0], axis=0))
        x, skips = _layer(shape, merged, layer, taps=taps, time=time, cond=row[layer], skips=skips)
    return head(weights, jnp.asarray(skips)), LayerRings(tuple(new), time + 1)


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
    x, skips, taps = first_layer(shape, weights, state.last), 0.0, []
    for layer in range(len(dilations)):
        taps.append(jnp.concatenate([*(past[layer, m] for m in range(kernel - 1)), x], axis=-1))
        x, skips = _layer(shape, merged, layer, taps=taps[-1], time=time, cond=row[layer], skips=skips)
    # The new value overwrites the oldest one, which has been read.
    inputs = _current(jnp.stack(taps), x.shape[-1], time)
    values = values.at[slots[:, 0]].set(inputs, mode="promise_in_bounds", unique_indices=True)
    return head(weights, jnp.asarray(skips)), FlatRings(values, time + 1)
