"""Mel to wave with WaveNet: random crops of recordings, the network, and the samples' negative log likelihood."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from speech_jax.audio import rows
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.emphasis import apply_emphasis, undo_emphasis
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.audio.framing import hops_per_window, time_mask
from speech_jax.audio.mulaw import zero_class
from speech_jax.core.placement import fetch, run_sharded
from speech_jax.core.types import (
    Batch,
    Bucket,
    LossOut,
    Model,
    Program,
    PyTree,
    Report,
    Task,
)
from speech_jax.decoding.wavenet import scan
from speech_jax.decoding.wavenet.stream import chunk_frames, make_net, stream_audio
from speech_jax.evaluation.voice_plots import mel_picture
from speech_jax.kernels.wavenet.draw import make_noise
from speech_jax.models.config import WaveNetConfig
from speech_jax.models.wavenet import init_params, wavenet
from speech_jax.models.wavenet_condition import rows_per_frame, window_of
from speech_jax.objectives.waveform import as_target, waveform_nll
from speech_jax.tasks.ctc_task import batch_spec
from speech_jax.tasks.wavenet import WaveNetTaskConfig, history_frames

_CROP, _INPUT_NOISE = 41, 42  # numbers of the effects in rows.row_keys


def network_config(config: WaveNetTaskConfig) -> WaveNetConfig:
    """The network with the features' bands and hop length."""
    return dataclasses.replace(config.model, num_mels=num_features(config.audio), hop=config.audio.hop)


def frame_offset(audio: AudioConfig) -> int:
    """The frame in which a recording's first sample lies: frames of framing "full" begin before it."""
    return hops_per_window(audio) - 1 if audio.framing == "full" else 0


def wavenet_batch_spec(config: WaveNetTaskConfig, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of data/pipeline.py; with mels = "manifest" frames come with it."""
    spec = batch_spec(bucket)
    if config.mels == "manifest":
        frames = num_frames(bucket.samples, config.audio)
        spec["mel"] = jax.ShapeDtypeStruct((bucket.rows, frames, num_features(config.audio)), jnp.float32)
    if config.model.speakers:
        spec["speaker"] = jax.ShapeDtypeStruct((bucket.rows,), jnp.int32)
    return spec


def waveform_program(config: WaveNetTaskConfig, bucket: Bucket) -> Program:
    """Return one chunk of a waveform, with `bucket.rows` folds drawn side by side by the scan."""
    network = network_config(config)
    frames, rows_each = chunk_frames(network, bucket.rows), rows_per_frame(network.condition, network.hop)
    params = jax.eval_shape(functools.partial(init_params, network), jax.random.key(0))

    def function(params: PyTree, batch: Batch) -> Array:
        shape, weights = scan.step_weights(network, params)
        state = scan.start(shape, weights, bucket.rows)
        noise = make_noise(shape, batch["seeds"], jnp.zeros(bucket.rows, jnp.int32), frames * network.hop)
        return scan.sample(shape, weights, state, batch["condition"], network.hop // rows_each, noise)[0]

    condition = (bucket.rows, frames * rows_each, network.layers, network.gate)
    batch = {
        "condition": jax.ShapeDtypeStruct(condition, jnp.float32),
        "seeds": jax.ShapeDtypeStruct((bucket.rows, 2), jnp.uint32),
    }
    return Program(f"waveform, {frames * network.hop} samples per row", function, params, batch)


def wavenet_task(config: WaveNetTaskConfig) -> Task:
    """The task that training/ is handed; batches are those of data/pipeline.py."""
    network = wavenet(network_config(config))

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return network.init(key, batch)

    def apply(params, model_state, batch: Batch, *, key=None, train=False):
        """Of one crop of each row. Outputs: "nll" [batch, samples] in nats, "counts" bool: which samples count."""
        heard = prepare(config, batch)
        key = jax.random.key(0) if key is None else key
        first = crop_starts(config, key, batch)
        noise = input_noise(config, key, batch) if train and config.input_noise else None
        return _crop_nll(config, network, params, heard, first, jnp.zeros_like(first), noise), model_state

    def objective(params, model_state, batch, key, step) -> LossOut:
        """Nats a sample."""
        out, model_state = apply(params, model_state, batch, key=key, train=True)
        total, count = _sums(out)
        return LossOut(total / jnp.maximum(count, 1.0), count, model_state, {"nll": (total, count)})

    spec = functools.partial(wavenet_batch_spec, config)
    return Task(Model(init, apply), objective, spec, _evaluator(config, network))


def prepare(config: WaveNetTaskConfig, batch: Batch) -> dict[str, Array]:
    """Frames and the samples to be learned of whole recordings: {"mel", "frames" (count), "wave" (samples or classes),
    "lengths", "index" and, with several voices, "speaker"}."""
    real = batch["index"] >= 0
    lengths = jnp.where(real, batch["audio_lengths"], 0)
    if "mel" in batch:
        mel, frames = batch["mel"], jnp.where(real, num_frames(lengths, config.audio), 0)
        mel = jnp.where(time_mask(frames, mel.shape[1])[..., None], mel, 0.0)
    else:
        mel, mask = extract_features(batch["audio"], lengths, config.audio)
        frames = jnp.sum(mask, axis=1)
    wave = apply_emphasis(batch["audio"], lengths, config.audio, config.gain, config.pre_emphasis)
    wave = as_target(config.model.output, wave, config.model.classes)
    extra = {"speaker": batch["speaker"]} if config.model.speakers else {}
    return {"mel": mel, "frames": frames, "wave": wave, "lengths": lengths, "index": batch["index"]} | extra


def crop_starts(config: WaveNetTaskConfig, key: Array, batch: Batch) -> Int[Array, " batch"]:
    """The first frame of each row's crop, counted from its first sample. It belongs to the key and the utterance, not
    to its place in the batch."""
    keys = rows.row_keys(key, batch["index"].shape[0], batch["index"], _CROP)
    whole = -(-batch["audio_lengths"] // config.audio.hop)
    room = jnp.maximum(whole - config.crop_frames, 0) + 1
    return jnp.minimum((rows.uniform(keys) * room).astype(jnp.int32), room - 1)


def input_noise(config: WaveNetTaskConfig, key: Array, batch: Batch) -> Float[Array, "batch samples"]:
    """What is added to the samples that each row's crop hears. It belongs to the key and the utterance."""
    keys = rows.row_keys(key, batch["index"].shape[0], batch["index"], _INPUT_NOISE)
    level = rows.uniform(rows.fold(keys, 0), high=config.input_noise)
    return level[:, None] * rows.normal(rows.fold(keys, 1), config.crop_frames * config.audio.hop)


def _crop_nll(
    config: WaveNetTaskConfig,
    network: Model,
    params: PyTree,
    heard: dict[str, Array],
    first: Array,
    known: Array,
    noise: Array | None = None,
) -> dict[str, Array]:
    """{"nll", "counts"} of the samples of the crops that begin at frames `first`. known: samples at the beginning of
    each that do not count, at least as many as the network looks back, except where the recording begins. noise: what
    is added to the samples that the network hears."""
    net, size = network_config(config), config.crop_frames * config.audio.hop
    wave = heard["wave"]
    zero = zero_class(net.classes) if net.output == "mulaw" else 0.0
    padded = jnp.pad(wave, ((0, 0), (1, size)), constant_values=zero)
    at = first * net.hop
    cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (size + 1,)))(padded, at)
    frame = first + frame_offset(config.audio)
    mel, own = window_of(heard["mel"], heard["frames"], frame, config.crop_frames, net.condition, net.hop)
    before = cut[:, :-1] if noise is None else cut[:, :-1] + noise
    inputs = {"before": before, "mel": mel, "own": own} | {n: a for n, a in heard.items() if n == "speaker"}
    y = network.apply(params, {}, inputs)[0]["y"]
    nll = waveform_nll(net.output, y, cut[:, 1:], min_log_scale=net.min_log_scale, levels=net.levels)
    number = jnp.arange(size)[None]
    known = jnp.maximum(known, jnp.where(first > 0, net.receptive_field - 1, 0))
    counts = (number >= known[:, None]) & (number + at[:, None] < heard["lengths"][:, None])
    return {"nll": jnp.where(counts, nll, 0.0), "counts": counts}


