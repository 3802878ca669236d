"""Unsupervised pre-training of a recognizer's encoder: recordings without text in, an encoder out.

Hidden frames of the features are replaced by noise, and the encoder's outputs there predict a target. Each kind of
target is one file: pretrain_best_rq, pretrain_autoencoder, pretrain_contrastive. Parameters: {"encoder", "pretext"};
fine-tuning takes the encoder and leaves the pretext head behind.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from speech_jax.audio import rows
from speech_jax.audio.augment import augment_audio
from speech_jax.audio.config import MASKS
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.core.config_dict import describe_differences, differences
from speech_jax.core.errors import UserError
from speech_jax.core.placement import run_sharded
from speech_jax.core.types import Batch, Better, LossOut, Model, Objective, PyTree, Report, Task
from speech_jax.models import conformer
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import conformer_encoder
from speech_jax.objectives.masking import hidden_frames, hide_features, spread
from speech_jax.objectives.mix import alpha_at, mix_losses
from speech_jax.objectives.schedules import Schedule
from speech_jax.tasks import pretrain_autoencoder, pretrain_best_rq, pretrain_contrastive
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import batch_spec, build_model, ctc_value
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.text.tokenizer import Tokenizer

METRICS: dict[str, dict[str, Better]] = {  # of each method, besides its loss
    "best_rq": {"accuracy": "max", "code_perplexity": "either", "guess_perplexity": "either"},
    "autoencoder": {"hidden_error": "min", "shown_error": "min"},
    "contrastive": {"accuracy": "max", "diversity_penalty": "min", "code_perplexity": "either"},
}
_HIDE = 16  # number of the effect in rows.row_keys


class Pretext(NamedTuple):
    """Pretext head of a method.

    Attributes:
        init: (key) -> parameters of the head.
        loss: (parameters of the head, parameters of the encoder, `MaskedBatch`, step) ->
            (`LossOut` per hidden frame, without a model state, and an image [frames, bands] or None).
    """

    init: Callable
    loss: Callable


class MaskedBatch(NamedTuple):
    """Batch with hidden frames, encoded.

    Attributes:
        features: Clean features [rows, feature frames, bands].
        feature_mask: Valid feature frames [rows, feature frames].
        encoded: The encoder's outputs [rows, frames, width].
        mask: Valid encoder frames [rows, frames].
        hidden: Encoder frames whose features were hidden [rows, frames].
        keys: Random key of each row.
    """

    features: Array
    feature_mask: Array
    encoded: Array
    mask: Array
    hidden: Array
    keys: Array


def _network(config: PretrainTaskConfig) -> ConformerConfig:
    return dataclasses.replace(config.model, num_features=num_features(config.audio))


def _pretext(config: PretrainTaskConfig) -> Pretext:
    module = {"best_rq": pretrain_best_rq, "autoencoder": pretrain_autoencoder, "contrastive": pretrain_contrastive}
    return Pretext(*module[config.method].make(getattr(config, config.method), _network(config)))


def mask_and_encode(
    config: PretrainTaskConfig, apply: Callable, batch: Batch, key: Array, train: bool
) -> tuple[MaskedBatch, dict[str, Array], PyTree]:
    """Hide spans of frames and encode the rest.

    Args:
        config: The task.
        apply: (inputs, key, train) -> (outputs, model_state) of the encoder, or of a network that contains it.
        batch: Waveforms, their lengths and indices.
        key: Random key of the step.
        train: Augment the waveform; without it the key and the utterance's index alone decide which frames are hidden.

    Returns:
        (masked batch, outputs of `apply`, its model state).
    """
    audio, lengths, index = batch["audio"], batch["audio_lengths"], batch["index"]
    audio_key, dither_key, model_key, hide_key = jax.random.split(key, 4)
    model_key = rows.place_key(model_key, batch)
    if train:
        rate = config.audio.sample_rate
        augment = functools.partial(augment_audio, audio_key, audio, lengths, index=index, sample_rate=rate)
        clean = dataclasses.replace(config.augment, reverb=0.0, noise=0.0, gain=0.0)  # only the speed changes
        features, mask = extract_features(*augment(clean), config.audio, key=dither_key, index=index)
        augmented = features
        if clean != config.augment:
            augmented, _ = extract_features(*augment(config.augment), config.audio, key=dither_key, index=index)
    else:
        features, mask = extract_features(audio, lengths, config.audio)
        augmented = features
    factor = config.model.subsampling_factor
    keys = rows.row_keys(hide_key, audio.shape[0], index, _HIDE)
    encoder_mask = mask[:, ::factor]  # an encoder frame is valid where its first feature frame is
    hidden = hidden_frames(rows.fold(keys, 0), encoder_mask, share=config.hidden_share, span=config.hidden_span)
    inputs = {"features": hide_features(rows.fold(keys, 1), augmented, hidden, factor), "mask": mask}
    outputs, model_state = apply(inputs, model_key, train)
    real = outputs["mask"] & (index >= 0)[:, None]
    masked = MaskedBatch(features, mask, outputs["encoded"], real, hidden & real, rows.fold(keys, 2))
    return masked, outputs, model_state


def _loss(pretext: Pretext, params: PyTree, masked: MaskedBatch, model_state: PyTree, step: Array) -> LossOut:
    """Return the mean loss per hidden frame."""
    out, _ = pretext.loss(params["pretext"], params["encoder"], masked, step)
    hidden, valid = (jnp.sum(x).astype(jnp.float32) for x in (masked.hidden, masked.mask))
    metrics = {"encoded_spread": (spread(masked.encoded, masked.mask), jnp.ones(())), "hidden": (hidden, valid)}
    return out._replace(model_state=model_state, metrics={**out.metrics, **metrics})


def pretrain_task(config: PretrainTaskConfig) -> Task:
    """Return the pre-training task; its batches are those of data/pipeline.py, whose labels it does not use."""
    encoder = conformer_encoder(_network(config))
    pretext = _pretext(config)

    def init(key, batch: Batch):
        batch_rows, samples = batch["audio"].shape
        frames = num_frames(samples, config.audio)
        features = jnp.zeros((batch_rows, frames, num_features(config.audio)), jnp.float32)
        first, second = jax.random.split(key)
        params, model_state = encoder.init(first, {"features": features, "mask": jnp.ones((batch_rows, frames), bool)})
        return {"encoder": params, "pretext": pretext.init(second)}, model_state

    def encode_batch(params, model_state, batch, key, train: bool) -> tuple[MaskedBatch, PyTree]:
        def encode(inputs, key, train):
            return encoder.apply(params["encoder"], model_state, inputs, key=key, train=train)

        masked, _, model_state = mask_and_encode(config, encode, batch, key, train)
        return masked, model_state

    def objective(params, model_state, batch, key, step) -> LossOut:
        masked, model_state = encode_batch(params, model_state, batch, key, True)
        return _loss(pretext, params, masked, model_state, step)

    @jax.jit
    def score(params, model_state, batch):
        key = jax.random.key(0)
        masked, _ = encode_batch(params, model_state, batch, key, False)
        out, picture = pretext.loss(params["pretext"], params["encoder"], masked, jnp.int32(0))
        metrics = {"loss": (out.value * out.weight, out.weight)}
        metrics |= {**out.metrics, "encoded_spread": (spread(masked.encoded, masked.mask), jnp.ones(()))}
        return metrics, masked.features[0], picture

    def evaluate(params, model_state, batches: Iterable[Batch]) -> Report:
        """Return the loss and the method's metrics, with the same frames hidden at each evaluation."""
        totals: dict[str, np.ndarray] = {}
        images: dict[str, Any] = {}
        for batch in batches:
            metrics, features, picture = run_sharded(score, params, model_state, batch=batch)
            for name, pair in metrics.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
            if not images:
                images = {"features": features.T} | ({} if picture is None else {"reconstruction": picture.T})
        metrics = {name: float(total / max(count, 1e-9)) for name, (total, count) in totals.items()}
        return Report(metrics, images=images)

    def apply(params, model_state, batch, *, key=None, train=False):
        masked, model_state = encode_batch(params, model_state, batch, jax.random.key(0) if key is None else key, train)
        return {"encoded": masked.encoded, "mask": masked.mask, "hidden": masked.hidden}, model_state

    metrics: dict[str, Better] = {"loss": "min", "encoded_spread": "either", **METRICS[config.method]}
    return Task(Model(init, apply), objective, batch_spec, evaluate, conformer.SHARDING, metrics)


