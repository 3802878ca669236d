"""Starting from a checkpoint: what fits is taken, what is to be new is initialized, and all of it is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.core.rules import leaf_name, named_leaves
from speech_jax.core.types import PyTree
from speech_jax.finetuning.adapters import adapter_of, joined
from speech_jax.finetuning.vocabulary import VocabularyChange, compare_vocabularies, move_tokens
from speech_jax.training.checkpoint import OpenCheckpoint, Which, open_checkpoint
from speech_jax.training.state import check_shapes

VOCABULARY = ((r"^head/", -1), (r"^embedding$", 0))  # the leaves with an axis that is the vocabulary, and which
SPEAKERS = "speakers"  # the leaf with a row for each speaker


def vocabulary_axis(name: str) -> int | None:
    """Which axis of a leaf is the vocabulary, if one is."""
    return next((axis for pattern, axis in VOCABULARY if re.search(pattern, name)), None)


class Start(NamedTuple):
    """Parameters to start from, and where they come from: names of leaves."""

    params: PyTree
    model_state: PyTree
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    vocabulary: VocabularyChange | None
    speakers: VocabularyChange | None = None

    def describe(self) -> list[str]:
        """A line each for what was taken, initialized and left behind."""
        lines = [f"{len(self.taken)} leaves taken"]
        lines += [f"initialized anew: {_short(self.fresh)}"] if self.fresh else []
        lines += [f"left behind: {_short(self.dropped)}"] if self.dropped else []
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
    own_state: Callable[[PyTree], PyTree] = lambda model_state: model_state,
    grow: Callable[[PyTree], PyTree] = lambda params: params,
) -> Start:
    """Parameters and model state out of a run's folder or of one step's folder, to be handed to `fit` as `init`.

    params_like, model_state_like: arrays or shapes of the model that is to be trained (`training.state.init_shapes`).
    ema:    the moving average instead of the parameters, where the run kept one.
    fresh:  patterns of leaves (of the model state too) that come from `init()`, the model's initial values.
    drop:   patterns of the checkpoint's leaves that are left behind.
    optional: top-level parts that may be missing on either side: new where the checkpoint has none, left behind where
            the model has none.
    tokens: (the checkpoint's, the new) vocabulary; the leaves of head or embedding then move by token, `init()` for new
            ones.
    speakers: (the checkpoint's, the new) names; their rows move by name, a new one's is the mean of all old ones.
    grow: makes the checkpoint's parameters those of a larger network that computes the same.
    own_state: takes from the checkpoint's model state what is the network's own.
    Raises UserError if there is no whole checkpoint there, if a leaf is missing, has another shape or is left over
    (names it and both shapes), or if a pattern fits nothing.
    """
    checkpoint = source if isinstance(source, OpenCheckpoint) else open_checkpoint(source, which)
    path = checkpoint.path
    params, model_state = checkpoint.params(ema=ema)
    model_state = own_state(model_state)
    params = jax.tree.map(np.asarray, grow(joined(params, adapter_of(checkpoint.assets))))
    wanted, have = named_leaves((params_like, model_state_like)), named_leaves((params, model_state))
    wanted, have = ({name.split("/", 1)[1]: leaf for name, leaf in leaves.items()} for leaves in (wanted, have))
    renewed = _matching(wanted, fresh, f"{path}: start.fresh")
    renewed |= _without(wanted, have, optional)
    dropped = _matching(have, drop, f"{path}: start.drop") | (renewed & have.keys()) | _without(have, wanted, optional)
    moved = {n: vocabulary_axis(n) for n in wanted if vocabulary_axis(n) is not None and n not in renewed}
    if tokens is None or tokens[0] == tokens[1]:
        moved = {}
    people = speakers is not None and speakers[0] != speakers[1] and SPEAKERS in wanted and SPEAKERS not in renewed
    if (renewed or moved) and init is None:
        raise ValueError("start_from: expected `init` where leaves are initialized anew")
    values = {}
    if renewed or moved:
        both = jax.device_get(init())
        values = {name.split("/", 1)[1]: np.asarray(leaf) for name, leaf in named_leaves(both).items()}

    def choose(found: PyTree, like: PyTree, what: str) -> PyTree:
        names = set(named_leaves(like))
        found = {n: a for n, a in named_leaves(found).items() if n not in dropped}
        found |= {n: values[n] for n in renewed & names}
        found |= {n: move_tokens(have[n], values[n], *tokens, moved[n]) for n in moved.keys() & names & have.keys()}
        if people and SPEAKERS in names and SPEAKERS in have:
            mean = np.repeat(have[SPEAKERS].mean(axis=0, keepdims=True), len(speakers[1]), axis=0)
            found[SPEAKERS] = move_tokens(have[SPEAKERS], mean, *speakers, axis=0)
        check_shapes(found, {n: leaf for n, leaf in named_leaves(like).items()}, what)
        return jax.tree_util.tree_map_with_path(lambda path, _: found[leaf_name(path)], like)

    return Start(
        choose(params, params_like, f"{path}: the parameters"),
        choose(model_state, model_state_like, f"{path}: the model state"),
        taken=tuple(n for n in wanted if n not in renewed),
        fresh=tuple(n for n in wanted if n in renewed),
        dropped=tuple(n for n in have if n in dropped and n not in renewed),
        vocabulary=None if tokens is None or tokens[0] == tokens[1] else compare_vocabularies(*tokens),
        speakers=compare_vocabularies(*speakers) if people else None,
    )


def _matching(leaves: dict[str, object], patterns: tuple[str, ...], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        try:
            names = {name for name in leaves if re.search(pattern, name)}
        except re.error as error:
            raise UserError(f"{what}: found {pattern!r}, expected a regular expression ({error})") from error
        if not names:
            raise UserError(f"{what}: found {pattern!r}, which fits no leaf; they look like {next(iter(leaves))!r}")
        found |= names
    return found


def _without(leaves: dict[str, object], others: dict[str, object], parts: tuple[str, ...]) -> set[str]:
    """Return the leaves of those top-level parts that `others` lacks as a whole."""
    tops = {name.split("/", 1)[0] for name in others}
    return {name for name in leaves if (part := name.split("/", 1)[0]) in parts and part not in tops}


def _short(names: tuple[str, ...], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
