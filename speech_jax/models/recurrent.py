"""LSTMs with a minimal loop over time, in the forward and the backward pass.

The inputs' part of the gates is computed for all steps before the loop; the loop multiplies by one matrix only. The
gradient of that matrix is a sum of outer products, which a plain scan would accumulate in memory at every step (25 MB
read and written per frame of Tacotron 2); here it is one product over all steps after the loop: see `scan_product`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from speech_jax.core.hashing import hash_bits
from speech_jax.models.layers import uniform_fan_in

PyTree = Any
State = tuple[Array, ...]  # h and c


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_product(
    body: Callable, matrix: Float[Array, "... inputs outputs"], consts: PyTree, carry: PyTree, xs: PyTree
) -> tuple[PyTree, PyTree]:
    """Run `lax.scan` over a body that multiplies by one matrix, whose gradient is computed after the loop.

    The derivative is that of the plain scan, in another order of summation.

    Args:
        body: (multiply, consts, carry, x) -> (carry, y). It must call `multiply(left [batch, inputs])` exactly once,
            which returns left @ matrix + x["added"], and must not use x["added"] otherwise.
        matrix: the matrix. It, left and x["added"] may have the same leading axes (for directions).
        consts: values that the body needs at every step.
        carry: initial carry.
        xs: inputs of the steps, time first; xs["added"] is [time, batch, outputs].

    Returns:
        (last carry, ys).
    """
    carry, (ys, _) = _scan(body, matrix, consts, carry, xs)
    return carry, ys


def _scan(body: Callable, matrix: Array, consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, tuple]:
    def step(carry: PyTree, x: PyTree) -> tuple[PyTree, tuple[PyTree, Array]]:
        lefts = []

        def multiply(left: Array) -> Array:
            lefts.append(left)
            return left @ matrix + x["added"]

        carry, y = body(multiply, consts, carry, x)
        (left,) = lefts
        return carry, (y, left)

    return lax.scan(step, carry, xs)


def _forward(body: Callable, matrix: Array, consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    def run(consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, Array]:
        carry, (ys, left) = _scan(body, matrix, consts, carry, xs)
        return (carry, ys), left

    out, pull, left = jax.vjp(run, consts, carry, xs, has_aux=True)
    return out, (pull, left)


def _backward(body: Callable, residuals: PyTree, cotangent: PyTree) -> tuple[Array, PyTree, PyTree, PyTree]:
    pull, left = residuals
    consts, carry, xs = pull(cotangent)
    # At every step the gradient of left @ matrix + added is that of `added`.
    matrix = jnp.einsum("t...bi,t...bo->...io", left, xs["added"])
    return matrix, consts, carry, xs


scan_product.defvjp(_forward, _backward)


def lstm_gates(
    gates: Float[Array, "*batch gates"], c: Float[Array, "*batch d"]
) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]:
    """Return (h, c) after one step; gates are in torch's order: input, forget, cell, output."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_gates(
    x: Float[Array, "*batch gates"], recurrent: Float[Array, "*batch gates"], h: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    """Return h after one step of a GRU.

    Args:
        x: the input's part of the gates, in torch's order: reset, update, new.
        recurrent: the recurrent part of the gates; the reset gate multiplies that of `new`, bias included.
        h: state before the step.
    """
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (jnp.split(a, 3, axis=-1) for a in (x, recurrent))
    update = jax.nn.sigmoid(update_x + update_h)
    new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
    return (1.0 - update) * new + update * h


class Regularizer(NamedTuple):
    """Regularization of an LSTM's state.

    Attributes:
        kind: "zoneout" (Krueger et al. 2017) keeps single values of h and c from the previous step; "dropout" sets
            values of h to zero, as in NVIDIA's Tacotron 2.
        rate: probability; 0 for no regularization.
    """

    kind: str = "zoneout"
    rate: float = 0.0

    def __call__(
        self, new: State, old: State, seeds: UInt32[Array, "batch 2"] | None, step: Array, stream: int
    ) -> State:
        """Return the regularized (h, c) after a step.

        Args:
            new: (h, c) after the step.
            old: (h, c) before the step.
            seeds: seeds of the utterances; None in evaluation, where zoneout is the expectation.
            step: number of the step.
            stream: number of the random stream, see `keep_at`.
        """
        if self.rate == 0.0:
            return new
        h, c = new
        if self.kind == "dropout":
            if seeds is None:
                return new
            return jnp.where(keep_at(seeds, step, h.shape[-1], self.rate, stream), h / (1 - self.rate), 0.0), c
        if seeds is None:
            return tuple(self.rate * o + (1 - self.rate) * n for n, o in zip(new, old, strict=True))
        keeps = (keep_at(seeds, step, h.shape[-1], self.rate, 2 * stream + i) for i in range(2))
        return tuple(jnp.where(keep, n, o) for keep, n, o in zip(keeps, new, old, strict=True))


