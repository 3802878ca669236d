"""Read and write a recognizer's checkpoint folder: config, tokenizer, parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from speech_jax.artifacts.folder import task_in, write_run
from speech_jax.core.types import PyTree
from speech_jax.finetuning.adapters import adapter_of, joined, load_adapter
from speech_jax.tasks.ctc import CTCTaskConfig, network_shapes, own_state
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checkpoint import (
    Which,
    find_checkpoint,
    read_assets,
    read_params,
)
from speech_jax.training.state import check_shapes


class RecognizerParts(NamedTuple):
    """What a recognizer's checkpoint folder holds."""

    task: CTCTaskConfig
    tokenizer: Tokenizer
    params: PyTree
    model_state: PyTree


def load_recognizer_parts(path: str | Path, which: Which = "best", adapter: str = "") -> RecognizerParts:
    """The recognizer in a run's folder (or in one step's folder of it), with its best or its last parameters.

    adapter: an adapter's file to merge into them.

    Raises UserError where there is no whole checkpoint, or where it is not a recognizer's.
    """
    folder = find_checkpoint(path, which)  # once, so that all is of one step while a run goes on writing
    assets = read_assets(folder)
    task = task_in(assets, CTCTaskConfig, path, "a recognizer's")
    tokenizer = Tokenizer.from_json(assets["tokenizer"])
    params, model_state = read_params(folder)
    model_state = own_state(model_state)
    params = jax.tree.map(np.asarray, joined(params, adapter_of(assets)))
    params.pop("pretext", None)  # what only training uses
    if adapter:
        params, tokens = load_adapter(adapter, params)
        tokenizer = Tokenizer.from_json(tokens)
    check_shapes((params, model_state), network_shapes(task, tokenizer.vocab_size), f"{path}: the parameters")
    return RecognizerParts(task, tokenizer, params, model_state)


def save_recognizer(out: str | Path, parts: RecognizerParts, **more_assets: Any) -> None:
    """Writes a run's folder with one checkpoint, step 0, that every front door takes.

    Raises UserError, and writes nothing, if the parameters do not fit the network, or if there is a run already.
    """
    write_run(out, *parts, expected=network_shapes(parts.task, parts.tokenizer.vocab_size), **more_assets)
