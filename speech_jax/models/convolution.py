"""Convolutions written so that they are quick on every backend.

XLA's convolution is slow on a CPU where it is depthwise or has few channels, and fast on an accelerator. Which of
the two forms is used is decided when the program is lowered for a platform (`lax.platform_dependent`), so an exported
or ahead-of-time compiled program has the right one too.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from speech_jax.models.layers import uniform_fan_in


def depthwise_conv1d(
    x: Float[Array, "batch time d"], kernel: Float[Array, "k d"], *, padding: tuple[int, int]
) -> Float[Array, "batch time_out d"]:
    """Each channel with its own filter (a cross-correlation, as in torch), stride 1, zeros for padding."""

    def shifted_slices(x: Array, kernel: Array) -> Array:
        x = jnp.pad(x, ((0, 0), padding, (0, 0)))
        time = x.shape[1] - kernel.shape[0] + 1
        return sum(x[:, i : i + time] * kernel[i][None, None] for i in range(kernel.shape[0]))

    def convolution(x: Array, kernel: Array) -> Array:
        channels = x.shape[-1]
        return lax.conv_general_dilated(
            x, kernel[:, None], (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=channels
        )

    return lax.platform_dependent(x, kernel, cpu=shifted_slices, default=convolution)


class DepthwiseConv1d(nn.Module):
    """Depthwise convolution over time with a bias; as many frames come out as go in."""

    width: int
    kernel_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"]) -> Float[Array, "batch time d"]:
        init = uniform_fan_in(self.kernel_size)
        kernel = self.param("kernel", init, (self.kernel_size, self.width)).astype(self.dtype)
        half = (self.kernel_size - 1) // 2
        y = depthwise_conv1d(x.astype(self.dtype), kernel, padding=(half, self.kernel_size - 1 - half))
        if self.use_bias:
            y = y + self.param("bias", init, (self.width,)).astype(self.dtype)[None, None]
        return y


def _taps(x: Float[Array, "batch time freq c"]) -> list[Float[Array, "batch time/2 freq/2 c"]]:
    """The nine inputs of every output of a 3x3 convolution with stride 2 and padding 1, in the kernel's order.

    Cut out of an array split into even and odd places: the gradient is then a plain pad, which is quicker on a CPU
    than the interior padding that belongs to a strided slice.
    """
    batch, time, freq, channels = x.shape
    out_time, out_freq = (time + 1) // 2, (freq + 1) // 2
    x = jnp.pad(x, ((0, 0), (1, 2 * out_time + 1 - time), (1, 2 * out_freq + 1 - freq), (0, 0)))
    x = x.reshape(batch, out_time + 1, 2, out_freq + 1, 2, channels)
    start = {0: (0, 0), 1: (0, 1), 2: (1, 0)}  # tap -> (first block, even or odd place)
    return [
        x[:, start[i][0] : start[i][0] + out_time, start[i][1], start[j][0] : start[j][0] + out_freq, start[j][1]]
        for i in range(3)
        for j in range(3)
    ]


def conv2d_stride2(
    x: Float[Array, "batch time freq c_in"], kernel: Float[Array, "3 3 c_in c_out"]
) -> Float[Array, "batch time/2 freq/2 c_out"]:
    """3x3 convolution, stride 2, padding 1 on both sides (torch's); out = ceil(in / 2) in both directions."""

    def matrix_product(x: Array, kernel: Array) -> Array:
        return jnp.concatenate(_taps(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    def convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return lax.platform_dependent(x, kernel, cpu=matrix_product, default=convolution)


def depthwise_conv2d_stride2(
    x: Float[Array, "batch time freq c"], kernel: Float[Array, "3 3 c"]
) -> Float[Array, "batch time/2 freq/2 c"]:
    """The same for each channel by itself."""

    def shifted_slices(x: Array, kernel: Array) -> Array:
        taps = kernel.reshape(9, 1, 1, 1, -1)
        return sum(tap * taps[i] for i, tap in enumerate(_taps(x)))

    def convolution(x: Array, kernel: Array) -> Array:
        channels = kernel.shape[-1]
        return lax.conv_general_dilated(
            x, kernel[:, :, None], (2, 2), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels,
        )  # fmt: skip

    return lax.platform_dependent(x, kernel, cpu=shifted_slices, default=convolution)
