"""Convolutional subsampling as in NeMo: features at 100 frames/s in, vectors at 25 (4x) or 12.5 (8x) frames/s out."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from speech_jax.models.convolution import taps_stride2, weighted_taps
from speech_jax.models.layers import uniform_fan_in

Kind = Literal["striding", "dw_striding"]
Weights = dict[str, tuple[Array, Array]]  # stage -> (kernel, bias)


def halve(length: Any, times: int) -> Any:
    """Return the frames (or bands) after `times` convolutions of stride 2: ceil(length / 2) each."""
    for _ in range(times):
        length = (length + 1) // 2
    return length


def _clear(x: Array, mask: Array) -> Array:
    """Set padding frames to zero; by `where`, not a product, since they may be NaN."""
    return jnp.where(mask[:, :, None, None], x, jnp.zeros((), x.dtype))


def _bias(weights: tuple[Array, Array]) -> Array:
    return weights[1][None, None, None]


def _whole(features: Array, mask: Array, weights: Weights, *, kind: Kind, stages: int) -> Array:
    """Return the subsampled vectors by XLA's convolutions over the whole batch; for accelerators."""
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(2, 2),
        padding=[(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = _clear(features[..., None], mask)
    for stage in range(stages):
        if stage == 0 or kind == "striding":
            x = convolve(x, weights[f"conv{stage}"][0]) + _bias(weights[f"conv{stage}"])
        else:
            depthwise, pointwise = weights[f"depthwise{stage}"], weights[f"pointwise{stage}"]
            x = convolve(x, depthwise[0][:, :, None], feature_group_count=x.shape[-1]) + _bias(depthwise)
            x = x @ pointwise[0] + _bias(pointwise)
        mask = mask[:, ::2]
        x = _clear(jax.nn.relu(x), mask)
    kernel, bias = weights["out"]
    return x.reshape(*x.shape[:2], -1) @ kernel + bias[None, None]


def _window(features: Array, mask: Array, weights: Weights, *, kind: Kind, stages: int) -> Array:
    """Return `_whole` by matrix products, without padding in time: 2^stages * (n + 1) - 1 frames in, n out."""
    x = _clear(features[..., None], mask)
    for stage in range(stages):
        taps = taps_stride2(x)
        mask = mask[:, 1::2]
        if stage == 0 or kind == "striding":
            kernel = weights[f"conv{stage}"][0]
            x = jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1]) + _bias(weights[f"conv{stage}"])
        else:
            depthwise, pointwise = weights[f"depthwise{stage}"], weights[f"pointwise{stage}"]
            x = weighted_taps(jnp.stack(taps), depthwise[0].reshape(9, -1)) + _bias(depthwise)
            x = x @ pointwise[0] + _bias(pointwise)
        if stage > 0:
            x = checkpoint_name(x, "subsampled")
        x = _clear(jax.nn.relu(x), mask)
    kernel, bias = weights["out"]
    return x.reshape(*x.shape[:2], -1) @ kernel + bias[None, None]


def _in_windows(features: Array, mask: Array, weights: Weights, *, kind: Kind, stages: int) -> Array:
    """Return `_whole`, computed a few frames at a time, so that intermediate arrays stay in cache; for CPUs.

    The largest array, the first convolution's output, is never stored: the backward pass recomputes it, at 9 products
    per number. Since every stage clears padding, frames before and after the utterance need no special case.
    """
    batch, time, bands = features.shape
    factor = 2**stages
    out_time = halve(time, stages)
    length = min(out_time, max(1, -(-FRAMES_AT_A_TIME // batch)))
    count = -(-out_time // length)
    ends = (factor - 1, factor * length * (count + 1) - (factor - 1) - time)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), ends) + ((0, 0),) * (x.ndim - 2))
        blocks = x.reshape(batch, count + 1, factor * length, *x.shape[2:])
        windows = jnp.concatenate([blocks[:, :-1], blocks[:, 1:, : factor - 1]], axis=2)
        return jnp.moveaxis(windows, 1, 0)

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("subsampled"))
    def step(weights: Weights, window: tuple[Array, Array]) -> Array:
        return _window(*window, weights, kind=kind, stages=stages)

    _, y = lax.scan(lambda carry, window: (carry, step(weights, window)), None, (cut(features), cut(mask)))
    return jnp.moveaxis(y, 0, 1).reshape(batch, count * length, -1)[:, :out_time]


FRAMES_AT_A_TIME = 64  # rows times output frames of a window; 4 MB between two convolutions at 176 channels


class _Weights(nn.Module):
    """A kernel and a bias with torch's initial values."""

    shape: tuple[int, ...]
    fan_in: int
    dtype: Any

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        init = uniform_fan_in(self.fan_in)
        kernel = self.param("kernel", init, self.shape).astype(self.dtype)
        return kernel, self.param("bias", init, self.shape[-1:]).astype(self.dtype)


class ConvSubsampling(nn.Module):
    """Stages of 3x3 convolutions with stride 2 on (time, frequency) with ReLU, then a linear map to `width`.

    Padding is cleared before each stage, so that it cannot leak into valid frames (NeMo does so since 2.4). Frame t of
    a stage's output is valid if frame 2t of its input is. Channels are flattened as (frequency, channel) before `out`;
    NeMo has (channel, frequency), so importers transpose that weight.

    Attributes:
        width: channels of the output.
        channels: channels of the convolutions.
        stages: number of stages; each halves time and frequency.
        kind: "striding" for full convolutions; "dw_striding" for depthwise then pointwise ones after the first
            (FastConformer, Rekesh et al. 2023).
        dtype: type of the computation.
    """

    width: int
    channels: int
    stages: int
    kind: Kind = "striding"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch time freq"], mask: Bool[Array, "batch time"]
    ) -> tuple[Float[Array, "batch time_out width"], Bool[Array, "batch time_out"]]:
        """Return (vectors, their mask)."""
        channels, dtype = self.channels, self.dtype
        weights: Weights = {}
        for stage in range(self.stages):
            if stage == 0 or self.kind == "striding":
                inputs = 1 if stage == 0 else channels
                shape = (3, 3, inputs, channels)
                weights[f"conv{stage}"] = _Weights(shape, 9 * inputs, dtype, name=f"conv{stage}")()
            else:
                weights[f"depthwise{stage}"] = _Weights((3, 3, channels), 9, dtype, name=f"depthwise{stage}")()
                shape = (channels, channels)
                weights[f"pointwise{stage}"] = _Weights(shape, channels, dtype, name=f"pointwise{stage}")()
        inputs = halve(features.shape[-1], self.stages) * channels
        weights["out"] = _Weights((inputs, self.width), inputs, dtype, name="out")()

        form = {"kind": self.kind, "stages": self.stages}
        x = lax.platform_dependent(
            features.astype(dtype), mask, weights, cpu=partial(_in_windows, **form), default=partial(_whole, **form)
        )
        for _ in range(self.stages):
            mask = mask[:, ::2]
        return x, mask
