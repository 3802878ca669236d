"""Long recordings in windows are one recording: features, logits, text and times."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.audio import presets
from speech_jax.audio.features import extract_features, num_frames
from speech_jax.decoding.longform import encode_windows, extract_long_features, plan_windows
from speech_jax.inference.ctc_recognizer import CTCRecognizer
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import conformer_ctc
from tests.support.tones import FACTOR, LETTERS, recognizer, say

FRONT_ENDS = {
    "nemo": presets.nemo(),
    "librosa": presets.librosa(),
    "kaldi mfcc": dataclasses.replace(presets.kaldi_mfcc(), deltas=2),
    "r9y9": presets.r9y9_master(),  # whose high-pass reaches further back than a window
    "lws": presets.r9y9_released(),
    "torch": dataclasses.replace(presets.torch_like(), num_mels=40),  # its 128 leave bands without a bin
}


@pytest.mark.parametrize("context", [0, 8, 24])
@pytest.mark.parametrize("frames", [1, 15, 16, 64, 65, 66, 200, 1001, 1023])
def test_windows_tile_the_recording(frames, context):
    """Every output frame is kept exactly once, by a full window that has heard `context` around it."""
    core, factor = 16, 4
    width = core + 2 * context
    kept = []
    for window in plan_windows(frames, core, context, factor):
        assert window.start % factor == 0
        real = min(frames - window.start, width)
        outputs = -(-real // factor)
        end = outputs if window.keep_to is None else window.keep_to
        assert 0 <= window.keep_from < end <= outputs
        assert window.start == 0 or window.keep_from * factor >= context
        assert window.start + real == frames or window.start + real - (window.start + end * factor) >= context
        kept += range(window.start // factor + window.keep_from, window.start // factor + end)
    assert kept == list(range(-(-frames // factor)))


def test_windows_must_lie_on_the_grid():
    for core, context in ((6, 4), (8, 3), (0, 4)):
        with pytest.raises(ValueError):
            plan_windows(100, core, context, 4)


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("samples", [16000 * 7 + 77, 16000 * 2, 399])
def test_features_in_blocks_are_features_in_one_pass(name, samples):
    config = dataclasses.replace(FRONT_ENDS[name], normalize="utterance")
    rate = config.sample_rate
    samples = samples * rate // 16000
    audio = (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
    expected = np.asarray(extract_features(audio[None], np.array([samples]), config)[0])[0]
    found = extract_long_features(audio, config, block_seconds=0.9)
    assert found.shape == (num_frames(samples, config), expected.shape[-1])
    np.testing.assert_allclose(found, expected[: len(found)], atol=2e-4)


def _network(features, mask):
    """Three outputs' worth of context on each side, and a subsampling that looks one frame around its place."""
    x = jnp.where(mask[..., None], features, 0.0)
    x = jnp.pad(x, ((0, 0), (1, 3), (0, 0)))
    frames = features.shape[1] // FACTOR
    x = sum(x[:, i : i + frames * FACTOR : FACTOR] * (i + 1) for i in range(4))
    real = mask[:, ::FACTOR]
    x = jnp.pad(jnp.where(real[..., None], x, 0.0), ((0, 0), (3, 3), (0, 0)))
    return jnp.tanh(sum(x[:, i : i + frames] * (0.3 * i - 1) for i in range(7))), real


