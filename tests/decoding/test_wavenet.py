"""Sampling: every engine is the plain loop, and neither chunks, folds' mates nor padding change what is heard."""

import dataclasses
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.decoding.wavenet import scan as wavenet
from speech_jax.decoding.wavenet.engines import make_engine, scan_engine
from speech_jax.decoding.wavenet.scan import layout_for, sample, start, step_weights
from speech_jax.decoding.wavenet.stream import (
    chunk_frames,
    crossfade,
    folded_audio,
    frame_windows,
    make_net,
    stream_audio,
    warm_up_frames,
)
from speech_jax.kernels.wavenet import native
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.kernels.wavenet.draw import make_noise
from speech_jax.kernels.wavenet.step import check_weights, outputs_of, tempered
from speech_jax.models import wavenet as presets
from speech_jax.models.config import ConditionConfig
from tests.support.wavenets import random_mel, random_params, tiny

ROWS, HOP, BATCH = 5, 6, 2


@pytest.mark.parametrize("output", ["gaussian", "logistics", "mulaw"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_both_layouts_are_the_plain_loop_whole_and_in_chunks(output, kernel):
    config = tiny(output, kernel_size=kernel)
    shape, weights = step_weights(config, random_params(config))
    cond = jax.random.normal(jax.random.key(1), (BATCH, ROWS, config.layers, config.gate))
    seeds = jnp.array([[1, 2], [3, 4]], jnp.uint32)
    noise = make_noise(shape, seeds, jnp.zeros(BATCH, jnp.int32), ROWS * HOP)
    want, _ = wavenet_plain.sample(shape, weights, wavenet_plain.start(shape, weights, BATCH), cond, HOP, noise)
    assert want.dtype == (jnp.int32 if output == "mulaw" else jnp.float32) and np.std(want) > 0
    for layout in ("flat", "layers"):
        state, found = start(shape, weights, BATCH, layout), []
        for row in range(ROWS):
            rows = slice(row, row + 1)
            made, state = sample(shape, weights, state, cond[:, rows], HOP, noise[:, row * HOP : (row + 1) * HOP])
            found.append(made)
        np.testing.assert_allclose(np.concatenate(found, axis=1), want, atol=1e-5, err_msg=layout)
    assert sample._cache_size() > 0


def test_the_loop_copies_no_state():
    """What made sampling slow: XLA copying all rings in every step. No copy in the loop is as large as they are."""
    config = dataclasses.replace(presets.medium(), layers=8, cycles=1)
    shape, weights = step_weights(config, presets.init_params(config, jax.random.key(0)))
    cond, noise = jnp.zeros((1, 2, config.layers, config.gate)), jnp.zeros((1, 128, 1))
    state = start(shape, weights, 1, "flat")
    text = sample.lower(shape, weights, state, cond, 64, noise).compile().as_text()
    ring = f"f32[{sum(config.dilations)},1,{config.residual}]"
    loops = text.split("ENTRY")[0]
    assert ring in text and not [line for line in loops.splitlines() if f"= {ring}" in line and " copy(" in line]


@pytest.mark.bad_types
def test_the_layout_follows_the_rings_size():
    for name, batch, layout in (("small", 1, "layers"), ("small", 16, "flat"), ("medium", 1, "flat")):
        config = getattr(presets, name)()
        shapes = jax.eval_shape(lambda key, c=config: presets.init_params(c, key), jax.random.key(0))
        shape, weights = config, shapes  # only shapes are looked at
        taps = jax.ShapeDtypeStruct((config.layers, config.kernel_size, config.residual, config.gate), jnp.float32)
        weights = type("Shapes", (), {"taps": taps})
        assert layout_for(shape, weights, batch) == layout, (name, batch)


@pytest.fixture(scope="module")
def net():
    config = tiny(kind="stretch")
    return make_net(config, random_params(config))


def whole(net, mel, **options):
    return np.concatenate(list(stream_audio(net, [mel], **options)))


def test_a_stream_is_the_same_however_it_is_cut(net):
    mel = random_mel(11)
    want = whole(net, mel, frames=2, seed=3)
    assert want.shape == (66,) and np.abs(want).max() <= 1
    before = sample._cache_size()
    for cut in ([11], [1] * 11, [4, 7], [10, 0, 1]):
        parts = np.split(mel, np.cumsum(cut)[:-1])
        np.testing.assert_array_equal(np.concatenate(list(stream_audio(net, parts, seed=3, frames=2))), want)
    for frames in (1, 2, 5):
        length = np.concatenate(list(stream_audio(net, [mel[:frames]], seed=3, frames=2)))
        assert length.shape == (6 * frames,)
    assert sample._cache_size() == before  # one program, whatever the length
    np.testing.assert_allclose(whole(net, mel, frames=3, seed=3), want, atol=1e-5)
    assert np.abs(whole(net, mel, frames=2, seed=4) - want).max() > 0.01


def test_the_first_audio_comes_before_the_last_frames(net):
    asked = []

    def frames():
        for number, frame in enumerate(random_mel(20)):
            asked.append(number)
            yield frame[None]

    first = next(stream_audio(net, frames(), frames=2))
    assert first.shape == (12,) and asked[-1] + 1 == 2 + 3  # the chunk, and what "stretch" looks ahead


def test_windows_keep_only_what_is_needed():
    mel = np.arange(40, dtype=np.float32).reshape(20, 2)
    found = list(frame_windows(iter(np.split(mel, [3, 4, 15])), 4, 2, 1))
    assert [real for _, _, real in found] == [4] * 5
    first, own, _ = found[0]
    np.testing.assert_array_equal(first[:, 0], [0, 0, 0, 2, 4, 6, 8])
    np.testing.assert_array_equal(own, [False, False] + [True] * 5)
    np.testing.assert_array_equal(found[-1][0][:, 0], [28, 30, 32, 34, 36, 38, 38])
    assert not found[-1][1][-1]


def test_folds_are_the_stream_where_one_is_alone_and_keep_its_level(net):
    mel = random_mel(40)
    want = whole(net, mel, frames=4)
    made = folded_audio(net, mel, folds=3, frames=4)
    assert made.shape == want.shape and np.isfinite(made).all()
    used = -(-(40 - warm_up_frames(net.config) - 3) // 3)
    alone = (used + warm_up_frames(net.config)) * 6
    np.testing.assert_allclose(made[:alone], want[:alone], atol=1e-5)
    for begin in range(0, 240, 60):
        assert np.std(made[begin : begin + 60]) == pytest.approx(np.std(want[begin : begin + 60]), rel=0.6)
    for short in (1, 2, 5):
        assert folded_audio(net, mel[:short], folds=3, frames=4).shape == (short * 6,)


def test_a_fold_after_its_warm_up_depends_on_its_own_samples_alone(net):
    """Fed with the same samples, a network that began with zeros a receptive field ago says the same."""
    config, (shape, weights) = net.config, (net.shape, net.weights)
    rows = 12
    cond = jax.random.normal(jax.random.key(2), (1, rows, config.layers, config.gate))
    given = jax.random.uniform(jax.random.key(3), (1, rows * 6), minval=-1)
    whole_y, _ = wavenet_plain.follow(shape, weights, wavenet_plain.start(shape, weights, 1), cond, 6, given)
    cut = 4
    late, _ = wavenet_plain.follow(
        shape, weights, wavenet_plain.start(shape, weights, 1), cond[:, cut:], 6, given[:, cut * 6 :]
    )
    warm = warm_up_frames(config) * 6 + 1  # the sample before the fold is not known to it either
    np.testing.assert_allclose(late[:, warm:], whole_y[:, cut * 6 + warm :], atol=1e-5)


def test_a_join_is_seamless_where_both_agree_and_keeps_the_power_where_they_do_not():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=5000).astype(np.float32)
    segments = np.stack([signal[i * 1000 : i * 1000 + 1700] for i in range(4)])
    np.testing.assert_allclose(crossfade(segments, 1000, 300, 400), signal[:4700], atol=1e-5)
    other = rng.normal(size=(2, 20_000)).astype(np.float32)
    joined = crossfade(other, 2000, 3000, 15_000)
    assert np.std(joined[5000:20_000]) == pytest.approx(1.0, abs=0.05)


def test_chunks_shrink_where_conditioning_is_per_sample():
    assert chunk_frames(presets.small()) == 16
    big = dataclasses.replace(presets.released(), condition=ConditionConfig(kind="transposed_bands"))
    assert chunk_frames(big) == 2


def test_engines_that_are_not_there_are_a_warning_and_the_scan(net, caplog):
    with caplog.at_level(logging.WARNING, logger="speech_jax"):
        engine = make_engine("pallas", net.shape, net.weights, 6)  # this machine has a CPU alone
    assert engine.name == "scan" and "using scan instead" in caplog.text
    assert make_engine("auto", net.shape, net.weights, 6).name in ("scan", "native")
    assert scan_engine(net.shape, net.weights).name == "scan"


@pytest.mark.parametrize("output", ["gaussian", "logistics", "mulaw"])
def test_a_temperature_narrows_what_is_drawn(net, output):
    shape = net.shape._replace(output=output, mixtures=3, classes=16)
    rng = np.random.default_rng(0)
    head, width = net.weights.head2.shape[0], outputs_of(shape)
    weights = net.weights._replace(
        head2=rng.normal(size=(head, width)).astype(np.float32), head2_bias=rng.normal(size=width).astype(np.float32)
    )
    hidden = rng.normal(size=(5, head)).astype(np.float32)
    warm, cold, same = (
        hidden @ np.asarray(w.head2) + np.asarray(w.head2_bias)
        for w in (weights, *(tempered(shape, weights, t) for t in (0.6, 1)))
    )
    np.testing.assert_array_equal(same, warm)
    if output == "gaussian":
        np.testing.assert_allclose(cold, warm + [0, np.log(0.6)], atol=1e-5)
    elif output == "logistics":
        np.testing.assert_allclose(cold[:, 3:], warm[:, 3:] + ([0.0] * 3 + [np.log(0.6)] * 3), atol=1e-5)
    if output != "gaussian":
        likely = np.exp(warm[:, : shape.mixtures if output == "logistics" else None])
        expected = likely ** (1 / 0.6)
        found = np.exp(cold[:, : likely.shape[1]])
        np.testing.assert_allclose(
            found / found.sum(1, keepdims=True), expected / expected.sum(1, keepdims=True), rtol=1e-4
        )
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(UserError, match="temperature: found .*, expected a number above 0"):
            tempered(shape, weights, bad)


@pytest.mark.skipif(not native.available(), reason="the native step was not compiled")
@pytest.mark.parametrize("batch", (1, 6))
def test_cores_of_the_native_engine_change_no_sample(net, batch):
    """One row is shared, several are dealt out."""
    rng = np.random.default_rng(0)
    cond = rng.normal(size=(batch, 3, net.config.layers, net.config.gate)).astype(np.float32)
    noise = make_noise(net.shape, rng.integers(0, 2**32, (batch, 2), np.uint32), np.zeros(batch, np.int32), 18)
    engines = [make_engine("native", net.shape, net.weights, 6, batch=batch, cores=cores) for cores in (1, 2)]
    made = [engine.sample(engine.start(batch), cond, 6, noise)[0] for engine in engines]
    np.testing.assert_array_equal(*made)
    assert np.std(made[0]) > 0.001


def test_groups_of_rows_side_by_side_are_the_rows(net, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    batch, rows, hop = 14, 5, 6  # two groups of 7: three do not divide
    rng = np.random.default_rng(0)
    cond = rng.normal(size=(2, batch, rows, len(net.shape.dilations), net.weights.taps.shape[-1])).astype(np.float32)
    seeds = rng.integers(0, 2**32, (batch, 2), np.uint32)
    engine = scan_engine(net.shape, net.weights)
    grouped, whole = engine.start(batch), start(net.shape, net.weights, batch)
    assert len(grouped) == 2 and len(engine.start(7)) == 1
    for chunk in range(2):
        noise = make_noise(net.shape, seeds, np.full(batch, chunk * rows * hop, np.int32), rows * hop)
        drawn, grouped = engine.sample(grouped, cond[chunk], hop, noise)
        expected, whole = sample(net.shape, net.weights, whole, cond[chunk], hop, noise)
        np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-5)
        assert np.std(expected) > 0.01


def test_weights_that_do_not_fit_are_named(net):
    with pytest.raises(UserError, match="'skip': found shape .4, 6, 7., expected .4, 6, 3."):
        check_weights(net.shape, net.weights._replace(head1=jnp.zeros((3, 5)), skip_bias=jnp.zeros(3)))
    with pytest.raises(UserError, match="'taps'"):
        check_weights(net.shape._replace(dilations=(1, 2)), net.weights)
    assert wavenet.FLAT_FROM > 0