def _sums(out: dict[str, Array]) -> tuple[Array, Array]:
    return jnp.sum(out["nll"]), jnp.sum(out["counts"]).astype(jnp.float32)


def whole_nll(
    config: WaveNetTaskConfig, network: Model, params: PyTree, heard: dict[str, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(nats of all samples of all rows, their number). One crop after the other, each overlapping the one before by
    what the network looks back, so that memory does not grow with the recordings."""
    back = history_frames(network_config(config))
    stride = config.crop_frames - back
    frames = -(-heard["wave"].shape[1] // config.audio.hop)
    count = 1 + max(-(-(frames - config.crop_frames) // stride), 0)

    def one(number: Array) -> tuple[Array, Array]:
        first = jnp.full(heard["lengths"].shape, number * stride)
        known = jnp.where(first > 0, back * config.audio.hop, 0)
        return _sums(_crop_nll(config, network, params, heard, first, known))

    totals, counts = jax.lax.map(one, jnp.arange(count))
    return jnp.sum(totals), jnp.sum(counts)


def _evaluator(config: WaveNetTaskConfig, network: Model):
    @jax.jit
    def forward(params, batch):
        heard = prepare(config, batch)
        return whole_nll(config, network, params, heard), heard["mel"][0], heard["frames"][0]

    features = jax.jit(functools.partial(extract_features, config=config.audio))

    def evaluate(params: PyTree, model_state: PyTree, batches: Iterable[Batch]) -> Report:
        """Nats a sample over whole recordings, and the beginning of the first one made again from its frames."""
        total = count = 0.0
        found, images, audio = {}, {}, {}
        for batch in batches:
            (nats, samples), mel, frames = run_sharded(forward, params, batch=batch)
            total, count = total + float(nats), count + float(samples)
            if audio or not config.clip_seconds or batch["index"][0] < 0:
                continue
            rate, hop = config.audio.sample_rate, config.audio.hop
            size = min(int(config.clip_seconds * rate), int(batch["audio_lengths"][0]))
            speaker = int(batch["speaker"][0]) if "speaker" in batch else 0
            offset = frame_offset(config.audio)
            given = mel[: min(-(-size // hop) + offset, int(frames))]
            net = make_net(network_config(config), fetch(params))
            pieces_ = undo_emphasis(stream_audio(net, [given], speaker=speaker), config.gain, config.pre_emphasis)
            made = np.concatenate(list(pieces_))[offset * hop :][:size]
            pair = np.stack([batch["audio"][0, : len(made)], made])
            (target, again), _ = jax.device_get(features(pair, jnp.full(2, len(made))))
            found["mel_distance"] = float(np.mean(np.abs(target - again)))
            images = {"mel": mel_picture([("target", target), ("made again from its frames", again)], hop / rate)}
            audio = {"target": (pair[0], rate), "made": (made, rate)}
        return Report({"loss": total / max(count, 1.0), **found}, images=images, audio=audio)

    return evaluate
