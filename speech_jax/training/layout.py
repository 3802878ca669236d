"""Layout of one checkpoint on disk: state (arrays, by orbax), data and assets (JSON). Naming and reading only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from speech_jax.core.documents import parse_json, read_document
from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import PyTree, TrainState
from speech_jax.training import checksums

_MAX_JSON = 32 << 20  # bytes
_COMPRESSION = 64  # times: the moments of an optimizer may be zeros
GROUPS = ("params", "model_state", "opt_state", "ema")


def to_groups(state: TrainState) -> dict[str, Any]:
    """Return a TrainState as {"step": …, "params": {name: array}, …}, which can be read without our classes."""
    groups = {name: named_leaves(getattr(state, name)) for name in GROUPS if getattr(state, name) is not None}
    return {"step": state.step, **{name: leaves for name, leaves in groups.items() if leaves}}


def from_groups(groups: Mapping[str, Any], like: TrainState) -> TrainState:
    """Return the TrainState with these groups and the structure of `like`; the inverse of `to_groups`."""

    def fill(name: str) -> PyTree:
        tree = getattr(like, name)
        leaves = [groups[name][leaf] for leaf in named_leaves(tree)] if jax.tree.leaves(tree) else []
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

    return TrainState(step=groups["step"], **{name: fill(name) for name in GROUPS})


def saved_steps(root: Path) -> list[int]:
    """Return the steps whose save under `root` finished, ascending; some may be damaged."""
    return sorted(int(p.name) for p in _step_folders(root) if (p / checksums.NAME).exists())


def unfinished(root: Path) -> list[Path]:
    """Return the folders of steps whose save has not finished: it runs now, or was killed before its checksums."""
    return [p for p in _step_folders(root) if not (p / checksums.NAME).exists()]


def _step_folders(root: Path) -> list[Path]:
    return [p for p in root.iterdir() if p.is_dir() and p.name.isdecimal()] if root.is_dir() else []


def find_fault(folder: Path) -> str | None:
    """Return a line about a checkpoint that is damaged or holds files of another step; None if it is whole."""
    damage = checksums.find_damage(folder)
    if damage is not None:
        return damage
    step = read_item(folder, "data").get("step")
    if folder.name.isdecimal() and step is not None and step != int(folder.name):
        return f"{folder}: found the checkpoint of step {step}, expected that of step {folder.name}"
    return None


def read_item(folder: Path, name: Literal["data", "assets"]) -> dict[str, Any]:
    """Read one JSON item of a step's folder. Raise UserError if it is none, or is not JSON."""
    path = folder / name / "metadata"
    return parse_json(read_document(path, f"the {name} of a checkpoint", _MAX_JSON), str(path), finite=False)


def read_state(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read some groups of arrays from a step's folder.

    Args:
        folder: the step's folder; it may hold more groups.
        like: the groups to read, as shapes with shardings; leaves without a sharding are read as NumPy arrays.

    Returns:
        The groups, with the shapes and shardings of `like`.

    Raises:
        UserError: if a leaf is missing, is left over or has another shape.
    """
    _check_fits(folder, like)
    _check_size(folder, like)
    restore_args = jax.tree.map(_restore_args, like)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(
                folder / "state",
                args=ocp.args.PyTreeRestore(item=dict(like), restore_args=restore_args, partial_restore=True),
            )
    except ValueError as error:  # of tensorstore
        raise UserError(f"{folder / 'state'}: found {error}, expected arrays of a checkpoint") from error


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    if getattr(leaf, "sharding", None) is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def stored_shapes(folder: Path) -> dict[str, Any]:
    """Return {"step": …, "params": {name: metadata with shape and dtype}, …} of a step's folder."""
    state: Any = folder / "state"  # orbax takes any path, its annotation only its own
    try:
        metadata: Any = ocp.PyTreeCheckpointHandler().metadata(state)
        return dict(getattr(metadata, "tree", metadata))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{state}: found {type(error).__name__}: {error}, expected arrays of a checkpoint") from error


def _check_size(folder: Path, like: Mapping[str, Any]) -> None:
    """Refuse shapes that the files cannot hold: missing parts of an array would be read as zeros."""
    claimed = sum(math.prod(leaf.shape) * 4 for group in like.values() for leaf in jax.tree.leaves(group))
    stored = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())
    if claimed > _COMPRESSION * stored + (256 << 20):
        raise UserError(f"{folder / 'state'}: found arrays of {claimed} bytes in {stored}, expected a whole checkpoint")


def _check_fits(folder: Path, like: Mapping[str, Any]) -> None:
    stored_groups = stored_shapes(folder)
    for group, leaves in like.items():
        if group == "step":
            continue
        stored = stored_groups.get(group, {})
        for name, leaf in leaves.items():
            if name not in stored:
                raise UserError(
                    f"{folder}: found no {group} {name!r}, expected it with shape {tuple(leaf.shape)}: "
                    "another model or optimizer?"
                )
            if tuple(stored[name].shape) != tuple(leaf.shape):
                raise UserError(
                    f"{folder}: found {group} {name!r} with shape {tuple(stored[name].shape)}, "
                    f"expected {tuple(leaf.shape)}: another model or optimizer?"
                )
        extra = sorted(set(stored) - set(leaves))
        if extra:
            raise UserError(f"{folder}: found {group} {extra[0]!r}, which this model or optimizer does not have")


@dataclass(frozen=True)
class HostShape:
    """Shape of a leaf that is read into host memory, on no device."""

    shape: tuple[int, ...]
