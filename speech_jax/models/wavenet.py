"""WaveNet (van den Oord et al. 2016) as a vocoder: mel frames → a distribution per sample, given the earlier samples.

The stack is that of r9y9/wavenet_vocoder and nv-wavenet, whose weights can be converted; its equations are in
kernels/wavenet/step.py. Here it runs over all samples of a recording at once, for training and likelihoods;
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

from speech_jax.core.arrays import check_batch
from speech_jax.core.types import Batch, Model, PyTree
from speech_jax.models.config import WaveNetConfig, check_hop
from speech_jax.models.layers import linear_init
from speech_jax.models.wavenet_condition import channels, condition, condition_init, reach, rows_per_frame

_LOG_SCALE = -3.0  # what the log scales start at: the deviation of speech given its past, within a factor of a few


def small() -> WaveNetConfig:
    """Return a network for one CPU core: 12 layers of 64 channels.

    Its receptive field of 127 samples is at 16 kHz shorter than a period of a low voice.
    """
    return _of(12, 2, 2, residual=64, gate=128, skip=64, head=64)


def medium() -> WaveNetConfig:
    """Return nv-wavenet's medium network: 20 layers of 64 channels, 128 skip channels, 2,047 samples."""
    return _of(20, 2, 2, residual=64, gate=128, skip=128, head=128)


def base() -> WaveNetConfig:
    """Return r9y9's last network: 24 layers of 128 channels, 505 samples."""
    return WaveNetConfig()


def wide() -> WaveNetConfig:
    """Return the network of Tacotron 2's paper: 30 layers of 256 channels in three cycles."""
    return _of(30, 3, 3, residual=256, gate=512, skip=256, head=256)


def released() -> WaveNetConfig:
    """Return the sizes of r9y9's released LJSpeech network: 24 layers of 512 channels."""
    return _of(24, 4, 3, residual=512, gate=512, skip=256, head=256)


def _of(layers: int, cycles: int, kernel: int, **widths: Any) -> WaveNetConfig:
    return WaveNetConfig(layers=layers, cycles=cycles, kernel_size=kernel, **widths)


def wavenet(config: WaveNetConfig) -> Model:
    """Return a WaveNet with teacher forcing, as pure functions; decoding/wavenet/ samples.

    A batch is {"before": the sample before each, float32 [batch, samples], or for "mulaw" its int32 class; "mel":
    float32 [batch, window, num_mels] and "mel_mask": bool [batch, window], from `wavenet_condition.window_of`, margins
    included} and, with several voices, "speaker": int [batch]; samples = (window - margins) · hop. There is no model
    state.

    Args:
        config: settings of the network.

    Returns:
        The model. Its outputs are {"y": float32 [batch, samples, outputs]}, the parameters of each sample's
        distribution; see objectives/waveform.py.

    Raises:
        UserError: the settings of the conditioning network do not fit the hop length.

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import ConditionConfig, WaveNetConfig
        >>> from speech_jax.models.wavenet import wavenet
        >>> config = WaveNetConfig(
        ...     layers=4, cycles=2, residual=8, gate=16, skip=8, head=8, num_mels=4, hop=16,
        ...     condition=ConditionConfig(width=8, context=1),
        ... )
        >>> model = wavenet(config)
        >>> batch = {  # 10 frames of 16 samples, with a margin of one frame on either side
        ...     "before": jnp.zeros((2, 160)), "mel": jnp.zeros((2, 12, 4)), "mel_mask": jnp.ones((2, 12), bool),
        ... }
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> outputs["y"].shape  # a mean and a log scale per sample
        (2, 160, 2)
    """
    check_hop(config.condition, config.hop)

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch
        return init_params(config, key), {}

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: Array | None = None, train: bool = False
    ) -> tuple[dict[str, Array], PyTree]:
        del key, train
        _check(config, batch)
        vectors = condition(config.condition, params["condition"], batch["mel"], batch["mel_mask"], config.hop)
        return {"y": stack(config, params, batch["before"], vectors, batch.get("speaker"))}, model_state

    return Model(init, apply)


def _check(config: WaveNetConfig, batch: Batch) -> None:
    """Raise ValueError for a batch of another form, or whose samples are not those of the window's frames."""
    before = ("int" if config.output == "mulaw" else "float", "batch", "samples")
    voice = {"speaker": ("int", "batch")} if config.speakers else {}
    mel = ("float", "batch", "window", config.num_mels)
    check_batch(batch, before=before, mel=mel, mel_mask=("bool", "batch", "window"), **voice)
    samples, window = batch["before"].shape[1], batch["mel"].shape[1]
    margins = sum(reach(config.condition, config.hop))
    if samples != (window - margins) * config.hop:
        raise ValueError(
            f"before: found {samples} samples, expected (window - margins) · hop = "
            f"({window} - {margins}) · {config.hop} = {(window - margins) * config.hop}"
        )