@pytest.mark.parametrize(("frames", "rows"), [(150, 1), (160, 3), (161, 1), (162, 3), (500, 1), (1003, 3)])
def test_enough_context_gives_the_logits_of_one_pass(frames, rows):
    features = np.random.default_rng(1).standard_normal((frames, 5)).astype(np.float32)
    padded = -(-frames // FACTOR) * FACTOR
    mask = (np.arange(padded) < frames)[None]
    expected = np.asarray(_network(np.pad(features, ((0, padded - frames), (0, 0)))[None], mask)[0])[0]
    encode = jax.jit(lambda features, mask: _network(features, mask))
    found = encode_windows(features, encode, core=128, context=16, factor=FACTOR, rows=rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encode._cache_size() == 1
    if frames > 300:  # and less context does not: the comparison can fail
        short = encode_windows(features, encode, core=128, context=4, factor=FACTOR, rows=rows)
        assert np.abs(short - expected).max() > 1e-3


def test_conformer_lies_on_one_grid():
    """The subsampling of the Conformer is the same function of the whole and of a window that begins on its grid."""
    config = ConformerConfig(num_features=16, width=8, layers=1, heads=2, kernel_size=5, subsampling_channels=4)
    network = conformer_ctc(config, 7)
    frames, core, context, factor = 500, 128, 64, config.subsampling_factor
    features = np.random.default_rng(2).standard_normal((frames, config.num_features)).astype(np.float32)
    mask = np.ones((1, frames), bool)
    params, state = network.init(jax.random.key(0), {"features": features[None], "mask": mask})

    def apply(features, mask):
        outputs = network.apply(params, state, {"features": features, "mask": mask}, key=None, train=False)[0]
        return outputs["logits"], outputs["mask"]

    whole = np.asarray(apply(features[None], mask)[0])[0]
    joined = encode_windows(features, jax.jit(apply), core=core, context=context, factor=factor, rows=2)
    assert joined.shape == whole.shape
    # Attention sees the window instead of the whole, so the logits are near, not equal; one frame off they are far.
    near, off = np.abs(joined - whole).mean(), np.abs(joined[1:] - whole[:-1]).mean()
    assert near < 0.3 * off
    short = features[: core + 2 * context]
    alone = np.asarray(apply(short[None], mask[:, : len(short)])[0])[0]
    found = encode_windows(short, jax.jit(apply), core=core, context=context, factor=factor, rows=1)
    np.testing.assert_allclose(found, alone, atol=1e-5)


def _uncut(reader: CTCRecognizer) -> CTCRecognizer:
    """The recognizer that cuts at no pause, only into windows: beeps have none but those inside their words."""
    return dataclasses.replace(reader, segment="none")


def test_long_speech_has_no_seam():
    """200 words of beeps over many windows: the very text, and the times of one pass."""
    rng = np.random.default_rng(3)
    text = " ".join("".join(rng.choice(list(LETTERS[1:]), rng.integers(1, 6))) for _ in range(60))
    audio = say(text)
    whole = _uncut(recognizer(core_seconds=100.0)).transcribe(audio)
    parts = _uncut(recognizer(core_seconds=3.0, context_seconds=0.48)).transcribe(audio)
    assert whole.text == text and parts.text == text
    assert [w[:3] for w in parts.words] == [w[:3] for w in whole.words]
    assert len(audio) > 10 * 3.0 * 16000


def test_many_recordings_keep_their_order_and_their_words():
    texts = ["abc", "", "jih gfed " * 9 + "a", "a", "b c d e f", "cab " * 30 + "a"]
    recordings = [say(text) if text else np.zeros(0, np.float32) for text in texts]
    one_by_one = _uncut(recognizer(core_seconds=3.2, context_seconds=1.2))
    together = _uncut(recognizer(core_seconds=3.2, context_seconds=1.2, batch_seconds=12.0))
    for reader in (one_by_one, together):
        found = list(reader.transcribe_many(iter(recordings)))
        assert [transcript.text for transcript in found] == texts
        assert [round(t.seconds * 16000) for t in found] == [len(audio) for audio in recordings]


def test_pauses_are_left_out_and_counted_and_times_are_those_of_the_recording():
    texts, pause = ["abc", "jih fed", "gfed"], 2.0
    quiet = 1e-4 * np.random.default_rng(4).standard_normal(round(pause * 16000)).astype(np.float32)
    parts = [part for text in texts for part in (say(text), quiet)]
    starts = np.cumsum([0, *map(len, parts[:-1])])[::2] / 16000
    reader = recognizer(core_seconds=3.2, context_seconds=1.2)
    whole, alone = reader.transcribe(np.concatenate(parts)), [reader.transcribe(say(text)) for text in texts]
    assert whole.text == " ".join(texts) and [part.silence for part in alone] == [0, 0, 0]
    assert 0.8 * 3 * pause < whole.silence < 3 * pause and whole.seconds == pytest.approx(sum(map(len, parts)) / 16000)
    expected = [start + word.start for start, part in zip(starts, alone, strict=True) for word in part.words]
    np.testing.assert_allclose([word.start for word in whole.words], expected, atol=0.05)
    uncut = _uncut(reader).transcribe(np.concatenate(parts))
    assert uncut.silence == 0 and uncut.text.replace(" ", "") == whole.text.replace(" ", "")


def test_a_recording_without_speech_is_recognized_whole():
    reader = recognizer(core_seconds=3.2, context_seconds=1.2)
    steady = 0.01 * np.random.default_rng(5).standard_normal(16000 * 20).astype(np.float32)
    assert reader.transcribe(steady) == dataclasses.replace(reader, segment="none").transcribe(steady)
