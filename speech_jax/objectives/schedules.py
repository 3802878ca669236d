"""Schedules of alpha, the weight on the pre-training loss; each is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from speech_jax.core.errors import UserError
from speech_jax.objectives.config import AlphaConfig

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def constant(value: float) -> Schedule:
    """Return a schedule that is `value` at every step."""
    return lambda step: jnp.full(jnp.shape(step), value, jnp.float32)


def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """Return a schedule: `start` until step `begin`, then linear to `end` at step `begin + steps`, then `end`."""
    return lambda step: start + (end - start) * _progress(step, begin, steps)


def cosine(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """Return a schedule like `linear`'s that follows half a cosine: flat at both ends."""
    return lambda step: end + (start - end) * 0.5 * (1 + jnp.cos(math.pi * _progress(step, begin, steps)))


def recadam(rate: float, middle: int, *, start: float = 1.0, end: float = 0.0) -> Schedule:
    """Return the schedule of RecAdam's objective shifting (Chen et al. 2020, arXiv 2004.12651).

    There the task's weight is 1 / (1 + exp(-rate (step - middle))). This is the weight on the pre-training loss, so it
    falls from `start` to `end`.

    Args:
        rate: steepness of the sigmoid, per step.
        middle: step at which alpha is half way between `start` and `end`.
        start: alpha long before `middle`.
        end: alpha long after `middle`.
    """
    return lambda step: end + (start - end) * jax.nn.sigmoid(-rate * (jnp.asarray(step, jnp.float32) - middle))


def _progress(step: Int[Array, ""], begin: int, steps: int) -> Float[Array, ""]:
    return jnp.clip((jnp.asarray(step, jnp.float32) - begin) / max(steps, 1), 0.0, 1.0)


def make_alpha(config: AlphaConfig) -> float | Schedule:
    """Return alpha as a number if it is constant, else as a schedule.

    A number lets `mix` leave a term of weight 0 out of the program.

    Raises:
        UserError: start or end is not in [0, 1], or the kind is unknown.
    """
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
