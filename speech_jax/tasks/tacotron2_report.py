"""Evaluation of a voice in training: teacher-forced losses, alignments, images and audio, and free synthesis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio.griffin_lim import keeps_magnitudes, mel_to_wave
from speech_jax.core.placement import fetch, run_sharded
from speech_jax.core.types import Batch, PyTree, Report
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import END_REASONS, generate_mels, text_batch
from speech_jax.evaluation.alignment import AlignmentScore, score_alignment
from speech_jax.evaluation.voice_plots import alignment_picture, mel_picture, stop_picture
from speech_jax.models.tacotron2 import utterance_seeds
from speech_jax.models.tacotron2_parts import Parts
from speech_jax.text.frontend import FrontEnd

if TYPE_CHECKING:
    from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig

ITERATIONS = 32  # of Griffin-Lim


def make_evaluate(
    config: Tacotron2TaskConfig, front_end: FrontEnd, parts: Parts, apply: Callable, losses: Callable, reduction: int
) -> Callable:
    """Return `evaluate` of the task.

    Args:
        config: The task.
        front_end: Front end of the labels.
        parts: The network's parts, for free synthesis.
        apply: The network on batches of data/pipeline.py.
        losses: (config, outputs, reduction) -> (loss, frames, metrics).
        reduction: Frames per decoder step.

    Returns:
        (params, model_state, batches) -> Report.
    """
    hop_seconds = config.audio.hop / config.audio.sample_rate
    invertible = keeps_magnitudes(config.audio)
    rate = config.audio.sample_rate

    @jax.jit
    def forward(params, model_state, batch):
        outputs, _ = apply(params, model_state, batch, key=jax.random.key(0), train=False)
        return outputs, losses(config, outputs, reduction)[2]

    def evaluate(params: PyTree, model_state: PyTree, batches: Iterable[Batch]) -> Report:
        """Return teacher-forced losses and alignment scores, with images and audio of the first utterance.

        With `config.speak` also the alignment scores of free synthesis, with images and audio of its first utterance.
        """
        totals: dict[str, np.ndarray] = {}
        scores, images, audio, texts = [], {}, {}, []
        for batch in batches:
            outputs, metrics = run_sharded(forward, params, model_state, batch=batch)
            for name, pair in metrics.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
            for row in np.flatnonzero(np.asarray(batch["index"]) >= 0):
                frames, symbols = int(outputs["mel_mask"][row].sum()), int(outputs["text_mask"][row].sum())
                weights = outputs["weights"][row, : -(-frames // reduction), :symbols]
                scores.append(score_alignment(weights, "stop"))
                ids = np.asarray(batch["labels"])[row, :symbols]
                texts.append((ids, int(batch["speaker"][row]) if "speaker" in batch else 0))
                if not images and frames:
                    target, predicted = (outputs[name][row, :frames] for name in ("target", "mel_post"))
                    stop = 1 / (1 + np.exp(-outputs["stop"][row, :frames]))
                    title = f"teacher forcing, focus {scores[-1].focus:.2f}"
                    images = {
                        "alignment": alignment_picture(weights, names_of(front_end, ids), title),
                        "mel": mel_picture(
                            [("target", target), ("predicted, teacher forcing", predicted)], hop_seconds
                        ),
                        "stop": stop_picture(stop, hop_seconds, DecodeConfig().stop_threshold),
                    }
                    if invertible and np.isfinite(predicted).all():  # a run that diverged has losses, but no audio
                        audio = {"teacher_forced": (mel_to_wave(predicted, config.audio, iterations=ITERATIONS), rate)}
        results = {name: float(total / max(count, 1e-9)) for name, (total, count) in totals.items()}
        results["loss"] = results["before"] + results["after"] + results["stop"]
        if scores:
            # the focus of the losses' metrics stays
            results |= {name: value for name, value in _means(scores).items() if name != "focus"}
        if config.speak and texts:
            chosen = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, config.speak).round().astype(int))]
            utterances = synthesize_freely(parts, fetch(params), fetch(model_state), chosen, reduction)
            results |= {f"free_{name}": value for name, value in _means([score for *_, score in utterances]).items()}
            mel, weights, score = utterances[0]
            title = f"free synthesis, focus {score.focus:.2f}" + (f": {score.failure}" if score.failure else "")
            images["free_alignment"] = alignment_picture(weights, names_of(front_end, chosen[0][0]), title)
            images["free_mel"] = mel_picture([("free synthesis", mel)], hop_seconds)
            if invertible and len(mel) and np.isfinite(mel).all():
                audio["free"] = (mel_to_wave(mel, config.audio, iterations=ITERATIONS), rate)
        return Report(results, images=images, audio=audio)

    return evaluate


def _means(scores: list[AlignmentScore]) -> dict[str, float]:
    return {
        "focus": float(np.mean([s.focus for s in scores])),
        "coverage": float(np.mean([s.coverage for s in scores])),
        "failures": float(np.mean([bool(s.failure) for s in scores])),
    }


def names_of(front_end: FrontEnd, ids: Iterable[int]) -> list[str]:
    """Return the names of symbol ids, for an image."""
    return [front_end.symbols.names[int(i)] for i in ids]


def synthesize_freely(
    parts: Parts,
    params: PyTree,
    model_state: PyTree,
    texts: list[tuple[np.ndarray, int]],
    reduction: int,
) -> list[tuple[np.ndarray, np.ndarray, AlignmentScore]]:
    """Synthesize texts in one batch, without teacher forcing and with the same randomness each time.

    Args:
        parts: The network's parts.
        params: Parameters.
        model_state: Batch statistics.
        texts: (symbol ids, speaker) of each text.
        reduction: Frames per decoder step.

    Returns:
        (mel frames after the post-net, attention weights, alignment score) of each text.
    """
    decode = DecodeConfig(reduction=reduction)
    speakers = [speaker for _, speaker in texts] if parts.config.speakers else None
    batch = text_batch([ids for ids, _ in texts], speakers=speakers)
    seeds = utterance_seeds(jax.random.key(0), jnp.arange(len(texts)))
    generated = jax.device_get(generate_mels(parts, decode, params, model_state, batch, seeds))
    results = []
    for row, (ids, _) in enumerate(texts):
        frames = int(generated.lengths[row])
        weights = generated.weights[row, : -(-frames // reduction), : len(ids)]
        results.append(
            (generated.mel[row, :frames], weights, score_alignment(weights, END_REASONS[int(generated.ended[row])]))
        )
    return results
