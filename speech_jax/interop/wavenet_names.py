"""Names and layouts of the tensors of public WaveNets.

There are three: r9y9/wavenet_vocoder's last version ("master"), the version of its released LJSpeech model
("released"), and nv-wavenet's PyTorch model ("nvidia"). Weight norm is folded, g · v / |v|. torch stores convolutions
as [out, in, taps], Flax as [taps, in, out].
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.types import PyTree
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import ConditionConfig, WaveNetConfig

Layout = Literal["master", "released", "nvidia"]
MARKS: dict[Layout, str] = {  # a tensor that no other layout has
    "master": "upsample_net.conv_in.weight",
    "released": "upsample_conv.0.bias",
    "nvidia": "dilate_layers.0.conv.weight",
}
R9Y9 = "conv_layers.0.conv1x1_skip.bias"  # a tensor of every WaveNet of r9y9's


def detect_layout(tensors: Tensors) -> Layout | None:
    """Return the layout of the tensors, or None if they are not a WaveNet's."""
    return next((layout for layout, mark in MARKS.items() if mark in tensors), None)


def fold_weight_norm(tensors: Tensors, source: str) -> Tensors:
    """Replace NAME.weight_g and NAME.weight_v by NAME.weight; everything becomes float32.

    Args:
        tensors: of the file.
        source: path of the file, for messages.

    Raises:
        UserError: one of the two is missing.
    """
    folded: Tensors = {}
    tensors = {_old_name(name): tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if name.endswith(".weight_g"):
            continue
        array = np.asarray(tensor, np.float32)
        if name.endswith(".weight_v"):
            name = name.removesuffix("_v")
            if f"{name}_g" not in tensors:
                raise UserError(f"{source}: found {name}_v without {name}_g, expected both")
            norm = np.sqrt(np.sum(np.square(array, dtype=np.float64), axis=tuple(range(1, array.ndim)), keepdims=True))
            array = (np.asarray(tensors[f"{name}_g"], np.float64) * array / np.maximum(norm, 1e-30)).astype(np.float32)
        folded[name] = array
    for name in tensors:
        if name.endswith(".weight_g") and f"{name.removesuffix('_g')}_v" not in tensors:
            raise UserError(f"{source}: found {name} without weight_v, expected both")
    return folded


def _old_name(name: str) -> str:
    """Return the name of a part of weight norm before torch 2.1."""
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = name.replace(f"parametrizations.weight.{new}", old)
    return name


def wavenet_config(
    tensors: Tensors, layout: Layout, source: str, hop: int, cycles: int, min_log_scale: float | None = None
) -> WaveNetConfig:
    """Return the network of tensors with folded weight norm: every width follows from a shape.

    Args:
        tensors: as `fold_weight_norm` returns them.
        layout: their layout.
        source: path of the file, for messages.
        hop: samples per mel frame.
        cycles: dilation cycles, which no tensor tells.
        min_log_scale: lower bound of log scales, which no tensor tells; None takes the default of the public code.

    Raises:
        UserError: a tensor is missing or has another shape, or the layers are not whole cycles.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            found = f"shape {tensors[name].shape}" if name in tensors else "none"
            raise UserError(f"{source}: found {found} for tensor {name!r}, expected {rank} axes, as in a WaveNet")
        return tensors[name].shape

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)

    if layout == "nvidia":
        layers = count(r"dilate_layers\.(\d+)\.")
        gate, residual, kernel = shape("dilate_layers.0.conv.weight", 3)
        classes = shape("embed.weight", 2)[0]
        num_mels, _, window = shape("upsample.weight", 3)
        public: dict[str, Any] = dict(
            output="mulaw", classes=classes, skip=shape("skip_layers.0.conv.weight", 3)[0],
            head=shape("conv_out.conv.weight", 3)[0], residual_scale=1.0, skip_scale=1.0,
            condition=ConditionConfig(kind="transposed", window=window, shift=0.0, scale=1.0),
        )  # fmt: skip
    else:
        layers = count(r"conv_layers\.(\d+)\.")
        gate, residual, kernel = shape("conv_layers.0.conv.weight", 3)
        outputs, head = shape("last_conv_layers.3.weight", 3)[:2]
        inputs, num_mels = shape("first_conv.weight", 3)[1], shape("conv_layers.0.conv1x1c.weight", 3)[1]
        output = "mulaw" if inputs > 1 else "gaussian" if outputs == 2 else "logistics"
        if (output == "mulaw" and inputs != outputs) or (output == "logistics" and outputs % 3):
            raise UserError(
                f"{source}: found {inputs} inputs and {outputs} outputs, expected equally many, or one input and 2 "
                "or a multiple of 3 outputs"
            )
        if layout == "master":
            pattern = re.compile(r"upsample_net\.upsample\.up_layers\.(\d{1,6})\.weight$")
            numbers = sorted(int(m[1]) for name in tensors if (m := pattern.match(name)))
            if numbers != [*range(1, 2 * len(numbers), 2)]:
                raise UserError(
                    f"{source}: found upsampling filters {numbers}, expected 1, 3, 5, … (no upsample_activation)"
                )
            scales = [shape(f"upsample_net.upsample.up_layers.{i}.weight", 4) for i in numbers]
            if any(s[2] != 1 for s in scales):
                raise UserError(f"{source}: found filters over bands, expected freq_axis_kernel_size 1")
            condition = ConditionConfig(
                kind="stretch", context=shape("upsample_net.conv_in.weight", 3)[2] // 2,
                scales=tuple(s[3] // 2 for s in scales), shift=0.0, scale=1.0,
            )  # fmt: skip
        else:
            stages = [shape(f"upsample_conv.{2 * i}.weight", 4)
                      for i in range((count(r"upsample_conv\.(\d+)\.") + 1) // 2)]  # fmt: skip
            condition = ConditionConfig(
                kind="transposed_bands", bands=stages[0][2], scales=tuple(s[3] for s in stages), shift=0.0, scale=1.0
            )
        speakers = "embed_speakers.weight" in tensors
        public = dict(
            output=output, classes=outputs if output == "mulaw" else 256, mixtures=max(outputs // 3, 1),
            skip=shape("conv_layers.0.conv1x1_skip.weight", 3)[0], head=head, condition=condition,
            skip_scale=0.0 if layout == "master" else 1.0,
            min_log_scale=min_log_scale or (-16.0 if layout == "master" else -32.23619130191664),
            speakers=shape("embed_speakers.weight", 2)[0] if speakers else 0,
            speaker_width=shape("embed_speakers.weight", 2)[1] if speakers else 64,
        )  # fmt: skip
    if layers % cycles:
        raise UserError(f"{source}: found {layers} layers in {cycles} cycles of dilations, expected whole cycles")
    return WaveNetConfig(layers=layers, cycles=cycles, kernel_size=kernel, residual=residual, gate=gate,
                         num_mels=num_mels, hop=hop, **public)  # fmt: skip


class _Taker:
    """Tensors by name; keeps track of the unused ones."""

    def __init__(self, tensors: Tensors, source: str):
        self.unused, self.source = dict(tensors), source

    def __call__(self, name: str) -> np.ndarray:
        if name not in self.unused:
            raise UserError(f"{self.source}: found no tensor {name!r}, expected it in a WaveNet")
        return self.unused.pop(name)

    def linear(self, name: str) -> np.ndarray:
        """Return a 1×1 convolution as [in, out]."""
        return np.ascontiguousarray(self(f"{name}.weight")[..., 0].T)

    def taps(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self(f"{name}.weight").transpose(2, 1, 0))

    def optional(self, name: str, like: np.ndarray) -> np.ndarray:
        return self.unused.pop(name) if name in self.unused else np.zeros(like.shape[-1], np.float32)


def wavenet_params_from_torch(
    tensors: Tensors, config: WaveNetConfig, layout: Layout, source: str
) -> tuple[PyTree, list[str]]:
    """Convert the tensors of a WaveNet to our parameter tree; the caller checks shapes.

    Args:
        tensors: as `fold_weight_norm` returns them.
        config: the network.
        layout: layout of the tensors.
        source: path of the file, for messages.

    Returns:
        params, and the names of the tensors that were not used.

    Raises:
        UserError: a tensor is missing.
    """
    take = _Taker(tensors, source)
    return (_nvidia if layout == "nvidia" else _r9y9)(take, config, layout), sorted(take.unused)


def _r9y9(take: _Taker, config: WaveNetConfig, layout: Layout) -> PyTree:
    if layout == "master":
        condition = {"conv": {"kernel": take.taps("upsample_net.conv_in")}} | {
            f"filter_{i}": take(f"upsample_net.upsample.up_layers.{2 * i + 1}.weight")[0, 0, 0]
            for i in range(len(config.condition.scales))
        }
    else:
        condition = {
            f"stage_{i}": {"kernel": take(f"upsample_conv.{2 * i}.weight")[0, 0],
                           "bias": take(f"upsample_conv.{2 * i}.bias").reshape(())}
            for i in range(len(config.condition.scales))
        }  # fmt: skip
    params = {
        "condition": condition,
        "first": {"kernel": take.linear("first_conv"), "bias": take("first_conv.bias")},
        "head1": {"kernel": take.linear("last_conv_layers.1"), "bias": take("last_conv_layers.1.bias")},
        "head2": {"kernel": take.linear("last_conv_layers.3"), "bias": take("last_conv_layers.3.bias")},
    }
    skip_bias = np.zeros(config.skip, np.float64)
    for layer in range(config.layers):
        name = f"conv_layers.{layer}"
        entry = {"taps": take.taps(f"{name}.conv"), "local": take.linear(f"{name}.conv1x1c")}
        bias = take(f"{name}.conv.bias") + take.optional(f"{name}.conv1x1c.bias", entry["local"])
        if config.speakers:
            entry["global"] = take.linear(f"{name}.conv1x1g")
            bias = bias + take.optional(f"{name}.conv1x1g.bias", entry["global"])
        # master: the sum times 1/sqrt(layers), our skip_factor; released: (…((s0 + s1)·c + s2)·c …)·c with c² = 1/2
        share = 1.0 if layout == "master" else 0.5 ** ((config.layers - max(layer, 1)) / 2)
        entry |= {
            "bias": bias,
            "out": take.linear(f"{name}.conv1x1_out"),
            "out_bias": take(f"{name}.conv1x1_out.bias"),
            "skip": take.linear(f"{name}.conv1x1_skip") * np.float32(share),
        }
        skip_bias += take(f"{name}.conv1x1_skip.bias") * share * config.skip_factor
        params[f"layers_{layer}"] = entry
    params["skip_bias"] = skip_bias.astype(np.float32)
    if config.speakers:
        params["speakers"] = take("embed_speakers.weight")
    return params


def _nvidia(take: _Taker, config: WaveNetConfig, layout: Layout) -> PyTree:
    del layout
    params = {
        "condition": {
            "kernel": np.ascontiguousarray(take("upsample.weight").transpose(2, 0, 1)),  # transposed: [in, out, taps]
            "bias": take("upsample.bias"),
        },
        "first": {"kernel": take("embed.weight"), "bias": np.zeros(config.residual, np.float32)},
        "head1": {"kernel": take.linear("conv_out.conv"), "bias": np.zeros(config.head, np.float32)},
        "head2": {"kernel": take.linear("conv_end.conv"), "bias": np.zeros(config.outputs, np.float32)},
        "skip_bias": np.zeros(config.skip, np.float32),
    }
    local, bias = take.linear("cond_layers.conv"), take("cond_layers.conv.bias")
    for layer in range(config.layers):
        columns = slice(layer * config.gate, (layer + 1) * config.gate)
        last = layer == config.layers - 1  # its residual output has no use
        half = config.gate // 2
        out, out_bias = np.zeros((half, config.residual), np.float32), np.zeros(config.residual, np.float32)
        params[f"layers_{layer}"] = {
            "taps": take.taps(f"dilate_layers.{layer}.conv"),
            "bias": take(f"dilate_layers.{layer}.conv.bias") + bias[columns],
            "local": np.ascontiguousarray(local[:, columns]),
            "out": out if last else take.linear(f"res_layers.{layer}.conv"),
            "out_bias": out_bias if last else take(f"res_layers.{layer}.conv.bias"),
            "skip": take.linear(f"skip_layers.{layer}.conv"),
        }
        params["skip_bias"] = params["skip_bias"] + take(f"skip_layers.{layer}.conv.bias")
    return params
