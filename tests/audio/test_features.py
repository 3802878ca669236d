"""Features: what padding, batch mates, devices and silence do to them (nothing), and the pieces against float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from speech_jax.audio import features as features_module
from speech_jax.audio import presets
from speech_jax.audio.config import AudioConfig, check_same_audio, fingerprint
from speech_jax.audio.features import extract_features, num_features, num_frames, spectrum
from speech_jax.audio.framing import chunked_frames, num_samples, overlap_add
from speech_jax.audio.mel import high_pass_taps, mel_matrix
from speech_jax.audio.normalize import estimate_statistics
from speech_jax.core.config_dict import from_dict, to_dict
from speech_jax.core.errors import UserError

replace = dataclasses.replace
CONFIGS = {
    "nemo": presets.nemo(),
    "nemo1": presets.nemo(1),
    "kaldi": presets.kaldi(),
    "kaldi_framing": replace(presets.kaldi_mfcc(), framing="kaldi", deltas=2, normalize="utterance"),
    "top_range": presets.whisper_like(),
    "waveform": presets.waveform(),
    "tacotron": presets.nvidia_tacotron2(),
    "torchaudio": presets.torchaudio_tacotron2(),
    "r9y9": presets.r9y9_master(),
    "lws": presets.r9y9_released(),
}


def compute(audio, lengths, config, **more):
    audio, lengths = jnp.asarray(audio, jnp.float32), jnp.asarray(lengths, jnp.int32)
    return jax.jit(functools.partial(extract_features, config=config))(audio, lengths, **more)


def speech(samples, seed=0, rows=1):
    """Noise whose level changes, so that frames differ."""
    random = np.random.default_rng(seed)
    level = 0.05 + 0.2 * np.abs(np.sin(np.arange(samples) / 1500))
    return (level * random.standard_normal((rows, samples))).astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_and_batch_mates_change_nothing(name):
    config, length = CONFIGS[name], 5003
    wave = speech(length, 1)[0]
    alone, mask = compute(wave[None], [length], config)
    count = int(mask.sum())
    wide = np.full((3, 8192), np.nan, np.float32)
    wide[0, :7000], wide[1, :length], wide[2, :1800] = speech(7000, 2)[0] * 3, wave, speech(1800, 3)[0]
    together, its_mask = compute(wide, [7000, length, 1800], config)
    assert int(its_mask[1].sum()) == count == num_frames(length, config)
    np.testing.assert_allclose(together[1, :count], alone[0, :count], rtol=0, atol=1e-5)
    assert not np.asarray(together)[~np.asarray(its_mask)].any()

    garbage = wide.copy()
    garbage[1, length:] = 1e30
    garbage[0] = 0.5  # another batch mate
    other, _ = compute(garbage, [8192, length, 1800], config)
    np.testing.assert_array_equal(other[1:], together[1:])
    assert np.abs(other[0] - together[0]).max() > 0.1


@pytest.mark.parametrize("framing", ["center", "center_even", "kaldi", "snip_edges", "full"])
def test_num_frames_agree_and_are_those_of_the_array(framing):
    config = AudioConfig(framing=framing, padding="zero" if framing == "full" else "reflect")
    samples = np.array([0, 1, 79, 80, 159, 160, 399, 400, 401, 559, 560, 16000])
    counts = np.array([num_frames(int(s), config) for s in samples])
    assert all(type(num_frames(int(s), config)) is int for s in samples)
    np.testing.assert_array_equal(num_frames(samples, config), counts)
    np.testing.assert_array_equal(num_frames(jnp.asarray(samples), config), counts)
    known = {
        "center": [0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 101],
        "center_even": [0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 100],
        "kaldi": [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 100],
        "snip_edges": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 98],
        "full": [0, 3, 3, 3, 3, 3, 5, 5, 5, 6, 6, 102],
    }
    np.testing.assert_array_equal(counts, known[framing])
    frames = np.array([0, 3, 4, 100])
    np.testing.assert_array_equal(num_frames(num_samples(frames, config), config), frames)
    assert [num_samples(int(f), config) for f in frames] == num_samples(frames, config).tolist()
    for s in (1, 160, 400, 560):
        shapes = jax.eval_shape(
            functools.partial(extract_features, config=config), np.ones((2, s), np.float32), np.array([s, 0])
        )
        assert shapes[0].shape == (2, num_frames(s, config), 80) and shapes[1].dtype == bool


@pytest.mark.parametrize("name", CONFIGS)
def test_empty_and_tiny_utterances_are_finite(name):
    audio = speech(2000, 4, rows=5)
    features, mask = compute(audio, [0, 1, 170, 420, 2000], CONFIGS[name])
    assert np.isfinite(features).all() and not mask[0].any()


@pytest.mark.parametrize("window", [400, 401, 512])
def test_both_ways_to_the_spectrum_equal_float64(window):
    frames = np.random.default_rng(5).standard_normal((2, 7, window)).astype(np.float32)
    exact = np.abs(np.fft.rfft(frames.astype(np.float64), 512)) ** 2
    padded = np.pad(frames, ((0, 0), (0, 0), (0, window % 2)))
    for way in (features_module._direct(512), features_module._folded(512)):
        np.testing.assert_allclose(jax.jit(way)(padded), exact, rtol=1e-4, atol=2e-4)
    config = AudioConfig(window=window, power=1)
    np.testing.assert_allclose(spectrum(jnp.asarray(frames), config), np.sqrt(exact), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale,norm,fmin,fmax", [("slaney", "slaney", 0, 8000), ("htk", "none", 125, 7600)])
def test_mel_bands_are_librosas(scale, norm, fmin, fmax):
    config = AudioConfig(mel_scale=scale, mel_norm=norm, fmin=fmin, fmax=fmax)
    theirs = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=80, fmin=fmin, fmax=fmax, htk=scale == "htk",
        norm=None if norm == "none" else norm, dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(mel_matrix(config), theirs.T, atol=1e-12)


def test_no_collective_under_a_sharded_batch():
    """The check must be able to fail: the same batch through an rfft is gathered."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    audio = jax.ShapeDtypeStruct((16, 6400), jnp.float32, sharding=rows)
    lengths = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole)
    for name in ("nemo1", "kaldi_framing"):
        function = functools.partial(extract_features, config=CONFIGS[name])
        text = jax.jit(lambda a, n, k, f=function: f(a, n, key=k)).lower(audio, lengths, key).compile().as_text()
        assert collectives(text) == set(), name
    control = jax.jit(lambda a: jnp.abs(jnp.fft.rfft(a)), out_shardings=rows).lower(audio).compile().as_text()
    assert "all-gather" in collectives(control)