def init_params(config: WaveNetConfig, key: Array) -> PyTree:
    """Return initial parameters: normal weights of deviation 1/sqrt(fan in), zero biases, log scales of -3."""
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
        layer_keys = jax.random.split(keys[5 + layer], 5)
        fan = config.kernel_size * config.residual
        params[f"layers_{layer}"] = {
            "taps": matrix(layer_keys[0], fan, config.kernel_size, config.residual, config.gate),
            "bias": jnp.zeros(config.gate),
            "local": matrix(layer_keys[1], width, width, config.gate),
            "out": matrix(layer_keys[2], half, half, config.residual),
            "out_bias": jnp.zeros(config.residual),
            "skip": matrix(layer_keys[3], half, half, config.skip),
        }
        if config.speakers:
            params[f"layers_{layer}"]["global"] = matrix(
                layer_keys[4], config.speaker_width, config.speaker_width, config.gate
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
    """Return the conditioning that a layer adds to its convolution, biases included.

    Args:
        config: settings of the network.
        params: its parameters.
        layer: index of the layer.
        vectors: output of `wavenet_condition.condition`.
        speaker: int [batch], index of the voice; None for a network of one voice.
    """
    layer_params = params[f"layers_{layer}"]
    added = vectors @ layer_params["local"] + layer_params["bias"][None, None]
    if config.speakers:
        assert speaker is not None  # a network of several voices is given one
        voice = jnp.take(params["speakers"], speaker, axis=0) @ layer_params["global"]
        added = added + voice[:, None]
    return added


def stack(
    config: WaveNetConfig,
    params: PyTree,
    before: Array,
    vectors: Float[Array, "batch rows channels"],
    speaker: Array | None = None,
) -> Float[Array, "batch samples outputs"]:
    """Return the outputs for all samples.

    Args:
        config: settings of the network.
        params: its parameters.
        before: [batch, samples], the sample before each, or for "mulaw" its class.
        vectors: output of `wavenet_condition.condition`.
        speaker: int [batch], index of the voice; None for a network of one voice.
    """
    dtype = jnp.dtype(config.dtype)
    samples_per_row = config.hop // rows_per_frame(config.condition, config.hop)
    vectors = vectors.astype(dtype)
    cast = jax.tree.map(lambda a: a.astype(dtype), {n: p for n, p in params.items() if n != "condition"})
    if config.output == "mulaw":
        x = jnp.take(cast["first"]["kernel"], before, axis=0) + cast["first"]["bias"][None, None]
    else:
        x = before.astype(dtype)[..., None] * cast["first"]["kernel"][None] + cast["first"]["bias"][None, None]
    rows, samples = before.shape
    zero = jnp.isnan(before[0, 0].astype(jnp.float32)).astype(jnp.int32)  # always 0, but XLA cannot infer that
    skips = jnp.zeros((rows, samples, config.skip), dtype)
    for layer, dilation in enumerate(config.dilations):
        layer_params = cast[f"layers_{layer}"]
        x = prevent_recomputation(x, zero)
        added = layer_condition(config, cast, layer, vectors, speaker)
        a = causal_conv(x, layer_params["taps"], dilation)
        a = a.reshape(rows, -1, samples_per_row, config.gate) + added[:, :, None]
        a = a.reshape(rows, samples, config.gate)
        left, right = jnp.split(a, 2, axis=-1)
        z = jnp.tanh(left) * jax.nn.sigmoid(right)
        skips = skips + z @ layer_params["skip"]
        residual = z @ layer_params["out"] + layer_params["out_bias"][None, None]
        x = (x + residual) * jnp.asarray(config.residual_scale, dtype)
    skips = skips * jnp.asarray(config.skip_factor, dtype) + cast["skip_bias"][None, None]
    hidden = jax.nn.relu(jax.nn.relu(skips) @ cast["head1"]["kernel"] + cast["head1"]["bias"][None, None])
    head2 = params["head2"]
    return hidden.astype(jnp.float32) @ head2["kernel"] + head2["bias"][None, None]


@jax.custom_jvp
def prevent_recomputation(
    x: Float[Array, "batch samples channels"], zero: Int[Array, ""]
) -> Float[Array, "batch samples channels"]:
    """Return x, and keep XLA on a CPU from recomputing it for each use.

    Otherwise XLA would recompute a layer's x wherever it is used, from the products of all earlier layers, so that the
    work would grow with the square of the number of layers; an `optimization_barrier` is removed before that pass. A
    slice at an unknown index makes XLA store x: a training step takes 0.75 to 0.9 times as long
    (experiments/benchmarks/wavenet_training.py).

    Args:
        x: any array.
        zero: 0, computed in a way that XLA cannot infer.
    """

    def slice_at_unknown_index(x: Array, zero: Array) -> Array:
        padded = jnp.concatenate([x[:, :1], x], axis=1)
        return lax.dynamic_slice_in_dim(padded, 1 + zero, x.shape[1], axis=1)

    return lax.platform_dependent(x, zero, cpu=slice_at_unknown_index, default=lambda x, _: x)


@prevent_recomputation.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return prevent_recomputation(*primals), tangents[0]  # the slice's own derivative would pad


def causal_conv(
    x: Float[Array, "batch samples residual"], taps: Float[Array, "kernel residual gate"], dilation: int
) -> Float[Array, "batch samples gate"]:
    """Return the causal convolution: output t is the sum over j of x[t - (kernel - 1 - j) · dilation] @ taps[j].

    Before the first sample x is 0. It is XLA's convolution, because on a CPU it takes 0.75 to 0.88 times as long,
    forward and backward, as one product per tap of shifted slices, or one product of all of them
    (experiments/benchmarks/wavenet_training.py).
    """
    before = (taps.shape[0] - 1) * dilation
    return lax.conv_general_dilated(
        x, taps, (1,), [(before, 0)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )
