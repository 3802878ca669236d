"""Measures of synthesized speech: against other programs' figures, and by nature.

The figures are made by experiments/parity/speech_metrics.py, from recordings that the golden file has too.
"""

import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soxr

from speech_jax.core.errors import UserError
from speech_jax.evaluation import cepstra, dnsmos, measures, waveform
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.dtw import diagonal, warp
from speech_jax.evaluation.measures import analyze, dtw_path, measure, speech_ends
from speech_jax.evaluation.pitch import pitch, pitch_errors

RATE = 16000
PAIRS = {"noisy": ("one", "noisy"), "worse": ("bursts", "worse")}


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "speech_metrics.npz") as file:
        return {name: file[name] for name in file.files}


def heard(golden, name):
    return golden[f"audio.{name}"].astype(np.float64) / 32768


def harmonics(hertz, seconds, rate=RATE):
    t = np.arange(int(seconds * rate)) / rate
    return 0.2 * sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 8))


# --- DTW and MCD ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["short", "long"])
def test_dtw_is_librosas(golden, name):
    a, b = golden[f"dtw.{name}.a"], golden[f"dtw.{name}.b"]
    path = warp(a, b)
    np.testing.assert_array_equal(path, golden[f"dtw.{name}.path"])
    cost = np.linalg.norm(a[path[:, 0]] - b[path[:, 1]], axis=1).sum()
    np.testing.assert_allclose(cost, golden[f"dtw.{name}.cost"], rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (5, 1), (2, 2), (3, 7)])
def test_dtw_finds_the_least_of_all_paths(n, m):
    random = np.random.default_rng(n * 10 + m)
    a, b = random.standard_normal((n, 3)), random.standard_normal((m, 3))
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)

    def least(i, j):
        before = [least(x, y) for x, y in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if x >= 0 and y >= 0]
        return distance[i, j] + min(before, default=0.0)

    path = warp(a, b)
    assert distance[path[:, 0], path[:, 1]].sum() == pytest.approx(least(n - 1, m - 1))
    assert tuple(path[0]) == (0, 0) and tuple(path[-1]) == (n - 1, m - 1)
    assert set(map(tuple, np.diff(path, axis=0))) <= {(1, 1), (1, 0), (0, 1)}


def test_dtw_of_ten_seconds_takes_less_than_one():
    a, b = np.random.default_rng(0).standard_normal((2, 2000, 13)).cumsum(1)
    begun = time.process_time()
    warp(a, b)
    assert time.process_time() - begun < 1.0


def test_dtw_refuses_nothing_at_all():
    with pytest.raises(ValueError, match="0 and 3 frames"):
        warp(np.zeros((0, 2)), np.zeros((3, 2)))


def test_mel_cepstra_and_mcd_are_those_of_librosa(golden):
    one = cepstra.mel_cepstra(cepstra.log_mel(heard(golden, "one"), RATE))
    np.testing.assert_allclose(one[::20], golden["cepstra.one"], atol=1e-4)  # librosa's bands are float32
    for name in ("two", "noisy"):
        other = cepstra.mel_cepstra(cepstra.log_mel(heard(golden, name), RATE))
        assert cepstra.mcd(one, other, warp(one, other)) == pytest.approx(float(golden[f"mcd.{name}"]), rel=1e-4)
        straight = cepstra.mcd(one, other, diagonal(len(one), len(other)))
        assert straight == pytest.approx(float(golden[f"mcd_frames.{name}"]), rel=1e-4)


def test_warped_cepstra_are_sptks(golden):
    envelope, alpha, expected = (golden[f"world.{name}"] for name in ("envelope", "alpha", "cepstra"))
    np.testing.assert_allclose(cepstra.warped_cepstra(envelope, float(alpha), order=24), expected, atol=1e-6)
    for rate in (16000, 22050, 44100):
        assert cepstra.warping(rate) == pytest.approx(float(golden[f"warping.{rate}"]), abs=0.0015)


