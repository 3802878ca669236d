"""Low-rank adapters as functions on parameters: for any model, mergeable into plain weights, small on the disk.

A kernel [..., in, out] is a matrix W of prod(...) · in rows. "lora" (Hu et al. 2021) adds scale · A B to it;
"bottleneck" puts x ↦ x + scale · (x A) B behind the layer, which is W (I + scale · A B) and the same for its bias. Both
are linear, so both merge exactly; Houlsby's adapter with a nonlinearity in between would not.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from speech_jax.core.config_dict import from_dict, to_dict
from speech_jax.core.errors import UserError
from speech_jax.core.rules import leaf_name, named_leaves, nest_leaves
from speech_jax.core.types import Batch, Model, Objective, PyTree, Task
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.objectives.mix import Mix

BASE, ADAPTER = "base", "adapter"  # the two parts of the parameters of a model with adapters


def init_adapters(key: jax.Array, params: PyTree, config: AdapterConfig) -> dict[str, Any]:
    """The adapters of `params` (arrays or shapes): a nested dict with {"a", "b"} in the place of every target.

    B is zero: the model computes at first what it computed before. Raises UserError if a pattern fits no kernel.
    """
    if config.rank < 1:
        raise UserError(f"adapter.rank: found {config.rank}, expected 1 or more")
    leaves = named_leaves(params)
    for pattern in config.targets:
        if not any(re.search(pattern, name) for name in leaves):
            raise UserError(f"adapter.targets: found {pattern!r}, which fits no parameter; see {next(iter(leaves))!r}")
    found: dict[str, Any] = {}
    chosen = [n for n in leaves if any(re.search(pattern, n) for pattern in config.targets)]
    for number, name in enumerate(chosen):
        shape = leaves[name].shape
        if len(shape) < 2:
            raise UserError(f"adapter.targets: found {name!r} of shape {tuple(shape)}, expected a matrix")
        rows = math.prod(shape[:-1]) if config.kind == "lora" else shape[-1]
        a = jax.random.normal(jax.random.fold_in(key, number), (rows, config.rank)) / math.sqrt(rows)
        found |= {f"{name}/a": a, f"{name}/b": jnp.zeros((config.rank, shape[-1]))}
    return nest_leaves(found)


def merge(params: PyTree, adapters: Mapping[str, Any], config: AdapterConfig) -> PyTree:
    """Plain parameters that compute what the network with its adapters computes."""
    if config.kind == "none" or not adapters:
        return params
    parts = named_leaves(adapters)

    def one(path: tuple, leaf: Any) -> Any:
        name = leaf_name(path)
        kernel = name if f"{name}/a" in parts else re.sub(r"bias$", "kernel", name)
        if f"{kernel}/a" not in parts or (kernel != name and config.kind == "lora"):
            return leaf
        delta = config.scale * (parts[f"{kernel}/a"] @ parts[f"{kernel}/b"])
        change = delta.reshape(leaf.shape) if config.kind == "lora" else leaf @ delta
        return leaf + change.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def joined(params: PyTree, config: AdapterConfig) -> PyTree:
    """Plain parameters of {"base": …, "adapter": …}; parameters that are plain already stay as they are."""
    if config.kind == "none" or set(params) != {BASE, ADAPTER}:
        return params
    return merge(params[BASE], params[ADAPTER], config)


def with_adapters(task: Task, config: AdapterConfig) -> Task:
    """The same task with parameters {"base": …, "adapter": …}; train the second part (`adapter_groups`)."""

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, model_state = task.model.init(key, batch)
        return {BASE: params, ADAPTER: init_adapters(jax.random.fold_in(key, 1), params, config)}, model_state

    def apply(params: PyTree, model_state: PyTree, batch: Batch, **options: Any) -> tuple[Any, PyTree]:
        return task.model.apply(joined(params, config), model_state, batch, **options)

    def wrap(objective: Objective) -> Objective:
        if isinstance(objective, Mix):
            return Mix(wrap(objective.pre), wrap(objective.task), objective.alpha)
        return lambda params, *rest: objective(joined(params, config), *rest)

    merged = jax.jit(lambda params: joined(params, config))
    return task._replace(
        model=Model(init, apply),
        objective=wrap(task.objective),
        evaluate=lambda params, *rest: task.evaluate(merged(params), *rest),
    )


def adapter_groups(config: AdapterConfig) -> tuple[tuple[str, float | None], ...]:
    """`OptimizerConfig.groups` that train the adapters and `config.train`, and freeze the rest, its statistics too."""
    own = tuple((f"^{BASE}/{p[1:]}" if p.startswith("^") else f"^{BASE}/.*(?:{p})", 1.0) for p in config.train)
    return ((f"^{ADAPTER}/", 1.0), *own, (f"^({BASE}|batch_stats)/", None))


def adapter_of(assets: Mapping[str, Any]) -> AdapterConfig:
    """The adapters of the run that wrote a checkpoint with these assets."""
    found = assets.get("config", {}).get("adapter")
    return AdapterConfig() if found is None else from_dict(AdapterConfig, found, "config.adapter")


# ---- on the disk, alone


def _fingerprint(leaves: Mapping[str, Any]) -> str:
    """SHA-256 of named parameters: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def save_adapter(path: str | Path, params: PyTree, start: PyTree, config: AdapterConfig, tokenizer: str) -> None:
    """Writes what was trained, and nothing else, as safetensors: the adapters, those of the network's own parameters
    that moved, and the tokenizer (its JSON).

    params: {"base": …, "adapter": …}; start: the base's parameters before training, on which the file can be put.
    """
    before = named_leaves(start)
    own = {
        name: np.asarray(leaf, order="C")
        for name, leaf in named_leaves(params[BASE]).items()
        if name not in before or not np.array_equal(leaf, before[name])
    }
    tensors = {f"{ADAPTER}/{n}": np.asarray(a, order="C") for n, a in named_leaves(params[ADAPTER]).items()}
    tensors |= {f"{BASE}/{name}": leaf for name, leaf in own.items()}
    rest = {name: leaf for name, leaf in before.items() if name not in own}
    about = {"config": json.dumps(to_dict(config)), "rest": _fingerprint(rest), "tokenizer": tokenizer}
    save_file(tensors, str(path), metadata=about)


def load_adapter(path: str | Path, start: PyTree) -> tuple[PyTree, str]:
    """(plain parameters: the base `start` with the file's adapter merged in, the tokenizer's JSON).

    Raises UserError if the file is no adapter, or one of another base.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: found {error}, expected an adapter (safetensors)") from error
    if not {"config", "rest", "tokenizer"} <= set(about):
        raise UserError(f"{path}: found no adapter's settings, expected a file that train wrote")
    own = {name.removeprefix(f"{BASE}/"): t for name, t in tensors.items() if name.startswith(f"{BASE}/")}
    rest = {name: leaf for name, leaf in named_leaves(start).items() if name not in own}
    if about["rest"] != _fingerprint(rest):
        raise UserError(f"{path}: found an adapter of another model, expected one that was trained on this checkpoint")
    config = from_dict(AdapterConfig, json.loads(about["config"]), "adapter")
    prefix = f"{ADAPTER}/"
    adapters = nest_leaves({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    moved = jax.tree_util.tree_map_with_path(lambda path, leaf: own.get(leaf_name(path), leaf), start)
    return jax.tree.map(np.asarray, merge(moved, adapters, config)), about["tokenizer"]
