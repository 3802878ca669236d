"""Augmentation: each effect is what it says, measured; and it belongs to the utterance, not to its batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from speech_jax.audio import augment as augment_module
from speech_jax.audio import noise, presets, reverb, rows, speed
from speech_jax.audio.augment import augment_audio, augmented_samples, spec_augment
from speech_jax.audio.config import AugmentConfig
from speech_jax.audio.convolution import convolve
from speech_jax.audio.framing import time_mask
from speech_jax.core.errors import UserError

RATE = 16000
KEY = jax.random.key(17)
replace = dataclasses.replace
FULL = replace(presets.full_augment(), reverb_length=0.05)


def speech(batch, samples, seed=0):
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal((batch, samples))).astype(np.float32)


@functools.cache
def _augment(config):
    return jax.jit(functools.partial(augment_audio, config=config))


def augment(config, audio, lengths, key=KEY, **more):
    lengths = jnp.asarray(lengths, jnp.int32)
    changed, its_lengths = _augment(config)(key, jnp.asarray(audio), lengths, **more)
    return np.asarray(changed), np.asarray(its_lengths)


def decibel(ratio):
    return 10 * np.log10(ratio)


# --- speed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_moves_a_tone_and_the_length(factor):
    hertz, length = 1000.0, 15000
    tone = np.zeros((2, 16000), np.float32)
    tone[:, :length] = np.sin(2 * np.pi * hertz / RATE * np.arange(length))
    changed, lengths = jax.jit(lambda x, n: speed.change_speed(x, n, jnp.asarray([0, 1]), (factor, 1.0)))(
        tone, jnp.asarray([length, length])
    )
    assert list(lengths) == [int(np.ceil(length / factor - 1e-9)), length]
    np.testing.assert_array_equal(changed[1, :16000], tone[1])
    n = int(lengths[0])
    inside = np.arange(100, n - 100)
    expected = np.sin(2 * np.pi * hertz * factor / RATE * inside)
    np.testing.assert_allclose(changed[0, 100 : n - 100], expected, atol=1e-3)
    assert not np.asarray(changed)[0, n:].any() and np.abs(changed[0, n - 10 : n]).max() > 0.1


def test_speeding_up_does_not_alias():
    tones = [np.sin(2 * np.pi * hertz / RATE * np.arange(8000)) for hertz in (5000, 7000)]  # 7000 · 1.25 > 8000
    changed = np.asarray(speed.resample(jnp.asarray(np.stack(tones), jnp.float32), 1.25))[:, 500:-500]
    power = (changed**2).mean(axis=1)
    assert abs(decibel(power[0] / 0.5)) < 0.1
    assert decibel(power[1] / 0.5) < -60


@pytest.mark.parametrize("samples", [1, 9, 127, 5000])
def test_perturbed_length_is_that_of_the_array(samples):
    for factor in (0.5, 0.9, 1.0, 1.1, 2.0):
        length = speed.perturbed_length(samples, factor)
        assert length == -int(-samples // factor) or abs(samples / factor - length) < 1e-6
        assert jax.eval_shape(lambda x, f=factor: speed.resample(x, f), jnp.ones((1, samples))).shape == (1, length)


def test_speeds_are_drawn_alike_and_the_width_has_room_for_the_slowest():
    config = AugmentConfig(speed=(0.9, 1.0, 1.1))
    audio = speech(300, 90)
    changed, lengths = augment(config, audio, np.full(300, 90))
    assert changed.shape[1] == augmented_samples(90, config) == 100
    assert augmented_samples(90, AugmentConfig()) == 90
    counts = np.array([(lengths == n).sum() for n in (100, 90, 82)])
    assert counts.sum() == 300 and (np.abs(counts - 100) < 5 * np.sqrt(300 * 2 / 9)).all()


# --- noise and level -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", ["white", "pink", "recorded"])
def test_the_ratio_of_signal_to_noise_is_reached(color):
    low, high = 3.0, 17.0
    colors = ("white",) if color == "recorded" else (color,)
    config = AugmentConfig(noise=1.0, noise_snr=(low, high), noise_colors=colors)
    recordings = speech(3, 700, 9) if color == "recorded" else None
    audio = speech(40, 3000) * np.linspace(0.01, 3, 40, dtype=np.float32)[:, None]
    lengths = np.linspace(1000, 3000, 40).astype(int)
    changed, _ = augment(config, audio, lengths, noise=recordings)
    ratios = []
    for row, before, length in zip(changed, audio, lengths, strict=True):
        assert not row[length:].any()
        ratios.append(decibel((before[:length] ** 2).mean() / ((row - before)[:length] ** 2).mean()))
    assert low - 0.01 <= min(ratios) < low + 3 and high - 3 < max(ratios) <= high + 0.01
    assert np.std(ratios) > 2  # drawn for each utterance
    silent, _ = augment(config, np.zeros_like(audio), lengths, noise=recordings)
    assert not silent.any()


def test_one_snr_is_exact_and_noises_differ_between_rows():
    config = AugmentConfig(noise=1.0, noise_snr=(10.0, 10.0))
    audio = speech(4, 4000)
    added = augment(config, audio, [4000] * 4)[0] - audio
    np.testing.assert_allclose(decibel((audio**2).sum(1) / (added**2).sum(1)), 10.0, atol=1e-3)
    assert np.abs(np.corrcoef(added) - np.eye(4)).max() < 0.2


def test_pink_falls_by_three_decibels_an_octave_and_white_does_not():
    keys = jax.random.split(KEY, 16)
    for color, slope in (("white", 0.0), ("pink", -3.01)):
        wave = np.asarray(jax.jit(lambda k, c=color: noise.colored_noise(k, 16384, (c,)))(keys))
        power = (np.abs(np.fft.rfft(wave * np.hanning(16384))) ** 2).mean(axis=0)
        edges = 32 * 2 ** np.arange(9)  # bins, about one hertz wide
        octaves = [decibel(power[a:b].mean()) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        measured = np.polyfit(np.arange(8), octaves, 1)[0]
        assert abs(measured - slope) < 0.25, (color, measured)


def test_recorded_noise_is_the_recording_from_some_place_on():
    recordings = speech(2, 50, 3)
    found = np.asarray(noise.recorded_noise(jax.random.split(KEY, 20), 120, jnp.asarray(recordings)))
    starts = set()
    for row in found:
        places = [(r, s) for r in range(2) for s in range(50) if np.array_equal(np.roll(recordings[r], -s), row[:50])]
        assert len(places) == 1
        starts.add(places[0])
        np.testing.assert_array_equal(row[50:100], row[:50])
    assert len(starts) > 10 and {r for r, _ in starts} == {0, 1}


def test_levels_are_drawn_in_decibels():
    config = AugmentConfig(gain=0.7, gain_db=(-20.0, 3.0))
    audio = speech(400, 20)
    changed, _ = augment(config, audio, [20] * 400)
    levels = 2 * decibel(changed[:, 3] / audio[:, 3])
    untouched = np.abs(levels) < 1e-4
    assert abs(untouched.mean() - 0.3) < 0.1  # over four deviations
    moved = levels[~untouched]
    assert -20.001 <= moved.min() < -18.5 and 2 < moved.max() <= 3.001 and abs(moved.mean() + 8.5) < 1.7


# --- rooms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples,taps", [(1000, 1), (2000, 257), (700, 1500)])
def test_convolution_equals_float64(samples, taps):
    audio, responses = speech(3, samples, 1), speech(3, taps, 2)
    result = np.asarray(jax.jit(convolve)(audio, responses))
    for row, wave, response in zip(result, audio.astype(float), responses.astype(float), strict=True):
        np.testing.assert_allclose(row, np.convolve(wave, response)[:samples], atol=1e-5)


def test_simulated_rooms_decay_in_the_time_that_was_asked():
    make = functools.partial(
        reverb.simulate_responses, taps=16000, sample_rate=RATE, seconds=(0.4, 0.4), direct_db=(6.0, 6.0)
    )
    for response in np.asarray(jax.jit(make)(jax.random.split(KEY, 6))):
        assert response[0] == 1.0
        np.testing.assert_allclose(decibel(1 / (response[1:] ** 2).sum()), 6.0, atol=0.01)
        left = decibel(np.cumsum((response[1:] ** 2)[::-1])[::-1])  # Schroeder's backward integral
        first, second = (np.argmax(left < left[0] - fall) for fall in (5, 35))
        assert abs((second - first) / RATE * 2 - 0.4) < 0.04


def test_reverberation_keeps_length_energy_and_place():
    audio = speech(30, 1200)
    lengths = np.full(30, 1000)
    audio[:, 1000:] = 0
    changed, its_lengths = augment(AugmentConfig(reverb=0.5, reverb_length=0.05), audio, lengths)
    np.testing.assert_array_equal(its_lengths, lengths)
    assert not changed[:, 1000:].any()
    np.testing.assert_allclose((changed**2).sum(1), (audio**2).sum(1), rtol=1e-4)
    wet = np.abs(changed - audio).max(axis=1) > 1e-3
    assert 5 <= wet.sum() <= 25
    for row, before in zip(changed[wet], audio[wet], strict=True):
        lag = np.argmax(np.correlate(row, before, "full")) - (len(before) - 1)
        assert lag == 0


def test_given_responses_are_moved_to_their_strongest_tap():
    responses = np.zeros((1, 64), np.float32)
    responses[0, [10, 30]] = [-2.0, 0.5]
    responses[0, 5] = 0.1  # before the direct sound: left out
    audio = speech(2, 500)
    changed, _ = augment(AugmentConfig(reverb=1.0), audio, [500, 500], responses=jnp.asarray(responses))
    expected = -2.0 * audio
    expected[:, 20:] += 0.5 * audio[:, :-20]
    expected *= np.sqrt((audio**2).sum(1) / (expected**2).sum(1))[:, None]
    np.testing.assert_allclose(changed, expected, atol=1e-5)


# --- all together --------------------------------------------------------------------------------------------------


def test_an_utterance_meets_the_same_whatever_it_is_batched_with():
    wave = speech(1, 2000, 5)[0]
    alone = np.zeros((1, 2000), np.float32)
    alone[0] = wave
    mates = np.full((4, 4096), np.nan, np.float32)
    mates[:2, :3000] = speech(2, 3000, 6)
    mates[2, :2000] = wave
    mates[3, :100] = 1.0
    a, a_length = augment(FULL, alone, [2000], index=jnp.asarray([77]))
    b, b_length = augment(FULL, mates, [3000, 3000, 2000, 0], index=jnp.asarray([5, 6, 77, -1]))
    assert a_length[0] == b_length[2]
    np.testing.assert_allclose(b[2, : b_length[2]], a[0, : a_length[0]], rtol=0, atol=1e-5)
    assert np.isfinite(b).all() and b_length[3] == 0
    outside = np.arange(b.shape[1])[None] >= b_length[:, None]
    assert not b[outside].any()
    assert np.abs(b[2, :2000] - wave[: b.shape[1]]).max() > 1e-3  # this key and index do change it


def test_the_key_alone_decides():
    audio, lengths = speech(6, 2000), [2000] * 6
    first, repeated = augment(FULL, audio, lengths)[0], augment(FULL, audio, lengths)[0]
    np.testing.assert_array_equal(first, repeated)
    other = augment(FULL, audio, lengths, key=jax.random.key(18))[0]
    assert (np.abs(other - first).max(axis=1) > 1e-3).sum() >= 4
    shuffled = augment(FULL, audio[::-1].copy(), lengths, index=jnp.arange(6)[::-1])[0]
    np.testing.assert_allclose(shuffled[::-1], first, rtol=0, atol=1e-6)


def test_nothing_is_the_default():
    audio = speech(2, 300)
    audio[1, 200:] = np.nan
    changed, lengths = augment(AugmentConfig(), audio, [300, 200])
    np.testing.assert_array_equal(changed[0], audio[0])
    np.testing.assert_array_equal(changed[1, :200], audio[1, :200])
    assert not changed[1, 200:].any() and list(lengths) == [300, 200]
    features = jnp.asarray(speech(2, 300).reshape(2, 30, 10))
    untouched = spec_augment(KEY, features, jnp.ones((2, 30), bool), AugmentConfig())
    np.testing.assert_array_equal(untouched, features)


def test_no_collective_under_a_sharded_batch():
    """tests/audio/test_features.py has the control that shows that this check can fail."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    audio = jax.ShapeDtypeStruct((16, 3200), jnp.float32, sharding=sharded)
    features = jax.ShapeDtypeStruct((16, 40, 10), jnp.float32, sharding=sharded)
    mask = jax.ShapeDtypeStruct((16, 40), jnp.bool_, sharding=sharded)
    numbers = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=sharded)
    key = jax.ShapeDtypeStruct((), KEY.dtype, sharding=whole)

    def both(key, audio, lengths, index, features, mask):
        audio, lengths = augment_audio(key, audio, lengths, FULL, index=index)
        return audio, lengths, spec_augment(key, features, mask, FULL, index=index)

    text = jax.jit(both).lower(key, audio, numbers, numbers, features, mask).compile().as_text()
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    assert [name for name in names if f" {name}" in text] == []