def test_mcd_is_the_rms_of_the_spectra_in_decibels():
    """Two log-mel spectra that differ by a few cosines: MCD is the root mean square of that difference, in dB."""
    random = np.random.default_rng(2)
    band = (np.arange(80) + 0.5) / 80
    shapes = np.cos(np.pi * np.outer(np.arange(1, 14), band))
    first = random.standard_normal((7, 80))
    second = first + random.standard_normal((7, 13)) @ shapes
    decibel = 10 / np.log(10) * (second - first)
    expected = np.sqrt(np.mean(decibel**2, axis=1)).mean()
    both = [cepstra.mel_cepstra(x) for x in (first, second)]
    assert cepstra.mcd(*both, diagonal(7, 7)) == pytest.approx(expected)
    louder = cepstra.mel_cepstra(second + 3.0)  # the zeroth coefficient, loudness, is left out
    assert cepstra.mcd(both[0], louder, diagonal(7, 7)) == pytest.approx(expected)


def test_loudness_makes_no_distortion(golden):
    one = heard(golden, "one")
    a, b = (cepstra.mel_cepstra(cepstra.log_mel(x, RATE)) for x in (one, 0.1 * one))
    assert cepstra.mcd(a, b, diagonal(len(a), len(b))) < 1e-9


# --- F0 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    # "two" is pulses whose rate swings fast, half of it near the threshold between voice and noise
    ("name", "differing"),
    [("one", 0.02), ("two", 0.1), ("glide", 0.01), ("vowels", 0.01)],
)
def test_pitch_is_praats(golden, name, differing):
    track = pitch(heard(golden, name), RATE)
    places = golden[f"pitch.{name}.times"] * RATE / cepstra.hop_samples(RATE)  # Praat's centers may lie between ours
    before, after = track[np.floor(places).astype(int)], track[np.ceil(places).astype(int)]
    share = places - np.floor(places)
    ours, praat = np.where(share < 0.5, before, after), golden[f"pitch.{name}.hertz"]
    assert np.mean((ours > 0) != (praat > 0)) < differing
    both = (before > 0) & (after > 0) & (praat > 0)
    assert both.sum() > 50
    ours = (1 - share) * before + share * after
    np.testing.assert_allclose(ours[both], praat[both], rtol=3e-4)  # half a cent


@pytest.mark.parametrize("hertz", [90.0, 220.0, 431.7])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_pitch_of_a_tone(hertz, rate):
    track = pitch(harmonics(hertz, 0.5, rate), rate)
    inside = track[10:-10]
    assert (inside > 0).all()
    np.testing.assert_allclose(inside, hertz, rtol=1e-3)


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    assert np.mean(pitch(noise, RATE) > 0) < 0.05
    assert not pitch(np.zeros(RATE), RATE).any()
    assert not pitch(np.full(RATE, 0.3), RATE).any()  # an offset is no voice
    with pytest.raises(ValueError, match="pitch range"):
        pitch(noise, RATE, 300, 200)


def test_pitch_errors_are_those_of_mir_eval_and_scipy(golden):
    found = pitch_errors(golden["tracks.reference"], golden["tracks.other"])
    for name, value in found._asdict().items():
        assert value == pytest.approx(float(golden[f"tracks.{name}"]), rel=1e-9), name


def test_a_shifted_voice_has_the_known_error():
    reference, higher = pitch(harmonics(200, 1.0), RATE), pitch(harmonics(220, 1.0), RATE)
    found = pitch_errors(reference, higher)
    assert found.rmse_hertz == pytest.approx(20, abs=0.2)
    assert found.rmse_cents == pytest.approx(1200 * np.log2(1.1), abs=1.5)
    assert found.gross_error == 0 and found.voicing_error < 2
    assert pitch_errors(reference, pitch(harmonics(260, 1.0), RATE)).gross_error == 100


