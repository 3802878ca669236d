"""Initialization from a checkpoint: take what fits, initialize what is new, and report every parameter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from speech_jax.core.rules import check_patterns, leaf_name, named_leaves
from speech_jax.core.types import PyTree
from speech_jax.finetuning.adapters import plain_params, read_adapter_config
from speech_jax.finetuning.vocabulary import VocabularyChange, compare_vocabularies, move_tokens
from speech_jax.training.checkpoint import OpenCheckpoint, Which, open_checkpoint
from speech_jax.training.state import check_shapes

VOCABULARY = ((r"^head/", -1), (r"^embedding$", 0))  # (parameters, axis of the vocabulary)
SPEAKERS = "speakers"  # the parameter with a row per speaker


def vocabulary_axis(name: str) -> int | None:
    """Return the axis of a parameter that is the vocabulary; None if none is."""
    return next((axis for pattern, axis in VOCABULARY if re.search(pattern, name)), None)


class StartValues(NamedTuple):
    """Parameters to start from, and the origin of each.

    Attributes:
        params: the parameters.
        model_state: batch statistics.
        taken: names of the leaves from the checkpoint.
        fresh: names of the leaves that were initialized.
        dropped: names of the checkpoint's leaves that the model does not have.
        vocabulary: change of the vocabulary; None without one.
        speakers: change of the speakers; None without one.
    """

    params: PyTree
    model_state: PyTree
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    vocabulary: VocabularyChange | None
    speakers: VocabularyChange | None = None

    def describe(self) -> list[str]:
        """Return lines for the log: leaves that were taken, initialized and dropped."""
        lines = [f"{len(self.taken)} leaves taken from the checkpoint"]
        lines += [f"reinitialized: {_short(self.fresh)}"] if self.fresh else []
        lines += [f"dropped: {_short(self.dropped)}"] if self.dropped else []
        lines += [self.vocabulary.describe()] if self.vocabulary else []
        return lines + ([self.speakers.describe("speakers")] if self.speakers else [])


def start_from(
    source: str | Path | OpenCheckpoint,
    params_like: PyTree,
    model_state_like: PyTree,
    *,
    which: Which = "best",
    ema: bool = True,
    fresh: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    init: Callable[[], tuple[PyTree, PyTree]] | None = None,
    tokens: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    speakers: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    select_state: Callable[[PyTree], PyTree] = lambda model_state: model_state,
    grow: Callable[[PyTree], PyTree] = lambda params: params,
) -> StartValues:
    """Make the values that a run starts from out of a checkpoint, to be given to `fit` as `init`.

    Args:
        source: folder of a run or of one step, or an open checkpoint.
        params_like: parameters, or their shapes, of the model to be trained (`training.state.init_shapes`).
        model_state_like: its model state, or the shapes.
        which: "best", "last" or a step, in the folder of a run.
        ema: take the moving average of the parameters, if the run kept one.
        fresh: regular expressions of leaves (of the model state too) to initialize with `init()`.
        drop: regular expressions of the checkpoint's leaves that the model does not have.
        optional: top-level parts that may be missing on either side: initialized if the checkpoint lacks them, dropped
            if the model does.
        init: makes the model's initial (params, model_state).
        tokens: vocabularies of the checkpoint and of the model; weights of head or embedding then move by token, and
            new tokens are initialized with `init()`.
        speakers: names of the checkpoint's and of the model's speakers; embeddings then move by name, and a new
            speaker gets the mean of the old ones.
        select_state: picks the part of the checkpoint's model state that the model has.
        grow: turns the checkpoint's parameters into those of a larger network that computes the same.

    Returns:
        The parameters and model state, and the origin of each leaf.

    Raises:
        UserError: if there is no whole checkpoint, a leaf is missing, is left over or has another shape (naming it and
            both shapes), or a pattern matches nothing.
    """
    checkpoint = open_checkpoint(source, which)
    path = checkpoint.path
    params, model_state = checkpoint.params(ema=ema)
    model_state = select_state(model_state)
    params = jax.tree.map(np.asarray, grow(plain_params(params, read_adapter_config(checkpoint.assets))))
    needed, stored = _leaves_of_both(params_like, model_state_like), _leaves_of_both(params, model_state)
    renewed = _matching(needed, fresh, f"{path}: start.fresh") | _without(needed, stored, optional)
    dropped = _matching(stored, drop, f"{path}: start.drop") | (renewed & stored.keys())
    dropped |= _without(stored, needed, optional)
    converted = {}  # name -> axis of the vocabulary
    if tokens is not None and tokens[0] != tokens[1]:
        axes = {name: vocabulary_axis(name) for name in needed if name not in renewed}
        converted = {name: axis for name, axis in axes.items() if axis is not None}
    if speakers is not None and (speakers[0] == speakers[1] or SPEAKERS not in needed or SPEAKERS in renewed):
        speakers = None
    initial = {}
    if renewed or converted:
        if init is None:
            raise ValueError("start_from: expected `init`, because some leaves are initialized")
        initial = {name: np.asarray(leaf) for name, leaf in _leaves_of_both(*jax.device_get(init())).items()}

    def choose(tree: PyTree, like: PyTree, what: str) -> PyTree:
        names = set(named_leaves(like))
        leaves = {n: leaf for n, leaf in named_leaves(tree).items() if n not in dropped}
        leaves |= {n: initial[n] for n in renewed & names}
        for n in converted.keys() & names & stored.keys():
            old_tokens, new_tokens = tokens or ((), ())
            leaves[n] = move_tokens(stored[n], initial[n], old_tokens, new_tokens, converted[n])
        if speakers and SPEAKERS in names and SPEAKERS in stored:
            mean = np.repeat(stored[SPEAKERS].mean(axis=0, keepdims=True), len(speakers[1]), axis=0)
            leaves[SPEAKERS] = move_tokens(stored[SPEAKERS], mean, *speakers, axis=0)
        check_shapes(leaves, named_leaves(like), what)
        return jax.tree_util.tree_map_with_path(lambda path, _: leaves[leaf_name(path)], like)

    return StartValues(
        choose(params, params_like, f"{path}: the parameters"),
        choose(model_state, model_state_like, f"{path}: the model state"),
        taken=tuple(n for n in needed if n not in renewed),
        fresh=tuple(n for n in needed if n in renewed),
        dropped=tuple(n for n in stored if n in dropped and n not in renewed),
        vocabulary=None if tokens is None or tokens[0] == tokens[1] else compare_vocabularies(*tokens),
        speakers=compare_vocabularies(*speakers) if speakers else None,
    )


def _leaves_of_both(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Name -> leaf of both trees; they have no name in common."""
    return named_leaves(params) | named_leaves(model_state)


def _matching(leaves: dict[str, object], patterns: tuple[str, ...], what: str) -> set[str]:
    check_patterns(patterns, leaves, what)
    return {name for name in leaves if any(re.search(pattern, name) for pattern in patterns)}


def _without(leaves: dict[str, object], other_leaves: dict[str, object], parts: tuple[str, ...]) -> set[str]:
    """Return the leaves of those top-level parts that `other_leaves` lacks as a whole."""
    tops = {name.split("/", 1)[0] for name in other_leaves}
    return {name for name in leaves if (part := name.split("/", 1)[0]) in parts and part not in tops}


def _short(names: tuple[str, ...], shown: int = 4) -> str:
    ellipsis = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + ellipsis
