"""Plain loop that every other engine must equal, given the same noise: one scan that shifts the histories each step.

It is written for clarity, not speed; decoding/wavenet/engines.py chooses between the fast ones.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.kernels.wavenet.draw import draw
from speech_jax.kernels.wavenet.step import StepShape, StepState, StepWeights, before_first


def start(shape: StepShape, weights: StepWeights, batch: int) -> StepState:
    """Return the state before the first sample.

    Its history holds, for each layer, the last (k - 1) · d inputs [batch, (k - 1) · d, residual], the oldest first.
    """
    _, kernel, residual, _ = weights.taps.shape
    history = tuple(jnp.zeros((batch, (kernel - 1) * d, residual), jnp.float32) for d in shape.dilations)
    return StepState(history, before_first(shape, batch))


def first_layer(shape: StepShape, weights: StepWeights, last: Array) -> Float[Array, "batch residual"]:
    """Return x_0, the first layer's input, from the previous sample or class."""
    if shape.output == "mulaw":
        return jnp.take(weights.first, last, axis=0) + weights.first_bias[None]
    return last[:, None] * weights.first + weights.first_bias[None]


def head(weights: StepWeights, skips: Float[Array, "batch skip"]) -> Float[Array, "batch outputs"]:
    """Return the outputs, from the sum of the skips without its bias."""
    hidden = jax.nn.relu(jax.nn.relu(skips + weights.skip_bias[None]) @ weights.head1 + weights.head1_bias[None])
    return hidden @ weights.head2 + weights.head2_bias[None]


def gate(a: Float[Array, "... gate"]) -> Float[Array, "... half_gate"]:
    """Return tanh of the first half times sigmoid of the second."""
    left, right = jnp.split(a, 2, axis=-1)
    return jnp.tanh(left) * jax.nn.sigmoid(right)


def step(
    shape: StepShape, weights: StepWeights, state: StepState, cond: Float[Array, "batch layers gate"]
) -> tuple[Float[Array, "batch outputs"], tuple[Array, ...]]:
    """Return (outputs for the next sample, new histories), given the state after the previous sample."""
    kernel = weights.taps.shape[1]
    x = first_layer(shape, weights, state.last)
    skips = jnp.zeros((x.shape[0], weights.skip.shape[-1]), jnp.float32)
    histories = []
    for layer, dilation in enumerate(shape.dilations):
        past = jnp.concatenate([state.history[layer], x[:, None]], axis=1)
        inputs = [past[:, j * dilation] for j in range(kernel)]
        a = sum(value @ weights.taps[layer, j] for j, value in enumerate(inputs)) + cond[:, layer]
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
    """Sample time = rows · hop samples.

    Args:
        shape: static facts of the network.
        weights: its weights.
        state: from `start`, or the state that the previous call returned.
        cond: conditioning, gate biases included.
        hop: samples per row of conditioning.
        noise: from `draw.make_noise`.

    Returns:
        (samples, state after them). Samples are float32 [batch, time] in [-1, 1], or for "mulaw" int32 classes.
    """

    def sample_one(state: StepState, x: tuple[Array, Array]) -> tuple[StepState, Array]:
        number, sample_noise = x
        row = jax.lax.dynamic_index_in_dim(cond, number // hop, axis=1, keepdims=False)
        y, history = step(shape, weights, state, row)
        drawn = draw(shape, y, sample_noise)
        return StepState(history, drawn), drawn

    state, samples = jax.lax.scan(sample_one, state, (jnp.arange(noise.shape[1]), jnp.moveaxis(noise, 1, 0)))
    return jnp.moveaxis(samples, 0, 1), state


@partial(jax.jit, static_argnums=(0, 4))
def follow(
    shape: StepShape,
    weights: StepWeights,
    state: StepState,
    cond: Float[Array, "batch rows layers gate"],
    hop: int,
    samples: Array,
) -> tuple[Float[Array, "batch time outputs"], StepState]:
    """Return the outputs at each step when the given samples are drawn, for the likelihood of a waveform.

    Args:
        shape: static facts of the network.
        weights: its weights.
        state: from `start`, or the state that the previous call returned.
        cond: conditioning, gate biases included.
        hop: samples per row of conditioning.
        samples: [batch, time] float32 samples, or for "mulaw" int32 classes; time = rows · hop.

    Returns:
        (outputs, state after them).
    """

    def follow_one(state: StepState, x: tuple[Array, Array]) -> tuple[StepState, Array]:
        number, drawn = x
        row = jax.lax.dynamic_index_in_dim(cond, number // hop, axis=1, keepdims=False)
        y, history = step(shape, weights, state, row)
        return StepState(history, drawn), y

    state, outputs = jax.lax.scan(follow_one, state, (jnp.arange(samples.shape[1]), jnp.moveaxis(samples, 1, 0)))
    return jnp.moveaxis(outputs, 0, 1), state
