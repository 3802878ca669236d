"""Where each tensor of the public Tacotron 2 lies in ours, both ways: NVIDIA's names, and torchaudio's, which leave out
the wrappers' (`.linear_layer`, `.conv`)."""

from __future__ import annotations

import re

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import PyTree
from speech_jax.interop.conformer_names import LINEAR, SAME, Change, Place, take
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import AttentionConfig, Tacotron2Config

_WRAPPERS = re.compile(r"\.(linear_layer|conv)(?=\.(weight|bias)$)")


def plain_name(name: str) -> str:
    """The name without a data-parallel prefix and without NVIDIA's wrappers: torchaudio's."""
    return _WRAPPERS.sub("", name.removeprefix("module."))


def nvidia_name(name: str) -> str:
    """NVIDIA's name of what torchaudio calls `name`."""
    if re.search(r"(convolutions\.\d+\.0|location_conv)\.(weight|bias)$", name):
        return re.sub(r"\.(weight|bias)$", r".conv.\1", name)
    linear = r"(prenet\.layers\.\d+|(query|memory|gate)_layer|\.v|location_dense|linear_projection)\.(weight|bias)$"
    return re.sub(r"\.(weight|bias)$", r".linear_layer.\1", name) if re.search(linear, name) else name


def config_of(tensors: Tensors, source: str) -> Tacotron2Config:
    """The network that tensors with plain names belong to: every width is in a shape."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            found = f"shape {tensors[name].shape}" if name in tensors else "none"
            raise UserError(f"{source}: found {found} for tensor {name!r}, expected {rank} axes, as in a Tacotron 2")
        return tensors[name].shape

    def count(pattern: str) -> int:
        numbers = [int(m[1]) for name in tensors if (m := re.match(pattern, name))]
        return max(numbers, default=-1) + 1

    filters, _, length = shape("decoder.attention_layer.location_layer.location_conv.weight", 3)
    num_mels = shape("decoder.prenet.layers.0.weight", 2)[1]
    made = shape("decoder.linear_projection.weight", 2)[0]
    if made != num_mels:
        raise UserError(f"{source}: found {made} outputs for {num_mels} mel bands, expected one frame a step")
    return Tacotron2Config(
        num_mels=num_mels,
        embedding=shape("embedding.weight", 2)[1],
        encoder_layers=count(r"encoder\.convolutions\.(\d+)\."),
        encoder_width=2 * shape("encoder.lstm.weight_hh_l0", 2)[1],
        kernel_size=shape("encoder.convolutions.0.0.weight", 3)[2],
        prenet=shape("decoder.prenet.layers.0.weight", 2)[0],
        attention_rnn=shape("decoder.attention_rnn.weight_hh", 2)[1],
        decoder_rnn=shape("decoder.decoder_rnn.weight_hh", 2)[1],
        attention=AttentionConfig(
            width=shape("decoder.attention_layer.query_layer.weight", 2)[0], filters=filters, filter_length=length
        ),
        postnet_layers=count(r"postnet\.convolutions\.(\d+)\."),
        postnet=shape("postnet.convolutions.0.0.weight", 3)[0],
        held="dropout",
    )


_CONV = (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))


def _location(length: int) -> tuple[Change, Change]:
    """torch's [filters, 2, length] and our [2 · length, filters]."""
    return lambda a: a.reshape(len(a), -1).T, lambda a: a.T.reshape(-1, 2, length)


_CELLS = (  # (their module, the endings of its directions, ours)
    ("encoder.lstm", ("_l0", "_l0_reverse"), "encoder/lstm"),
    ("decoder.attention_rnn", ("",), "decoder/attention_rnn"),
    ("decoder.decoder_rnn", ("",), "decoder/decoder_rnn"),
)
_TURNED = (lambda a: np.swapaxes(a, -1, -2), lambda a: np.swapaxes(a, -1, -2))


