"""Attention of a text-to-speech decoder over the text: four kinds with one interface.

An attention is three pure functions over plain dicts of parameters:

    init(key) -> params
    start(params, memory, mask) -> (fixed, state)          values that are constant over the steps; the initial state
    step(params, fixed, state, query) -> (weights [batch, text], state)

`query` is the attention LSTM's output. Weights are zero outside the mask and sum to one (the mixture's to at most one).
Kinds: "location" (Chorowski et al. 2015, as in Tacotron 2, with cumulative weights), "dynamic" (dynamic convolution,
Battenberg et al. 2020), "gmm" (its GMMv2b, after Graves 2013), "forward" (Zhang et al. 2018, with transition agent, on
the location-sensitive energies).
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb, exp, lgamma
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from speech_jax.core.types import PyTree
from speech_jax.models.config import AttentionConfig
from speech_jax.models.layers import uniform_fan_in

_FAR = -1e9  # energy outside the text; finite, so that a row without any text has no NaN
_PRIOR_FLOOR = 1e-6


class Attention(NamedTuple):
    """Functions of one attention; see the module's docstring.

    Attributes:
        init: key -> parameters.
        start: (parameters, memory, mask) -> (constants, initial state).
        step: (parameters, constants, state, query) -> (weights, state).
    """

    init: Callable
    start: Callable
    step: Callable


def make_attention(config: AttentionConfig, query: int, memory: int) -> Attention:
    """Return the attention of `config`.

    Args:
        config: settings of the attention.
        query: channels of the query.
        memory: channels of the memory.
    """
    return {"location": _location, "dynamic": _dynamic, "gmm": _gmm, "forward": _forward}[config.kind](
        config, query, memory
    )


def masked_softmax(energies: Float[Array, "batch text"], mask: Bool[Array, "batch text"]) -> Float[Array, "batch text"]:
    """Return the softmax over valid symbols; zero elsewhere, and for rows without any valid symbol."""
    weights = jax.nn.softmax(jnp.where(mask, energies, _FAR), axis=-1)
    return jnp.where(mask, weights, 0.0)


def _matrix(key: Array, inputs: int, outputs: int) -> Array:
    return uniform_fan_in(inputs)(key, (inputs, outputs))


def _first(mask: Bool[Array, "batch text"]) -> Float[Array, "batch text"]:
    """Return weights that are all on the first symbol."""
    return (jnp.arange(mask.shape[1])[None] == 0).astype(jnp.float32) * mask


def _windows(x: Float[Array, "batch channels text"], length: int) -> Float[Array, "batch text taps"]:
    """Return the `length` values (odd) around each symbol, all channels concatenated; zero beyond the ends."""
    text = x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (length // 2, length // 2)))
    taps = jnp.stack([x[..., i : i + text] for i in range(length)], axis=-1)  # [batch, channels, text, length]
    return jnp.moveaxis(taps, 1, 2).reshape(x.shape[0], text, -1)


# ---- location-sensitive


def _location(config: AttentionConfig, query: int, memory: int) -> Attention:
    width, length = config.width, config.filter_length

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 5)
        conv = uniform_fan_in(2 * length)(keys[2], (2 * length, config.filters))
        return {
            "query": {"kernel": _matrix(keys[0], query, width)},
            "memory": {"kernel": _matrix(keys[1], memory, width)},
            "location_conv": {"kernel": conv},
            "location": {"kernel": _matrix(keys[3], config.filters, width)},
            "v": {"kernel": _matrix(keys[4], width, 1)},
        }

    def start(params: PyTree, memory: Array, mask: Array) -> tuple[PyTree, PyTree]:
        fixed = {
            "memory": memory @ params["memory"]["kernel"],
            # Two linear maps in sequence are one.
            "location": params["location_conv"]["kernel"] @ params["location"]["kernel"],
            "mask": mask,
        }
        zero = jnp.zeros(mask.shape, jnp.float32)
        return fixed, {"weights": zero, "sum": zero}

    def step(params: PyTree, fixed: PyTree, state: PyTree, query: Array) -> tuple[Array, PyTree]:
        energies = _location_energies(params, fixed, state, query, length)
        weights = masked_softmax(energies, fixed["mask"])
        return weights, {"weights": weights, "sum": state["sum"] + weights}

    return Attention(init, start, step)


def _location_energies(params: PyTree, fixed: PyTree, state: PyTree, query: Array, length: int) -> Array:
    windows = _windows(jnp.stack([state["weights"], state["sum"]], axis=1), length)

    @jax.checkpoint  # the tanh of every symbol at every step would be the largest saved array
    def energies(windows: Array, query: Array, memory: Array, location: Array, kernels: tuple[Array, Array]) -> Array:
        hidden = jnp.tanh((query @ kernels[0])[:, None] + windows @ location + memory)
        return (hidden @ kernels[1])[..., 0]

    kernels = params["query"]["kernel"], params["v"]["kernel"]
    return energies(windows, query, fixed["memory"], fixed["location"], kernels)


# ---- forward, with transition agent


def _forward(config: AttentionConfig, query: int, memory: int) -> Attention:
    inner = _location(config, query, memory)

    def init(key: Array) -> PyTree:
        agent = {"kernel": _matrix(jax.random.fold_in(key, 1), query + memory, 1), "bias": jnp.zeros(1)}
        return {**inner.init(key), "agent": agent}

    def start(params: PyTree, memory: Array, mask: Array) -> tuple[PyTree, PyTree]:
        fixed, state = inner.start(params, memory, mask)
        first = _first(mask)
        move = jnp.full((mask.shape[0], 1), 0.5, jnp.float32)
        return {**fixed, "encoded": memory}, {**state, "weights": first, "sum": first, "move": move}

    def step(params: PyTree, fixed: PyTree, state: PyTree, query: Array) -> tuple[Array, PyTree]:
        energies = _location_energies(params, fixed, state, query, config.filter_length)
        content, before, move = masked_softmax(energies, fixed["mask"]), state["weights"], state["move"]
        shifted = jnp.pad(before, ((0, 0), (1, 0)))[:, :-1]
        weights = jnp.where(fixed["mask"], ((1 - move) * before + move * shifted + 1e-7) * content, 0.0)
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-8)
        context = jnp.einsum("bt,btd->bd", weights, fixed["encoded"])
        agent = params["agent"]
        move = jax.nn.sigmoid(jnp.concatenate([context, query], -1) @ agent["kernel"] + agent["bias"][None])
        return weights, {"weights": weights, "sum": state["sum"] + weights, "move": move}

    return Attention(init, start, step)


# ---- dynamic convolution


def prior_filter(config: AttentionConfig) -> Float[np.ndarray, " taps"]:
    """Return the beta-binomial probabilities of moving 0, 1, … prior_length - 1 symbols forward."""
    n, a, b = config.prior_length - 1, config.prior_alpha, config.prior_beta

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return np.array([comb(n, k) * exp(log_beta(k + a, n - k + b) - log_beta(a, b)) for k in range(n + 1)], np.float32)


def _dynamic(config: AttentionConfig, query: int, memory: int) -> Attention:
    del memory  # dynamic convolution attention depends on the previous weights and the query only
    width, length, filters = config.width, config.filter_length, config.dynamic_filters
    prior = prior_filter(config)

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 6)
        return {
            "static_conv": {"kernel": uniform_fan_in(length)(keys[0], (length, config.filters))},
            "static": {"kernel": _matrix(keys[1], config.filters, width)},
            "query": {"kernel": _matrix(keys[2], query, width), "bias": jnp.zeros(width)},
            "filters": {"kernel": _matrix(keys[3], width, length * filters)},
            "dynamic": {"kernel": _matrix(keys[4], filters, width), "bias": jnp.zeros(width)},
            "v": {"kernel": _matrix(keys[5], width, 1)},
        }

    def start(params: PyTree, memory: Array, mask: Array) -> tuple[PyTree, PyTree]:
        del memory
        fixed = {"static": params["static_conv"]["kernel"] @ params["static"]["kernel"], "mask": mask}
        return fixed, {"weights": _first(mask)}

    def step(params: PyTree, fixed: PyTree, state: PyTree, query: Array) -> tuple[Array, PyTree]:
        before = state["weights"]
        windows = _windows(before[:, None], length)
        hidden = jnp.tanh(query @ params["query"]["kernel"] + params["query"]["bias"][None])
        kernels = (hidden @ params["filters"]["kernel"]).reshape(-1, length, filters)
        dynamic = jnp.einsum("btl,blf->btf", windows, kernels) @ params["dynamic"]["kernel"]
        hidden = jnp.tanh(windows @ fixed["static"] + dynamic + params["dynamic"]["bias"][None, None])
        energies = (hidden @ params["v"]["kernel"])[..., 0]
        past = jnp.pad(before, ((0, 0), (len(prior) - 1, 0)))
        text = before.shape[1]
        likely = sum(p * past[:, len(prior) - 1 - k : len(prior) - 1 - k + text] for k, p in enumerate(prior))
        weights = masked_softmax(energies + jnp.log(jnp.maximum(likely, _PRIOR_FLOOR)), fixed["mask"])
        return weights, {"weights": weights}

    return Attention(init, start, step)


# ---- mixture of Gaussians


def _gmm(config: AttentionConfig, query: int, memory: int) -> Attention:
    del memory
    count = config.mixtures
    # The inverse softplus of 1 and 10, Battenberg et al.'s initial step and width.
    bias = np.concatenate(
        [np.zeros(count), np.full(count, np.log(np.expm1(1.0))), np.full(count, np.log(np.expm1(10.0)))]
    )

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 2)
        return {
            "query": {"kernel": _matrix(keys[0], query, config.width), "bias": jnp.zeros(config.width)},
            "mixture": {"kernel": _matrix(keys[1], config.width, 3 * count), "bias": jnp.asarray(bias, jnp.float32)},
        }

    def start(params: PyTree, memory: Array, mask: Array) -> tuple[PyTree, PyTree]:
        del params, memory
        return {"mask": mask}, {"mean": jnp.zeros((mask.shape[0], count), jnp.float32)}

    def step(params: PyTree, fixed: PyTree, state: PyTree, query: Array) -> tuple[Array, PyTree]:
        hidden = jnp.tanh(query @ params["query"]["kernel"] + params["query"]["bias"][None])
        raw = hidden @ params["mixture"]["kernel"] + params["mixture"]["bias"][None]
        share, move, width = jnp.split(raw, 3, axis=-1)
        share, width = jax.nn.softmax(share, -1), jax.nn.softplus(width) + 1e-5
        mean = state["mean"] + jax.nn.softplus(move)
        symbol = jnp.arange(fixed["mask"].shape[1], dtype=jnp.float32)[None, :, None]
        # The mass of each Gaussian over a symbol, not its density, so that narrow Gaussians keep their weight.
        upper, lower = ((symbol + side - mean[:, None]) / width[:, None] for side in (0.5, -0.5))
        mass = jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower)
        weights = jnp.where(fixed["mask"], jnp.einsum("btk,bk->bt", mass, share), 0.0)
        return weights, {"mean": mean}

    return Attention(init, start, step)
