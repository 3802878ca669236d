"""The programs in which a model is used, as one pure function of parameters and a batch each: what `transcribe`,
`synthesize` and a vocoder run, for `compile` to lower for chips that are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from speech_jax.artifacts.voice import network_shapes as voice_shapes
from speech_jax.core.errors import UserError
from speech_jax.core.types import Batch, Bucket, PyTree
from speech_jax.decoding.tacotron2 import DecodeConfig, GeneratedMels, generate_mels
from speech_jax.decoding.wavenet import scan
from speech_jax.decoding.wavenet.stream import chunk_frames
from speech_jax.inference.recognizer import recognize
from speech_jax.kernels.wavenet.draw import make_noise
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.models.wavenet import WaveNetConfig
from speech_jax.models.wavenet import init_params as wavenet_params
from speech_jax.models.wavenet_condition import rows_per_frame
from speech_jax.tasks import tacotron2, wavenet
from speech_jax.tasks.ctc import CTCTaskConfig, batch_spec, build_model, network_shapes


class Use(NamedTuple):
    """name: of what it does. function: (weights, batch) -> what comes out, every row by itself. weights and batch:
    shapes; all of the batch have the rows first."""

    name: str
    function: Callable[[PyTree, Batch], Any]
    weights: PyTree
    batch: Batch


def use_of(task: Any, vocab_size: int, bucket: Bucket) -> Use:
    """How the model of a task's config is used on a batch of that shape: recordings recognized by the best path, texts
    of so many symbols spoken until all have ended, or a chunk of as many folds of a waveform drawn by the scan.

    Raises UserError for a task that only trains.
    """
    make = {CTCTaskConfig: _recognition, tacotron2.Tacotron2TaskConfig: _speech, wavenet.WaveNetTaskConfig: _waveform}
    if type(task) not in make:
        raise UserError(f"--step use: found {type(task).__name__}, expected a recognizer, a voice or a vocoder")
    return make[type(task)](task, vocab_size, bucket)


def _recognition(task: CTCTaskConfig, vocab_size: int, bucket: Bucket) -> Use:
    network, spec = build_model(task, vocab_size), batch_spec(bucket)

    def function(weights: PyTree, batch: Batch) -> Any:
        return recognize(network, task.audio, *weights, batch["audio"], batch["audio_lengths"])

    batch = {name: spec[name] for name in ("audio", "audio_lengths")}
    return Use("recognition", function, network_shapes(task, vocab_size), batch)


def _speech(task: tacotron2.Tacotron2TaskConfig, symbols: int, bucket: Bucket) -> Use:
    parts = make_parts(tacotron2.network_config(task))
    shape = (bucket.rows, bucket.labels)
    batch = {"text": _spec(shape, np.int32), "text_mask": _spec(shape, np.bool_)}
    batch["seeds"] = _spec((bucket.rows, 2), np.uint32)
    if parts.config.speakers:
        batch["speaker"] = _spec((bucket.rows,), np.int32)

    def function(weights: PyTree, batch: Batch) -> GeneratedMels:
        text = {name: leaf for name, leaf in batch.items() if name != "seeds"}
        return generate_mels(parts, DecodeConfig(), *weights, text, batch["seeds"])

    return Use("speech", function, voice_shapes(task, symbols), batch)


def _waveform(task: wavenet.WaveNetTaskConfig, _: int, bucket: Bucket) -> Use:
    config: WaveNetConfig = wavenet.network_config(task)
    frames, each = chunk_frames(config, bucket.rows), rows_per_frame(config.condition, config.hop)
    params = jax.eval_shape(partial(wavenet_params, config), jax.random.key(0))

    def function(params: PyTree, batch: Batch) -> Array:
        shape, weights = scan.step_weights(config, params)
        state = scan.start(shape, weights, bucket.rows)
        noise = make_noise(shape, batch["seeds"], jnp.zeros(bucket.rows, jnp.int32), frames * config.hop)
        return scan.sample(shape, weights, state, batch["condition"], config.hop // each, noise)[0]

    condition = _spec((bucket.rows, frames * each, config.layers, config.gate), np.float32)
    batch = {"condition": condition, "seeds": _spec((bucket.rows, 2), np.uint32)}
    return Use(f"waveform, {frames * config.hop} samples a row", function, params, batch)


def _spec(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
