"""Placement of arrays on a mesh: batches with their rows sharded over it, results fetched to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from speech_jax.core.errors import UserError
from speech_jax.core.rules import leaf_name
from speech_jax.core.types import PyTree

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: rows over the mesh axes data and fsdp."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
    """Return the number of shards of a batch's rows; the number of rows must be a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Place a host's rows on its devices; with several hosts, each passes its own rows of the global batch."""
    rows, whole = batch_sharding(mesh), replicated(mesh)

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(rows if x.ndim else whole, x)

    return jax.tree.map(one, batch)


def fetch(tree: PyTree) -> PyTree:
    """Return the whole arrays as NumPy, on every process."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def run_sharded(function: Callable[..., PyTree], *state: PyTree, batch: PyTree) -> PyTree:
    """Compute `function(*state, batch)` with the batch's rows sharded over the devices that hold the state.

    If the number of rows is not a multiple of `row_shards`, padding rows are appended, so leaves of the result may have
    more rows than the batch.

    Args:
        function: jitted function of the state and a batch.
        *state: pytrees of device arrays, such as parameters.
        batch: a whole host batch, the same on every process.

    Returns:
        The results as NumPy arrays, on every process.
    """
    shardings = {x.sharding for x in jax.tree.leaves(state) if isinstance(x, jax.Array)}
    meshes = {s.mesh for s in shardings if isinstance(s, NamedSharding) and s.mesh.size > 1}
    if not meshes:
        return jax.device_get(function(*state, batch))
    (mesh,) = meshes
    assert isinstance(mesh, Mesh)  # arrays lie on devices
    with jax.set_mesh(mesh):  # for kernels
        outputs = function(*state, _shard_rows(batch, mesh))
    return fetch(outputs)


def _shard_rows(batch: PyTree, mesh: Mesh) -> PyTree:
    """Place a whole host batch on the mesh, padded to a multiple of `row_shards` with rows of zeros and index -1."""

    def one(path: tuple[Any, ...], x: Any) -> jax.Array:
        x = np.asarray(x)
        if not x.ndim:
            return jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index])
        padding = -len(x) % row_shards(mesh)
        filler = -1 if leaf_name(path).split("/")[-1] == "index" else 0
        full = np.concatenate([x, np.full((padding, *x.shape[1:]), filler, x.dtype)]) if padding else x
        return jax.make_array_from_callback(full.shape, batch_sharding(mesh), lambda index: full[index])

    return jax.tree_util.tree_map_with_path(one, batch)


def batch_struct(spec: PyTree, mesh: Mesh) -> PyTree:
    """Return the shapes of a global batch with their shardings, for compiling ahead of time.

    Raises:
        UserError: the number of rows is not a multiple of `row_shards(mesh)`.
    """
    parts = row_shards(mesh)

    def one(path: tuple[Any, ...], s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if s.shape and s.shape[0] % parts:
            raise UserError(
                f"batch {leaf_name(path)!r}: found {s.shape[0]} rows, expected a multiple of {parts} (mesh data x fsdp)"
            )
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=batch_sharding(mesh) if s.shape else replicated(mesh))

    return jax.tree_util.tree_map_with_path(one, spec)
