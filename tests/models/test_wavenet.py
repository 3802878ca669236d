"""WaveNet: step by step it is what it is in parallel, causal, and its conditioning hears what it should.

That its arithmetic is the public code's is tests/interop/test_wavenet.py's matter.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.decoding.wavenet.scan import stack_layer_conditions, step_weights
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.kernels.wavenet.step import before_first, check_weights, receptive_field
from speech_jax.models import wavenet as presets
from speech_jax.models.config import ConditionConfig, WaveNetConfig
from speech_jax.models.wavenet import init_params, wavenet
from speech_jax.models.wavenet_condition import condition, reach, rows_per_frame, window_of
from speech_jax.objectives.waveform import as_target, waveform_nll
from tests.support.wavenets import random_mel, random_params, tiny

FRAMES = 6


def heard(config, params, mel, frames, count=FRAMES):
    """(window, which frames are its own, vectors) of a batch of one"""
    window, own = window_of(mel[None], jnp.array([frames]), jnp.array([0]), count, config.condition, config.hop)
    return window, own, condition(config.condition, params["condition"], window, own, config.hop)


@pytest.mark.parametrize("output, kind", [
    ("gaussian", "frames"), ("logistics", "stretch"), ("mulaw", "transposed"), ("gaussian", "transposed_bands"),
])  # fmt: skip
def test_the_likelihood_by_steps_is_the_parallel_one(output, kind):
    config = tiny(output, kind, speakers=2, speaker_width=3)
    params, mel, speaker = random_params(config), jnp.asarray(random_mel(FRAMES)), jnp.array([1])
    window, own, vectors = heard(config, params, mel, FRAMES)
    noise = np.random.default_rng(1).uniform(-1, 1, (1, FRAMES * config.hop)).astype(np.float32)
    target = as_target(output, jnp.asarray(noise), config.classes)
    shape, weights = step_weights(config, params)
    check_weights(shape, weights)
    assert receptive_field(shape, config.kernel_size) == config.receptive_field

    @jax.jit
    def both(target):
        before = jnp.concatenate([before_first(shape, 1)[:, None], target[:, :-1]], axis=1)
        batch = {"before": before, "mel": window, "mel_mask": own, "speaker": speaker}
        parallel = wavenet(config).apply(params, {}, batch)[0]["y"]
        cond = stack_layer_conditions(config, params, vectors, speaker)
        share = config.hop // rows_per_frame(config.condition, config.hop)
        steps, _ = wavenet_plain.follow(shape, weights, wavenet_plain.start(shape, weights, 1), cond, share, target)
        limits = {"min_log_scale": config.min_log_scale, "levels": config.levels}
        return [waveform_nll(output, y, target, **limits) for y in (parallel, steps)], parallel

    (parallel, steps), y = both(target)
    np.testing.assert_allclose(steps, parallel, atol=1e-4, rtol=1e-5)
    assert y.shape == (1, FRAMES * config.hop, config.outputs) and y.dtype == jnp.float32

    # causal: a sample changes nothing before it, and something from the next one on
    at = 20
    changed = target.at[0, at].set((target[0, at] + 1) % 7 if output == "mulaw" else -target[0, at])
    _, other = both(changed)
    np.testing.assert_array_equal(other[0, : at + 1], y[0, : at + 1])
    moved = np.flatnonzero(np.abs(other[0] - y[0]).max(axis=-1) > 0)
    assert moved[0] == at + 1 and moved[-1] <= at + config.receptive_field


@pytest.mark.parametrize("kind", ["frames", "stretch", "transposed_bands", "transposed"])
def test_conditioning_in_windows_is_that_of_the_whole_and_reaches_as_far_as_it_says(kind):
    config = tiny(kind=kind)
    params, mel = random_params(config), random_mel(FRAMES)
    rows = rows_per_frame(config.condition, config.hop)
    _, _, whole = heard(config, params, jnp.asarray(mel), FRAMES)
    assert whole.shape[1] == FRAMES * rows
    garbage = jnp.asarray(np.concatenate([mel, np.full((3, 5), np.nan, np.float32)]))[None]

    @jax.jit
    def part(mel, first):
        window, own = window_of(mel, jnp.array([FRAMES]), first[None], 2, config.condition, config.hop)
        return condition(config.condition, params["condition"], window, own, config.hop)

    for first in range(0, FRAMES, 2):
        found = part(garbage, jnp.int32(first))
        np.testing.assert_allclose(found[0], whole[0, first * rows : (first + 2) * rows], atol=2e-5)

    back, ahead = reach(config.condition, config.hop)
    touched = jnp.asarray(mel).at[3].add(1.0)
    _, _, other = heard(config, params, touched, FRAMES)
    moved = np.flatnonzero(np.abs(other[0] - whole[0]).max(axis=-1) > 1e-7) // rows
    assert moved.min() >= 3 - ahead and moved.max() <= 3 + back and (moved == 3).any()


def test_presets_are_the_known_sizes():
    sizes = {
        "small": (127, 12),
        "medium": (2047, 20),
        "base": (505, 24),
        "wide": (6139, 30),
        "released": (505, 24),
    }
    for name, (field, layers) in sizes.items():
        config = getattr(presets, name)()
        assert (config.receptive_field, config.layers) == (field, layers), name
    shapes = jax.eval_shape(lambda key: init_params(presets.base(), key), jax.random.key(0))
    path = sum(int(np.prod(a.shape)) for name in shapes if name != "condition" for a in jax.tree.leaves(shapes[name]))
    local = 24 * 128 * 256  # done once a frame
    assert path - local == pytest.approx(3.166e6, rel=0.01)  # r9y9's, in the loop over samples


def test_it_starts_near_the_waveforms_scale_and_in_bfloat16_too():
    config = tiny()
    params = init_params(config, jax.random.key(0))
    window, own = window_of(jnp.asarray(random_mel(4))[None], jnp.array([4]), jnp.array([0]), 4, config.condition, 6)
    batch = {"before": 0.05 * jax.random.normal(jax.random.key(1), (1, 24)), "mel": window, "mel_mask": own}
    y = wavenet(config).apply(params, {}, batch)[0]["y"]
    half = wavenet(dataclasses.replace(config, dtype="bfloat16")).apply(params, {}, batch)[0]["y"]
    assert half.dtype == jnp.float32 and float(jnp.abs(half - y).max()) < 0.1
    assert -5 < float(y[..., 1].mean()) < -1


@pytest.mark.parametrize("change, message", [
    ({"layers": 5}, "whole cycles"), ({"gate": 7}, "even gate"), ({"kernel_size": 1}, "kernel of 2"),
    ({"condition": ConditionConfig(kind="stretch", scales=(2, 2))}, "4 samples per frame, expected 6"),
    ({"condition": ConditionConfig(kind="transposed", window=5)}, "at least the hop length"),
])  # fmt: skip
def test_networks_that_cannot_be_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        wavenet(WaveNetConfig(**({"layers": 4, "cycles": 2, "hop": 6} | change)))


@pytest.mark.bad_types
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"before": np.zeros((2, 150), np.float32)}, "before: found 150 samples, .* = .12 - 2. · 16 = 160"),
        ({"before": np.zeros((2, 160), np.int32)}, r"before: found int32 \[2, 160\], expected float"),
        ({"mel": np.zeros((1, 12, 4), np.float32)}, r"mel: found float32 \[1, 12, 4\], expected float \[2, window"),
        ({"mel_mask": np.ones((2, 1), bool)}, r"mel_mask: found bool \[2, 1\], expected bool \[2, 12\]"),
        ({"speaker": None}, "batch: found before, mel, mel_mask, expected before, mel, mel_mask, speaker"),
        ({"speaker": np.zeros((2, 1), np.int32)}, r"speaker: found int32 \[2, 1\], expected int \[2\]"),
    ],
)
def test_batches_of_another_shape_or_type_are_refused(change, message):
    condition = ConditionConfig(width=8, context=1)
    model = wavenet(WaveNetConfig(layers=2, cycles=1, num_mels=4, hop=16, condition=condition, speakers=2))
    batch = {
        "before": np.zeros((2, 160), np.float32), "mel": np.zeros((2, 12, 4), np.float32),
        "mel_mask": np.ones((2, 12), bool), "speaker": np.zeros(2, np.int32),
    }  # fmt: skip
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert jax.eval_shape(model.apply, params, state, batch)[0]["y"].shape[:2] == (2, 160)
    given = {name: array for name, array in (batch | change).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, params, state, given)
