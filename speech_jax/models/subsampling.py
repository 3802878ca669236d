"""Convolutional subsampling: features at 100 frames a second in, vectors at 25 (4x) or 12.5 (8x) out, as in NeMo."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from speech_jax.models.convolution import conv2d_stride2, depthwise_conv2d_stride2
from speech_jax.models.layers import dense, uniform_fan_in


def halve(length: int, times: int) -> int:
    """Frames (or bands) left after `times` convolutions of stride 2: ceil(length / 2) each."""
    for _ in range(times):
        length = (length + 1) // 2
    return length


class ConvSubsampling(nn.Module):
    """Stages of 3x3 convolutions with stride 2 on (time, frequency) with ReLU, then a linear map to `width`.

    "striding": full convolutions. "dw_striding": the first is full, the others depthwise then pointwise
    (FastConformer, Rekesh et al. 2023). Padding is cleared before each stage, so that it cannot leak into valid frames
    (NeMo does so since 2.4). The frames out of a stage are valid where 2t was. Channels are flattened as (frequency,
    channel) before `out`; NeMo has (channel, frequency), so an importer transposes that one weight.
    """

    width: int
    channels: int
    stages: int
    kind: Literal["striding", "dw_striding"] = "striding"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch time freq"], mask: Bool[Array, "batch time"]
    ) -> tuple[Float[Array, "batch time_out width"], Bool[Array, "batch time_out"]]:
        channels, dtype = self.channels, self.dtype

        def clear(x: Array, mask: Array) -> Array:
            return jnp.where(mask[:, :, None, None], x, jnp.zeros((), x.dtype))

        def weights(name: str, shape: tuple[int, ...], fan_in: int) -> tuple[Array, Array]:
            init = uniform_fan_in(fan_in)
            kernel = self.param(f"{name}_kernel", init, shape).astype(dtype)
            return kernel, self.param(f"{name}_bias", init, (shape[-1],)).astype(dtype)[None, None, None]

        x = clear(features[..., None].astype(dtype), mask)  # a `where`, not a product: NaN may lie in the padding
        for stage in range(self.stages):
            if stage == 0 or self.kind == "striding":
                kernel, bias = weights(f"conv{stage}", (3, 3, x.shape[-1], channels), 9 * x.shape[-1])
                x = conv2d_stride2(x, kernel) + bias
                mask = mask[:, ::2]
            else:
                kernel, bias = weights(f"depthwise{stage}", (3, 3, channels), 9)
                x = depthwise_conv2d_stride2(x, kernel) + bias
                mask = mask[:, ::2]
                kernel, bias = weights(f"pointwise{stage}", (channels, channels), channels)
                x = x @ kernel + bias
            x = clear(jax.nn.relu(x), mask)
        batch, time, freq, _ = x.shape
        out = dense(freq * channels, self.width, name="out", dtype=dtype)(x.reshape(batch, time, freq * channels))
        return out, mask
