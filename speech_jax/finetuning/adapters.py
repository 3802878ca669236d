"""Low-rank adapters as functions on parameters: for any model, mergeable into plain weights, small on disk.

A kernel [..., in, out] is a matrix W with prod(...) · in rows. "lora" (Hu et al. 2021) adds scale · A B to it;
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
from speech_jax.core.documents import check_file, parse_json
from speech_jax.core.errors import UserError
from speech_jax.core.rules import check_patterns, leaf_name, match_rules, named_leaves, nest_leaves
from speech_jax.core.types import Batch, Model, Objective, PyTree, Task
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.objectives.mix import Mix

BASE, ADAPTER = "base", "adapter"  # the two parts of the parameters of a model with adapters


def init_adapters(key: jax.Array, params: PyTree, config: AdapterConfig) -> dict[str, Any]:
    """Initialize the adapters of a model. B is zero, so that the model's output does not change at first.

    Args:
        key: random key for A.
        params: the model's parameters, or their shapes.
        config: rank and target kernels.

    Returns:
        A nested dict with {"a": [rows, rank], "b": [rank, out]} in place of every target kernel.

    Raises:
        UserError: if the rank is below 1, the scale is not above 0, a pattern adds no parameter, or a target is not a
            matrix.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.finetuning.adapters import init_adapters, merge_adapters
        >>> from speech_jax.finetuning.config import AdapterConfig
        >>> params = {"layer": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}
        >>> config = AdapterConfig("lora", rank=2, targets=("kernel$",))
        >>> adapters = init_adapters(jax.random.key(0), params, config)
        >>> jax.tree.map(jnp.shape, adapters)
        {'layer': {'kernel': {'a': (4, 2), 'b': (2, 3)}}}
        >>> bool((merge_adapters(params, adapters, config)["layer"]["kernel"] == 1).all())
        True
    """
    if config.rank < 1:
        raise UserError(f"adapter.rank: found {config.rank}, expected 1 or more")
    if not config.scale > 0:
        raise UserError(f"adapter.scale: found {config.scale}, expected a number above 0")
    leaves = named_leaves(params)
    check_patterns(config.targets, leaves, "adapter.targets", distinct=True)
    check_patterns(config.train, leaves, "adapter.train", optional=AdapterConfig().train, distinct=True)
    if all(any(re.search(pattern, name) for pattern in config.train) for name in leaves):
        raise UserError(f"adapter.train: found {config.train}, which is every parameter, expected adapter.kind none")
    adapters: dict[str, Any] = {}
    targets = [name for name in leaves if any(re.search(pattern, name) for pattern in config.targets)]
    for number, name in enumerate(targets):
        shape = leaves[name].shape
        if len(shape) < 2:
            raise UserError(f"adapter.targets: found {name!r} of shape {tuple(shape)}, expected a matrix")
        rows = math.prod(shape[:-1]) if config.kind == "lora" else shape[-1]
        a = jax.random.normal(jax.random.fold_in(key, number), (rows, config.rank)) / math.sqrt(rows)
        adapters |= {f"{name}/a": a, f"{name}/b": jnp.zeros((config.rank, shape[-1]))}
    return nest_leaves(adapters)


def merge_adapters(params: PyTree, adapters: Mapping[str, Any], config: AdapterConfig) -> PyTree:
    """Merge adapters into plain parameters that compute the same.

    Args:
        params: the network's parameters.
        adapters: from `init_adapters`, or trained.
        config: kind and scale.

    Returns:
        Parameters like `params`.
    """
    if config.kind == "none" or not adapters:
        return params
    matrices = named_leaves(adapters)

    def merged(path: tuple, leaf: Any) -> Any:
        name = leaf_name(path)
        kernel = name if f"{name}/a" in matrices else re.sub(r"bias$", "kernel", name)
        if f"{kernel}/a" not in matrices or (kernel != name and config.kind == "lora"):
            return leaf
        delta = config.scale * (matrices[f"{kernel}/a"] @ matrices[f"{kernel}/b"])
        change = delta.reshape(leaf.shape) if config.kind == "lora" else leaf @ delta
        return leaf + change.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(merged, params)


def plain_params(params: PyTree, config: AdapterConfig) -> PyTree:
    """Merge {"base": …, "adapter": …} into plain parameters; return plain parameters as they are."""
    if config.kind == "none" or set(params) != {BASE, ADAPTER}:
        return params
    return merge_adapters(params[BASE], params[ADAPTER], config)


def with_adapters(task: Task, config: AdapterConfig) -> Task:
    """Wrap a task so that its parameters are {"base": …, "adapter": …}.

    To train the adapters alone, give the optimizer the groups of `adapter_groups`.
    """

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, model_state = task.model.init(key, batch)
        return {BASE: params, ADAPTER: init_adapters(jax.random.fold_in(key, 1), params, config)}, model_state

    def apply(params: PyTree, model_state: PyTree, batch: Batch, **options: Any) -> tuple[Any, PyTree]:
        return task.model.apply(plain_params(params, config), model_state, batch, **options)

    def wrap(objective: Objective) -> Objective:
        if isinstance(objective, Mix):
            return Mix(wrap(objective.pre), wrap(objective.task), objective.alpha)
        return lambda params, *rest: objective(plain_params(params, config), *rest)

    merge = jax.jit(lambda params: plain_params(params, config))
    return task._replace(
        model=Model(init, apply),
        objective=wrap(task.objective),
        evaluate=lambda params, *rest: task.evaluate(merge(params), *rest),
    )


def adapter_groups(config: AdapterConfig) -> tuple[tuple[str, float | None], ...]:
    """Return the `OptimizerConfig.groups` that train the adapters and `config.train`, and freeze everything else.

    A batch norm's statistics follow its parameters, see `training.frozen`.
    """
    # One rule for all that is trained: the default of `train`, the head, may match nothing.
    base = (f"^{BASE}/{p[1:]}" if p.startswith("^") else f"^{BASE}/.*(?:{p})" for p in config.train)
    return (("|".join((f"^{ADAPTER}/", *base)), 1.0), (f"^{BASE}/", None))


def read_adapter_config(assets: Mapping[str, Any]) -> AdapterConfig:
    """Return the adapter config in the assets of a checkpoint; the default (none) if it has none."""
    config = assets.get("config", {}).get("adapter")
    return AdapterConfig() if config is None else from_dict(AdapterConfig, config, "config.adapter")


# --- adapter files ---


def _fingerprint(leaves: Mapping[str, Any]) -> str:
    """SHA-256 of named parameters: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def save_adapter(path: str | Path, params: PyTree, config: AdapterConfig, tokenizer: str, *, step: int) -> None:
    """Write what was trained, and nothing else, as safetensors.

    The file has the adapters, the parameters of the base that `config.train` names, and the tokenizer. It can be loaded
    onto any base that is equal in all others.

    Args:
        path: the file.
        params: {"base": …, "adapter": …} after training.
        config: the adapters' config.
        tokenizer: the tokenizer's JSON.
        step: step of the checkpoint that the parameters are from, which is noted in the file.
    """
    rates = match_rules(params, adapter_groups(config), "adapter.train")
    trained = named_leaves(rates).keys()  # the frozen have None, which is no leaf
    leaves = {name: np.asarray(leaf, order="C") for name, leaf in named_leaves(params).items()}
    rest = {name.removeprefix(f"{BASE}/"): leaf for name, leaf in leaves.items() if name not in trained}
    metadata = {
        "config": json.dumps(to_dict(config)),
        "rest": _fingerprint(rest),
        "tokenizer": tokenizer,
        "step": str(step),
    }
    save_file({name: leaf for name, leaf in leaves.items() if name in trained}, str(path), metadata=metadata)


