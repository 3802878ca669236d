"""The mesh, and how batches and parameters lie on it. The only place that makes a mesh."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from speech_jax.core.errors import UserError
from speech_jax.core.placement import AXES, replicated
from speech_jax.core.rules import leaf_name, match_rules, named_leaves
from speech_jax.core.types import PyTree

Rules = tuple[tuple[str, tuple[str | None, ...] | Literal["auto"]], ...]


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are laid out. Batches are split over data and fsdp, parameters over fsdp and tensor."""

    data: int = -1
    """Devices that hold the same parameters and different rows of the batch; -1 takes all that are left."""
    fsdp: int = 1
    """Devices that split both the parameters and the rows of the batch."""
    tensor: int = 1
    """Devices that split parameters by the rules and see the same rows."""
    rules: Rules = ()
    """(pattern, one mesh axis or none for each dimension), the first match wins. "auto" splits the largest dimension
    that fsdp divides. Must cover every parameter. None: the model's own rules."""
    min_shard: int = 16384
    """"auto" leaves parameters with fewer numbers than this whole on every device."""


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """A ("data", "fsdp", "tensor") mesh of Auto axes: JAX's default, Explicit, breaks CTC, LSTM, dropout and
    embeddings.

    Raises UserError if the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"mesh: found data, fsdp, tensor = {sizes}, expected positive numbers and at most one -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(len(devices) // known, 1)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh: found data x fsdp x tensor = {sizes}, expected their product to be {len(devices)} devices"
        )
    return Mesh(_grid(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(devices: list, sizes: list[int]) -> np.ndarray:
    """The devices in the mesh's shape. On TPUs neighbors in the mesh are neighbors on the board, and slices, which
    only the data center's network joins, are parts of the data axis: its gradients are summed once a step."""
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise UserError(f"mesh: found data {sizes[0]} on {slices} slices, expected a multiple of them")
    within = [sizes[0] // slices, *sizes[1:]]
    return mesh_utils.create_hybrid_device_mesh(within, [slices, 1, 1], devices, allow_split_physical_axes=True)


def param_shardings(params: PyTree, mesh: Mesh, config: MeshConfig, own: Rules = ()) -> PyTree:
    """One NamedSharding a parameter, by the config's rules. `params` may be shapes only.

    own: the model's rules, for a config without any: what they do not cover is "auto", and an axis that does not divide
    its dimension is left out.
    Raises UserError for a parameter without a rule in the config, a rule with an unknown or repeated axis, or one of
    the config's that does not divide.
    """
    rules = config.rules or (*own, (".*", "auto"))
    specs = match_rules(params, tuple((p, (spec,)) for p, spec in rules), "mesh.rules")

    def one(path: tuple[Any, ...], leaf: Any, spec: tuple[Any]) -> NamedSharding:
        axes = spec[0]
        if not config.rules and axes != "auto":
            axes = tuple(
                None if axis is None or n % mesh.shape[axis] else axis for n, axis in zip(leaf.shape, axes, strict=True)
            )
        return NamedSharding(mesh, _spec(leaf_name(path), leaf.shape, axes, mesh, config))

    return jax.tree_util.tree_map_with_path(one, params, specs)


def _spec(name: str, shape: tuple[int, ...], spec: Any, mesh: Mesh, config: MeshConfig) -> PartitionSpec:
    if spec == "auto":
        size = mesh.shape["fsdp"]
        fitting = [i for i, n in enumerate(shape) if n % size == 0]
        if size == 1 or not fitting or math.prod(shape) < config.min_shard:
            return PartitionSpec()
        largest = max(fitting, key=lambda i: shape[i])
        return PartitionSpec(*("fsdp" if i == largest else None for i in range(len(shape))))
    axes = [axis for axis in spec if axis is not None]
    if len(spec) > len(shape) or len(set(axes)) != len(axes) or not set(axes) <= set(AXES):
        raise UserError(f"mesh.rules: found {spec} for {name!r} of shape {shape}, expected distinct axes out of {AXES}")
    for n, axis in zip(shape, spec, strict=False):
        if axis is not None and n % mesh.shape[axis]:
            raise UserError(
                f"mesh.rules: found {name!r} of shape {shape}, expected {n} to be a multiple of {mesh.shape[axis]}"
            )
    return PartitionSpec(*spec)


def state_shardings(state: PyTree, params: PyTree, shardings: PyTree, mesh: Mesh) -> PyTree:
    """Shardings of a whole TrainState: a leaf whose name ends in a parameter's name and has its shape lies as that
    parameter does (moments, averages), everything else is on every device."""
    shapes = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    by_name = named_leaves(shardings)

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            name = leaf_name(path[start:])
            if shapes.get(name) == leaf.shape:
                return by_name[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(one, state)


