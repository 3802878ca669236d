"""How a voice is judged in training: losses under teacher forcing, alignments, pictures, sound, and free speech."""

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
    """`evaluate` of the task. parts, apply: the network, and the same on the pipeline's batches; reduction: the frames
    a step that synthesis uses."""
    hop_seconds = config.audio.hop / config.audio.sample_rate
    sounds = keeps_magnitudes(config.audio)
    rate = config.audio.sample_rate

    @jax.jit
    def forward(params, model_state, batch):
        outputs, _ = apply(params, model_state, batch, key=jax.random.key(0), train=False)
        return outputs, losses(config, outputs, reduction)[2]

    def evaluate(params: PyTree, model_state: PyTree, batches: Iterable[Batch]) -> Report:
        """Losses under teacher forcing and the alignments' scores; pictures and sound of the first utterance, the
        longest; and where `config.speak` says so, the scores of free speech, with the first of it."""
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
                    target, made = (outputs[name][row, :frames] for name in ("target", "mel_post"))
                    stop = 1 / (1 + np.exp(-outputs["stop"][row, :frames]))
                    title = f"teacher forcing, focus {scores[-1].focus:.2f}"
                    images = {
                        "alignment": alignment_picture(weights, names_of(front_end, ids), title),
                        "mel": mel_picture([("target", target), ("made, teacher forcing", made)], hop_seconds),
                        "stop": stop_picture(stop, hop_seconds, DecodeConfig().stop_threshold),
                    }
                    if sounds:
                        audio = {"teacher_forced": (mel_to_wave(made, config.audio, iterations=ITERATIONS), rate)}
        found = {name: float(total / max(count, 1e-9)) for name, (total, count) in totals.items()}
        found["loss"] = found["before"] + found["after"] + found["stop"]
        if scores:
            found |= {name: value for name, value in _means(scores).items() if name != "focus"}  # focus is there
        if config.speak and texts:
            chosen = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, config.speak).round().astype(int))]
            spoken = speak_freely(parts, fetch(params), fetch(model_state), chosen, reduction)
            found |= {f"free_{name}": value for name, value in _means([score for *_, score in spoken]).items()}
            mel, weights, score = spoken[0]
            title = f"free, focus {score.focus:.2f}" + (f": {score.failure}" if score.failure else "")
            images["free_alignment"] = alignment_picture(weights, names_of(front_end, chosen[0][0]), title)
            images["free_mel"] = mel_picture([("made, free", mel)], hop_seconds)
            if sounds:
                audio["free"] = (mel_to_wave(mel, config.audio, iterations=ITERATIONS), rate)
        return Report(found, images=images, audio=audio)

    return evaluate


def _means(scores: list[AlignmentScore]) -> dict[str, float]:
    return {
        "focus": float(np.mean([s.focus for s in scores])),
        "coverage": float(np.mean([s.coverage for s in scores])),
        "failures": float(np.mean([bool(s.failure) for s in scores])),
    }


def names_of(front_end: FrontEnd, ids: Iterable[int]) -> list[str]:
    """The symbols of ids, for a picture."""
    return [front_end.symbols.names[int(i)] for i in ids]


def speak_freely(
    parts: Parts,
    params: PyTree,
    model_state: PyTree,
    texts: list[tuple[np.ndarray, int]],
    reduction: int,
) -> list[tuple[np.ndarray, np.ndarray, AlignmentScore]]:
    """(frames after the post-net, weights, score) of each text: (ids, speaker). All at once, with the same randomness
    every time."""
    decode = DecodeConfig(reduction=reduction)
    speakers = [speaker for _, speaker in texts] if parts.config.speakers else None
    batch = text_batch([ids for ids, _ in texts], speakers=speakers)
    seeds = utterance_seeds(jax.random.key(0), jnp.arange(len(texts)))
    said = jax.device_get(generate_mels(parts, decode, params, model_state, batch, seeds))
    found = []
    for row, (ids, _) in enumerate(texts):
        frames = int(said.lengths[row])
        weights = said.weights[row, : -(-frames // reduction), : len(ids)]
        found.append((said.mel[row, :frames], weights, score_alignment(weights, END_REASONS[int(said.ended[row])])))
    return found
