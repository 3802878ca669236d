"""Mel to wave with WaveNet: random crops of recordings, the network, and the samples' negative log-likelihood."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from speech_jax.audio import rows
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.emphasis import apply_emphasis, undo_emphasis
from speech_jax.audio.features import extract_features, num_features, num_frames
from speech_jax.audio.framing import hops_per_window, time_mask
from speech_jax.audio.mulaw import zero_class
from speech_jax.core.errors import UserError
from speech_jax.core.placement import fetch, run_sharded
from speech_jax.core.types import (
    Batch,
    Better,
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
    """Return the network's config with the features' mel bands and hop."""
    return dataclasses.replace(config.model, num_mels=num_features(config.audio), hop=config.audio.hop)


def frame_offset(audio: AudioConfig) -> int:
    """Return the frame that the recording's first sample lies in; with framing "full" frames begin before it."""
    return hops_per_window(audio) - 1 if audio.framing == "full" else 0


def wavenet_batch_spec(config: WaveNetTaskConfig, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of data/pipeline.py; it has mel frames if `mels` is "manifest"."""
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
    """Return the mel-to-waveform task; its batches are those of data/pipeline.py."""
    network = wavenet(network_config(config))

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        return network.init(key, batch)

    def apply(params, model_state, batch: Batch, *, key=None, train=False):
        """Return "nll" [rows, samples] in nats and "counts" (bool, samples of the loss) of one crop per row."""
        recordings = prepare(config, batch)
        key = jax.random.key(0) if key is None else key
        first = crop_starts(config, key, batch)
        noise = input_noise(config, key, batch) if train and config.input_noise else None
        return _crop_nll(config, network, params, recordings, first, noise=noise), model_state

    def objective(params, model_state, batch, key, step) -> LossOut:
        """Return the negative log-likelihood in nats per sample."""
        out, model_state = apply(params, model_state, batch, key=key, train=True)
        total, count = _sums(out)
        return LossOut(total / jnp.maximum(count, 1.0), count, model_state, {"nll": (total, count)})

    spec = functools.partial(wavenet_batch_spec, config)
    metrics: dict[str, Better] = {"loss": "min", "mel_distance": "min"} if config.clip_seconds else {"loss": "min"}
    return Task(Model(init, apply), objective, spec, _evaluator(config, network), metrics=metrics)


def prepare(config: WaveNetTaskConfig, batch: Batch) -> dict[str, Array]:
    """Return mel frames and target samples of whole recordings.

    Args:
        config: The task.
        batch: A batch of data/pipeline.py.

    Returns:
        {"mel" [rows, frames, bands], "frames" (per row), "wave" (samples or classes), "lengths" (samples per row),
        "index"} and, with several speakers, "speaker".
    """
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
    """Return the first frame of each row's crop, counted from the recording's first sample.

    It depends on the key and the utterance, not on the row in the batch.
    """
    keys = rows.row_keys(key, batch["index"].shape[0], batch["index"], _CROP)
    frames = -(-batch["audio_lengths"] // config.audio.hop)
    positions = jnp.maximum(frames - config.crop_frames, 0) + 1
    return jnp.minimum((rows.uniform(keys) * positions).astype(jnp.int32), positions - 1)


def input_noise(config: WaveNetTaskConfig, key: Array, batch: Batch) -> Float[Array, "batch samples"]:
    """Return the noise added to the input samples of each row's crop; it depends on the key and the utterance."""
    keys = rows.row_keys(key, batch["index"].shape[0], batch["index"], _INPUT_NOISE)
    level = rows.uniform(rows.fold(keys, 0), high=config.input_noise)
    return level[:, None] * rows.normal(rows.fold(keys, 1), config.crop_frames * config.audio.hop)


def _crop_nll(
    config: WaveNetTaskConfig,
    network: Model,
    params: PyTree,
    recordings: dict[str, Array],
    first: Array,
    *,
    context: Array | None = None,
    noise: Array | None = None,
) -> dict[str, Array]:
    """Return {"nll", "counts"} of the samples of the crops that begin at frames `first`.

    The first `context` samples of a crop do not count, and at least the receptive field does not, except at the
    recording's start. `noise` is added to the input samples.
    """
    context = jnp.zeros_like(first) if context is None else context
    net, size = network_config(config), config.crop_frames * config.audio.hop
    wave = recordings["wave"]
    zero = zero_class(net.classes) if net.output == "mulaw" else 0.0
    padded = jnp.pad(wave, ((0, 0), (1, size)), constant_values=zero)
    start = first * net.hop
    cut = jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (at,), (size + 1,)))(padded, start)
    frame = first + frame_offset(config.audio)
    mel, valid = window_of(recordings["mel"], recordings["frames"], frame, config.crop_frames, net.condition, net.hop)
    before = cut[:, :-1] if noise is None else cut[:, :-1] + noise
    inputs = {"before": before, "mel": mel, "mel_mask": valid} | {n: a for n, a in recordings.items() if n == "speaker"}
    y = network.apply(params, {}, inputs)[0]["y"]
    nll = waveform_nll(net.output, y, cut[:, 1:], min_log_scale=net.min_log_scale, levels=net.levels)
    number = jnp.arange(size)[None]
    context = jnp.maximum(context, jnp.where(first > 0, net.receptive_field - 1, 0))
    counts = (number >= context[:, None]) & (number + start[:, None] < recordings["lengths"][:, None])
    return {"nll": jnp.where(counts, nll, 0.0), "counts": counts}


