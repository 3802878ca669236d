"""Mel to wave with WaveNet: random crops of recordings, the network, and the samples' negative log likelihood."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import ClassVar, Literal

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
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.errors import UserError
from speech_jax.core.placement import fetch, run_sharded
from speech_jax.core.types import (
    Batch,
    Bucket,
    Checkpointed,
    LossOut,
    Model,
    Program,
    PyTree,
    Report,
    StartRules,
    StreamOptions,
    Task,
    TaskConfig,
)
from speech_jax.decoding.wavenet import scan
from speech_jax.decoding.wavenet.stream import chunk_frames, make_net, stream_audio
from speech_jax.evaluation.voice_plots import mel_picture
from speech_jax.kernels.wavenet.draw import make_noise
from speech_jax.models.config import WaveNetConfig
from speech_jax.models.wavenet import init_params, wavenet, with_speaker_inputs
from speech_jax.models.wavenet_condition import check_hop, rows_per_frame, window_of
from speech_jax.objectives.waveform import as_target, waveform_nll
from speech_jax.tasks.ctc import batch_spec

_CROP, _INPUT_NOISE = 41, 42  # numbers of the effects in rows.row_keys


@dataclasses.dataclass(frozen=True)
class WaveNetTaskConfig(TaskConfig):
    """A vocoder: what it hears, the network, and how recordings are cut for training."""

    model: WaveNetConfig = WaveNetConfig()
    """The network."""
    audio: AudioConfig = dataclasses.field(default_factory=nvidia_tacotron2)
    """Waveform to mel frames; those of the acoustic model that it will speak for."""
    crop_frames: int = 32
    """Frames of a crop. Its first samples, as many as the network looks back, are heard and not learned."""
    mels: Literal["audio", "manifest"] = "audio"
    """Frames computed from the recordings, or those that the manifest's rows name in "mel": what an acoustic model
    makes of the same recordings (`python -m speech_jax.synthesize --teacher-forced`)."""
    pre_emphasis: float = 0.0
    """Coefficient c of y[n] = x[n] - c·x[n-1]: the network learns y, and its sound is filtered back, which takes its
    noise out of the high bands. 0.85 is usual; 0 turns it off."""
    gain: float = 1.0
    """The waveform is multiplied by this first, and what is synthesized divided by it."""
    input_noise: float = 0.0
    """In training, white noise is added to the samples that the network hears, not to those it learns; its deviation is
    drawn for each crop between 0 and this. Without it a network that has learned to predict from true samples can lose
    its way among its own (exposure bias; Valin & Skoglund 2019, LPCNet). Not for µ-law classes, which are noisy."""
    speakers: Literal["one", "data"] = "one"
    """one: whoever speaks is the same voice. data: a learned vector for each speaker that the recordings name; the
    table of names goes with the checkpoint, and more can be added in fine-tuning."""
    clip_seconds: float = 1.0
    """An evaluation synthesizes so much of its first recording again, and measures how far the mel frames are apart;
    0 does without."""

    def __post_init__(self) -> None:
        if not 0 <= self.pre_emphasis < 1 or self.gain <= 0 or self.clip_seconds < 0:
            raise UserError(
                f"task: found pre_emphasis {self.pre_emphasis}, gain {self.gain}, clip_seconds {self.clip_seconds}, "
                "expected 0 up to 1, a number above 0, and 0 or more"
            )
        if self.input_noise < 0 or (self.input_noise and self.model.output == "mulaw"):
            raise UserError(
                f"task.input_noise: found {self.input_noise} with model.output {self.model.output!r}, expected 0 or "
                "more, and 0 with mulaw"
            )
        if self.model.speakers and self.speakers == "one":
            raise UserError(
                f"task: found model.speakers {self.model.speakers}, expected task.speakers 'data' for several"
            )
        if self.audio.features != "log_mel":
            raise UserError(f"task.audio.features: found {self.audio.features!r}, expected log_mel")
        check_hop(self.model.condition, self.audio.hop)
        heard = history_frames(network_config(self))
        if self.crop_frames <= heard:
            raise UserError(
                f"task.crop_frames: found {self.crop_frames}, expected more than {heard}: the network looks back "
                f"{self.model.receptive_field} samples"
            )


    kind: ClassVar[str] = "vocoder"
    named_speakers: ClassVar[bool] = True

    def build(self, reader: None = None, teacher: None = None) -> Task:
        """Return the mel-to-waveform task."""
        return wavenet_task(self)

    def with_speakers(self, count: int) -> WaveNetTaskConfig:
        """Return the config for `count` speakers."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, speakers=count))

    def stream_options(self) -> StreamOptions:
        """Read the rows' own mel files where `mels` says so."""
        return StreamOptions(mels=self.audio if self.mels == "manifest" else None)

    def start_rules(self, old: Checkpointed) -> StartRules:
        """Give a vocoder of one speaker inputs for several."""
        rules = super().start_rules(old)
        if rules.keeps_reader and self.model.speakers and not old.speakers:
            grow = functools.partial(with_speaker_inputs, network_config(self))
            return rules._replace(grow=grow, fresh=("^speakers$",))
        return rules

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return one chunk of a waveform, with `bucket.rows` folds drawn side by side by the scan."""
        config = network_config(self)
        frames, rows_each = chunk_frames(config, bucket.rows), rows_per_frame(config.condition, config.hop)
        params = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))

        def function(params: PyTree, batch: Batch) -> Array:
            shape, weights = scan.step_weights(config, params)
            state = scan.start(shape, weights, bucket.rows)
            noise = make_noise(shape, batch["seeds"], jnp.zeros(bucket.rows, jnp.int32), frames * config.hop)
            return scan.sample(shape, weights, state, batch["condition"], config.hop // rows_each, noise)[0]

        condition = (bucket.rows, frames * rows_each, config.layers, config.gate)
        batch = {
            "condition": jax.ShapeDtypeStruct(condition, jnp.float32),
            "seeds": jax.ShapeDtypeStruct((bucket.rows, 2), jnp.uint32),
        }
        return Program(f"waveform, {frames * config.hop} samples per row", function, params, batch)


def network_config(config: WaveNetTaskConfig) -> WaveNetConfig:
    """The network with the features' bands and hop length."""
    return dataclasses.replace(config.model, num_mels=num_features(config.audio), hop=config.audio.hop)


def history_frames(network: WaveNetConfig) -> int:
    """Frames at the beginning of a crop whose samples are heard and not learned: the network would look beyond it."""
    return -(-(network.receptive_field - 1) // network.hop)


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