def load_adapter(path: str | Path, start: PyTree) -> tuple[PyTree, str]:
    """Load an adapter file and merge it into the parameters that it was trained on.

    Args:
        path: the file.
        start: parameters of the base.

    Returns:
        Plain parameters as NumPy arrays, and the tokenizer's JSON.

    Raises:
        UserError: if the file is not an adapter, or was trained on another base.
    """
    check_file(path, "an adapter (safetensors)")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: found {error}, expected an adapter (safetensors)") from error
    if not {"config", "rest", "tokenizer"} <= set(metadata):
        raise UserError(f"{path}: found no adapter settings, expected an adapter file written by train")
    changed = {name.removeprefix(f"{BASE}/"): t for name, t in tensors.items() if name.startswith(f"{BASE}/")}
    unchanged = {name: leaf for name, leaf in named_leaves(start).items() if name not in changed}
    if metadata["rest"] != _fingerprint(unchanged):
        raise UserError(f"{path}: found an adapter of another model, expected one that was trained on this checkpoint")
    config = from_dict(AdapterConfig, parse_json(metadata["config"].encode(), str(path)), "adapter")
    prefix = f"{ADAPTER}/"
    adapters = nest_leaves({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    base = jax.tree_util.tree_map_with_path(lambda path, leaf: changed.get(leaf_name(path), leaf), start)
    return jax.tree.map(np.asarray, merge_adapters(base, adapters, config)), metadata["tokenizer"]
