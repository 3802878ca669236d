"""Convolutions that are fast on a CPU, where XLA's are not; on accelerators they are XLA's.

The choice is made when a program is lowered for a platform (`lax.platform_dependent`), so exported and ahead-of-time
compiled programs get the right one too. All are cross-correlations, as in torch.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from speech_jax.models.layers import uniform_fan_in


def depthwise_conv1d(
    x: Float[Array, "batch time d"], kernel: Float[Array, "k d"], *, padding: tuple[int, int]
) -> Float[Array, "batch time_out d"]:
    """Convolve each channel with its own filter, stride 1.

    On a CPU it is a sum of shifted slices: 20 times as fast as XLA's convolution in the forward pass, with a
    hand-written gradient, since the automatic one would reduce over time k times.

    Args:
        x: input.
        kernel: one filter of k taps per channel.
        padding: zeros before and after the input; time_out = time + sum(padding) - k + 1.
    """
    channels = x.shape[-1]

    def convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel[:, None], (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=channels
        )

    def slices(x: Array, kernel: Array) -> Array:
        return _shifted_slices(jnp.pad(x, ((0, 0), padding, (0, 0))), kernel)

    return lax.platform_dependent(x, kernel, cpu=slices, default=convolution)


@jax.custom_vjp
def _shifted_slices(x: Array, kernel: Array) -> Array:
    # The barriers prevent XLA from recomputing the producers of x in each of the k slices.
    x = lax.optimization_barrier(x)
    time = x.shape[1] - kernel.shape[0] + 1
    y = sum(x[:, i : i + time] * kernel[i][None, None] for i in range(kernel.shape[0]))
    return lax.optimization_barrier(y)


def _shifted_slices_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_slices(x, kernel), (x, kernel)


def _shifted_slices_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k = kernel.shape[0]
    grad_x = _shifted_slices(jnp.pad(grad, ((0, 0), (k - 1, k - 1), (0, 0))), kernel[::-1])

    def add_frame(t: Array, total: Array) -> Array:
        window = lax.dynamic_slice_in_dim(x, t, k, axis=1)
        return total + window.astype(jnp.float32) * lax.dynamic_slice_in_dim(grad, t, 1, axis=1)

    total = lax.fori_loop(0, grad.shape[1], add_frame, jnp.zeros((x.shape[0], k, x.shape[2]), jnp.float32))
    return grad_x, total.sum(0).astype(kernel.dtype)


_shifted_slices.defvjp(_shifted_slices_forward, _shifted_slices_backward)


class DepthwiseConv1d(nn.Module):
    """Depthwise convolution over time with a bias; the output is as long as the input."""

    width: int
    kernel_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch time d"]) -> Float[Array, "batch time d"]:
        """Return the convolution of x."""
        init = uniform_fan_in(self.kernel_size)
        kernel = self.param("kernel", init, (self.kernel_size, self.width)).astype(self.dtype)
        half = (self.kernel_size - 1) // 2
        y = depthwise_conv1d(x.astype(self.dtype), kernel, padding=(half, self.kernel_size - 1 - half))
        if self.use_bias:
            y = y + self.param("bias", init, (self.width,)).astype(self.dtype)[None, None]
        return y


def strided_conv1d(
    x: Float[Array, "batch time c"], kernel: Float[Array, "k c d"], stride: int
) -> Float[Array, "batch time_out d"]:
    """Convolve without padding; time_out = (time - k) // stride + 1, and the stride is at most k.

    It is one matrix product per `stride` rows of the kernel: a reshape cuts the input into blocks of `stride` frames,
    so that neither it nor its gradient needs a gather.
    """
    k, channels, width = kernel.shape
    out = (x.shape[1] - k) // stride + 1
    pieces = -(-k // stride)
    used = (out + pieces - 1) * stride
    x = jnp.pad(x, ((0, 0), (0, max(0, used - x.shape[1])), (0, 0)))[:, :used]
    blocks = x.reshape(x.shape[0], out + pieces - 1, stride * channels)
    y = 0.0
    for i in range(pieces):
        rows = kernel[i * stride : (i + 1) * stride].reshape(-1, width)
        y = y + blocks[:, i : i + out, : rows.shape[0]] @ rows
    return jnp.asarray(y)


def grouped_conv1d(
    x: Float[Array, "batch time c"], kernel: Float[Array, "k c_group d"]
) -> Float[Array, "batch time d"]:
    """Convolve in groups of c_group channels, stride 1; the output is as long as the input (k // 2 zeros before it).

    On a CPU the kernel's gradient is computed here, by matrix products over a few taps at a time. XLA's takes 80 times
    as long as the convolution (7 s for 10 s of speech in wav2vec 2.0 base), also without groups if it is in a branch of
    a `cond` (15 of the 16 s of a step of a Tacotron 2 whose reduction factor follows a schedule).
    """
    return lax.platform_dependent(x, kernel, cpu=_grouped_custom_gradient, default=_grouped)


class Conv1d(nn.Module):
    """Convolution over time with a bias, stride 1, Xavier's uniform weights; the output is as long as the input."""

    width: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time c"]) -> Float[Array, "batch time d"]:
        """Return the convolution of x."""
        init = nn.initializers.glorot_uniform()
        kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return grouped_conv1d(x, kernel) + bias[None, None]


def _grouped(x: Array, kernel: Array) -> Array:
    k, inputs, _ = kernel.shape
    return lax.conv_general_dilated(
        x, kernel, (1,), [(k // 2, k - 1 - k // 2)],
        dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=x.shape[-1] // inputs,
    )  # fmt: skip


_grouped_custom_gradient = jax.custom_vjp(_grouped)
_TAPS = 8  # taps of the kernel whose inputs are concatenated for one matrix product


def _grouped_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _grouped(x, kernel), (x, kernel)


def _grouped_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k, inputs, width = kernel.shape
    batch, time, channels = x.shape
    groups = channels // inputs
    outputs = width // groups
    flipped = kernel[::-1].reshape(k, inputs, groups, outputs).transpose(0, 3, 2, 1).reshape(k, outputs, channels)
    grad_x = lax.conv_general_dilated(
        grad, flipped, (1,), [(k - 1 - k // 2, k // 2)],
        dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups,
    )  # fmt: skip

    padded_k = -(-k // _TAPS) * _TAPS
    padded = jnp.pad(x, ((0, 0), (k // 2, padded_k - 1 - k // 2), (0, 0))).reshape(batch, -1, groups, inputs)
    length = time + padded_k - _TAPS
    shifted = jnp.concatenate([padded[:, r : r + length] for r in range(_TAPS)], axis=-1)
    grad = grad.reshape(batch, time, groups, outputs)
    parts = [jnp.einsum("btgi,btgo->igo", shifted[:, j : j + time], grad) for j in range(0, padded_k, _TAPS)]
    return grad_x, jnp.concatenate(parts).reshape(padded_k, inputs, width)[:k]


_grouped_custom_gradient.defvjp(_grouped_forward, _grouped_backward)


def taps_stride2(x: Float[Array, "batch time freq c"]) -> list[Float[Array, "batch time_out freq_out c"]]:
    """Return the nine inputs of each output of a 3x3 convolution with stride 2, in the kernel's order.

    There is no padding in time (time = (T - 1) / 2), and one zero on both sides in frequency. They are slices of an
    array split into even and odd indices, whose gradient is a plain pad: faster on a CPU than the interior padding of a
    strided slice's gradient.
    """
    batch, time, freq, channels = x.shape
    out_time, out_freq = (time - 1) // 2, (freq + 1) // 2
    x = jnp.pad(x, ((0, 0), (0, 1), (1, 2 * out_freq + 1 - freq), (0, 0)))
    x = x.reshape(batch, out_time + 1, 2, out_freq + 1, 2, channels)
    cuts = ((0, 0), (0, 1), (1, 0))  # tap -> (first block, 0 for even or 1 for odd indices)
    return [x[:, a : a + out_time, p, b : b + out_freq, q] for a, p in cuts for b, q in cuts]


@jax.custom_vjp
def weighted_taps(taps: Float[Array, "9 batch time freq c"], kernel: Float[Array, "9 c"]) -> Array:
    """Return sum_i taps[i] * kernel[i]: a depthwise convolution whose kernel's gradient is one pass over time."""
    products = [taps[i] * kernel[i][None, None, None] for i in range(kernel.shape[0])]
    return sum(products[1:], start=products[0])


def _weighted_taps_forward(taps: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return weighted_taps(taps, kernel), (taps, kernel)


def _weighted_taps_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    taps, kernel = saved

    def add_frame(t: Array, total: Array) -> Array:
        frame = lax.dynamic_index_in_dim(taps, t, axis=2, keepdims=False)
        return total + frame.astype(jnp.float32) * lax.dynamic_index_in_dim(grad, t, axis=1, keepdims=False)[None]

    count, batch, time, freq, channels = taps.shape
    total = lax.fori_loop(0, time, add_frame, jnp.zeros((count, batch, freq, channels), jnp.float32))
    return grad[None] * kernel[:, None, None, None], total.sum((1, 2)).astype(kernel.dtype)


weighted_taps.defvjp(_weighted_taps_forward, _weighted_taps_backward)
