"""How alpha, the weight on the pre-training loss, moves: each schedule is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def constant(value: float) -> Schedule:
    """`value` at every step."""
    return lambda step: jnp.full(jnp.shape(step), value, jnp.float32)


def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`start` until step `begin`, then in a straight line to `end` at step `begin + steps`, then `end`."""
    return lambda step: start + (end - start) * _progress(step, begin, steps)


def cosine(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """Like `linear`, along half a cosine: flat at both ends."""
    return lambda step: end + (start - end) * 0.5 * (1 + jnp.cos(math.pi * _progress(step, begin, steps)))


def recadam(rate: float, middle: int, *, start: float = 1.0, end: float = 0.0) -> Schedule:
    """The objective shifting of RecAdam (arXiv 2004.12651): the task's weight is 1 / (1 + exp(-rate (t - middle))).

    What is returned is the weight on the pre-training loss, so it falls from `start` to `end`, half way at step
    `middle`.
    """
    return lambda step: end + (start - end) * jax.nn.sigmoid(-rate * (jnp.asarray(step, jnp.float32) - middle))


def _progress(step: Int[Array, ""], begin: int, steps: int) -> Float[Array, ""]:
    return jnp.clip((jnp.asarray(step, jnp.float32) - begin) / max(steps, 1), 0.0, 1.0)


@dataclass(frozen=True)
class AlphaConfig:
    """The weight on the pre-training loss in L = alpha * L_pre + (1 - alpha) * L_task."""

    kind: Literal["constant", "linear", "cosine", "recadam"] = "constant"
    """How alpha moves: not at all, in a straight line, along half a cosine, or along RecAdam's sigmoid."""
    start: float = 0.0
    """Alpha at the first step, and at every step if kind is constant. In [0, 1]."""
    end: float = 0.0
    """Alpha at the end of the way. In [0, 1]."""
    begin: int = 0
    """The step at which linear and cosine start to move."""
    steps: int = 1000
    """How many steps linear and cosine take from start to end."""
    rate: float = 0.01
    """How steep RecAdam's sigmoid is, per step."""
    middle: int = 500
    """The step at which RecAdam's sigmoid is half way."""


def make_alpha(config: AlphaConfig) -> float | Schedule:
    """A constant alpha as a plain number (so that a term of weight 0 is left out of the program), or a schedule."""
    for name in ("start", "end"):
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"alpha.{name}: found {value}, expected a number in [0, 1]")
    if config.kind == "constant":
        return float(config.start)
    if config.kind == "linear":
        return linear(config.start, config.end, config.steps, begin=config.begin)
    if config.kind == "cosine":
        return cosine(config.start, config.end, config.steps, begin=config.begin)
    if config.kind == "recadam":
        return recadam(config.rate, config.middle, start=config.start, end=config.end)
    raise UserError(f"alpha.kind: found {config.kind!r}, expected constant, linear, cosine or recadam")
