"""The plain loop that every other engine must equal, given the same noise: one scan, the histories shifted each step.

It is written to be read, not to be fast; wavenet.py has the engines.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.kernels.wavenet.draw import draw
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights, before_first


def start(shape: StepShape, weights: StepWeights, batch: int) -> StepState:
    """Before the first sample. history: for each layer its last (k - 1) · d inputs, [batch, (k - 1) · d, residual],
    the oldest first; all zero."""
    _, kernel, residual, _ = weights.taps.shape
    history = tuple(jnp.zeros((batch, (kernel - 1) * d, residual), jnp.float32) for d in shape.dilations)
    return StepState(history, before_first(shape, batch))


def first_layer(shape: StepShape, weights: StepWeights, last: Array) -> Float[Array, "batch residual"]:
    """x_0 of the last sample or class."""
    if shape.output == "mulaw":
        return jnp.take(weights.first, last, axis=0) + weights.first_bias[None]
    return last[:, None] * weights.first + weights.first_bias[None]


def head(weights: StepWeights, skips: Float[Array, "batch skip"]) -> Float[Array, "batch outputs"]:
    """The outputs, of the skips' sum without its bias."""
    hidden = jax.nn.relu(jax.nn.relu(skips + weights.skip_bias[None]) @ weights.head1 + weights.head1_bias[None])
    return hidden @ weights.head2 + weights.head2_bias[None]


def gate(a: Float[Array, "... gate"]) -> Float[Array, "... half_gate"]:
    """tanh of the first half times sigmoid of the second."""
    left, right = jnp.split(a, 2, axis=-1)
    return jnp.tanh(left) * jax.nn.sigmoid(right)


def step(
    shape: StepShape, weights: StepWeights, state: StepState, cond: Float[Array, "batch layers gate"]
) -> tuple[Float[Array, "batch outputs"], tuple[Array, ...]]:
    """(the outputs for the next sample, the new histories), given the state after the sample before."""
    kernel = weights.taps.shape[1]
    x = first_layer(shape, weights, state.last)
    skips = jnp.zeros((x.shape[0], weights.skip.shape[-1]), jnp.float32)
    histories = []
    for layer, dilation in enumerate(shape.dilations):
        past = jnp.concatenate([state.history[layer], x[:, None]], axis=1)
        seen = [past[:, j * dilation] for j in range(kernel)]
        a = sum(value @ weights.taps[layer, j] for j, value in enumerate(seen)) + cond[:, layer]
        z = gate(a)
        skips += z @ weights.skip[layer]
        x = (x + z @ weights.out[layer] + weights.out_bias[layer][None]) * shape.residual_scale
        histories.append(past[:, 1:])
    return head(weights, skips), tuple(histories)


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

    def one(state: StepState, now: tuple[Array, Array]) -> tuple[StepState, Array]:
        number, noise_now = now
        row = jax.lax.dynamic_index_in_dim(cond, number // hop, axis=1, keepdims=False)
        y, history = step(shape, weights, state, row)
        drawn = draw(shape, y, noise_now)
        return StepState(history, drawn), drawn

    state, made = jax.lax.scan(one, state, (jnp.arange(noise.shape[1]), jnp.moveaxis(noise, 1, 0)))
    return jnp.moveaxis(made, 0, 1), state


@partial(jax.jit, static_argnums=(0, 4))
def follow(
    shape: StepShape,
    weights: StepWeights,
    state: StepState,
    cond: Float[Array, "batch rows layers gate"],
    hop: int,
    given: Array,
) -> tuple[Float[Array, "batch time outputs"], StepState]:
    """The outputs at each step where `given` [batch, time] (samples or classes) is what was drawn: by these the
    likelihood of a waveform is computed step by step."""

    def one(state: StepState, now: tuple[Array, Array]) -> tuple[StepState, Array]:
        number, drawn = now
        row = jax.lax.dynamic_index_in_dim(cond, number // hop, axis=1, keepdims=False)
        y, history = step(shape, weights, state, row)
        return StepState(history, drawn), y

    state, outputs = jax.lax.scan(one, state, (jnp.arange(given.shape[1]), jnp.moveaxis(given, 1, 0)))
    return jnp.moveaxis(outputs, 0, 1), state
