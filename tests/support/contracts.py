"""What every layer owes to whoever puts it in a batch: padding, batch mates and their garbage change nothing.

The idea is google/sequence-layers' `verify_contract`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def check_layer(
    apply: Callable,
    x: np.ndarray,
    mask: np.ndarray,
    *,
    ratio: int = 1,
    tolerance: float = 1e-5,
    step: Callable | None = None,
) -> None:
    """Proves that `apply(x, mask) -> y` or `(y, y_mask)` reads valid frames only.

    Args:
      apply: a pure function; x is [batch, time, ...], mask bool [batch, time], y [batch, ceil(time / ratio), ...].
      x: random values, in the padding too.
      mask: rows of different lengths, or there is nothing to prove.
      ratio: input frames per output frame. With `apply` returning no mask, output frame t is valid where t * ratio was.
      tolerance: largest change of a valid output, in units of the largest output where that is above 1.
      step: where the layer streams, `step(x) -> y` that feeds x [batch, time, ...] frame by frame; it must give the
        same as `apply` with every frame valid.

    Each of these must leave the valid frames of y as they are: NaN or other numbers in the padding; a longer bucket
    with garbage rows, one of them without any valid frame, beside the others. The gradient of the valid outputs must
    be finite with NaN in the padding, zero there, and otherwise as without.
    """
    x, mask = np.asarray(x, np.float32), np.asarray(mask, bool)
    batch, time = mask.shape
    lengths = mask.sum(1)
    assert len(set(lengths.tolist())) > 1 and lengths.min() < time, "check_layer: give rows of different lengths"
    assert (mask == (np.arange(time) < lengths[:, None])).all(), "check_layer: valid frames come first"
    rng = np.random.default_rng(7)
    want_mask = mask[:, ::ratio]

    def outputs(x: jax.Array, mask: np.ndarray) -> jax.Array:
        out = apply(x, jnp.asarray(mask))
        return out[0] if isinstance(out, tuple) else out

    def loss(x: jax.Array) -> tuple[jax.Array, tuple]:
        out = apply(x, jnp.asarray(mask))
        y, y_mask = out if isinstance(out, tuple) else (out, jnp.asarray(want_mask))
        assert y.shape[:2] == want_mask.shape, f"output {y.shape[:2]}, expected {want_mask.shape}"
        valid = want_mask.reshape(want_mask.shape + (1,) * (y.ndim - 2))
        weight = np.random.default_rng(8).normal(size=y.shape)
        return jnp.sum(jnp.where(valid, y, 0.0) * weight), (y, y_mask)

    value_and_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def padded_with(filler: float) -> tuple[np.ndarray, np.ndarray]:
        filled = np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, np.float32(filler))
        (_, (y, y_mask)), gradient = value_and_gradient(filled)
        np.testing.assert_array_equal(np.asarray(y_mask), want_mask)
        return np.asarray(y, np.float32), np.asarray(gradient)

    want, clean = padded_with(0.0)
    bound = tolerance * max(1.0, float(np.abs(want[want_mask]).max()))

    def same(y: np.ndarray, what: str) -> None:
        assert np.isfinite(y[want_mask]).all(), f"{what}: not finite"
        np.testing.assert_allclose(y[want_mask], want[want_mask], atol=bound, rtol=0, err_msg=what)

    same(padded_with(1e3)[0], "numbers in the padding")
    dirty_y, dirty = padded_with(np.nan)
    same(dirty_y, "NaN in the padding")

    assert np.isfinite(dirty).all(), "gradient: not finite with NaN in the padding"
    assert np.abs(clean[mask]).max() > 0, "gradient: zero everywhere"
    np.testing.assert_array_equal(dirty[~mask], 0.0, err_msg="gradient: reaches the padding")
    gradient_bound = tolerance * max(1.0, float(np.abs(clean).max()))
    np.testing.assert_allclose(dirty, clean, atol=gradient_bound, rtol=0, err_msg="gradient: depends on the padding")

    longer = time + 3 * ratio + 1
    crowd = np.full((batch + 2, longer, *x.shape[2:]), np.nan, np.float32)
    crowd[:batch, :time] = np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, np.nan)
    crowd[batch] = rng.normal(size=crowd[batch].shape) * 100
    crowd_lengths = np.concatenate([lengths, [longer, 0]])
    y = np.asarray(jax.jit(outputs)(crowd, np.arange(longer) < crowd_lengths[:, None]), np.float32)
    same(y[:batch, : want_mask.shape[1]], "a longer bucket with garbage rows")

    if step is not None:
        whole = np.asarray(outputs(x, np.ones_like(mask)), np.float32)
        streamed = np.asarray(step(x), np.float32)
        np.testing.assert_allclose(streamed, whole, atol=bound, rtol=0, err_msg="step by step")
