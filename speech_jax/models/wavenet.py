"""WaveNet (van den Oord et al. 2016) as a vocoder: mel frames → a distribution of each sample, given those before it.

The stack is that of r9y9/wavenet_vocoder and nv-wavenet, whose weights can be renamed into ours: the equations are in
kernels/wavenet/step.py. Here it runs over all samples of a recording at once, for training and for likelihoods;
decoding/wavenet/scan.py samples from it.

Parameters are plain dicts: {"condition", "first", "layers_0", …, "skip_bias", "head1", "head2"} and, with several
voices, "speakers".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.config import WaveNetConfig
from speech_jax.models.layers import linear_init
from speech_jax.models.wavenet_condition import (
    channels,
    check_hop,
    condition,
    condition_init,
    rows_per_frame,
)

_LOG_SCALE = -3.0  # what the log scales start at: the deviation of speech given its past, within a factor of a few


def small() -> WaveNetConfig:
    """12 layers of 64 channels, 127 samples (at 16 kHz less than a period of a low voice): for one CPU core."""
    return _of(12, 2, 2, residual=64, gate=128, skip=64, head=64)


def medium() -> WaveNetConfig:
    """nv-wavenet's medium network: 20 layers of 64 channels, 128 to the output, 2,047 samples."""
    return _of(20, 2, 2, residual=64, gate=128, skip=128, head=128)


def base() -> WaveNetConfig:
    """r9y9's last network: 24 layers of 128 channels, 505 samples."""
    return WaveNetConfig()


def wide() -> WaveNetConfig:
    """30 layers of 256 channels in three cycles, as in Tacotron 2's paper."""
    return _of(30, 3, 3, residual=256, gate=512, skip=256, head=256)


def released() -> WaveNetConfig:
    """The shape of r9y9's released LJSpeech network: 24 layers of 512 channels."""
    return _of(24, 4, 3, residual=512, gate=512, skip=256, head=256)


def _of(layers: int, cycles: int, kernel: int, **widths: Any) -> WaveNetConfig:
    return WaveNetConfig(layers=layers, cycles=cycles, kernel_size=kernel, **widths)


def wavenet(config: WaveNetConfig) -> Model:
    """The model as two pure functions.

    A batch is {"before": what was before each sample, f32 [batch, samples] (int32 classes with mulaw), "mel": f32
    [batch, window, num_mels], "own": bool [batch, window]} (both as `wavenet_condition.window_of` gives them, margins
    included) and, with several voices, "speaker": int [batch]. samples = (window - margins) · hop.
    Outputs: {"y": f32 [batch, samples, outputs]}. There is no model state.
    """
    check_hop(config.condition, config.hop)

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch
        return init_params(config, key), {}

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: Array | None = None, train: bool = False
    ) -> tuple[dict[str, Array], PyTree]:
        del key, train
        vectors = condition(config.condition, params["condition"], batch["mel"], batch["own"], config.hop)
        return {"y": stack(config, params, batch["before"], vectors, batch.get("speaker"))}, model_state

    return Model(init, apply)


def init_params(config: WaveNetConfig, key: Array) -> PyTree:
    """Normal weights of deviation 1/sqrt(fan in), zero biases; log scales begin at -3."""
    keys = jax.random.split(key, config.layers + 5)
    half, width = config.gate // 2, channels(config.condition, config.num_mels)

    def matrix(key: Array, inputs: int, *shape: int) -> Array:
        return inputs**-0.5 * jax.random.normal(key, shape)

    params = {
        "condition": condition_init(config.condition, config.num_mels, keys[0]),
        "first": linear_init(keys[1], config.inputs, config.residual, 1.0 if config.output != "mulaw" else 0.5),
        "skip_bias": jnp.zeros(config.skip),
        "head1": linear_init(keys[2], config.skip, config.head),
        "head2": linear_init(keys[3], config.head, config.outputs),
    }
    if config.output != "mulaw":
        scales = 1 if config.output == "gaussian" else config.mixtures  # log scales are the last outputs
        params["head2"]["bias"] = params["head2"]["bias"].at[-scales:].set(_LOG_SCALE)
    for layer in range(config.layers):
        some = jax.random.split(keys[5 + layer], 5)
        fan = config.kernel_size * config.residual
        params[f"layers_{layer}"] = {
            "taps": matrix(some[0], fan, config.kernel_size, config.residual, config.gate),
            "bias": jnp.zeros(config.gate),
            "local": matrix(some[1], width, width, config.gate),
            "out": matrix(some[2], half, half, config.residual),
            "out_bias": jnp.zeros(config.residual),
            "skip": matrix(some[3], half, half, config.skip),
        }
        if config.speakers:
            params[f"layers_{layer}"]["global"] = matrix(
                some[4], config.speaker_width, config.speaker_width, config.gate
            )
    if config.speakers:
        params["speakers"] = 0.3 * jax.random.normal(keys[4], (config.speakers, config.speaker_width))
    return params


