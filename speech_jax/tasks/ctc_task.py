"""Speech to text with CTC: waveform → features → augmentation → model → loss, as one jitted function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from speech_jax.audio.augment import augment_audio, spec_augment
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.audio.rows import place_key
from speech_jax.core.errors import UserError
from speech_jax.core.placement import run_sharded
from speech_jax.core.types import (
    OWN,
    TEACHER,
    Batch,
    Bucket,
    LossOut,
    Model,
    Program,
    PyTree,
    Report,
    Task,
)
from speech_jax.decoding.ctc import BestPath, best_path, greedy_decode
from speech_jax.evaluation.wer import ErrorCounts, cer, count_errors, empty_transcripts, split_pairs
from speech_jax.models import conformer, crnn, plain_conformer, wav2vec2
from speech_jax.models.config import ConformerConfig, CRNNConfig, PlainConformerConfig, Wav2Vec2Config
from speech_jax.models.conformer import conformer_ctc
from speech_jax.models.crnn import crnn_ctc
from speech_jax.models.plain_conformer import plain_conformer_ctc
from speech_jax.models.wav2vec2 import wav2vec2_ctc
from speech_jax.objectives.ctc import count_nonblank, ctc_loss
from speech_jax.objectives.distill import posterior_loss, similarity_loss
from speech_jax.objectives.means import PENALTY, loss_of, weighted_means
from speech_jax.tasks.ctc import CTCTaskConfig, TeacherConfig
from speech_jax.text.tokenizer import Tokenizer

SHARDING: dict[type, tuple] = {ConformerConfig: conformer.SHARDING}  # the other networks are sharded on fsdp alone
EXAMPLES = 8  # utterances of an evaluation whose transcripts go to the logs


class Teacher(NamedTuple):
    """Teacher with its parameters.

    Attributes:
        config: Weights of its loss terms.
        network: Init and apply functions.
        params: Parameters.
        model_state: Batch statistics.
    """

    config: TeacherConfig
    network: Model
    params: PyTree
    model_state: PyTree


def own_state(model_state: PyTree) -> PyTree:
    """Return the state of the network alone, without its teacher's parameters."""
    # A checkpoint of a network without batch statistics has no leaf of its own state, and so no such branch.
    return model_state.get(OWN, {}) if TEACHER in model_state else model_state


def build_model(config: CTCTaskConfig, vocab_size: int) -> Model:
    """Return the network of `config` with a CTC head over `vocab_size` tokens, the blank (id 0) included.

    Raises UserError if the features or the augmentation do not suit the network.
    """
    takes_waveform = isinstance(config.model, Wav2Vec2Config)
    if takes_waveform != (config.audio.features == "waveform"):
        kind = "waveform" if takes_waveform else "log_mel or mfcc"
        raise UserError(
            f"task.audio.features: found {config.audio.features}, expected {kind} for {type(config.model).__name__}"
        )
    if takes_waveform and (config.augment.freq_masks or config.augment.time_masks):
        raise UserError(
            "task.augment: found freq_masks or time_masks, expected 0 of both on a waveform: "
            "task.model.mask_time and mask_channels mask the latent features instead"
        )
    if isinstance(config.model, Wav2Vec2Config):
        return wav2vec2_ctc(config.model, vocab_size)
    network = dataclasses.replace(config.model, num_features=num_features(config.audio))
    if isinstance(network, CRNNConfig):
        return crnn_ctc(network, vocab_size)
    if isinstance(network, PlainConformerConfig):
        return plain_conformer_ctc(network, vocab_size)
    return conformer_ctc(network, vocab_size)


def network_shapes(config: CTCTaskConfig, vocab_size: int) -> tuple[PyTree, PyTree]:
    """Return (params, model_state) of the network as shapes."""
    frames = 256  # any number: no parameter depends on it
    spec = {
        "features": jax.ShapeDtypeStruct((1, frames, num_features(config.audio)), jnp.float32),
        "mask": jax.ShapeDtypeStruct((1, frames), jnp.bool_),
    }
    return jax.eval_shape(build_model(config, vocab_size).init, jax.random.key(0), spec)


def recognize(
    network: Model,
    audio: AudioConfig,
    params: PyTree,
    model_state: PyTree,
    samples: Float[Array, "rows samples"],
    lengths: Int[Array, " rows"],
) -> BestPath:
    """Return the best path of each row of a padded batch; a pure function, to be compiled.

    Args:
        network: The network with its CTC head.
        audio: Audio settings.
        params: Parameters.
        model_state: Batch statistics.
        samples: Waveforms in [-1, 1], padded.
        lengths: Samples per row.

    Returns:
        Tokens with times and scores.
    """
    features, mask = extract_features(samples, lengths, audio)
    outputs, _ = network.apply(params, model_state, {"features": features, "mask": mask}, key=None, train=False)
    return best_path(outputs["logits"], outputs["mask"])


