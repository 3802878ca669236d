"""Unsupervised pre-training of a recognizer's encoder: recordings without text in, an encoder out.

Hidden frames of the features become noise, and the encoder has to tell what was there. What exactly is one file each:
pretrain_best_rq, pretrain_autoencoder, pretrain_contrastive. Parameters: {"encoder": …, "pretext": …}; fine-tuning
takes the first and leaves the second behind.
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
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.core.errors import UserError
from speech_jax.core.placement import run_sharded
from speech_jax.core.types import Batch, LossOut, Model, Objective, PyTree, Report, Task
from speech_jax.models import conformer
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import conformer_encoder
from speech_jax.objectives.masking import hidden_frames, hide_features, spread
from speech_jax.objectives.mix import alpha_at
from speech_jax.objectives.schedules import Schedule
from speech_jax.tasks import pretrain_autoencoder, pretrain_best_rq, pretrain_contrastive
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import batch_spec, build_model, ctc_value
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.text.tokenizer import Tokenizer

_HIDE = 16  # number of the effect in rows.row_keys


class Pretext(NamedTuple):
    """What a method brings.

    init: (key) -> its parameters
    loss: (its parameters, the encoder's, Heard, step) -> (sum, count, metrics, picture)
    """

    init: Callable
    loss: Callable


class Heard(NamedTuple):
    """What a method is given: clean features [batch, frames, d] with their mask, the encoder's outputs and mask, which
    encoder frames were hidden, and a key for each utterance."""

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


def listen(
    config: PretrainTaskConfig, apply: Callable, batch: Batch, key: Array, train: bool
) -> tuple[Heard, dict[str, Array], PyTree]:
    """Hides, encodes; without `train` nothing is varied but what is hidden, by the utterance's number.

    apply: (inputs, key, train) -> (outputs, model_state) of the encoder, or of a network that has it; both come back.
    """
    audio, lengths, index = batch["audio"], batch["audio_lengths"], batch["index"]
    audio_key, dither_key, model_key, hide_key = jax.random.split(key, 4)
    if train:
        rate = config.audio.sample_rate
        change = functools.partial(augment_audio, audio_key, audio, lengths, index=index, sample_rate=rate)
        clean = dataclasses.replace(config.augment, reverb=0.0, noise=0.0, gain=0.0)  # only the speed changes
        features, mask = extract_features(*change(clean), config.audio, key=dither_key, index=index)
        varied = features
        if clean != config.augment:
            varied, _ = extract_features(*change(config.augment), config.audio, key=dither_key, index=index)
    else:
        features, mask = extract_features(audio, lengths, config.audio)
        varied = features
    factor = config.model.subsampling_factor
    keys = rows.row_keys(hide_key, audio.shape[0], index, _HIDE)
    small = mask[:, ::factor]  # an encoder frame is valid where its first feature frame is
    hidden = hidden_frames(rows.fold(keys, 0), small, share=config.hidden_share, span=config.hidden_span)
    inputs = {"features": hide_features(rows.fold(keys, 1), varied, hidden, factor), "mask": mask}
    outputs, model_state = apply(inputs, model_key, train)
    real = outputs["mask"] & (index >= 0)[:, None]
    heard = Heard(features, mask, outputs["encoded"], real, hidden & real, rows.fold(keys, 2))
    return heard, outputs, model_state


def _loss(pretext: Pretext, params: PyTree, heard: Heard, step: Array) -> tuple[Array, Array, dict]:
    """(mean, count, metrics)"""
    total, count, metrics, _ = pretext.loss(params["pretext"], params["encoder"], heard, step)
    hidden, valid = (jnp.sum(x).astype(jnp.float32) for x in (heard.hidden, heard.mask))
    metrics |= {"encoded_spread": (spread(heard.encoded, heard.mask), jnp.ones(())), "hidden": (hidden, valid)}
    return total / jnp.maximum(count, 1.0), count, metrics


def pretrain_task(config: PretrainTaskConfig) -> Task:
    """The pre-training task that training/ is handed; batches are those of data/pipeline.py without labels."""
    encoder = conformer_encoder(_network(config))
    pretext = _pretext(config)

    def init(key, batch: Batch):
        batch_rows, samples = batch["audio"].shape
        frames = num_frames(samples, config.audio)
        features = jnp.zeros((batch_rows, frames, num_features(config.audio)), jnp.float32)
        first, second = jax.random.split(key)
        params, model_state = encoder.init(first, {"features": features, "mask": jnp.ones((batch_rows, frames), bool)})
        return {"encoder": params, "pretext": pretext.init(second)}, model_state

    def hear(params, model_state, batch, key, train: bool) -> tuple[Heard, PyTree]:
        def encode(inputs, key, train):
            return encoder.apply(params["encoder"], model_state, inputs, key=key, train=train)

        heard, _, model_state = listen(config, encode, batch, key, train)
        return heard, model_state

    def objective(params, model_state, batch, key, step) -> LossOut:
        heard, model_state = hear(params, model_state, batch, key, True)
        value, count, metrics = _loss(pretext, params, heard, step)
        return LossOut(value, count, model_state, metrics)

    @jax.jit
    def score(params, model_state, batch):
        key = jax.random.key(0)
        heard, _ = hear(params, model_state, batch, key, False)
        total, count, metrics, picture = pretext.loss(params["pretext"], params["encoder"], heard, jnp.int32(0))
        metrics |= {"loss": (total, count), "encoded_spread": (spread(heard.encoded, heard.mask), jnp.ones(()))}
        return metrics, heard.features[0], picture

    def evaluate(params, model_state, batches: Iterable[Batch]) -> Report:
        """The loss and the method's metrics with the same frames hidden every time."""
        totals: dict[str, np.ndarray] = {}
        images: dict[str, Any] = {}
        for batch in batches:
            metrics, features, picture = run_sharded(score, params, model_state, batch=batch)
            for name, pair in metrics.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
            if not images:
                images = {"features": features.T} | ({} if picture is None else {"reconstruction": picture.T})
        found = {name: float(total / max(count, 1e-9)) for name, (total, count) in totals.items()}
        return Report(found, images=images)

    def apply(params, model_state, batch, *, key=None, train=False):
        heard, model_state = hear(params, model_state, batch, jax.random.key(0) if key is None else key, train)
        return {"encoded": heard.encoded, "mask": heard.mask, "hidden": heard.hidden}, model_state

    return Task(Model(init, apply), objective, batch_spec, evaluate, conformer.SHARDING)


def with_pretext(task: Task, pretext: Task) -> Task:
    """A recognizer that keeps its encoder's pre-training alive: parameters {"encoder", "head", "pretext"}.

    The result has the recognizer's objective and evaluation; mix in `pretext.objective` as L_pre.
    """

    def init(key, batch: Batch):
        params, model_state = task.model.init(key, batch)
        more, _ = pretext.model.init(jax.random.fold_in(key, 1), batch)
        return {**params, "pretext": more["pretext"]}, model_state

    return task._replace(model=Model(init, task.model.apply))


def shared_objective(
    ctc: CTCTaskConfig, config: PretrainTaskConfig, tokenizer: Tokenizer, alpha: float | Schedule
) -> Objective:
    """L = alpha · L_pre + (1 − alpha) · CTC on the same recordings, from one forward pass of the encoder.

    So the recognizer, too, hears the utterance with its frames hidden, which does for it what SpecAugment does.
    Raises UserError for settings under which the two would not hear the same.
    """
    if ctc.augment != config.augment:
        raise UserError("pre_task.augment: found another than task.augment, expected the same: both hear one pass")
    network = build_model(ctc, tokenizer.vocab_size)
    pretext = _pretext(config)

    def objective(params, model_state, batch, key, step) -> LossOut:
        def apply(inputs, key, train):
            return network.apply(params, model_state, inputs, key=key, train=train)

        heard, outputs, model_state = listen(config, apply, batch, key, True)
        pre, count, pre_metrics = _loss(pretext, params, heard, step)
        task, labels, task_metrics = ctc_value(outputs, batch)
        weight, one = alpha_at(alpha, step), jnp.ones(())
        metrics = {f"pre/{name}": pair for name, pair in pre_metrics.items()}
        metrics |= {f"task/{name}": pair for name, pair in task_metrics.items()}
        metrics |= {"alpha": (weight, one), "pre/loss": (pre * count, count), "task/loss": (task * labels, labels)}
        value = weight * pre + (1 - weight) * task
        return LossOut(value, weight * count + (1 - weight) * labels, model_state, metrics)

    return objective