def with_speaker_inputs(config: WaveNetConfig, params: PyTree) -> PyTree:
    """Return the parameters of a network of one speaker for `config`, which has several.

    Each layer gets zeros for the speaker's vector, so that nothing changes until they are trained. The vectors
    themselves are not among the result.
    """
    zeros = np.zeros((config.speaker_width, config.gate), np.float32)
    layers = {name: {**params[name], "global": zeros} for name in params if name.startswith("layers_")}
    return {**params, **layers}


def layer_condition(
    config: WaveNetConfig,
    params: PyTree,
    layer: int,
    vectors: Float[Array, "batch rows channels"],
    speaker: Array | None,
) -> Float[Array, "batch rows gate"]:
    """What layer `layer` adds to its convolution: its 1×1 of the vectors, its bias, and the speaker's part."""
    own = params[f"layers_{layer}"]
    added = vectors @ own["local"] + own["bias"][None, None]
    if config.speakers:
        assert speaker is not None  # a network of several voices is given one
        voice = jnp.take(params["speakers"], speaker, axis=0) @ own["global"]
        added = added + voice[:, None]
    return added


def stack(
    config: WaveNetConfig,
    params: PyTree,
    before: Array,
    vectors: Float[Array, "batch rows channels"],
    speaker: Array | None = None,
) -> Float[Array, "batch samples outputs"]:
    """The outputs for every sample, given the one before each (`before` [batch, samples], samples or classes)."""
    dtype = jnp.dtype(config.dtype)
    share = config.hop // rows_per_frame(config.condition, config.hop)  # samples of a row of `vectors`
    vectors = vectors.astype(dtype)
    cast = jax.tree.map(lambda a: a.astype(dtype), {n: p for n, p in params.items() if n != "condition"})
    if config.output == "mulaw":
        x = jnp.take(cast["first"]["kernel"], before, axis=0) + cast["first"]["bias"][None, None]
    else:
        x = before.astype(dtype)[..., None] * cast["first"]["kernel"][None] + cast["first"]["bias"][None, None]
    rows, samples = before.shape
    zero = jnp.isnan(before[0, 0].astype(jnp.float32)).astype(jnp.int32)  # as far as XLA knows, 0 or 1
    skips = jnp.zeros((rows, samples, config.skip), dtype)
    for layer, dilation in enumerate(config.dilations):
        own = cast[f"layers_{layer}"]
        x = computed_once(x, zero)
        added = layer_condition(config, cast, layer, vectors, speaker)
        a = causal_conv(x, own["taps"], dilation)
        a = (a.reshape(rows, -1, share, config.gate) + added[:, :, None]).reshape(rows, samples, config.gate)
        left, right = jnp.split(a, 2, axis=-1)
        z = jnp.tanh(left) * jax.nn.sigmoid(right)
        skips = skips + z @ own["skip"]
        x = (x + z @ own["out"] + own["out_bias"][None, None]) * jnp.asarray(config.residual_scale, dtype)
    skips = skips * jnp.asarray(config.skip_factor, dtype) + cast["skip_bias"][None, None]
    hidden = jax.nn.relu(jax.nn.relu(skips) @ cast["head1"]["kernel"] + cast["head1"]["bias"][None, None])
    head2 = params["head2"]
    return hidden.astype(jnp.float32) @ head2["kernel"] + head2["bias"][None, None]


@jax.custom_jvp
def computed_once(
    x: Float[Array, "batch samples channels"], zero: Int[Array, ""]
) -> Float[Array, "batch samples channels"]:
    """x. zero: 0, in a way that XLA cannot see.

    XLA on a CPU would compute a layer's x anew wherever it is used, from the products of all layers before, so that the
    work grew with the square of the layers; an `optimization_barrier` is taken out before that. A slice at a place that
    it does not know makes it keep x: a training step takes 0.75 to 0.9 times as long
    (experiments/benchmarks/wavenet_training.py).
    """

    def at_unknown_place(x: Array, zero: Array) -> Array:
        longer = jnp.concatenate([x[:, :1], x], axis=1)
        return lax.dynamic_slice_in_dim(longer, 1 + zero, x.shape[1], axis=1)

    return lax.platform_dependent(x, zero, cpu=at_unknown_place, default=lambda x, _: x)


@computed_once.defjvp
def _(given: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return computed_once(*given), tangents[0]  # and not the slice's own, which pads


def causal_conv(
    x: Float[Array, "batch samples residual"], taps: Float[Array, "kernel residual gate"], dilation: int
) -> Float[Array, "batch samples gate"]:
    """Output t is the sum over j of x[t - (kernel - 1 - j) · dilation] @ taps[j]; before the first sample x is 0.

    XLA's convolution, because on a CPU it takes 0.75 to 0.88 times as long, forward and backward, as one product a tap
    of shifted slices, or one product of them side by side (experiments/benchmarks/wavenet_training.py).
    """
    before = (taps.shape[0] - 1) * dilation
    return lax.conv_general_dilated(
        x, taps, (1,), [(before, 0)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )
