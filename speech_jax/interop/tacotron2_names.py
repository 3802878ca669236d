"""Where each tensor of the public Tacotron 2 lies in ours, both ways: NVIDIA's names, and torchaudio's, which leave out
the wrappers' (`.linear_layer`, `.conv`)."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from speech_jax.errors import UserError
from speech_jax.interop.tensors import Tensors
from speech_jax.models.attention_tts import AttentionConfig
from speech_jax.models.tacotron2 import Tacotron2Config
from speech_jax.training.rules import named_leaves, nested
from speech_jax.types import PyTree

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


_LINEAR: tuple[Callable, Callable] = (np.transpose, np.transpose)
_CONV: tuple[Callable, Callable] = (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))
_SAME: tuple[Callable, Callable] = (lambda a: a, lambda a: a)


def _location(length: int) -> tuple[Callable, Callable]:
    """torch's [filters, 2, length] and our [2 · length, filters]."""
    return lambda a: a.reshape(len(a), -1).T, lambda a: a.T.reshape(-1, 2, length)


def places(config: Tacotron2Config) -> list[tuple[str, str, tuple[Callable, Callable]]]:
    """(plain name, ours under "params" or "batch_stats", the change of layout both ways) of all but the LSTMs."""
    found = [("embedding.weight", "params/embedding", _SAME)]
    for theirs, ours, layers in (
        ("encoder", "encoder/convs", config.encoder_layers),
        ("postnet", "postnet", config.postnet_layers),
    ):
        stats = "batch_stats/" + ours
        for i in range(layers):
            name = f"{theirs}.convolutions.{i}"
            found += [
                (f"{name}.0.weight", f"params/{ours}/conv{i}/kernel", _CONV),
                (f"{name}.0.bias", f"params/{ours}/conv{i}/bias", _SAME),
                (f"{name}.1.weight", f"params/{ours}/norm{i}/scale", _SAME),
                (f"{name}.1.bias", f"params/{ours}/norm{i}/bias", _SAME),
                (f"{name}.1.running_mean", f"{stats}/norm{i}/mean", _SAME),
                (f"{name}.1.running_var", f"{stats}/norm{i}/var", _SAME),
            ]
    attention, place = "decoder.attention_layer", "params/decoder/attention"
    found += [(f"decoder.prenet.layers.{i}.weight", f"params/decoder/prenet/{i}/kernel", _LINEAR) for i in (0, 1)]
    for theirs, ours in (("query_layer", "query"), ("memory_layer", "memory"), ("v", "v")):
        found.append((f"{attention}.{theirs}.weight", f"{place}/{ours}/kernel", _LINEAR))
    conv = _location(config.attention.filter_length)
    found.append((f"{attention}.location_layer.location_conv.weight", f"{place}/location_conv/kernel", conv))
    found.append((f"{attention}.location_layer.location_dense.weight", f"{place}/location/kernel", _LINEAR))
    for theirs, ours in (("linear_projection", "projection"), ("gate_layer", "stop")):
        found.append((f"decoder.{theirs}.weight", f"params/decoder/{ours}/kernel", _LINEAR))
        found.append((f"decoder.{theirs}.bias", f"params/decoder/{ours}/bias", _SAME))
    return found


_CELLS = (  # (their module, the endings of its directions, ours)
    ("encoder.lstm", ("_l0", "_l0_reverse"), "encoder/lstm"),
    ("decoder.attention_rnn", ("",), "decoder/attention_rnn"),
    ("decoder.decoder_rnn", ("",), "decoder/decoder_rnn"),
)


def to_ours(tensors: Tensors, config: Tacotron2Config, source: str) -> tuple[PyTree, PyTree, list[str]]:
    """(params, model_state, names of the tensors that were not used), float32. `tensors` have plain names.

    Raises UserError naming the first tensor that is missing. Shapes are checked against the network by the caller.
    """
    left, found = dict(tensors), {}

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise UserError(f"{source}: found no tensor {name!r}, expected it in a Tacotron 2")
        return left.pop(name)

    def change(name: str, ours: str, to_ours: Callable) -> np.ndarray:
        tensor = take(name)
        try:
            return np.ascontiguousarray(to_ours(tensor), np.float32)
        except ValueError as error:
            raise UserError(
                f"{source}: found {name!r} with shape {tensor.shape}, which does not become our {ours}: {error}"
            ) from error

    for name, ours, (forth, _) in places(config):
        found[ours] = change(name, ours, forth)
    for module, directions, ours in _CELLS:
        kinds = {"input_kernel": "weight_ih", "recurrent_kernel": "weight_hh"}
        parts = {
            kind: [change(f"{module}.{theirs}{d}", f"{ours}/{kind}", np.transpose) for d in directions]
            for kind, theirs in kinds.items()
        }
        # torch keeps two biases that are only ever added; the way out gives the sum and zero
        parts["bias"] = [take(f"{module}.bias_ih{d}") + take(f"{module}.bias_hh{d}") for d in directions]
        for kind, arrays in parts.items():
            found[f"params/{ours}/{kind}"] = np.stack(arrays) if len(directions) > 1 else arrays[0]
    roots = nested(found)
    return roots["params"], {"batch_stats": roots["batch_stats"]}, sorted(left)


def to_theirs(params: PyTree, model_state: PyTree, config: Tacotron2Config) -> Tensors:
    """The inverse of `to_ours`, with plain names."""
    leaves = {n: np.asarray(a, np.float32) for n, a in named_leaves({"params": params, **model_state}).items()}
    tensors: Tensors = {}
    for name, ours, (_, back) in places(config):
        tensors[name] = np.ascontiguousarray(back(leaves[ours]))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    for module, directions, ours in _CELLS:
        for number, d in enumerate(directions):
            part = {kind: leaves[f"params/{ours}/{kind}"] for kind in ("input_kernel", "recurrent_kernel", "bias")}
            if len(directions) > 1:
                part = {kind: a[number] for kind, a in part.items()}
            tensors[f"{module}.weight_ih{d}"] = np.ascontiguousarray(part["input_kernel"].T)
            tensors[f"{module}.weight_hh{d}"] = np.ascontiguousarray(part["recurrent_kernel"].T)
            tensors[f"{module}.bias_ih{d}"] = part["bias"]
            tensors[f"{module}.bias_hh{d}"] = np.zeros_like(part["bias"])
    return tensors
