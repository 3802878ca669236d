"""Text to mel with Tacotron 2: waveform → target frames → teacher forcing → losses, as one jitted function."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from speech_jax.audio.features import extract_features, num_features
from speech_jax.core.types import (
    Batch,
    Better,
    Bucket,
    LossOut,
    Model,
    Program,
    PyTree,
    Task,
)
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import GeneratedMels, generate_mels
from speech_jax.models.config import Tacotron2Config
from speech_jax.models.tacotron2 import init_params, tacotron2
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.objectives.means import weighted_means
from speech_jax.objectives.tts import focus_rate, frame_loss, guided_attention_loss, stop_loss
from speech_jax.tasks.ctc_task import batch_spec
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.tacotron2_report import make_evaluate
from speech_jax.text.frontend import FrontEnd


def network_shapes(config: Tacotron2TaskConfig, symbols: int) -> tuple[PyTree, PyTree]:
    """Return (params, model_state) of the network as shapes."""
    parts = make_parts(network_config(config))
    return jax.eval_shape(lambda key: init_params(parts, symbols, key), jax.random.key(0))


def network_config(config: Tacotron2TaskConfig) -> Tacotron2Config:
    """Return the network's config with as many mel bands as the features have."""
    return dataclasses.replace(config.model, num_mels=num_features(config.audio))


def speech_program(config: Tacotron2TaskConfig, bucket: Bucket, vocab_size: int) -> Program:
    """Return synthesis of mel frames from texts of `bucket.labels` symbols, until each has ended."""
    parts = make_parts(network_config(config))
    shape = (bucket.rows, bucket.labels)
    batch = {
        "text": jax.ShapeDtypeStruct(shape, jnp.int32),
        "text_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
        "seeds": jax.ShapeDtypeStruct((bucket.rows, 2), jnp.uint32),
    }
    if parts.config.speakers:
        batch["speaker"] = jax.ShapeDtypeStruct((bucket.rows,), jnp.int32)

    def function(weights: PyTree, batch: Batch) -> GeneratedMels:
        text = {name: leaf for name, leaf in batch.items() if name != "seeds"}
        return generate_mels(parts, DecodeConfig(), *weights, text, batch["seeds"])

    return Program("speech", function, network_shapes(config, vocab_size), batch)


def tacotron2_task(config: Tacotron2TaskConfig, front_end: FrontEnd) -> Task:
    """Return the text-to-mel task; batches are those of data/pipeline.py, with the front end's symbols as labels."""
    network = tacotron2(network_config(config), front_end.vocab_size)
    stages = config.reduction or ((0, config.model.reduction),)

    def inputs(batch: Batch, reduction: int) -> Batch:
        """Return the network's inputs; frames are padded to a whole number of decoder steps."""
        mel, mask = extract_features(batch["audio"], batch["audio_lengths"], config.audio)
        padding = -mel.shape[1] % reduction
        symbols = jnp.arange(batch["labels"].shape[1])[None]
        real = (batch["index"] >= 0)[:, None]
        extra = {name: batch[name] for name in ("speaker", "micro_batch") if name in batch}
        return extra | {
            "text": batch["labels"],
            "text_mask": (symbols < batch["label_lengths"][:, None]) & real,
            "mel": jnp.pad(mel, ((0, 0), (0, padding), (0, 0))),
            "mel_mask": jnp.pad(mask & real, ((0, 0), (0, padding))),
            "index": batch["index"],
        }

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return network.init(key, batch)

    def apply(params, model_state, batch: Batch, *, key=None, train=False, reduction=stages[-1][1]):
        given = inputs(batch, reduction)
        outputs, model_state = network.apply(params, model_state, given, key=key, train=train, reduction=reduction)
        targets = {"text_mask": given["text_mask"], "mel_mask": given["mel_mask"], "target": given["mel"]}
        return {**outputs, **targets}, model_state

    def loss_at(reduction: int, params, model_state, batch, key) -> LossOut:
        outputs, model_state = apply(params, model_state, batch, key=key, train=True, reduction=reduction)
        value, frames, metrics = losses(config, outputs, reduction)
        factors = {"before": 1.0, "after": 1.0, "stop": 1.0} | ({"guided": config.guided} if config.guided else {})
        of_sums = jax.tree_util.Partial(weighted_means, factors)
        return LossOut(value, frames, model_state, metrics, {name: metrics[name] for name in factors}, of_sums)

    def objective(params, model_state, batch, key, step) -> LossOut:
        branches = [functools.partial(loss_at, r) for _, r in stages]
        if len(branches) == 1:
            return branches[0](params, model_state, batch, key)
        out = jax.lax.switch(stage(step, stages), branches, params, model_state, batch, key)
        reduction = jnp.asarray([r for _, r in stages], jnp.float32)[stage(step, stages)]
        return out._replace(metrics={**out.metrics, "reduction": (reduction, jnp.ones(()))})

    def spec(bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        speaker = {"speaker": jax.ShapeDtypeStruct((bucket.rows,), jnp.int32)} if config.model.speakers else {}
        return batch_spec(bucket) | speaker

    evaluate = make_evaluate(config, front_end, make_parts(network_config(config)), apply, losses, stages[-1][1])
    return Task(Model(init, apply), objective, spec, evaluate, metrics=reported_metrics(config))


def reported_metrics(config: Tacotron2TaskConfig) -> dict[str, Better]:
    """Return the metrics that `evaluate` reports, and which of their values are better."""
    alignment: dict[str, Better] = {"focus": "max", "coverage": "max", "failures": "min"}
    losses = ("loss", "before", "after", "stop", *(("guided",) if config.guided else ()))
    free: dict[str, Better] = {f"free_{name}": better for name, better in alignment.items()} if config.speak else {}
    return {**dict.fromkeys(losses, "min"), **alignment, **free}


def stage(step: Int[Array, ""], stages: tuple[tuple[int, int], ...]) -> Int[Array, ""]:
    """Return the index of the stage of gradual training that the step is in."""
    return jnp.asarray(sum(jnp.asarray(step >= begin, jnp.int32) for begin, _ in stages) - 1)


def losses(config: Tacotron2TaskConfig, outputs: dict[str, Array], reduction: int) -> tuple[Array, Array, dict]:
    """Return (mean loss per frame, valid frames, metrics)."""
    mask, step_mask = outputs["mel_mask"], outputs["mel_mask"][:, ::reduction]
    pairs = {
        "before": frame_loss(outputs["mel"], outputs["target"], mask, config.frames),
        "after": frame_loss(outputs["mel_post"], outputs["target"], mask, config.frames),
        "stop": stop_loss(outputs["stop"], mask, config.stop_weight),
    }
    value = sum(total / jnp.maximum(count, 1.0) for total, count in pairs.values())
    if config.guided:
        weights = outputs["weights"], step_mask, outputs["text_mask"]
        pairs["guided"] = total, count = guided_attention_loss(*weights, config.guided_sigma)
        value += config.guided * total / jnp.maximum(count, 1.0)
    pairs["focus"] = focus_rate(outputs["weights"], step_mask)
    return jnp.asarray(value), jnp.sum(mask).astype(jnp.float32), pairs