def _sums(out: dict[str, Array]) -> tuple[Array, Array]:
    return jnp.sum(out["nll"]), jnp.sum(out["counts"]).astype(jnp.float32)


def whole_nll(
    config: WaveNetTaskConfig, network: Model, params: PyTree, recordings: dict[str, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (negative log-likelihood in nats summed over all samples of all rows, number of samples).

    One crop after the other, each overlapping the previous one by the receptive field, so that memory does not grow
    with the length of the recordings.

    Args:
        config: The task.
        network: Init and apply functions.
        params: Parameters.
        recordings: As `prepare` returns them.

    Returns:
        (nats, samples).

    Raises:
        UserError: If there are fewer mel frames than the samples have.
    """
    _check_frames(config, recordings)
    history = history_frames(network_config(config))
    stride = config.crop_frames - history
    frames = -(-recordings["wave"].shape[1] // config.audio.hop)
    count = 1 + max(-(-(frames - config.crop_frames) // stride), 0)

    def crop_sums(number: Array) -> tuple[Array, Array]:
        first = jnp.full(recordings["lengths"].shape, number * stride)
        context = jnp.where(first > 0, history * config.audio.hop, 0)
        return _sums(_crop_nll(config, network, params, recordings, first, context=context))

    totals, counts = jax.lax.map(crop_sums, jnp.arange(count))
    return jnp.sum(totals), jnp.sum(counts)


def _check_frames(config: WaveNetTaskConfig, recordings: dict[str, Array]) -> None:
    """Raise UserError if there are fewer mel frames than samples; values are checked where they are known."""
    given, frames, lengths = recordings["mel"].shape[1], recordings["frames"], recordings["lengths"]
    pairs = [(given, recordings["wave"].shape[1])]
    if not any(isinstance(value, Tracer) for value in (frames, lengths)):
        pairs = [(min(given, own), samples) for own, samples in np.stack([frames, lengths], 1).tolist()]
    for own, samples in pairs:
        needed = num_frames(samples, config.audio) if samples else 0
        if own < needed:
            raise UserError(f"recordings: found {own} mel frames for {samples} samples, expected {needed}")


def _evaluator(config: WaveNetTaskConfig, network: Model):
    @jax.jit
    def forward(params, batch):
        recordings = prepare(config, batch)
        return whole_nll(config, network, params, recordings), recordings["mel"][0], recordings["frames"][0]

    features = jax.jit(functools.partial(extract_features, config=config.audio))

    def evaluate(params: PyTree, model_state: PyTree, batches: Iterable[Batch]) -> Report:
        """Return nats per sample over whole recordings, and resynthesize the start of the first one."""
        total = count = 0.0
        metrics, images, audio = {}, {}, {}
        for batch in batches:
            (nats, samples), mel, frames = run_sharded(forward, params, batch=batch)
            total, count = total + float(nats), count + float(samples)
            if audio or not config.clip_seconds or batch["index"][0] < 0:
                continue
            rate, hop = config.audio.sample_rate, config.audio.hop
            size = min(int(config.clip_seconds * rate), int(batch["audio_lengths"][0]))
            speaker = int(batch["speaker"][0]) if "speaker" in batch else 0
            offset = frame_offset(config.audio)
            frames_given = mel[: min(-(-size // hop) + offset, int(frames))]
            net = make_net(network_config(config), fetch(params))
            chunks = stream_audio(net, [frames_given], speaker=speaker)
            chunks = undo_emphasis(chunks, config.gain, config.pre_emphasis)
            synthesized = np.concatenate(list(chunks))[offset * hop :][:size]
            pair = np.stack([batch["audio"][0, : len(synthesized)], synthesized])
            (target, result), _ = jax.device_get(features(pair, jnp.full(2, len(synthesized))))
            metrics["mel_distance"] = float(np.mean(np.abs(target - result)))
            images = {"mel": mel_picture([("target", target), ("resynthesized", result)], hop / rate)}
            audio = {"target": (pair[0], rate), "made": (synthesized, rate)}
        return Report({"loss": total / max(count, 1.0), **metrics}, images=images, audio=audio)

    return evaluate