@pytest.mark.bad_types
def test_pitch_errors_without_common_voice():
    found = pitch_errors(np.array([100.0, 0, 0, 0]), np.array([0, 0, 0, 120.0]))
    assert found.voicing_error == 50
    assert np.isnan([found.rmse_hertz, found.rmse_cents, found.correlation, found.gross_error]).all()
    flat = pitch_errors(np.full(9, 100.0), np.full(9, 101.0))
    assert np.isnan(flat.correlation) and flat.rmse_hertz == pytest.approx(1)
    with pytest.raises(ValueError, match="3 and 4 frames"):
        pitch_errors(np.ones(3), np.ones(4))


# --- waveforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_waveform_measures_are_those_of_other_programs(golden, name):
    a, b = (heard(golden, part) for part in PAIRS[name])
    assert waveform.si_sdr(a, b) == pytest.approx(float(golden[f"si_sdr.{name}"]), abs=1e-6)
    assert waveform.snr(a, b) == pytest.approx(float(golden[f"snr.{name}"]), abs=1e-6)
    hop = round(0.0075 * RATE)  # the other program leaves out the last frame
    found = waveform.segmental_snr(a[:-hop], b[:-hop], RATE)
    assert found == pytest.approx(float(golden[f"segmental_snr.{name}"]), abs=1e-6)
    for extended, kind in ((False, "stoi"), (True, "estoi")):
        at_its_rate = waveform.stoi(a, b, 10000, extended=extended)
        assert at_its_rate == pytest.approx(float(golden[f"{kind}.{name}.10000"]), abs=1e-9)
        resampled = waveform.stoi(a, b, RATE, extended=extended)  # by another resampler
        assert resampled == pytest.approx(float(golden[f"{kind}.{name}.16000"]), abs=1e-3)


def test_identity(golden):
    one = heard(golden, "one")
    assert waveform.si_sdr(one, one) == waveform.snr(one, one) == waveform.CAP
    assert waveform.segmental_snr(one, one, RATE) == 35
    for extended in (False, True):
        assert waveform.stoi(one, one, RATE, extended=extended) == pytest.approx(1, abs=1e-9)


def test_si_sdr_does_not_hear_loudness_or_offset(golden):
    a, b = heard(golden, "one"), heard(golden, "noisy")
    found = waveform.si_sdr(a, b)
    assert waveform.si_sdr(a, 7 * b + 0.1) == pytest.approx(found)
    assert waveform.si_sdr(0.1 * a, -b) == pytest.approx(found)
    assert waveform.snr(a, 2 * a) == pytest.approx(0)


@pytest.mark.bad_types
def test_waveform_measures_of_silence_and_of_too_little():
    tone, nothing = harmonics(200, 0.1), np.zeros(1600)
    assert np.isnan(waveform.si_sdr(nothing, tone)) and np.isnan(waveform.si_sdr(tone, nothing))
    assert np.isnan(waveform.snr(nothing, nothing)) and waveform.snr(nothing, tone) == -waveform.CAP
    assert np.isnan(waveform.stoi(tone, tone, RATE)) and np.isnan(waveform.stoi(nothing, tone, RATE))
    assert np.isnan(waveform.segmental_snr(tone[:100], tone[:100], RATE))
    with pytest.raises(ValueError, match="one length"):
        waveform.snr(tone, tone[1:])


# --- a pair ---------------------------------------------------------------------------------------------------------


def test_a_recording_against_itself(golden):
    config = MeasureConfig()
    one = analyze(heard(golden, "one"), config)
    found = measure(one, one, dtw_path(one, one), config)
    assert found["mcd"] == found["mcd_frames"] == 0
    assert found["f0_hertz"] == found["voicing_error"] == found["gross_pitch_error"] == found["duration_error"] == 0
    assert found["f0_correlation"] == pytest.approx(1)
    assert found["si_sdr"] == 100 and found["stoi"] == pytest.approx(1)
    assert set(found) < set(measures.MEASURES)