def recognition_program(config: CTCTaskConfig, bucket: Bucket, vocab_size: int) -> Program:
    """Return recognition by the best path on batches of shape `bucket`."""
    network, spec = build_model(config, vocab_size), batch_spec(bucket)

    def function(weights: PyTree, batch: Batch) -> BestPath:
        params, model_state = weights
        return recognize(network, config.audio, params, model_state, batch["audio"], batch["audio_lengths"])

    batch = {name: spec[name] for name in ("audio", "audio_lengths")}
    return Program("recognition", function, network_shapes(config, vocab_size), batch)


def ctc_task(config: CTCTaskConfig, tokenizer: Tokenizer, teacher: Teacher | None = None) -> Task:
    """Return the recognition task; its batches are those of data/pipeline.py.

    Args:
        config: The task.
        tokenizer: Tokenizer of the labels.
        teacher: Recognizer whose outputs the new one is pulled to. With one the model state is
            {"own": …, "teacher": {"params", "model_state"}}, so that a resumed run has the teacher too.

    Returns:
        The task, as training/ takes it.
    """
    network = build_model(config, tokenizer.vocab_size)

    def init(key, batch: Batch):
        rows, samples = batch["audio"].shape
        frames = num_frames(samples, config.audio)
        features = jnp.zeros((rows, frames, num_features(config.audio)), jnp.float32)
        params, model_state = network.init(key, {"features": features, "mask": jnp.ones((rows, frames), bool)})
        return params, with_teacher(model_state, teacher)

    def apply(params, model_state, batch: Batch, *, key: Any = None, train=False):
        audio, lengths = batch["audio"], batch["audio_lengths"]
        if not train:
            features, mask = extract_features(audio, lengths, config.audio)
            inputs = {"features": features, "mask": mask}
            outputs, _ = network.apply(params, own_state(model_state), inputs, key=None, train=False)
            return {**outputs, "features": features}, model_state
        audio_key, dither_key, feature_key, model_key = jax.random.split(key, 4)
        model_key = place_key(model_key, batch)
        index = batch["index"]  # randomness belongs to the utterance, not to its place in the batch
        rate = config.audio.sample_rate
        audio, lengths = augment_audio(audio_key, audio, lengths, config.augment, index=index, sample_rate=rate)
        features, mask = extract_features(audio, lengths, config.audio, key=dither_key, index=index)
        masked = spec_augment(feature_key, features, mask, config.augment, index=index)
        inputs = {"features": masked, "mask": mask}
        outputs, new_state = network.apply(params, own_state(model_state), inputs, key=model_key, train=True)
        if teacher is None:
            return outputs, new_state
        weights = model_state[TEACHER]
        unmasked = {"features": features, "mask": mask}  # the teacher gets the same utterance without SpecAugment
        targets, _ = teacher.network.apply(weights["params"], weights["model_state"], unmasked, key=None, train=False)
        return {**outputs, "teacher": targets}, {OWN: new_state, TEACHER: weights}

    model = Model(init, apply)
    return Task(
        model=model,
        objective=functools.partial(_objective, model, teacher and teacher.config),
        batch_spec=batch_spec,
        evaluate=_evaluator(model, config, tokenizer),
        sharding=SHARDING.get(type(config.model), ()),
        metrics={"loss": "min", "wer": "min", "cer": "min"},
    )


def output_frames(samples, config: CTCTaskConfig):
    """Return the network's output frames for `samples` (int or array): the most labels that a transcript can have."""
    modules = {ConformerConfig: conformer, CRNNConfig: crnn, Wav2Vec2Config: wav2vec2,
             PlainConformerConfig: plain_conformer}  # fmt: skip
    return modules[type(config.model)].output_length(num_frames(samples, config.audio), config.model)


