"""Read and write a recognizer's checkpoint folder: config, tokenizer, parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from speech_jax.artifacts.folder import read_model_of, read_row_seconds, write_run
from speech_jax.core.types import Checkpointed, PyTree
from speech_jax.finetuning.adapters import load_adapter, plain_params, read_adapter_config
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import network_shapes, own_state
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checkpoint import OpenCheckpoint, Which, open_checkpoint
from speech_jax.training.state import check_shapes


class RecognizerParts(NamedTuple):
    """Contents of a recognizer's checkpoint folder.

    Attributes:
        task: Its task config.
        tokenizer: Its tokenizer.
        params: Parameters, without those that only training uses.
        model_state: Batch statistics.
        row_seconds: Seconds that 95 % of the recordings it learned from do not exceed; 0 if that is unknown.
    """

    task: CTCTaskConfig
    tokenizer: Tokenizer
    params: PyTree
    model_state: PyTree
    row_seconds: float = 0.0


def load_recognizer_parts(
    path: str | Path | OpenCheckpoint, which: Which = "best", adapter: str = ""
) -> RecognizerParts:
    """Read the recognizer in a run's folder, or in the folder of one of its steps.

    Args:
        path: The folder, or an open checkpoint.
        which: The run's best or last checkpoint, or a step.
        adapter: An adapter's file to merge into the parameters.

    Returns:
        Its config, tokenizer and parameters (the moving average where the run kept one).

    Raises:
        UserError: If there is no whole checkpoint, or not a recognizer's.
    """
    checkpoint = open_checkpoint(path, which)  # once: all is of one step although a run may be writing there
    task, tokenizer, _ = read_model_of(checkpoint, "recognizer")
    task, tokenizer = cast(CTCTaskConfig, task), cast(Tokenizer, tokenizer)
    params, model_state = checkpoint.params()
    model_state = own_state(model_state)
    params = jax.tree.map(np.asarray, plain_params(params, read_adapter_config(checkpoint.assets)))
    params.pop("pretext", None)
    if adapter:
        params, tokens = load_adapter(adapter, params)
        tokenizer = Tokenizer.from_json(tokens)
    shapes = network_shapes(task, tokenizer.vocab_size)
    check_shapes((params, model_state), shapes, f"{checkpoint.path}: the parameters")
    return RecognizerParts(task, tokenizer, params, model_state, read_row_seconds(checkpoint))


def save_recognizer(out: str | Path, parts: RecognizerParts, **more_assets: Any) -> None:
    """Write a run's folder with one checkpoint, step 0, that every front door takes.

    Raises UserError, and writes nothing, if the parameters do not fit the network, or if there is a run already.
    """
    expected = network_shapes(parts.task, parts.tokenizer.vocab_size)
    model = Checkpointed(parts.task, parts.tokenizer)
    if parts.row_seconds:
        more_assets["row_seconds"] = parts.row_seconds
    write_run(out, model, parts.params, parts.model_state, expected=expected, **more_assets)
