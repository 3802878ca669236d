"""Tacotron 2 as a task: it learns, padding changes nothing, and the reduction factor follows its schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.errors import UserError
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.tacotron2_task import stage, tacotron2_task
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import make_front_end

NETWORK = Tacotron2Config(
    embedding=16, encoder_layers=1, encoder_width=16, prenet=16, attention_rnn=24, decoder_rnn=24, postnet_layers=2,
    postnet=16, attention=AttentionConfig(width=16, filters=4, filter_length=5), prenet_dropout=0.0, conv_dropout=0.0,
    held_rate=0.0, reduction=4,
)  # fmt: skip
AUDIO = dataclasses.replace(nvidia_tacotron2(), num_mels=20, hop=512)
FRONT_END = make_front_end(FrontEndConfig())


def config(**changes):
    return dataclasses.replace(Tacotron2TaskConfig(model=NETWORK, audio=AUDIO, guided=1.0), **changes)


def batch(samples=12_800, labels=8, filler=0.0):
    """Each letter is a tone of its own, a tenth of a second long; one row is a filler."""
    rng = np.random.default_rng(0)
    out = {
        "audio": np.full((4, samples), filler, np.float32), "audio_lengths": np.zeros(4, np.int32),
        "labels": np.zeros((4, labels), np.int32), "label_lengths": np.zeros(4, np.int32),
        "index": np.array([3, 4, 5, -1], np.int32),
    }  # fmt: skip
    for row, word in enumerate(("abcda", "dbc", "ca")):
        ids = FRONT_END.encode(word)
        n = 2205 * len(ids)
        tone = np.concatenate([np.sin(2 * np.pi * (200 + 150 * (i % 7)) * np.arange(2205) / 22_050) for i in ids])
        out["audio"][row, :n] = 0.1 * tone + 0.001 * rng.normal(size=n)
        out["labels"][row, : len(ids)] = ids
        out["audio_lengths"][row], out["label_lengths"][row] = n, len(ids)
    return out


def test_it_learns_and_its_attention_aligns():
    task = tacotron2_task(config(reduction=((0, 2),)), FRONT_END)
    one = batch()
    params, state = jax.jit(task.model.init)(jax.random.key(0), one)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))

    @jax.jit
    def step(params, state, opt, number):
        def loss(params):
            out = task.objective(params, state, one, jax.random.fold_in(jax.random.key(1), number), number)
            return out.value, out

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(params, updates), out.model_state, opt, out

    first, opt = None, optimizer.init(params)
    for number in range(250):
        params, state, opt, out = step(params, state, opt, jnp.int32(number))
        first = first or {name: float(a / b) for name, (a, b) in out.metrics.items()}
    report = task.evaluate(params, state, [one])
    assert report.metrics["before"] < 0.1 * first["before"]
    assert report.metrics["guided"] < 0.3 * first["guided"] and report.metrics["focus"] > 0.5
    assert report.metrics["coverage"] == 1.0
    assert set(report.metrics) == set(task.metrics)
    assert {"alignment", "mel", "stop"} == set(report.images)
    for picture in report.images.values():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and len(np.unique(picture)) > 8
    sound, rate = report.audio["teacher_forced"]
    assert rate == 22_050 and 0.4 < len(sound) / rate < 0.6 and 0.001 < np.abs(sound).max() <= 1

    speaking = tacotron2_task(config(reduction=((0, 2),), speak=2), FRONT_END)
    spoken = speaking.evaluate(params, state, [one])
    assert set(spoken.metrics) == set(speaking.metrics)
    assert {"free_alignment", "free_mel"} <= set(spoken.images) and "free" in spoken.audio
    assert spoken.metrics["loss"] == pytest.approx(report.metrics["loss"])
    # it has learned three words by heart: spoken freely, the attention of most goes to the end
    assert spoken.metrics["free_coverage"] > 0.6 and spoken.metrics["free_focus"] > 0.4
    again = tacotron2_task(config(reduction=((0, 2),), speak=2), FRONT_END).evaluate(params, state, [one])
    assert again.metrics == spoken.metrics


def test_padding_fillers_and_batch_mates_change_nothing():
    task = tacotron2_task(config(), FRONT_END)
    params, state = jax.jit(task.model.init)(jax.random.key(0), batch())

    def total(b):
        out = task.objective(params, state, b, jax.random.key(2), jnp.int32(0))
        return out.value, out.weight, out.metrics

    value, weight, metrics = jax.jit(total)(batch())
    longer, more, again = jax.jit(total)(batch(samples=20_480, labels=13, filler=np.nan))
    assert float(longer) == pytest.approx(float(value), rel=1e-4) and float(more) == float(weight)
    for name, (a, b) in metrics.items():
        assert float(again[name][0] / again[name][1]) == pytest.approx(float(a / b), rel=1e-3, abs=1e-5), name


def test_the_reduction_factor_follows_its_schedule():
    stages = ((0, 4), (10, 2), (20, 1))
    assert [int(stage(jnp.int32(s), stages)) for s in (0, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 2]
    task = tacotron2_task(config(reduction=stages), FRONT_END)
    one = batch()
    params, state = jax.jit(task.model.init)(jax.random.key(0), one)
    objective = jax.jit(lambda step: task.objective(params, state, one, jax.random.key(0), step))
    for step, r in ((0, 4), (10, 2), (25, 1)):
        out = objective(jnp.int32(step))
        assert float(out.metrics["reduction"][0]) == r
        fixed = tacotron2_task(config(reduction=((0, r),)), FRONT_END)
        alone = jax.jit(lambda task=fixed: task.objective(params, state, one, jax.random.key(0), jnp.int32(0)))()
        assert float(out.value) == pytest.approx(float(alone.value), rel=1e-5)


@pytest.mark.parametrize("reduction", [((5, 2),), ((0, 5),), ((0, 2), (0, 1))])
def test_bad_schedules_are_refused(reduction):
    with pytest.raises(UserError, match="task.reduction: found"):
        config(reduction=reduction)
