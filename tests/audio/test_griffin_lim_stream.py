"""Griffin-Lim in chunks: as long as the whole, whatever the chunks; in time; without clicks; and nearly as good."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.audio import presets
from speech_jax.audio.features import num_frames
from speech_jax.audio.framing import num_samples
from speech_jax.audio.griffin_lim import mel_to_magnitude, mel_to_wave, spectral_convergence
from speech_jax.audio.griffin_lim_stream import BLOCK, frames_ahead, stream_wave
from speech_jax.core.errors import UserError
from tests.audio.test_griffin_lim import extracted, speech

CONFIGS = {
    "nvidia": presets.nvidia_tacotron2(),
    "pre-emphasis": dataclasses.replace(presets.nemo(), normalize="none"),
    "snip_edges": presets.kaldi(),
    "full": presets.r9y9_released(),
}


def features(config):
    audio = speech(40_000)
    mel, mask = extracted(jnp.asarray(audio[None]), jnp.asarray([len(audio)]), config=config)
    assert mask.all() and mel.shape[1] == num_frames(len(audio), config)
    return np.asarray(mel[0])


def cut(mel, lengths):
    places = np.cumsum(lengths)
    return np.split(mel, places[places < len(mel)])


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_as_long_as_the_whole_and_almost_as_close_to_the_spectra(name):
    config = CONFIGS[name]
    mel = features(config)
    streamed = np.concatenate(list(stream_wave(cut(mel, [22, 32, 7, 50]), config, iterations=30)))
    whole = mel_to_wave(mel, config, iterations=30)
    assert len(streamed) == len(whole) == num_samples(len(mel), config)
    magnitude = mel_to_magnitude(jnp.asarray(mel[None]), config)
    frames = jnp.asarray([len(mel)])
    if not config.pre_emphasis:
        loss = [
            float(spectral_convergence(jnp.asarray(x[None] * config.scale), magnitude, frames, config)[0])
            for x in (streamed, whole)
        ]
        print(f"{name}: {loss[0]:.1f} dB streamed, {loss[1]:.1f} dB whole")
        assert loss[0] < loss[1] + 6 and loss[0] < -8
    level = [float(np.sqrt(np.mean(x**2))) for x in (streamed, whole)]
    assert level[0] == pytest.approx(level[1], rel=0.2)


def test_the_chunks_change_nothing_and_the_first_sound_comes_in_time():
    config = CONFIGS["nvidia"]
    mel = features(config)
    whole = np.concatenate(list(stream_wave([mel], config, iterations=8)))
    for lengths in ([1] * 100, [40, 3, 40], [21, 0, 21]):
        np.testing.assert_array_equal(np.concatenate(list(stream_wave(cut(mel, lengths), config, iterations=8))), whole)

    taken = []

    def chunks():
        for row in mel:
            taken.append(row)
            yield row[None]

    first = next(stream_wave(chunks(), config, iterations=8))
    assert len(taken) == BLOCK + frames_ahead(config) + 1 and len(first) > 0


def test_no_click_where_blocks_meet():
    """A click is a jump between neighboring samples: the second difference at a seam is what it is elsewhere."""
    config = CONFIGS["nvidia"]
    made = list(stream_wave([features(config)], config, iterations=30))
    seams = np.cumsum([len(part) for part in made])[:-1]
    bend = np.abs(np.diff(np.concatenate(made), 2))
    near = np.array([bend[seam - 3 : seam + 3].max() for seam in seams])
    around = np.array([bend[seam - 400 : seam + 400].max() for seam in seams])
    assert len(seams) >= 3 and np.median(near / around) < 0.8 and bend.max() < 3 * np.quantile(bend, 0.999)


def test_little_or_nothing_is_fine():
    config = CONFIGS["nvidia"]
    assert list(stream_wave([], config)) == []
    assert list(stream_wave([np.zeros((0, 80), np.float32)], config)) == []
    for count in (1, 2, 5, 20, 21, 22, 37):
        mel = np.full((count, 80), -4.0, np.float32)
        made = list(stream_wave([mel], config, iterations=2))
        assert sum(map(len, made)) == num_samples(count, config)


def test_features_without_magnitudes_are_refused():
    with pytest.raises(UserError, match="lose the magnitudes"):
        next(stream_wave([np.zeros((3, 80))], presets.nemo()))
