"""The device mesh and the sharding of parameters on it. The only module that makes a mesh."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from speech_jax.core.errors import UserError
from speech_jax.core.placement import AXES, replicated
from speech_jax.core.rules import leaf_name, match_rules, named_leaves
from speech_jax.core.types import PyTree
from speech_jax.training.config import MeshConfig, Rules


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Make a ("data", "fsdp", "tensor") mesh of Auto axes.

    JAX's default, Explicit axes, breaks CTC, LSTM, dropout and embeddings.

    Args:
        config: number of devices along each axis.
        devices: the devices of the mesh; None takes all of them.

    Returns:
        The mesh.

    Raises:
        UserError: if the sizes do not multiply to the number of devices.

    Example:
        >>> import jax
        >>> from speech_jax.training.config import MeshConfig
        >>> from speech_jax.training.sharding import make_mesh
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> dict(mesh.shape)
        {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"mesh: found data, fsdp, tensor = {sizes}, expected positive numbers and at most one -1")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(len(devices) // fixed, 1)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh: found data x fsdp x tensor = {sizes}, expected their product to be {len(devices)} devices"
        )
    return Mesh(_grid(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(devices: list, sizes: list[int]) -> np.ndarray:
    """Arrange the devices in the shape of the mesh.

    On TPUs, neighbors in the mesh are neighbors on the board. Slices, which only the data center network connects, lie
    along the data axis, whose gradients are summed once per step.
    """
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise UserError(f"mesh: found data {sizes[0]} on {slices} slices, expected a multiple of them")
    within = [sizes[0] // slices, *sizes[1:]]
    return mesh_utils.create_hybrid_device_mesh(within, [slices, 1, 1], devices, allow_split_physical_axes=True)


def param_shardings(params: PyTree, mesh: Mesh, config: MeshConfig, model_rules: Rules = ()) -> PyTree:
    """Return one NamedSharding per parameter.

    Args:
        params: the parameters, or their shapes.
        mesh: from `make_mesh`.
        config: its `rules`, if there are any, must cover every parameter.
        model_rules: used if the config has none. Parameters they do not cover are "auto", and an axis that does not
            divide its dimension is left out.

    Returns:
        A tree like `params`.

    Raises:
        UserError: for a parameter without a rule in the config, a rule with an unknown or repeated axis, or a rule of
            the config whose axis does not divide the dimension.
    """
    rules = config.rules or (*model_rules, (".*", "auto"))
    pairs = tuple((p, (spec,)) for p, spec in rules)
    specs = match_rules(params, pairs, "mesh.rules", must_be_used=bool(config.rules))

    def sharding(path: tuple[Any, ...], leaf: Any, spec: tuple[Any]) -> NamedSharding:
        axes = spec[0]
        if not config.rules and axes != "auto":
            axes = tuple(
                None if axis is None or n % mesh.shape[axis] else axis for n, axis in zip(leaf.shape, axes, strict=True)
            )
        return NamedSharding(mesh, _spec(leaf_name(path), leaf.shape, axes, mesh, config))

    return jax.tree_util.tree_map_with_path(sharding, params, specs)


def _spec(name: str, shape: tuple[int, ...], spec: Any, mesh: Mesh, config: MeshConfig) -> PartitionSpec:
    if spec == "auto":
        size = mesh.shape["fsdp"]
        divisible = [i for i, n in enumerate(shape) if n % size == 0]
        if size == 1 or not divisible or math.prod(shape) < config.min_shard:
            return PartitionSpec()
        largest = max(divisible, key=lambda i: shape[i])
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
    """Return the shardings of a whole TrainState.

    A leaf whose name ends in a parameter's name and that has its shape (optimizer moments, averages) is sharded like
    that parameter; everything else is replicated.

    Args:
        state: the TrainState, or its shapes.
        params: the parameters, or their shapes.
        shardings: the shardings of the parameters.
        mesh: from `make_mesh`.
    """
    shapes = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    by_name = named_leaves(shardings)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            name = leaf_name(path[start:])
            if shapes.get(name) == leaf.shape:
                return by_name[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)