def collectives(text):
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    return {name for name in names if f" {name}" in text}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite(name):
    audio = speech(4000, 6, rows=3)
    audio[1] = 0  # silence: log(0), sqrt(0), a feature without variance
    audio[2, 2000:] = np.nan

    def loss(audio):
        features, mask = extract_features(audio, jnp.asarray([4000, 4000, 2000]), CONFIGS[name])
        return jnp.sum(jnp.where(mask[..., None], features, 0.0) ** 3)

    gradient = np.asarray(jax.jit(jax.grad(loss))(audio))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 0
    assert not gradient[2, 2000:].any()


def test_overlap_add_is_the_transpose_of_framing():
    random = np.random.default_rng(3)
    for length, hop in ((8, 4), (10, 4), (3, 3)):
        frames, x = random.standard_normal((2, 5, length)), random.standard_normal((2, (4 + -(-length // hop)) * hop))
        added = overlap_add(jnp.asarray(frames, jnp.float32), hop)
        cut = chunked_frames(jnp.asarray(x, jnp.float32), 5, length, hop)
        assert added.shape == x.shape
        np.testing.assert_allclose(np.sum(np.asarray(added) * x), np.sum(np.asarray(cut) * frames), rtol=1e-5)


def test_high_pass_is_scipys_and_keeps_silence():
    signal = pytest.importorskip("scipy.signal")
    config = presets.r9y9_master()
    np.testing.assert_allclose(high_pass_taps(config), signal.firwin(255, 70 / 11025, pass_zero=False), atol=1e-12)
    audio = np.zeros((1, 8000), np.float32)
    audio[0, :1000] = speech(1000, 2)[0]
    features, _ = compute(audio, [8000], config)
    frames = -(-(1000 + 254 + 512) // 256)  # the last that hears anything
    assert (np.asarray(features)[0, frames + 1 : -3] == -10).all() and (np.asarray(features)[0, :3] > -9).all()


def test_gradient_equals_a_difference():
    config = presets.kaldi()
    audio = speech(1600, 7)
    direction = speech(1600, 8)[0]

    def loss(step):
        moved = jnp.asarray(audio) + step * jnp.asarray(direction)[None]
        return jnp.mean(extract_features(moved, jnp.asarray([1600]), config)[0])

    jitted = jax.jit(loss)
    difference = (jitted(1e-2) - jitted(-1e-2)) / 2e-2
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), difference, rtol=2e-2)


def test_dither_is_white_repeats_and_belongs_to_the_utterance():
    config = replace(presets.kaldi(), dither=3.0)
    quiet = np.zeros((2, 16000), np.float32)
    key = jax.random.key(3)
    index = np.array([11, 5])
    with_key, _ = compute(quiet, [16000, 9000], config, key=key, index=index)
    again, _ = compute(np.zeros((1, 12000), np.float32), [9000], config, key=key, index=index[1:])
    count = num_frames(9000, config)
    np.testing.assert_allclose(again[0, :count], with_key[1, :count], atol=1e-5)
    # its power: what numpy's noise of the same deviation gives, in the mean over bands and frames
    noise = (3.0 / 32768 * np.random.default_rng(1).standard_normal((1, 16000))).astype(np.float32)
    expected, _ = compute(noise, [16000], config)
    assert abs(np.mean(with_key[0]) - np.mean(expected)) < 0.05
    without, _ = compute(quiet, [16000, 9000], config)
    np.testing.assert_allclose(without[0], np.log(2.0**-23), atol=1e-5)


def test_statistics_over_batches_normalize_the_whole():
    raw = replace(presets.nemo(num_mels=8), normalize="none")
    lengths = np.array([[6400, 3000], [5000, 0]])
    batches = [compute(speech(6400, seed, rows=2), n, raw) for seed, n in enumerate(lengths)]
    mean, std = estimate_statistics((np.asarray(f), np.asarray(m)) for f, m in batches)
    together = np.concatenate([np.asarray(f)[np.asarray(m)] for f, m in batches]).astype(np.float64)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(std, together.std(axis=0, ddof=1), rtol=1e-9)
    config = replace(raw, normalize="global", mean=mean, std=std)
    after = [compute(speech(6400, seed, rows=2), n, config) for seed, n in enumerate(lengths)]
    values = np.concatenate([np.asarray(f)[np.asarray(m)] for f, m in after])
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(axis=0, ddof=1), 1, atol=1e-4)
    with pytest.raises(UserError, match="found 0 frames"):
        estimate_statistics([(np.zeros((1, 3, 8)), np.zeros((1, 3), bool))])


def test_utterance_normalization_is_exact():
    features, mask = compute(speech(6400, 9, rows=2), [6400, 3333], presets.nemo())
    rows = [np.asarray(f)[np.asarray(m)] for f, m in zip(features, mask, strict=True)]
    for row in rows:
        np.testing.assert_allclose(row.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(row.std(axis=0, ddof=1), 1, atol=1e-4)


def test_fingerprint_names_what_the_features_are():
    assert fingerprint(AudioConfig()) == fingerprint(presets.nemo()) == fingerprint(AudioConfig(dither=0.5))
    changed = [replace(AudioConfig(), **{field: value}) for field, value in
               dict(hop=80, pre_emphasis=0.9, window_shape="hann", framing="center", floor=1e-6, power=1,
                    normalize="none", num_mels=64).items()]  # fmt: skip
    assert len({fingerprint(c) for c in [*changed, AudioConfig()]}) == len(changed) + 1
    # a config file may say 7600, and its checkpoint 7600.0
    assert fingerprint(AudioConfig(fmax=7600)) == fingerprint(AudioConfig(fmax=7600.0))
    assert fingerprint(from_dict(AudioConfig, to_dict(AudioConfig(fmax=7600)))) == fingerprint(AudioConfig(fmax=7600))
    assert (
        fingerprint(AudioConfig()) == "a2198eb86eefe61801fd12ef5547dbf7d109c2986bbd8df211fb0d222f75e5cd"
    )  # a change would disown every checkpoint


def test_a_setting_that_came_later_counts_only_where_it_is_used():
    """The fingerprints of checkpoints from before `high_pass` and `ceiling` stay; a filter makes another."""
    assert fingerprint(presets.nvidia_tacotron2()) == NVIDIA_BEFORE
    changed = [replace(presets.nvidia_tacotron2(), **{name: 10.0}) for name in ("high_pass", "ceiling")]
    assert len({fingerprint(c) for c in [*changed, presets.nvidia_tacotron2()]}) == 3


NVIDIA_BEFORE = "3a5ffe4fa748be5a32f068bc6ec2d8ded166aa78f83dcf293de156b31dc09d72"


def test_what_differs_between_two_models_is_named_on_both_sides():
    ours = presets.nvidia_tacotron2()
    check_same_audio(ours, replace(presets.torchaudio_tacotron2("griffinlim"), dither=0.1), "a", "b")
    with pytest.raises(UserError) as raised:
        check_same_audio(ours, presets.torchaudio_tacotron2(), "runs/acoustic", "runs/vocoder")
    assert str(raised.value) == (
        "runs/acoustic: found audio.window = 1024, audio.hop = 256, audio.n_fft = 1024, audio.fmin = 0.0, "
        "audio.fmax = 8000.0; expected the features of runs/vocoder: audio.window = 1100, audio.hop = 275, "
        "audio.n_fft = 2048, audio.fmin = 40.0, audio.fmax = 11025.0"
    )
    one, other = (presets.r9y9_master((0.5,) * 80, (1.0,) * 79 + (last,)) for last in (1.0, 2.0))
    with pytest.raises(UserError, match=r"found audio.std\[79\] = 1.0; expected .*: audio.std\[79\] = 2.0"):
        check_same_audio(one, other, "a", "b")
    with pytest.raises(UserError, match=r"audio.mean = \(\), .*: audio.normalize = 'global', audio.mean = 80 values"):
        check_same_audio(presets.r9y9_master(), one, "a", "b")


def test_number_of_features():
    assert num_features(presets.nemo(num_mels=128)) == 128
    assert num_features(replace(presets.kaldi_mfcc(), deltas=2)) == 39


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(window=600), "window: found 600, expected 2 to n_fft = 512"),
        (dict(hop=401), "hop: found 401, expected at most the window, 400"),
        (dict(fmax=9000.0), "fmax: found 9000.0, expected at most half the sample rate, 8000"),
        (dict(fmin=8000.0), "fmin: found 8000.0"),
        (dict(floor=0.0), "floor: found 0.0, expected a number above 0"),
        (dict(ceiling=1e-9), "ceiling: found 1e-09, expected 0, or more than the floor"),
        (dict(high_pass=8000.0), "high_pass: found 8000.0, expected 0 up to half the sample rate, 8000"),
        (dict(framing="full", padding="reflect"), "padding: found reflect, expected zero where framing is full"),
        (dict(features="mfcc", num_cepstra=81), "num_cepstra: found 81, expected 1 to the number of bands, 80"),
        (dict(normalize="global", mean=(0.0,), std=(1.0,)), "mean: found 1 values, expected 80, one per feature"),
        (dict(normalize="global", mean=(0.0,) * 80, std=(0.0,) * 80), "std: found 0.0, expected numbers above 0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        AudioConfig(**fields)
    with pytest.raises(UserError, match="found version 3, expected 1 or 2"):
        presets.nemo(3)
    with pytest.raises(UserError, match="found 'waveglow', expected 'wavernn' or 'griffinlim'"):
        presets.torchaudio_tacotron2("waveglow")