UNREGULARIZED = Regularizer()


def lstm_init(key: Array, inputs: int, width: int, directions: int = 1) -> dict[str, Array]:
    """Return the parameters of an LSTM with torch's initial values.

    Args:
        key: random key.
        inputs: channels of the input.
        width: channels of each direction.
        directions: 1, or 2 for a bidirectional LSTM.

    Returns:
        {"input_kernel": [directions, inputs, 4 · width], "recurrent_kernel": [directions, width, 4 · width], "bias":
        [directions, 4 · width] (the sum of torch's two)}.
    """
    init, keys = uniform_fan_in(width), jax.random.split(key, 4)
    shape = (directions, 4 * width)
    return {
        "input_kernel": init(keys[0], (directions, inputs, 4 * width)),
        "recurrent_kernel": init(keys[1], (directions, width, 4 * width)),
        "bias": init(keys[2], shape) + init(keys[3], shape),
    }


def lstm(
    params: dict[str, Array],
    x: Float[Array, "batch time inputs"],
    mask: Bool[Array, "batch time"],
    *,
    regularizer: Regularizer = UNREGULARIZED,
    seeds: UInt32[Array, "batch 2"] | None = None,
    stream: int = 0,
) -> Float[Array, "batch time width"]:
    """Run an LSTM over valid frames, in one direction or both.

    Padding does not change the state, so that in reverse an utterance starts at its last valid frame.

    Args:
        params: from `lstm_init`.
        x: input.
        mask: True on valid frames.
        regularizer: zoneout or dropout of the state.
        seeds: seeds of the utterances, from `seeds_of`; None in evaluation.
        stream: number of the random stream, see `keep_at`.

    Returns:
        h of every frame, both directions concatenated; zero in the padding.
    """
    batch, time, _ = x.shape
    directions, width = params["recurrent_kernel"].shape[:2]
    gates = jnp.einsum("bti,dig->tdbg", x, params["input_kernel"]) + params["bias"][None, :, None]
    live = jnp.broadcast_to(mask.T[:, None], (time, directions, batch))
    number = jnp.broadcast_to(jnp.arange(time)[:, None], (time, directions))

    def in_order(a: Array) -> Array:  # reverse time in the second direction; its own inverse
        return a if directions == 1 else jnp.stack([a[:, 0], a[::-1, 1]], axis=1)

    def body(multiply: Callable, seeds: Array | None, state: State, frame: dict[str, Array]) -> tuple[State, Array]:
        new = lstm_gates(multiply(state[0]), state[1])
        if regularizer.rate:
            states = [
                regularizer(
                    tuple(s[d] for s in new), tuple(s[d] for s in state), seeds, frame["number"][d], stream + 8 * d
                )
                for d in range(directions)
            ]
            new = tuple(jnp.stack(parts) for parts in zip(*states, strict=True))
        live = frame["live"][..., None]
        new = tuple(jnp.where(live, n, o) for n, o in zip(new, state, strict=True))
        return new, jnp.where(live, new[0], 0.0)

    zero = jnp.zeros((directions, batch, width), jnp.float32)
    frames = {"added": in_order(gates), "live": in_order(live), "number": in_order(number)}
    result: Any = scan_product(body, params["recurrent_kernel"], seeds, (zero, zero), frames)
    _, y = result
    return jnp.moveaxis(in_order(y), 2, 0).reshape(batch, time, directions * width)


def keep_at(
    seeds: UInt32[Array, "batch 2"], step: Int[Array, ""] | int, width: int, rate: float, stream: int = 0
) -> Bool[Array, "batch {width}"]:
    """Draw bool [batch, width], True with probability 1 - rate.

    The draw is a pure function of utterance, step, channel and stream, so that it does not depend on the bucket or on
    the other rows of the batch.

    Args:
        seeds: seeds of the utterances, from `seeds_of`.
        step: number of the step.
        width: number of channels.
        rate: probability of False.
        stream: number of the random stream; different uses need different ones.
    """
    index = jnp.asarray(step, jnp.uint32) * jnp.uint32(width) + jnp.arange(width, dtype=jnp.uint32)
    salt = jnp.uint32((stream * 0x9E3779B9) & 0xFFFFFFFF)
    bits = hash_bits(hash_bits(index[None] ^ seeds[:, :1] ^ salt) + seeds[:, 1:])
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def seeds_of(keys: Array) -> UInt32[Array, "batch 2"]:
    """Return the seeds for `keep_at`, from one random key per utterance."""
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
