"""LSTMs whose loop over time holds only what must be in it, forward and backward.

What can be computed for all steps at once (the inputs' half of the gates) is handed in; what the loop multiplies by is
one matrix. Its gradient, a sum of outer products that a plain scan would add up in memory step by step (25 MB read and
written for every frame of Tacotron 2), is one product over all steps after the loop: see `scan_product`.
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
    """lax.scan over a body that multiplies by one matrix, with that matrix's gradient taken after the loop.

    body: (multiply, consts, carry, x) -> (carry, y). It calls `multiply(left [batch, inputs])` exactly once, which
    returns left @ matrix + x["added"]; nothing else may read that leaf of xs, [time, batch, outputs].
    Matrix, left and added may have the same axes in front (a direction). Returns (last carry, ys). The derivative is
    the plain scan's, in another order of summation.
    """
    carry, (ys, _) = _scan(body, matrix, consts, carry, xs)
    return carry, ys


def _scan(body: Callable, matrix: Array, consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, tuple]:
    def step(carry: PyTree, x: PyTree) -> tuple[PyTree, tuple[PyTree, Array]]:
        seen = []

        def multiply(left: Array) -> Array:
            seen.append(left)
            return left @ matrix + x["added"]

        carry, y = body(multiply, consts, carry, x)
        (left,) = seen
        return carry, (y, left)

    return lax.scan(step, carry, xs)


def _forward(body: Callable, matrix: Array, consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    def run(consts: PyTree, carry: PyTree, xs: PyTree) -> tuple[PyTree, Array]:
        carry, (ys, left) = _scan(body, matrix, consts, carry, xs)
        return (carry, ys), left

    out, pull, left = jax.vjp(run, consts, carry, xs, has_aux=True)
    return out, (pull, left)


def _backward(body: Callable, kept: PyTree, cotangent: PyTree) -> tuple[Array, PyTree, PyTree, PyTree]:
    pull, left = kept
    consts, carry, xs = pull(cotangent)
    # d(left @ matrix + added) is what flows into `added`, at every step.
    matrix = jnp.einsum("t...bi,t...bo->...io", left, xs["added"])
    return matrix, consts, carry, xs


scan_product.defvjp(_forward, _backward)


def lstm_gates(
    gates: Float[Array, "batch 4*d"], c: Float[Array, "batch d"]
) -> tuple[Float[Array, "batch d"], Float[Array, "batch d"]]:
    """(h, c) after one step; the gates lie in torch's order: input, forget, cell, output."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_gates(
    x: Float[Array, "*batch 3*d"], recurrent: Float[Array, "*batch 3*d"], h: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    """h after one step; gates in torch's order: reset, update, new. The reset gate acts on the recurrent part of `new`,
    its bias included."""
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (jnp.split(a, 3, axis=-1) for a in (x, recurrent))
    update = jax.nn.sigmoid(update_x + update_h)
    new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
    return (1.0 - update) * new + update * h


class Regularizer(NamedTuple):
    """What is done to an LSTM's state: "zoneout" (Krueger et al. 2017) keeps single values of h and c of the step
    before; "dropout" sets values of h to zero, as NVIDIA's Tacotron 2 does; rate 0 is neither."""

    kind: str = "zoneout"
    rate: float = 0.0

    def __call__(
        self, new: State, old: State, seeds: UInt32[Array, "batch 2"] | None, step: Array, stream: int
    ) -> State:
        """(h, c) after the step. seeds: None is evaluation, where zoneout becomes the mean of the two."""
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


UNHELD = Regularizer()


def lstm_init(key: Array, inputs: int, width: int, directions: int = 1) -> dict[str, Array]:
    """Parameters with torch's initial values: input_kernel [directions, inputs, 4·width], recurrent_kernel
    [directions, width, 4·width], bias [directions, 4·width] (the sum of torch's two)."""
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
    regularizer: Regularizer = UNHELD,
    seeds: UInt32[Array, "batch 2"] | None = None,
    stream: int = 0,
) -> Float[Array, "batch time width"]:
    """An LSTM over valid frames, or two, the second in reverse, whose outputs lie side by side.

    Padding leaves the state alone, so that in reverse an utterance starts at its own last frame; its outputs are zero.
    """
    batch, time, _ = x.shape
    directions, width = params["recurrent_kernel"].shape[:2]
    gates = jnp.einsum("bti,dig->tdbg", x, params["input_kernel"]) + params["bias"][None, :, None]
    live = jnp.broadcast_to(mask.T[:, None], (time, directions, batch))
    number = jnp.broadcast_to(jnp.arange(time)[:, None], (time, directions))

    def turned(a: Array) -> Array:  # the second direction reads from the end; so does a turned result again
        return a if directions == 1 else jnp.stack([a[:, 0], a[::-1, 1]], axis=1)

    def body(multiply: Callable, seeds: Array | None, state: State, frame: dict[str, Array]) -> tuple[State, Array]:
        new = lstm_gates(multiply(state[0]), state[1])
        if regularizer.rate:
            each = [
                regularizer(
                    tuple(s[d] for s in new), tuple(s[d] for s in state), seeds, frame["number"][d], stream + 8 * d
                )
                for d in range(directions)
            ]
            new = tuple(jnp.stack(parts) for parts in zip(*each, strict=True))
        live = frame["live"][..., None]
        new = tuple(jnp.where(live, n, o) for n, o in zip(new, state, strict=True))
        return new, jnp.where(live, new[0], 0.0)

    zero = jnp.zeros((directions, batch, width), jnp.float32)
    frames = {"added": turned(gates), "live": turned(live), "number": turned(number)}
    result: Any = scan_product(body, params["recurrent_kernel"], seeds, (zero, zero), frames)
    _, y = result
    return jnp.moveaxis(turned(y), 2, 0).reshape(batch, time, directions * width)


def keep_at(seeds: UInt32[Array, "batch 2"], step: Int[Array, ""], width: int, rate: float, stream: int = 0) -> Array:
    """bool [batch, width], True with probability 1 - rate: of utterance, step, channel and stream a pure function, so
    that a step draws the same alone, in a longer bucket, and beside others."""
    place = jnp.asarray(step, jnp.uint32) * jnp.uint32(width) + jnp.arange(width, dtype=jnp.uint32)
    salt = jnp.uint32((stream * 0x9E3779B9) & 0xFFFFFFFF)
    bits = hash_bits(hash_bits(place[None] ^ seeds[:, :1] ^ salt) + seeds[:, 1:])
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def seeds_of(keys: Array) -> UInt32[Array, "batch 2"]:
    """What `keep_at` takes, from one random key an utterance."""
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