def test_a_slower_copy_is_nearer_with_dtw(golden):
    """The same vowels 1.25 times as slow, pitch unchanged: DTW finds the way back, and only duration is wrong."""
    config = MeasureConfig()
    reference, other = (analyze(heard(golden, name), config) for name in ("vowels", "slower"))
    found = measure(reference, other, dtw_path(reference, other), config)
    assert found["mcd"] < 0.2 * found["mcd_frames"]
    assert found["f0_cents"] < 20 and found["f0_correlation"] > 0.99
    assert found["duration_bias"] == pytest.approx(25, abs=1) and found["duration_error"] == found["duration_bias"]
    assert "si_sdr" not in found and "stoi" not in found  # its samples do not run parallel
    always = MeasureConfig(waveform="always")
    assert "si_sdr" in measure(reference, other, dtw_path(reference, other), always)


def test_a_slower_tape_is_lower_and_longer(golden):
    config = MeasureConfig()
    tone = heard(golden, "vowels")
    reference, other = analyze(tone, config), analyze(soxr.resample(tone, RATE, 1.2 * RATE), config)
    found = measure(reference, other, diagonal(len(reference.f0), len(reference.f0)), config)
    assert found["duration_bias"] == pytest.approx(20, abs=1)
    # frame t of the slow one lies at t / 1.2 of the other
    places = np.arange(0, len(other.f0) - 2 * measures.SILENT_FRAMES - 30, 6)
    reference_f0, other_f0 = (x.f0[measures.SILENT_FRAMES :] for x in (reference, other))
    errors = pitch_errors(reference_f0[places * 5 // 6], other_f0[places])
    assert errors.rmse_cents == pytest.approx(1200 * np.log2(1.2), rel=0.01) and errors.correlation > 0.999


def test_speech_is_where_librosas_trimming_finds_it(golden):
    one = analyze(heard(golden, "ends"), MeasureConfig())
    (first, last), _ = speech_ends(one, one)
    assert 0.005 * (last - first) == pytest.approx(float(golden["trimmed.ends"]), abs=0.02)  # two frames at each end


def spoken(hertz, seed, noise=0.0):
    """Syllables of changing loudness and pitch with a pause between them, and noise."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(5):
        size = int(RATE * random.uniform(0.12, 0.3))
        t = np.arange(size) / RATE
        pitch_now = hertz * random.uniform(0.9, 1.2) * (1 + 0.1 * t)
        tone = sum(random.uniform(0.3, 1) * np.sin(2 * np.pi * pitch_now * k * t) / k for k in range(1, 9))
        parts += [0.2 * random.uniform(0.3, 1) * np.hanning(size) ** 0.5 * tone, np.zeros(int(0.04 * RATE))]
    audio = np.concatenate(parts[:-1])
    return audio + noise * np.abs(audio).max() * random.standard_normal(len(audio))


def around(audio, seconds):
    return np.pad(audio, int(seconds * RATE))


def measured(a, b, config=MeasureConfig()):  # noqa: B008
    one, two = analyze(a, config), analyze(b, config)
    return measure(one, two, dtw_path(one, two), config)


@pytest.mark.parametrize("seconds", [0.25, 0.5, 1.0, 2.0])
def test_silence_around_the_speech_does_not_count(seconds):
    a, b = spoken(120, 0), spoken(150, 1)
    want = measured(a, b)
    assert want["mcd"] > 1 and want["voicing_error"] > 1
    for first, second in ((a, around(b, seconds)), (around(a, seconds), b), (around(a, seconds), around(b, seconds))):
        found = measured(first, second)
        for name in ("mcd", "f0_hertz", "f0_cents", "voicing_error", "gross_pitch_error"):
            assert found[name] == pytest.approx(want[name], rel=0.01, abs=0.05), name
        assert found["duration_bias"] == pytest.approx(want["duration_bias"], abs=0.5)


def test_a_pause_that_both_recordings_have_does_not_count():
    a, b = spoken(120, 0), spoken(150, 1)
    gap = np.zeros(RATE)
    want, found = measured(a, b), measured(np.concatenate([a, gap, a]), np.concatenate([b, gap, b]))
    assert found["mcd"] == pytest.approx(want["mcd"], rel=0.05)
    assert found["voicing_error"] == pytest.approx(want["voicing_error"], abs=1)


@pytest.mark.parametrize("offset", [0.001, 0.003, 0.01])
def test_an_offset_changes_neither_duration_nor_distortion(offset):
    a = around(spoken(120, 0), 0.3)
    found = measured(a, a + offset)
    assert abs(found["duration_bias"]) < 0.5 and found["mcd"] < 0.05 and found["voicing_error"] < 0.5


@pytest.mark.parametrize("decibels", [-60, -50, -45])
def test_a_noise_floor_does_not_change_the_duration(decibels):
    a = around(spoken(120, 0), 0.3)
    noise = 10 ** (decibels / 20) * np.abs(a).max() * np.random.default_rng(3).standard_normal(len(a))
    assert abs(measured(a, a + noise)["duration_bias"]) < 2
    assert abs(measured(a + noise, a)["duration_bias"]) < 2


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(RATE), "found silence"),
        (np.full(RATE, 0.1), "found silence"),  # an offset
        (np.full(100, 0.5), "found 0.006 s"),
        (np.where(np.arange(RATE) == 9, np.nan, 0.1), "found NaN"),
    ],
)
def test_what_holds_no_speech(audio, message):
    with pytest.raises(UserError, match=message):
        analyze(audio, MeasureConfig())


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample_rate", 100), ("order", 0), ("pitch_floor", 5.0), ("pitch_ceiling", 9000.0), ("examples", -1)],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(UserError, match=f"measures.{field}: found {value}"):
        MeasureConfig(**{field: value})


# --- packages that need not be there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "settings", "message"),
    [
        ("speechmos", {"dnsmos": True}, "measures.dnsmos: found no package speechmos .*speech-metrics"),
        ("pyworld", {"cepstra": "world"}, "measures.cepstra: found no package pyworld"),
    ],
)
def test_a_missing_package_is_said_before_anything_is_computed(monkeypatch, package, settings, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=message) as error:
        measures.check_packages(MeasureConfig(**settings))
    assert "\n" not in str(error.value)


def test_dnsmos_is_asked_at_16_khz_and_named_a_proxy(monkeypatch, golden):
    heard_by_it = []

    def run(audio, sr):
        heard_by_it.append((audio, sr))
        return {"ovrl_mos": 2.5, "sig_mos": 3.0, "bak_mos": 3.5, "p808_mos": 2.0}

    package = types.ModuleType("speechmos")
    package.dnsmos = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "speechmos", package)
    tone = harmonics(200, 1.0, 22050)
    assert dnsmos.score(tone, 22050) == {"overall": 2.5, "signal": 3.0, "background": 3.5, "p808": 2.0}
    assert heard_by_it[0][0].shape == (16000,) and heard_by_it[0][0].dtype == np.float32 and heard_by_it[0][1] == 16000
    config = MeasureConfig(dnsmos=True, waveform="never")
    one = analyze(heard(golden, "one"), config)
    found = measure(one, one, dtw_path(one, one), config)
    assert found["dnsmos"] == found["dnsmos_reference"] == 2.5 and "si_sdr" not in found
    for name in ("dnsmos", "dnsmos_reference"):
        assert "(a proxy; no listener was asked)" in measures.MEASURES[name].label


@pytest.mark.bad_types
def test_two_channels_are_refused():
    with pytest.raises(UserError, match=r"found audio of shape \[16000, 2\], expected \[samples\] of one channel"):
        analyze(np.zeros((16_000, 2)), MeasureConfig())
