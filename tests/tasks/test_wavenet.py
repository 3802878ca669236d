"""WaveNet as a task: it learns, crops are what they say, and the likelihood of whole recordings is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.audio.presets import nvidia_tacotron2, r9y9_released
from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket, Model
from speech_jax.decoding.wavenet.scan import stack_layer_conditions, step_weights
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.models.config import ConditionConfig, WaveNetConfig
from speech_jax.models.wavenet import init_params, wavenet
from speech_jax.models.wavenet_condition import condition, window_of
from speech_jax.objectives.waveform import waveform_nll
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.tasks.wavenet_task import (
    crop_starts,
    frame_offset,
    input_noise,
    network_config,
    prepare,
    wavenet_task,
    whole_nll,
)

AUDIO = dataclasses.replace(
    nvidia_tacotron2(), sample_rate=4_000, window=64, hop=32, n_fft=64, num_mels=10, fmax=2_000.0
)
NETWORK = WaveNetConfig(
    layers=4, cycles=1, kernel_size=2, residual=16, gate=32, skip=16, head=16, mixtures=2,
    condition=ConditionConfig(width=16, context=1),
)  # fmt: skip
CONFIG = WaveNetTaskConfig(model=NETWORK, audio=AUDIO, crop_frames=8, clip_seconds=0.1)
LENGTHS = (1500, 700, 200)


def batch(samples=1536, filler=0.0):
    """Gliding tones with a little noise; one row is a filler, one is shorter than a crop."""
    rng = np.random.default_rng(0)
    out = {
        "audio": np.full((4, samples), filler, np.float32), "audio_lengths": np.array([*LENGTHS, 0], np.int32),
        "labels": np.zeros((4, 1), np.int32), "label_lengths": np.zeros(4, np.int32),
        "index": np.array([3, 4, 5, -1], np.int32),
    }  # fmt: skip
    for row, n in enumerate(LENGTHS):
        pitch = 100 * (row + 2) * (1 + 0.2 * np.sin(np.arange(n) / 300))
        out["audio"][row, :n] = 0.3 * np.sin(np.cumsum(2 * np.pi * pitch / 4000)) + 0.003 * rng.normal(size=n)
    return out


def test_too_few_mel_frames_are_an_error():
    net = network_config(CONFIG)
    params = init_params(net, jax.random.key(0))
    recordings = prepare(CONFIG, batch())
    short = recordings | {"mel": recordings["mel"][:, :-3]}
    with pytest.raises(UserError, match=r"recordings: found \d+ mel frames for \d+ samples, expected \d+"):
        whole_nll(CONFIG, wavenet(net), params, short)
    with pytest.raises(UserError, match="mel frames for"):
        jax.jit(lambda r: whole_nll(CONFIG, wavenet(net), params, r))(short)


@pytest.mark.parametrize("output", ["gaussian", "mulaw"])
def test_whole_recordings_are_measured_exactly_and_in_any_bucket(output):
    """Crop after crop, the likelihood is that of the samples one by one; padding and its garbage are not heard."""
    model = dataclasses.replace(NETWORK, output=output, classes=32)
    config = dataclasses.replace(CONFIG, model=model, pre_emphasis=0.5, gain=0.9)
    net = network_config(config)
    params = init_params(net, jax.random.key(0))
    whole = jax.jit(lambda b: whole_nll(config, wavenet(net), params, prepare(config, b)))
    total, count = whole(batch())
    assert float(count) == sum(LENGTHS)
    longer, again = whole(batch(2048, filler=np.nan))
    assert float(longer) == pytest.approx(float(total), rel=1e-5) and float(again) == float(count)

    heard = jax.jit(lambda b: prepare(config, b))(batch())
    shape, weights = step_weights(net, params)
    frames = heard["mel"].shape[1]
    mel, own = window_of(heard["mel"], heard["frames"], jnp.zeros(4, jnp.int32), frames, net.condition, net.hop)
    cond = stack_layer_conditions(net, params, condition(net.condition, params["condition"], mel, own, net.hop))
    given = jnp.pad(heard["wave"], ((0, 0), (0, frames * 32 - heard["wave"].shape[1])))
    y, _ = wavenet_plain.follow(shape, weights, wavenet_plain.start(shape, weights, 4), cond, 32, given)
    nll = waveform_nll(output, y, given, min_log_scale=net.min_log_scale)
    want = sum(float(nll[row, :n].sum()) for row, n in enumerate(LENGTHS))
    assert float(total) == pytest.approx(want, rel=1e-4)


def test_crops_belong_to_the_key_and_the_utterance_and_fit():
    one = batch()
    keys = [jax.random.fold_in(jax.random.key(1), step) for step in range(40)]
    starts = np.stack([crop_starts(CONFIG, key, one) for key in keys])
    assert (starts[:, 2:] == 0).all() and starts.min() == 0
    assert 25 < starts[:, 0].max() <= -(-1500 // 32) - 8 and len(set(starts[:, 0].tolist())) > 15
    turned = {name: a[::-1] for name, a in one.items()}
    np.testing.assert_array_equal(crop_starts(CONFIG, keys[0], turned)[::-1], starts[0])
    task = wavenet_task(CONFIG)
    params, _ = task.model.init(jax.random.key(0), one)

    @jax.jit
    def crop(key, b):
        return task.model.apply(params, {}, b, key=key, train=True)[0]

    for key, first in zip(keys[:6], starts[:6], strict=True):
        counts = np.asarray(crop(key, one)["counts"])
        for row, n in enumerate((*LENGTHS, 0)):
            begin = NETWORK.receptive_field - 1 if first[row] else 0
            assert counts[row].sum() == max(min(256, n - 32 * first[row]) - begin, 0), (row, first[row])
    out, same = crop(keys[0], one), crop(keys[0], batch(filler=np.nan))
    np.testing.assert_allclose(out["nll"], same["nll"], atol=1e-5)


def test_noise_is_heard_in_training_only_and_not_learned(monkeypatch):
    """A network that says the sample before is the next one: its error shows what it heard, and against what."""
    config, one = dataclasses.replace(CONFIG, input_noise=0.1), batch()
    key = jax.random.key(3)
    noise = np.asarray(input_noise(config, key, one))
    assert noise.shape == (4, 256) and (noise.std(axis=1) < 0.12).all() and len(set(noise.std(axis=1))) == 4
    turned = {name: a[::-1] for name, a in one.items()}
    np.testing.assert_array_equal(input_noise(config, key, turned)[::-1], noise)

    def echo(params, model_state, inputs):
        return {"y": jnp.stack([inputs["before"], jnp.zeros_like(inputs["before"])], axis=-1)}, model_state

    monkeypatch.setattr("speech_jax.tasks.wavenet_task.wavenet", lambda network: Model(None, echo))
    task, quiet = wavenet_task(config), wavenet_task(CONFIG)
    heard = task.model.apply({}, {}, one, key=key, train=True)[0]
    silent = quiet.model.apply({}, {}, one, key=key, train=True)[0]
    same = task.model.apply({}, {}, one, key=key)[0]
    np.testing.assert_array_equal(same["nll"], silent["nll"])
    wave, starts = np.asarray(prepare(config, one)["wave"]), np.asarray(crop_starts(config, key, one))
    for row, n in enumerate(LENGTHS):  # with a scale of 1 the nats are half the squared error, and a constant
        at = 32 * starts[row] + np.arange(256)
        at = at[at < n]
        next_one, before = wave[row, at], np.where(at > 0, wave[row, at - 1], 0.0)
        counts = np.asarray(heard["counts"][row])[: len(at)]
        more = ((next_one - before - noise[row, : len(at)]) ** 2 - (next_one - before) ** 2) / 2
        found = np.asarray(heard["nll"] - silent["nll"])[row, : len(at)]
        np.testing.assert_allclose(found[counts], more[counts], atol=1e-6)


def test_it_learns_and_its_evaluation_can_be_heard():
    task = wavenet_task(CONFIG)
    one = batch()
    params, state = jax.jit(task.model.init)(jax.random.key(0), one)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, opt, number):
        def loss(params):
            out = task.objective(params, state, one, jax.random.fold_in(jax.random.key(1), number), number)
            return out.value, out

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(params, updates), opt, out

    opt, values = optimizer.init(params), []
    for number in range(120):
        params, opt, out = step(params, opt, jnp.int32(number))
        values.append(float(out.value))
        assert float(out.weight) == float(out.metrics["nll"][1]) > 0
    assert np.mean(values[-10:]) < values[0] - 1.5
    report = task.evaluate(params, state, [one])
    assert report.metrics["loss"] == pytest.approx(np.mean(values[-10:]), abs=1.0)
    assert report.metrics["mel_distance"] > 0 and set(report.metrics) == set(task.metrics)
    picture = report.images["mel"]
    assert picture.shape[-1] == 3 and picture.std() > 0
    made, rate = report.audio["made"]
    assert rate == 4000 and made.shape == (400,) and 0 < np.abs(made).max() <= 1


def test_batches_have_the_shapes_that_are_compiled_for():
    config = dataclasses.replace(CONFIG, mels="manifest")
    spec = wavenet_task(config).batch_spec(Bucket(4, 1536, 1))
    assert spec["mel"].shape == (4, 49, 10) and set(spec) == {*batch(), "mel"}
    params, _ = wavenet_task(config).model.init(jax.random.key(0), None)
    heard = prepare(config, batch() | {"mel": np.full((4, 49, 10), np.nan, np.float32)})
    assert np.isnan(heard["mel"][0]).any() and not np.isnan(heard["mel"][3]).any()
    assert params["condition"]["conv"]["kernel"].shape == (30, 16)


def test_frames_that_begin_before_the_recording_are_known():
    assert frame_offset(AUDIO) == 0 and frame_offset(r9y9_released()) == 3


@pytest.mark.parametrize("change, message", [
    ({"crop_frames": 1, "model": dataclasses.replace(NETWORK, layers=8)}, "crop_frames: found 1"),
    ({"pre_emphasis": 1.0}, "pre_emphasis 1.0"),
    ({"gain": 0.0}, "gain 0.0"),
    ({"input_noise": -0.1}, "input_noise: found -0.1"),
    ({"input_noise": 0.1, "model": dataclasses.replace(NETWORK, output="mulaw")}, "'mulaw', expected 0 or more, and 0"),
    ({"audio": dataclasses.replace(AUDIO, features="mfcc", num_cepstra=5)}, "expected log_mel"),
    ({"model": dataclasses.replace(NETWORK, condition=ConditionConfig(kind="stretch", scales=(4, 4)))}, "expected 32"),
])  # fmt: skip
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
