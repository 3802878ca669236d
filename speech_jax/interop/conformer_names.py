"""Names and layouts of NeMo's Conformer-CTC tensors, both ways, and the import that all converters share.

torch stores weights as [out, in, …], Flax as […, in, out]. The blank is NeMo's last class and our first. Parakeet's
names are NeMo's with other prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves, nest_leaves
from speech_jax.core.types import PyTree
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import ConformerConfig

Transform = Callable[[np.ndarray], np.ndarray]


class TensorMapping(NamedTuple):
    """A tensor of another toolkit and its place in our parameter tree.

    Attributes:
        source: name in the other toolkit's checkpoint.
        path: path in our tree, starting with "params" or "batch_stats".
        from_source: converts the other toolkit's layout to ours.
        to_source: the inverse.
    """

    source: str
    path: tuple[str, ...]
    from_source: Transform
    to_source: Transform


def _same(a: np.ndarray) -> np.ndarray:
    return a


SAME = (_same, _same)
LINEAR = (lambda a: a.T, lambda a: a.T)
POINTWISE = (lambda a: a[..., 0].T, lambda a: a.T[..., None])
DEPTHWISE = (lambda a: a[:, 0].T, lambda a: a.T[:, None])
_CONV2D = (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
_DEPTHWISE2D = (lambda a: a[:, 0].transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1)[:, None])
_POINTWISE2D = (lambda a: a[..., 0, 0].T, lambda a: a.T[..., None, None])
_HEAD = (lambda a: np.roll(a[..., 0], 1, 0).T, lambda a: np.roll(a.T, -1, 0)[..., None])
_HEAD_BIAS = (lambda a: np.roll(a, 1), lambda a: np.roll(a, -1))


def _flattened_linear(channels: int) -> tuple[Transform, Transform]:
    """Return the layouts of the layer after the convolutions: NeMo flattens [channel, band], we [band, channel]."""

    def from_source(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), channels, -1).transpose(2, 1, 0).reshape(-1, len(a))

    def to_source(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, channels, a.shape[1]).transpose(2, 1, 0).reshape(a.shape[1], -1)

    return from_source, to_source


def nemo_mappings(config: ConformerConfig) -> list[TensorMapping]:
    """Return the mappings of all tensors of a Conformer-CTC, with NeMo's names."""
    mappings: list[TensorMapping] = []

    def add(theirs: str, ours: tuple[str, ...], layout: tuple[Transform, Transform], *, root: str = "params") -> None:
        mappings.append(TensorMapping(theirs, (root, *ours), *layout))

    def linear(theirs: str, ours: tuple[str, ...], layout=LINEAR, *, bias: bool = True) -> None:
        add(f"{theirs}.weight", (*ours, "kernel"), layout)
        if bias:
            add(f"{theirs}.bias", (*ours, "bias"), SAME)

    def norm(theirs: str, ours: tuple[str, ...]) -> None:
        add(f"{theirs}.weight", (*ours, "scale"), SAME)
        add(f"{theirs}.bias", (*ours, "bias"), SAME)

    sub, conv = ("encoder", "subsampling"), "encoder.pre_encode.conv"
    linear(f"{conv}.0", (*sub, "conv0"), _CONV2D)
    for stage in range(1, {4: 2, 8: 3}[config.subsampling_factor]):
        if config.subsampling == "striding":
            linear(f"{conv}.{2 * stage}", (*sub, f"conv{stage}"), _CONV2D)
        else:
            linear(f"{conv}.{3 * stage - 1}", (*sub, f"depthwise{stage}"), _DEPTHWISE2D)
            linear(f"{conv}.{3 * stage}", (*sub, f"pointwise{stage}"), _POINTWISE2D)
    linear("encoder.pre_encode.out", (*sub, "out"), _flattened_linear(config.subsampling_channels or config.width))

    bias = config.use_bias
    for i in range(config.layers):
        theirs, ours = f"encoder.layers.{i}", ("encoder", f"layers_{i}")
        for name in ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out"):
            norm(f"{theirs}.{name}", (*ours, name))
        for name in ("feed_forward1", "feed_forward2"):
            for part in ("linear1", "linear2"):
                linear(f"{theirs}.{name}.{part}", (*ours, name, part), bias=bias)
        attention = (*ours, "self_attn")
        for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
            linear(f"{theirs}.self_attn.{name}", (*attention, name), bias=bias)
        linear(f"{theirs}.self_attn.linear_pos", (*attention, "linear_pos"), bias=False)
        for name in ("pos_bias_u", "pos_bias_v"):
            add(f"{theirs}.self_attn.{name}", (*attention, name), SAME)
        for name in ("pointwise_conv1", "pointwise_conv2"):
            linear(f"{theirs}.conv.{name}", (*ours, "conv", name), POINTWISE, bias=bias)
        linear(f"{theirs}.conv.depthwise_conv", (*ours, "conv", "depthwise_conv"), DEPTHWISE, bias=bias)
        norm(f"{theirs}.conv.batch_norm", (*ours, "conv", "norm"))
        if config.conv_norm == "batch":
            for theirs_name, ours_name in (("running_mean", "mean"), ("running_var", "var")):
                path = (*ours, "conv", "norm", ours_name)
                add(f"{theirs}.conv.batch_norm.{theirs_name}", path, SAME, root="batch_stats")

    add("decoder.decoder_layers.0.weight", ("head", "kernel"), _HEAD)
    add("decoder.decoder_layers.0.bias", ("head", "bias"), _HEAD_BIAS)
    return mappings