# --- SpecAugment ---------------------------------------------------------------------------------------------------


@functools.cache
def masked(config, frames=200, batch=256):
    """Where ones became the mask's value, for utterances of 40 to `frames` frames: [batch, frames, 80], lengths."""
    lengths = np.linspace(40, frames, batch).astype(np.int32)
    mask = time_mask(jnp.asarray(lengths), frames)
    features = jnp.ones((batch, frames, 80))
    changed = jax.jit(functools.partial(spec_augment, config=config))(KEY, features, mask)
    return np.asarray(changed) == config.mask_value, lengths


def runs(line):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_spans_of_time_lie_inside_the_utterance_and_have_the_widths_that_were_asked():
    hidden, lengths = masked(AugmentConfig(time_masks=1, time_width=0.1, mask_value=-3.0))
    widths = []
    for row, length in zip(hidden, lengths, strict=True):
        assert not row[length:].any()
        assert (row == row[:, :1]).all()  # every feature alike
        found = runs(row[:, 0])
        assert len(found) <= 1
        widths.append(found.sum() / int(length * 0.1))
    assert max(widths) == 1.0 and min(widths) == 0.0
    # uniform on 0 … w: the mean is w/2
    assert abs(np.mean(widths) - 0.5) < 5 * 0.32 / np.sqrt(len(widths))