def places(config: Tacotron2Config) -> list[Place]:
    """Every tensor of the network; those of an LSTM as `_joined` makes them."""
    found: list[Place] = []

    def add(theirs: str, ours: str, change: tuple[Change, Change], root: str = "params") -> None:
        found.append(Place(theirs, (root, *ours.split("/")), *change))

    add("embedding.weight", "embedding", SAME)
    for theirs, ours, layers in (
        ("encoder", "encoder/convs", config.encoder_layers),
        ("postnet", "postnet", config.postnet_layers),
    ):
        for i in range(layers):
            name = f"{theirs}.convolutions.{i}"
            add(f"{name}.0.weight", f"{ours}/conv{i}/kernel", _CONV)
            add(f"{name}.0.bias", f"{ours}/conv{i}/bias", SAME)
            add(f"{name}.1.weight", f"{ours}/norm{i}/scale", SAME)
            add(f"{name}.1.bias", f"{ours}/norm{i}/bias", SAME)
            add(f"{name}.1.running_mean", f"{ours}/norm{i}/mean", SAME, "batch_stats")
            add(f"{name}.1.running_var", f"{ours}/norm{i}/var", SAME, "batch_stats")
    for i in (0, 1):
        add(f"decoder.prenet.layers.{i}.weight", f"decoder/prenet/{i}/kernel", LINEAR)
    theirs, ours = "decoder.attention_layer", "decoder/attention"
    for name, place in (("query_layer", "query"), ("memory_layer", "memory"), ("v", "v")):
        add(f"{theirs}.{name}.weight", f"{ours}/{place}/kernel", LINEAR)
    conv = _location(config.attention.filter_length)
    add(f"{theirs}.location_layer.location_conv.weight", f"{ours}/location_conv/kernel", conv)
    add(f"{theirs}.location_layer.location_dense.weight", f"{ours}/location/kernel", LINEAR)
    for name, place in (("linear_projection", "projection"), ("gate_layer", "stop")):
        add(f"decoder.{name}.weight", f"decoder/{place}/kernel", LINEAR)
        add(f"decoder.{name}.bias", f"decoder/{place}/bias", SAME)
    for module, _, ours in _CELLS:
        add(f"{module}.weight_ih", f"{ours}/input_kernel", _TURNED)
        add(f"{module}.weight_hh", f"{ours}/recurrent_kernel", _TURNED)
        add(f"{module}.bias", f"{ours}/bias", SAME)
    return found


def _joined(tensors: Tensors, source: str) -> Tensors:
    """The LSTMs' directions one above the other, and the sum of the two biases that torch only ever adds."""
    left = dict(tensors)

    def pop(name: str) -> np.ndarray:
        if name not in left:
            raise UserError(f"{source}: found no tensor {name!r}, expected it in a Tacotron 2")
        return left.pop(name)

    for module, directions, _ in _CELLS:
        parts = {kind: [pop(f"{module}.{kind}{d}") for d in directions] for kind in ("weight_ih", "weight_hh")}
        parts["bias"] = []
        for d in directions:
            first, second = pop(f"{module}.bias_ih{d}"), pop(f"{module}.bias_hh{d}")
            if first.shape != second.shape:
                raise UserError(
                    f"{source}: found {module}.bias_ih{d} with shape {first.shape} and bias_hh{d} with {second.shape}, "
                    "expected the same"
                )
            parts["bias"].append(first + second)
        for kind, arrays in parts.items():
            if len({a.shape for a in arrays}) > 1:
                raise UserError(f"{source}: found {module}.{kind} with another shape in reverse, expected the same")
            left[f"{module}.{kind}"] = np.stack(arrays) if len(directions) > 1 else arrays[0]
    return left


def to_ours(tensors: Tensors, config: Tacotron2Config, source: str) -> tuple[PyTree, PyTree, list[str]]:
    """(params, model_state, names of the tensors that were not used), float32. `tensors` have plain names.

    Raises UserError naming the first tensor that is missing. Shapes are checked against the network by the caller.
    """
    return take(_joined(tensors, source), places(config), source, "a Tacotron 2")


def to_theirs(params: PyTree, model_state: PyTree, config: Tacotron2Config) -> Tensors:
    """The inverse of `to_ours`, with plain names; of torch's two biases the second is zero."""
    leaves = named_leaves({"params": params, **model_state})
    tensors: Tensors = {}
    for place in places(config):
        tensors[place.theirs] = np.ascontiguousarray(
            place.to_theirs(np.asarray(leaves["/".join(place.ours)], np.float32))
        )
        if place.theirs.endswith("running_var"):
            tensors[place.theirs.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    for module, directions, _ in _CELLS:
        for kind, names in (("weight_ih",) * 2, ("weight_hh",) * 2, ("bias", "bias_ih")):
            joined = tensors.pop(f"{module}.{kind}")
            for number, d in enumerate(directions):
                tensors[f"{module}.{names}{d}"] = joined[number] if len(directions) > 1 else joined
                if kind == "bias":
                    tensors[f"{module}.bias_hh{d}"] = np.zeros_like(tensors[f"{module}.bias_ih{d}"])
    return tensors