def import_tensors(
    tensors: Tensors, mappings: list[TensorMapping], source: str, expected: str = "a Conformer-CTC"
) -> tuple[PyTree, PyTree, list[str]]:
    """Convert the tensors of another toolkit to our parameter tree.

    Shapes are not checked against the network here; the caller does that.

    Args:
        tensors: of the other toolkit.
        mappings: the tensors of the network.
        source: path of the checkpoint, for messages.
        expected: name of the network, for messages.

    Returns:
        params and model_state (float32), and the names of the tensors that were not used.

    Raises:
        UserError: a tensor is missing or has another number of dimensions.
    """
    unused, leaves, cpu = dict(tensors), {}, jax.local_devices(backend="cpu")[0]
    for mapping in mappings:
        if mapping.source not in unused:
            raise UserError(f"{source}: found no tensor {mapping.source!r}, expected it in {expected}")
        tensor = unused.pop(mapping.source)
        try:
            leaf = np.ascontiguousarray(mapping.from_source(tensor), np.float32)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{source}: found {mapping.source!r} with shape {tensor.shape}, "
                f"expected one that converts to our {'/'.join(mapping.path)}: {error}"
            ) from error
        leaves["/".join(mapping.path)] = jax.device_put(leaf, cpu)  # orbax copies NumPy arrays before it writes them
    roots = nest_leaves(leaves)
    return roots.pop("params"), roots, sorted(unused)


def params_from_nemo(tensors: Tensors, config: ConformerConfig, source: str) -> tuple[PyTree, PyTree, list[str]]:
    """Apply `import_tensors` to the tensors of NeMo's Conformer-CTC."""
    return import_tensors(tensors, nemo_mappings(config), source)


def params_to_nemo(params: PyTree, model_state: PyTree, config: ConformerConfig) -> Tensors:
    """Return the tensors of a Conformer-CTC with NeMo's names and layouts; the inverse of `params_from_nemo`."""
    leaves = named_leaves({"params": params, **model_state})
    tensors: Tensors = {}
    for mapping in nemo_mappings(config):
        leaf = np.asarray(leaves["/".join(mapping.path)], np.float32)
        tensors[mapping.source] = np.ascontiguousarray(mapping.to_source(leaf))
    if config.conv_norm == "batch":
        for i in range(config.layers):
            tensors[f"encoder.layers.{i}.conv.batch_norm.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors
