"""Griffin-Lim: it converges, equals librosa's, and padding and batch mates change nothing."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from speech_jax.audio import presets
from speech_jax.audio.features import extract_features, num_frames
from speech_jax.audio.framing import num_samples, time_mask
from speech_jax.audio.griffin_lim import (
    de_emphasize,
    griffin_lim,
    istft,
    mel_energy,
    mel_to_audio,
    mel_to_magnitude,
    mel_to_wave,
    spectral_convergence,
    stft,
)
from speech_jax.audio.griffin_lim_stream import stream_wave
from speech_jax.audio.mel import mel_matrix
from speech_jax.core.errors import UserError

SIGNALS = Path(__file__).parent / "golden" / "signals.npz"
replace = dataclasses.replace
PRESETS = {
    "nvidia": presets.nvidia_tacotron2(),
    "torchaudio": presets.torchaudio_tacotron2(),
    "r9y9 master": replace(presets.r9y9_master((-2.0,) * 80, (0.7,) * 80), high_pass=0.0),
    "r9y9 released": presets.r9y9_released(),
    "nemo": replace(presets.nemo(), normalize="none"),
    "kaldi": presets.kaldi(),
    "librosa": presets.librosa(),
}


@functools.cache
def speech(samples=12000):
    with np.load(SIGNALS) as file:
        return file["speech"][:samples].astype(np.float32) / 32768


@functools.cache
def spectra(name):
    """(magnitudes [1, frames, bins] of the speech, their number of frames [1], config)"""
    config = PRESETS[name]
    count = num_frames(len(speech()), config)
    found = stft(jnp.asarray(speech()[None]), jnp.asarray([len(speech())]), config, count)
    return jnp.abs(found), jnp.asarray([count]), config


extracted = jax.jit(extract_features, static_argnames="config")
jitted = jax.jit(griffin_lim, static_argnames=("config", "iterations", "momentum"))


def convergence(iterations, momentum, key=None):
    magnitude, frames, config = spectra("nvidia")
    audio, _ = jitted(magnitude, frames, config=config, iterations=iterations, momentum=momentum, key=key)
    return float(spectral_convergence(audio, magnitude, frames, config)[0])


@pytest.mark.parametrize("key", [None, jax.random.key(1)])
def test_more_iterations_converge_further_and_the_fast_variant_faster(key):
    plain = [convergence(n, 0.0, key) for n in (0, 5, 20, 60)]
    fast = [convergence(n, 0.99, key) for n in (0, 5, 20, 60)]
    assert plain[0] == fast[0]
    for found in (plain, fast):
        assert all(later < earlier - 1 for earlier, later in zip(found, found[1:], strict=False))
    assert all(f < p - 1 for f, p in zip(fast[2:], plain[2:], strict=True))


@pytest.mark.parametrize("name", ["nvidia", "torchaudio"])
@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_equals_librosas(name, momentum):
    magnitude, frames, config = spectra(name)
    size = np.asarray(magnitude)[0].T
    phase = 2 * np.pi * np.random.RandomState(3).random_sample(size.shape)
    theirs = librosa.griffinlim(
        size, n_iter=12, hop_length=config.hop, win_length=config.window, n_fft=config.n_fft, momentum=momentum,
        pad_mode="reflect", random_state=3,
    )  # fmt: skip
    audio, lengths = jitted(
        magnitude, frames, config=config, iterations=12, momentum=momentum, phase=jnp.asarray(phase.T[None])
    )
    assert int(lengths[0]) == len(theirs) == audio.shape[1]
    np.testing.assert_allclose(audio[0], theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("name", PRESETS)
def test_the_inverse_transform_inverts(name):
    """Whole frames of a waveform give the waveform again, also beside a shorter row with nothing after its end."""
    config = PRESETS[name]
    frames = jnp.asarray([30, 17])
    lengths = num_samples(frames, config)
    audio = np.random.default_rng(0).standard_normal((2, num_samples(30, config))).astype(np.float32)
    audio[1, int(lengths[1]) :] = 0
    real = time_mask(frames, 30)[..., None]
    found = istft(jnp.where(real, stft(jnp.asarray(audio), lengths, config, 30), 0.0), frames, config)
    edge = config.window if config.framing == "snip_edges" else 0  # where windows do not overlap
    for row in range(2):
        inside = slice(edge, int(lengths[row]) - edge)
        np.testing.assert_allclose(found[row, inside], audio[row, inside], atol=1e-4)
        assert not np.asarray(found)[row, int(lengths[row]) :].any()


@pytest.mark.parametrize("name", PRESETS)
def test_the_result_has_the_features_that_it_was_made_of(name):
    config = PRESETS[name]
    features, mask = extracted(jnp.asarray(speech()[None]), jnp.asarray([len(speech())]), config=config)
    energy, magnitude = mel_energy(features, config), jax.jit(mel_to_magnitude, static_argnums=1)(features, config)
    np.testing.assert_allclose(
        jnp.log(magnitude**config.power @ mel_matrix(config) + 1e-4), jnp.log(energy + 1e-4), atol=0.3
    )
    audio, lengths = mel_to_audio(features, jnp.sum(mask, axis=1), config)
    again = mel_energy(extracted(audio, lengths, config=config)[0], config) ** (1 / config.power)
    wanted = energy[:, : again.shape[1]] ** (1 / config.power)
    error, control = (
        float(jnp.linalg.norm(x - wanted) / jnp.linalg.norm(wanted)) for x in (again, jnp.roll(again, 2, 1))
    )
    assert error < 0.15 and control > 0.3
    if config.framing != "snip_edges":  # whose ends, heard by one frame, are guesses
        assert abs(float(jnp.std(audio)) / np.std(speech()) - 1) < 0.2


@pytest.mark.parametrize("name", ["nvidia", "r9y9 released", "nemo"])
def test_padding_and_batch_mates_change_nothing(name):
    config = PRESETS[name]
    key = jax.random.key(5)
    features = np.asarray(extracted(jnp.asarray(speech()[None]), jnp.asarray([len(speech())]), config=config)[0])
    count = 23
    alone, lengths = mel_to_audio(
        features[:, :count], jnp.asarray([count]), config, iterations=8, key=key, index=jnp.asarray([7])
    )
    wide = np.full((3, 40, 80), np.nan, np.float32)
    wide[0, :30], wide[1, :count] = features[0, :30], features[0, :count]
    together, its_lengths = mel_to_audio(
        wide, jnp.asarray([30, count, 0]), config, iterations=8, key=key, index=jnp.asarray([1, 7, 2])
    )
    assert int(its_lengths[1]) == int(lengths[0]) and int(its_lengths[2]) == 0
    assert np.isfinite(together).all() and not np.asarray(together)[1, int(lengths[0]) :].any()
    np.testing.assert_allclose(together[1, : int(lengths[0])], alone[0], atol=1e-4 * float(jnp.abs(alone).max()))
    other, _ = mel_to_audio(features[:, :count], jnp.asarray([count]), config, iterations=8, key=key)
    assert float(jnp.abs(other - alone).max()) > 1e-2 * float(jnp.abs(alone).max())  # another index, other phases


def test_de_emphasis_undoes_pre_emphasis():
    x = np.random.default_rng(1).standard_normal((2, 3000)).astype(np.float32)
    emphasized = x - 0.97 * np.pad(x, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_allclose(jax.jit(de_emphasize)(jnp.asarray(emphasized), 0.97), x, atol=1e-4)


@pytest.mark.parametrize("config", [presets.nemo(), presets.kaldi_mfcc(), replace(presets.kaldi(), deltas=1)])
def test_features_without_magnitudes_are_refused(config):
    with pytest.raises(UserError, match="lose the magnitudes; expected log_mel"):
        mel_to_audio(np.zeros((1, 5, 80), np.float32), np.array([5]), config)


def test_one_utterance_without_counts_and_a_function_under_jit():
    config = presets.nvidia_tacotron2()
    mel = np.random.default_rng(0).normal(-4, 1, (12, 80)).astype(np.float32)
    batch, lengths = mel_to_audio(mel[None], np.array([12]), config, iterations=3)
    alone, length = mel_to_audio(mel, config=config, iterations=3)
    assert alone.shape == (int(length),) == (int(lengths[0]),)
    np.testing.assert_allclose(alone, batch[0], atol=1e-5)
    traced = jax.jit(lambda mel: mel_to_audio(mel, config=config, iterations=3)[0])(mel)
    np.testing.assert_allclose(traced, alone, atol=1e-5)
    with pytest.raises(UserError, match="no config"):
        mel_to_audio(mel)
    with pytest.raises(UserError, match=r"shape \(12, 79\), expected \[batch, frames, 80\]"):
        mel_to_audio(mel[:, 1:], config=config)
    with pytest.raises(UserError, match="found 2 counts of frames for 1 utterances"):
        mel_to_audio(mel, np.array([12, 3]), config)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_frames_that_are_not_finite_are_refused(value):
    config = presets.nvidia_tacotron2()
    mel = np.full((60, 80), -5.0, np.float32)
    mel[40, 3] = value
    with pytest.raises(UserError, match="found a number in frame 40 that is not finite"):
        mel_to_wave(mel, config, iterations=1)
    with pytest.raises(UserError, match="from 30 on: found a number in frame 10 that is not finite"):
        list(stream_wave([mel[:30], mel[30:]], config, iterations=1))


@pytest.mark.bad_types
def test_integer_frames_are_refused():
    with pytest.raises(UserError, match="found features of int32, expected floating point"):
        mel_to_audio(np.zeros((12, 80), np.int32), config=presets.nvidia_tacotron2())
