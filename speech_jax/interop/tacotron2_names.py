"""Names and layouts of the public Tacotron 2's tensors, both ways.

NVIDIA's names contain its wrapper modules (`.linear_layer`, `.conv`); torchaudio's names are the same without them.
"""

from __future__ import annotations

import re

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import PyTree
from speech_jax.interop.conformer_names import LINEAR, SAME, TensorMapping, Transform, import_tensors
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import AttentionConfig, Tacotron2Config

_WRAPPERS = re.compile(r"\.(linear_layer|conv)(?=\.(weight|bias)$)")


def torchaudio_name(name: str) -> str:
    """Return torchaudio's name of a tensor: without a data-parallel prefix and NVIDIA's wrapper modules."""
    return _WRAPPERS.sub("", name.removeprefix("module."))


def nvidia_name(name: str) -> str:
    """Return NVIDIA's name of a tensor with torchaudio's name."""
    if re.search(r"(convolutions\.\d+\.0|location_conv)\.(weight|bias)$", name):
        return re.sub(r"\.(weight|bias)$", r".conv.\1", name)
    linear = r"(prenet\.layers\.\d+|(query|memory|gate)_layer|\.v|location_dense|linear_projection)\.(weight|bias)$"
    return re.sub(r"\.(weight|bias)$", r".linear_layer.\1", name) if re.search(linear, name) else name


def tacotron2_config(tensors: Tensors, source: str) -> Tacotron2Config:
    """Return the network of tensors with torchaudio's names: every width follows from a shape.

    Args:
        tensors: of the file.
        source: path of the file, for messages.

    Raises:
        UserError: a tensor is missing or has another number of dimensions.
    """

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
    outputs = shape("decoder.linear_projection.weight", 2)[0]
    if outputs != num_mels:
        raise UserError(f"{source}: found {outputs} outputs for {num_mels} mel bands, expected one frame per step")
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


def _location_layout(length: int) -> tuple[Transform, Transform]:
    """Return the layouts of the location filters: [filters, 2, length] in torch, ours [2 · length, filters]."""
    return lambda a: a.reshape(len(a), -1).T, lambda a: a.T.reshape(-1, 2, length)


_CELLS = (  # LSTMs: (torch module, suffixes of its directions, our path)
    ("encoder.lstm", ("_l0", "_l0_reverse"), "encoder/lstm"),
    ("decoder.attention_rnn", ("",), "decoder/attention_rnn"),
    ("decoder.decoder_rnn", ("",), "decoder/decoder_rnn"),
)
_TRANSPOSED = (lambda a: np.swapaxes(a, -1, -2), lambda a: np.swapaxes(a, -1, -2))


def tacotron2_mappings(config: Tacotron2Config) -> list[TensorMapping]:
    """Return the mappings of all tensors, with torchaudio's names; those of LSTMs as `_join_lstms` returns them."""
    mappings: list[TensorMapping] = []

    def add(theirs: str, ours: str, layout: tuple[Transform, Transform], root: str = "params") -> None:
        mappings.append(TensorMapping(theirs, (root, *ours.split("/")), *layout))

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
    for name, our_name in (("query_layer", "query"), ("memory_layer", "memory"), ("v", "v")):
        add(f"{theirs}.{name}.weight", f"{ours}/{our_name}/kernel", LINEAR)
    conv = _location_layout(config.attention.filter_length)
    add(f"{theirs}.location_layer.location_conv.weight", f"{ours}/location_conv/kernel", conv)
    add(f"{theirs}.location_layer.location_dense.weight", f"{ours}/location/kernel", LINEAR)
    for name, our_name in (("linear_projection", "projection"), ("gate_layer", "stop")):
        add(f"decoder.{name}.weight", f"decoder/{our_name}/kernel", LINEAR)
        add(f"decoder.{name}.bias", f"decoder/{our_name}/bias", SAME)
    for module, _, ours in _CELLS:
        add(f"{module}.weight_ih", f"{ours}/input_kernel", _TRANSPOSED)
        add(f"{module}.weight_hh", f"{ours}/recurrent_kernel", _TRANSPOSED)
        add(f"{module}.bias", f"{ours}/bias", SAME)
    return mappings


def _join_lstms(tensors: Tensors, source: str) -> Tensors:
    """Stack the directions of each LSTM, and add its two biases, which torch only ever adds."""
    joined = dict(tensors)

    def pop(name: str) -> np.ndarray:
        if name not in joined:
            raise UserError(f"{source}: found no tensor {name!r}, expected it in a Tacotron 2")
        return joined.pop(name)

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
            parts["bias"].append(first.astype(np.float64) + second.astype(np.float64))  # half precision would round
        for kind, arrays in parts.items():
            if len({a.shape for a in arrays}) > 1:
                raise UserError(
                    f"{source}: found {module}.{kind} with another shape in the reverse direction, expected the same"
                )
            joined[f"{module}.{kind}"] = np.stack(arrays) if len(directions) > 1 else arrays[0]
    return joined


def tacotron2_params_from_torch(
    tensors: Tensors, config: Tacotron2Config, source: str
) -> tuple[PyTree, PyTree, list[str]]:
    """Convert the tensors of a Tacotron 2 to our parameter tree; the caller checks shapes.

    Args:
        tensors: with torchaudio's names.
        config: the network.
        source: path of the file, for messages.

    Returns:
        params and model_state (float32), and the names of the tensors that were not used.

    Raises:
        UserError: a tensor is missing.
    """
    return import_tensors(_join_lstms(tensors, source), tacotron2_mappings(config), source, "a Tacotron 2")


def tacotron2_params_to_torch(params: PyTree, model_state: PyTree, config: Tacotron2Config) -> Tensors:
    """Return the tensors of a Tacotron 2 with torchaudio's names; the second bias of each LSTM is zero."""
    leaves = named_leaves({"params": params, **model_state})
    tensors: Tensors = {}
    for mapping in tacotron2_mappings(config):
        leaf = np.asarray(leaves["/".join(mapping.path)], np.float32)
        tensors[mapping.source] = np.ascontiguousarray(mapping.to_source(leaf))
        if mapping.source.endswith("running_var"):
            tensors[mapping.source.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    for module, directions, _ in _CELLS:
        for kind, names in (("weight_ih",) * 2, ("weight_hh",) * 2, ("bias", "bias_ih")):
            joined = tensors.pop(f"{module}.{kind}")
            for index, d in enumerate(directions):
                tensors[f"{module}.{names}{d}"] = joined[index] if len(directions) > 1 else joined
                if kind == "bias":
                    tensors[f"{module}.bias_hh{d}"] = np.zeros_like(tensors[f"{module}.bias_ih{d}"])
    return tensors