def batch_spec(bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and types of a batch of `bucket`."""
    rows, samples, labels = bucket
    return {
        "audio": jax.ShapeDtypeStruct((rows, samples), jnp.float32),
        "audio_lengths": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((rows, labels), jnp.int32),
        "label_lengths": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }


def _losses(outputs, batch):
    """Return (loss summed over the rows that count, their labels, real rows, rows with more labels than frames)."""
    real = batch["index"] >= 0
    nll, feasible = ctc_loss(outputs["logits"], outputs["mask"], batch["labels"], batch["label_lengths"], row_mask=real)
    counts = real & feasible
    total = jnp.sum(jnp.where(counts, nll, 0.0))
    labels = jnp.sum(jnp.where(counts, batch["label_lengths"], 0)).astype(jnp.float32)
    rows = jnp.sum(real).astype(jnp.float32)
    return total, labels, rows, jnp.sum(real & ~feasible).astype(jnp.float32)


def ctc_value(outputs: dict[str, Array], batch: Batch) -> tuple[Array, Array, dict]:
    """Return (CTC loss in nats per label, labels that count, metrics) of the network's outputs."""
    total, labels, rows, misfits = _losses(outputs, batch)
    nonblank = count_nonblank(outputs["logits"], outputs["mask"] & (batch["index"] >= 0)[:, None])
    metrics = {"ctc": (total, labels), "labels_do_not_fit": (misfits, rows), "nonblank": (nonblank, labels)}
    return total / jnp.maximum(labels, 1.0), labels, metrics


def with_teacher(model_state: PyTree, teacher: Teacher | None) -> PyTree:
    """Return the model state with the teacher's parameters and state in it, or as it is without a teacher."""
    if teacher is None:
        return model_state
    return {OWN: model_state, TEACHER: {"params": teacher.params, "model_state": teacher.model_state}}


def _objective(model, teacher, params, model_state, batch, key, step) -> LossOut:
    """Return the CTC loss in nats per label, a mean per label: its size does not depend on the utterances' lengths."""
    outputs, model_state = model.apply(params, model_state, batch, key=key, train=True)
    value, labels, metrics = ctc_value(outputs, batch)
    if teacher is None:
        return LossOut(value, labels, model_state, metrics)
    mask = outputs["mask"] & (batch["index"] >= 0)[:, None]
    targets = outputs["teacher"]
    distances = {"teacher": posterior_loss(outputs["logits"], targets["logits"], mask, temperature=teacher.temperature)}
    factors = {"teacher": teacher.weight}
    if teacher.hidden:
        distances["teacher_hidden"] = similarity_loss(outputs["encoded"], targets["encoded"], mask)
        factors["teacher_hidden"] = teacher.weight * teacher.hidden
    of_sums = jax.tree_util.Partial(weighted_means, {"ctc": 1 - teacher.weight, PENALTY: factors})
    return loss_of({"ctc": metrics["ctc"], PENALTY: distances}, of_sums, labels, model_state, metrics | distances)


def _evaluator(model: Model, config: CTCTaskConfig, tokenizer: Tokenizer):
    @jax.jit
    def forward(params, model_state, batch):
        outputs, _ = model.apply(params, model_state, batch, key=None, train=False)
        ids, lengths = greedy_decode(outputs["logits"], outputs["mask"])
        return ids, lengths, _losses(outputs, batch), outputs["features"][0]

    def evaluate(params, model_state, batches: Iterable[Batch]) -> Report:
        """Return word and character error rates of greedy decoding and the loss per label, over all batches."""
        references, hypotheses = [], []
        total = labels = 0.0
        examples, images, audio = [], {}, {}
        for batch in batches:
            ids, lengths, sums, features = run_sharded(forward, params, model_state, batch=batch)
            batch_total, batch_labels, _, _ = sums
            total, labels = total + float(batch_total), labels + float(batch_labels)
            for row in np.flatnonzero(np.asarray(batch["index"]) >= 0):
                reference = tokenizer.decode(batch["labels"][row, : batch["label_lengths"][row]])
                hypothesis = tokenizer.decode(ids[row, : lengths[row]])
                references.append(reference)
                hypotheses.append(hypothesis)
                if len(examples) < EXAMPLES:
                    examples.append({"id": str(batch["index"][row]), "reference": reference, "hypothesis": hypothesis})
            if not audio:
                images = {"features": features.T} if features.shape[1] > 1 else {}  # a waveform is no image
                audio = {"utterance": (batch["audio"][0, : batch["audio_lengths"][0]], config.audio.sample_rate)}
        words = count_errors(*split_pairs(references, hypotheses)[:2])
        errors = {"wer": sum(words, ErrorCounts()).rate, "cer": cer(references, hypotheses).rate}
        metrics = {"loss": total / max(labels, 1.0), **errors}
        return Report(metrics, examples, images, audio, notes=empty_transcripts(references, hypotheses))

    return evaluate
