"""Checks of a conversion's result: it is read back and run on noise before the conversion is reported as done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from speech_jax.artifacts.recognizer import RecognizerParts, load_recognizer_parts
from speech_jax.artifacts.vocoder import VocoderParts, load_vocoder_parts
from speech_jax.artifacts.voice import VoiceParts, load_voice_parts
from speech_jax.audio.features import extract_features
from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import Bucket, PyTree
from speech_jax.tasks.ctc_task import build_model

_TOLERANCE = 1e-4  # of log-probabilities

Parts = RecognizerParts | VoiceParts | VocoderParts


def check_checkpoint(out: str | Path, parts: Parts) -> None:
    """Read a written checkpoint folder back, compare its parameters and run it on noise.

    Args:
        out: the folder.
        parts: what was written.

    Raises:
        UserError: the folder holds something else, or what it holds cannot be run, or its outputs are not finite.
    """
    load: Any = {VoiceParts: load_voice_parts, VocoderParts: load_vocoder_parts}.get(type(parts), load_recognizer_parts)
    again = load(out)
    _compare_params(out, parts, again)
    outputs = _run(out, again)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs) if np.issubdtype(leaf.dtype, np.floating)):
        raise UserError(f"{out}: found outputs that are not finite when it was run, expected numbers")


def check_export(out: str | Path, parts: Parts, again: Parts) -> None:
    """Compare what was written in another toolkit's format with what its reader makes of it.

    Args:
        out: what was written.
        parts: the model.
        again: the model that was read from it.

    Raises:
        UserError: the parameters or the log-probabilities of a second of noise differ.
    """
    if not isinstance(parts, RecognizerParts):
        return _compare_params(out, parts, again)
    before, after = _run(out, parts), _run(out, again)
    classes = before.shape[1]  # a class for <unk>, which is never the best, may have been added
    if after.shape[0] != len(before) or not np.abs(after[:, :classes] - before).max(initial=0.0) <= _TOLERANCE:
        raise UserError(f"{out}: found other log-probabilities than the checkpoint's for a second of noise")


def _compare_params(out: str | Path, parts: Parts, again: Parts) -> None:
    trees: Any = [(p.params, getattr(p, "model_state", {})) for p in (parts, again)]
    before, after = map(named_leaves, trees)
    if before.keys() != after.keys() or not all(np.array_equal(after[name], leaf) for name, leaf in before.items()):
        raise UserError(f"{out}: found other parameters than were written, expected the same")


def _run(out: str | Path, parts: Parts) -> Any:
    """Return a recognizer's log-probabilities of a second of noise, or what a voice or vocoder generates."""
    try:
        return _log_probs(parts) if isinstance(parts, RecognizerParts) else _generate(parts)
    except (ValueError, TypeError, RuntimeError, MemoryError, ArithmeticError) as error:
        raise UserError(f"{out}: found a model that cannot be run: {' '.join(str(error).split())[:200]}") from error


def _log_probs(parts: RecognizerParts) -> np.ndarray:
    """Return [frames, classes]."""
    network = build_model(parts.task, parts.tokenizer.vocab_size)

    @jax.jit
    def forward(params: PyTree, model_state: PyTree, audio: jax.Array, lengths: jax.Array) -> jax.Array:
        features, mask = extract_features(audio, lengths, parts.task.audio)
        outputs, _ = network.apply(params, model_state, {"features": features, "mask": mask}, key=None, train=False)
        return jax.nn.log_softmax(outputs["logits"])

    samples = parts.task.audio.sample_rate
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, samples), np.float32)
    return np.asarray(forward(parts.params, parts.model_state, noise, np.array([samples])))[0]


def _generate(parts: VoiceParts | VocoderParts) -> PyTree:
    """Return the mel frames of two symbols, or a chunk of a waveform for conditioning of zeros."""
    voice = isinstance(parts, VoiceParts)
    program = parts.task.program(Bucket(1, 0, 2), parts.front_end.vocab_size if voice else 0)
    weights: Any = (parts.params, parts.model_state) if voice else parts.params
    batch = {
        name: np.full(spec.shape, name in ("text", "text_mask"), spec.dtype) for name, spec in program.batch.items()
    }
    return jax.tree.map(np.asarray, jax.jit(program.function)(weights, batch))