def test_spans_end_where_the_utterance_does():
    """Before the mask is applied: a span is moved inside, not cut off at the end."""
    size = jnp.full(500, 30)
    found = np.asarray(augment_module._spans(jax.random.split(KEY, 500), size, jnp.full(500, 10), 1, 50))
    assert not found[:, 30:].any() and found[:, 0].any() and found[:, 29].any()
    widths = found.sum(axis=1)
    assert np.abs(np.bincount(widths, minlength=11) - 500 / 11).max() < 5 * np.sqrt(500 / 11)


def test_a_limit_in_frames_and_several_spans():
    hidden, _ = masked(AugmentConfig(time_masks=6, time_width=1.0, time_width_max=7))
    counts = [(runs(row[:, 0])) for row in hidden]
    assert max(len(c) for c in counts) >= 5 and max(len(c) for c in counts) <= 6
    assert 7 in np.concatenate(counts) and max(c.sum() for c in counts) <= 42


def test_bands_cover_all_features_alike():
    hidden, lengths = masked(AugmentConfig(freq_masks=2, freq_width=27))
    bands = []
    for row, length in zip(hidden, lengths, strict=True):
        assert (row[:length] == row[:1]).all() and not row[length:].any()
        assert len(runs(row[0])) <= 2 and row[0].sum() <= 54
        bands.append(row[0])
    share = np.mean(bands, axis=0)
    assert share[20:60].min() > 0.2 and share.mean() == pytest.approx(2 * 13.5 / 80, rel=0.15)


