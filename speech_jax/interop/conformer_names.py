"""Where each tensor of NeMo's Conformer-CTC lies in ours, both ways. Parakeet's names are the same ones renamed.

torch keeps weights as [out, in, …], we as […, in, out]. NeMo's blank is the last class, ours the first.
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

Change = Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """One tensor: NeMo's name, our path under "params" or "batch_stats", and the change of layout both ways."""

    theirs: str
    ours: tuple[str, ...]
    to_ours: Change
    to_theirs: Change


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


def _flattened(channels: int) -> tuple[Change, Change]:
    """The map after the convolutions: NeMo flattens [channel, band], we [band, channel]."""

    def to_ours(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), channels, -1).transpose(2, 1, 0).reshape(-1, len(a))

    def to_theirs(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, channels, a.shape[1]).transpose(2, 1, 0).reshape(a.shape[1], -1)

    return to_ours, to_theirs


def places(config: ConformerConfig) -> list[Place]:
    """Every tensor of the network, NeMo's names."""
    found: list[Place] = []

    def add(theirs: str, ours: tuple[str, ...], change: tuple[Change, Change], *, root: str = "params") -> None:
        found.append(Place(theirs, (root, *ours), *change))

    def linear(theirs: str, ours: tuple[str, ...], change=LINEAR, *, bias: bool = True) -> None:
        add(f"{theirs}.weight", (*ours, "kernel"), change)
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
    linear("encoder.pre_encode.out", (*sub, "out"), _flattened(config.subsampling_channels or config.width))

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
    return found


def take(
    tensors: Tensors, wanted: list[Place], source: str, expected: str = "a Conformer-CTC"
) -> tuple[PyTree, PyTree, list[str]]:
    """(params, model_state, names of the tensors that were not used), float32.

    Raises UserError naming the first tensor that is missing. Shapes are checked against the network by the caller,
    who knows it.
    """
    left, found, cpu = dict(tensors), {}, jax.local_devices(backend="cpu")[0]
    for place in wanted:
        if place.theirs not in left:
            raise UserError(f"{source}: found no tensor {place.theirs!r}, expected it in {expected}")
        tensor = left.pop(place.theirs)
        try:
            ours = np.ascontiguousarray(place.to_ours(tensor), np.float32)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{source}: found {place.theirs!r} with shape {tensor.shape}, "
                f"which does not become our {'/'.join(place.ours)}: {error}"
            ) from error
        found["/".join(place.ours)] = jax.device_put(ours, cpu)  # of NumPy's arrays orbax makes a copy before it writes
    roots = nest_leaves(found)
    return roots.pop("params"), roots, sorted(left)


def to_ours(tensors: Tensors, config: ConformerConfig, source: str) -> tuple[PyTree, PyTree, list[str]]:
    """`take` of NeMo's Conformer-CTC."""
    return take(tensors, places(config), source)


def to_theirs(params: PyTree, model_state: PyTree, config: ConformerConfig) -> Tensors:
    """The inverse of `to_ours`: NeMo's names and layouts."""
    leaves = named_leaves({"params": params, **model_state})
    tensors: Tensors = {}
    for place in places(config):
        ours = np.asarray(leaves["/".join(place.ours)], np.float32)
        tensors[place.theirs] = np.ascontiguousarray(place.to_theirs(ours))
    if config.conv_norm == "batch":
        for i in range(config.layers):
            tensors[f"encoder.layers.{i}.conv.batch_norm.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors
