"""Conditioning of a WaveNet: mel frames → vectors at frame rate or at sample rate.

There are four networks. "frames" is this package's, at frame rate: a convolution over neighboring frames. All samples
of a frame share its vector, so that each layer's 1×1 convolution is computed once per frame. The others are public ones
with learned upsampling to the sample rate: "stretch" (r9y9 master's ConvInUpsampleNetwork), "transposed_bands" (r9y9's
released LJSpeech model) and "transposed" (nv-wavenet's PyTorch model).

The vectors of a frame depend on `reach` frames before and after it. These margins are part of a network's input; beyond
an utterance's ends its first and last frames repeat, as in r9y9's synthesis.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.types import PyTree
from speech_jax.models.config import ConditionConfig
from speech_jax.models.layers import linear_init


def reach(config: ConditionConfig, hop: int) -> tuple[int, int]:
    """Return the numbers of frames (before, after) a frame on which its vectors depend."""
    if config.kind == "frames":
        return config.context, config.context
    if config.kind == "stretch":
        spread, rate = 0.0, 1
        for scale in config.scales:  # a filter covers `scale` values at its own rate on either side
            rate *= scale
            spread += scale / rate
        frames = config.context + math.ceil(spread)
        return frames, frames
    if config.kind == "transposed":
        return -(-config.window // hop) - 1, 0
    return 0, 0


def rows_per_frame(config: ConditionConfig, hop: int) -> int:
    """Return the number of vectors per frame: 1, or the hop length."""
    return 1 if config.kind == "frames" else hop


def channels(config: ConditionConfig, num_mels: int) -> int:
    """Return the number of channels of the vectors."""
    return config.width if config.kind == "frames" else num_mels


def condition_init(config: ConditionConfig, num_mels: int, key: Array) -> PyTree:
    """Return initial parameters; smoothing filters start as means, as in the public code."""
    first, second = jax.random.split(key)
    if config.kind == "frames":
        taps = 2 * config.context + 1
        return {
            "conv": linear_init(first, taps * num_mels, config.width),
            "dense": linear_init(second, config.width, config.width),
        }
    if config.kind == "stretch":
        taps = 2 * config.context + 1
        kernel = (taps * num_mels) ** -0.5 * jax.random.normal(first, (taps, num_mels, num_mels))
        filters = {f"filter_{i}": jnp.full((2 * s + 1,), 1 / (2 * s + 1)) for i, s in enumerate(config.scales)}
        return {"conv": {"kernel": kernel}, **filters}
    if config.kind == "transposed_bands":
        return {
            f"stage_{i}": {"kernel": jnp.full((config.bands, scale), 1 / config.bands), "bias": jnp.zeros(())}
            for i, scale in enumerate(config.scales)
        }
    kernel = num_mels**-0.5 * jax.random.normal(first, (config.window, num_mels, num_mels))
    return {"kernel": kernel, "bias": jnp.zeros(num_mels)}


def window_of(
    mel: Float[Array, "batch frames mels"],
    lengths: Int[Array, " batch"],
    first: Int[Array, " batch"],
    count: int,
    config: ConditionConfig,
    hop: int,
) -> tuple[Float[Array, "batch window mels"], Bool[Array, "batch window"]]:
    """Cut a window of frames with its margins out of each utterance.

    Beyond an utterance's ends its first and last frames repeat; values in the padding have no influence.

    Args:
        mel: mel frames.
        lengths: number of valid frames.
        first: first frame of each window, without the margin.
        count: frames of a window, without the margins.
        config: settings of the conditioning network.
        hop: samples per frame.

    Returns:
        (frames, True where a frame lies within the utterance).
    """
    back, ahead = reach(config, hop)
    number = first[:, None] + jnp.arange(-back, count + ahead)[None]
    inside = jnp.clip(number, 0, jnp.maximum(lengths - 1, 0)[:, None])
    mask = (number >= 0) & (number < lengths[:, None])
    return jnp.take_along_axis(mel, inside[..., None], axis=1), mask


def condition(
    config: ConditionConfig,
    params: PyTree,
    frames: Float[Array, "batch window mels"],
    mask: Bool[Array, "batch window"],
    hop: int,
) -> Float[Array, "batch rows channels"]:
    """Return the vectors of a window's frames, without its margins: one per frame or one per sample.

    Args:
        config: settings of the network.
        params: its parameters.
        frames: mel frames, with `reach` frames of margin on either side.
        mask: True where a frame lies within the utterance, and is not a repeated end.
        hop: samples per frame.
    """
    back, ahead = reach(config, hop)
    x = (frames + config.shift) * config.scale
    if config.kind == "frames":
        count = x.shape[1] - back - ahead
        windows = jnp.concatenate([x[:, i : i + count] for i in range(2 * config.context + 1)], axis=-1)
        hidden = jax.nn.relu(_linear(params["conv"], windows))
        return jax.nn.relu(_linear(params["dense"], hidden))
    if config.kind == "stretch":
        x = lax.conv_general_dilated(
            x, params["conv"]["kernel"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        inside = mask[:, config.context : mask.shape[1] - config.context]
        x = jnp.where(inside[..., None], x, 0.0)
        for number, scale in enumerate(config.scales):
            x, inside = jnp.repeat(x, scale, axis=1), jnp.repeat(inside, scale, axis=1)
            padded = jnp.pad(x, ((0, 0), (scale, scale), (0, 0)))
            taps = params[f"filter_{number}"]
            x = sum(taps[i] * padded[:, i : i + x.shape[1]] for i in range(2 * scale + 1))
            x = jnp.where(inside[..., None], x, 0.0)  # the public code pads each of its filters with zeros
        margin = (back - config.context) * hop
        return x[:, margin : x.shape[1] - margin]
    if config.kind == "transposed_bands":
        for number, scale in enumerate(config.scales):
            stage = params[f"stage_{number}"]
            half = config.bands // 2
            padded = jnp.pad(x, ((0, 0), (0, 0), (half, half)))
            # Band f of the output is the sum over q of kernel[q] · band f + half - q of the input.
            parts = [
                padded[:, :, None, config.bands - 1 - q : config.bands - 1 - q + x.shape[2]]
                * stage["kernel"][q][None, None, :, None]
                for q in range(config.bands)
            ]
            x = jax.nn.relu(sum(parts) + stage["bias"]).reshape(x.shape[0], x.shape[1] * scale, x.shape[2])
        return x
    x = jnp.where(mask[..., None], x, 0.0)  # zeros before the first frame, as in the public code
    pad = (back + 1) * hop - config.window
    kernel = jnp.pad(params["kernel"], ((0, pad), (0, 0), (0, 0))).reshape(back + 1, hop, *params["kernel"].shape[1:])
    count = x.shape[1] - back
    parts = [jnp.einsum("bfi,hio->bfho", x[:, back - i : back - i + count], kernel[i]) for i in range(back + 1)]
    return sum(parts[1:], start=parts[0]).reshape(x.shape[0], count * hop, -1) + params["bias"][None, None]


def _linear(params: dict[str, Array], x: Array) -> Array:
    return x @ params["kernel"] + params["bias"][None, None]