def test_masks_belong_to_the_utterance_and_vary():
    config = replace(presets.spec_augment_only(), mask_value=0.0)
    mask = time_mask(jnp.asarray([50, 90]), 100)
    features = jnp.asarray(speech(2, 8000).reshape(2, 100, 80))
    jitted = jax.jit(functools.partial(spec_augment, config=config))
    both = jitted(KEY, features, mask, index=jnp.asarray([3, 9]))
    alone = jitted(KEY, features[1:, :90], mask[1:, :90], index=jnp.asarray([9]))
    np.testing.assert_array_equal(both[1, :90], alone[0])
    other = jitted(jax.random.key(4), features, mask, index=jnp.asarray([3, 9]))
    assert (np.asarray(other) != np.asarray(both)).any()
    np.testing.assert_array_equal(both[0, 50:], features[0, 50:])


def test_gradients_pass_what_is_not_masked_and_nothing_else():
    config = presets.spec_augment_only()
    mask = time_mask(jnp.asarray([60]), 80)
    features = jnp.asarray(speech(1, 6400).reshape(1, 80, 80))
    features = features.at[:, 60:].set(jnp.nan)

    def loss(x):
        return jnp.sum(jnp.where(mask[..., None], spec_augment(KEY, x, mask, config), 0.0) ** 2)

    gradient = jax.jit(jax.grad(loss))(features)
    changed = jax.jit(functools.partial(spec_augment, config=config))(KEY, features, mask)
    np.testing.assert_array_equal(gradient[0, :60], 2 * changed[0, :60])
    assert not gradient[0, 60:].any() and (changed[0, :60] == 0).any()


def test_draws_do_not_depend_on_how_many_follow():
    keys = rows.row_keys(KEY, 3, None, rows.NOISE)
    np.testing.assert_array_equal(rows.normal(keys, 10), rows.normal(keys, 1000)[:, :10])
    np.testing.assert_array_equal(rows.uniform(keys, count=2), rows.uniform(keys, count=7)[:, :2])
    numbers = np.asarray(rows.choice(jax.random.split(KEY, 3000), 3))
    assert set(numbers) == {0, 1, 2} and abs((numbers == 1).mean() - 1 / 3) < 0.05


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(noise=1.5), "noise: found 1.5, expected 0 to 1"),
        (dict(noise_snr=(20.0, 10.0)), "noise_snr: found .20.0, 10.0., expected .lowest, highest."),
        (dict(speed=(0.1,)), "speed: found .0.1,., expected factors from 0.5 to 2"),
        (dict(time_masks=-1), "time_masks: found -1, expected 0 or more"),
        (dict(noise_colors=()), "noise_colors: found .., expected at least one"),
        (dict(reverb_seconds=(0.0, 0.4)), "reverb_seconds: found .0.0, 0.4., expected times above 0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**fields)