def with_pretext(task: Task, pretext: Task) -> Task:
    """Return the recognition task with a pretext head in its parameters: {"encoder", "head", "pretext"}.

    Objective and evaluation stay the recognizer's; mix in `pretext.objective` as L_pre.
    """

    def init(key, batch: Batch):
        params, model_state = task.model.init(key, batch)
        pretext_params, _ = pretext.model.init(jax.random.fold_in(key, 1), batch)
        return {**params, "pretext": pretext_params["pretext"]}, model_state

    return task._replace(model=Model(init, task.model.apply))


def shared_objective(
    ctc: CTCTaskConfig, config: PretrainTaskConfig, tokenizer: Tokenizer, alpha: float | Schedule
) -> Objective:
    """Return L = alpha · L_pre + (1 − alpha) · CTC on the same recordings, from one forward pass of the encoder.

    The CTC loss, too, is then computed with frames hidden, which regularizes it as SpecAugment does.

    Args:
        ctc: The recognition task.
        config: The pre-training task.
        tokenizer: Tokenizer of the labels.
        alpha: Weight of L_pre, or a schedule of it.

    Returns:
        The objective.

    Raises:
        UserError: If the augmentation of the two tasks' waveforms differs. Their SpecAugment is not used.
    """
    unused = {name: getattr(ctc.augment, name) for name in MASKS}
    differing = differences(dataclasses.replace(config.augment, **unused), ctc.augment, "augment")
    if differing:
        raise UserError(
            f"pre_task.augment: found another than the task's ({describe_differences(differing)}), expected the same "
            "(one forward pass)"
        )
    network = build_model(ctc, tokenizer.vocab_size)
    pretext = _pretext(config)

    def objective(params, model_state, batch, key, step) -> LossOut:
        def apply(inputs, key, train):
            return network.apply(params, model_state, inputs, key=key, train=train)

        masked, outputs, model_state = mask_and_encode(config, apply, batch, key, True)
        pre = _loss(pretext, params, masked, model_state, step)
        value, labels, task_metrics = ctc_value(outputs, batch)
        return mix_losses(alpha_at(alpha, step), pre, LossOut(value, labels, model_state, task_metrics))

    return objective
