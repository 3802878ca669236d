"""Synthesis of frames: it ends for the right reason; batch mates and chunks change nothing; a score tells failures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.decoding.config import DecodeConfig
from speech_jax.decoding.tacotron2 import BOUND, SATURATED, STOP, generate_mels, stream_mels
from speech_jax.evaluation.alignment import score_alignment
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.models.tacotron2 import init_params, utterance_seeds
from speech_jax.models.tacotron2_parts import make_parts

CONFIG = Tacotron2Config(
    num_mels=6, embedding=8, encoder_layers=2, encoder_width=8, prenet=8, attention_rnn=12, decoder_rnn=10,
    attention=AttentionConfig(kind="gmm", width=8, mixtures=2), postnet_layers=3, postnet=8, reduction=2,
)  # fmt: skip
DECODE = DecodeConfig(frames_per_symbol=6.0, frames_more=10, saturated_frames=8)


@pytest.fixture(scope="module")
def network():
    parts = make_parts(CONFIG)
    params, state = init_params(parts, 20, jax.random.key(0))
    return parts, params, state


def with_stop(params, bias):
    stop = {**params["decoder"]["stop"], "bias": jnp.full(CONFIG.reduction, bias, jnp.float32)}
    return {**params, "decoder": {**params["decoder"], "stop": stop}}


def texts(lengths, symbols=7, seed=0):
    rng = np.random.default_rng(seed)
    text = np.zeros((len(lengths), symbols), np.int32)
    for row, n in enumerate(lengths):
        text[row, :n] = rng.integers(1, 20, 12)[:n]
    return {"text": jnp.asarray(text), "text_mask": jnp.arange(symbols)[None] < np.array(lengths)[:, None]}


def seeds(index):
    return utterance_seeds(jax.random.key(1), jnp.asarray(index))


def test_it_ends_by_the_stop_token_the_end_of_the_text_or_the_bound(network):
    parts, params, state = network
    batch = texts([7, 4, 0])
    said = generate_mels(parts, DECODE, with_stop(params, 9.0), state, batch, seeds([0, 1, 2]))
    assert said.ended.tolist() == [STOP] * 3 and said.lengths.tolist() == [1, 1, 0]
    stays = generate_mels(parts, DECODE, with_stop(params, -9.0), state, batch, seeds([0, 1, 2]))
    assert stays.ended.tolist()[:2] == [SATURATED] * 2  # a mixture that only moves forward reaches the end
    for row, symbols in enumerate((7, 4)):
        places = np.asarray(stays.weights[row]).argmax(1)[: int(stays.lengths[row]) // 2]
        assert (places[-4:] == symbols - 1).all()
    never = dataclasses.replace(DECODE, saturated_frames=0)
    cut = generate_mels(parts, never, with_stop(params, -9.0), state, batch, seeds([0, 1, 2]))
    assert cut.ended.tolist()[:2] == [BOUND] * 2
    assert cut.lengths.tolist()[:2] == [7 * 6 + 10, 4 * 6 + 10]
    assert not np.asarray(cut.mel[1, 34:]).any() and np.abs(cut.mel[1, :34]).max() > 0


def test_batch_mates_and_longer_buckets_change_nothing(network):
    parts, params, state = network
    params = with_stop(params, -9.0)
    both = generate_mels(parts, DECODE, params, state, texts([7, 4]), seeds([5, 6]))
    alone = {"text": texts([7, 4])["text"][1:, :4], "text_mask": jnp.ones((1, 4), bool)}
    one = generate_mels(parts, DECODE, params, state, alone, seeds([6]))
    n = int(one.lengths[0])
    assert n == both.lengths[1]
    np.testing.assert_allclose(both.mel[1, :n], one.mel[0, :n], atol=1e-5)
    again = generate_mels(parts, DECODE, params, state, alone, seeds([6]))
    np.testing.assert_array_equal(again.mel, one.mel)


@pytest.mark.parametrize("chunk", [3, 8, 100])
def test_chunks_put_together_are_the_whole(network, chunk):
    parts, params, state = network
    params = with_stop(params, -9.0)
    batch = texts([7])
    whole = generate_mels(parts, DECODE, params, state, batch, seeds([5]))
    pieces = list(stream_mels(parts, DECODE, params, state, batch, seeds([5]), chunk_steps=chunk))
    assert [ended for *_, ended in pieces] == [""] * (len(pieces) - 1) + ["saturated"]
    n = int(whole.lengths[0])
    np.testing.assert_allclose(np.concatenate([mel for mel, *_ in pieces]), whole.mel[0, :n], atol=1e-5)
    weights = np.concatenate([w for _, w, _ in pieces])
    np.testing.assert_allclose(weights, whole.weights[0, : len(weights)], atol=1e-5)
    assert len(weights) == -(-n // 2)


def test_a_window_keeps_the_attention_near(network):
    _, params, state = network
    parts = make_parts(
        dataclasses.replace(CONFIG, attention=AttentionConfig(kind="location", width=8, filter_length=5))
    )
    params, state = init_params(parts, 20, jax.random.key(3))
    params = with_stop(params, -9.0)
    near = dataclasses.replace(DECODE, window_back=0, window_forward=1)
    weights = np.asarray(generate_mels(parts, near, params, state, texts([7]), seeds([0])).weights[0])
    places = weights[weights.sum(1) > 0].argmax(1)
    assert (np.diff(places) >= 0).all() and (np.diff(places) <= 1).all()


def diagonal(steps, symbols):
    place = np.minimum(np.arange(steps) * symbols // steps, symbols - 1)
    return np.eye(symbols)[place] * 0.9 + 0.1 / symbols


def test_the_score_of_an_alignment_names_what_went_wrong():
    good = score_alignment(diagonal(60, 20), "stop")
    assert good.failure == "" and good.coverage == 1 and good.focus > 0.85
    w = diagonal(60, 20)
    skipped = score_alignment(np.concatenate([w[:15], w[45:]]), "stop")
    assert skipped.skips == 1 and "1 skipped" in skipped.failure and skipped.coverage < 0.8
    repeated = score_alignment(np.concatenate([w[:45], w[15:]]), "stop")
    assert repeated.repeats == 1 and repeated.skips == 0 and "1 repeated" in repeated.failure
    assert "no end" in score_alignment(w, "bound").failure
    assert "of the text" in score_alignment(w[:30], "stop").failure
    lost = score_alignment(np.full((60, 20), 0.05), "stop")
    assert "not aligned" in lost.failure
    scores = [good.quality, skipped.quality, repeated.quality, lost.quality]
    assert max(scores) == good.quality and len(set(scores)) == 4
    assert score_alignment(np.zeros((0, 5)), "stop").failure
    assert score_alignment(np.ones((1, 1)), "stop").failure  # a single step of a single symbol is no sound
    stayed = np.concatenate([np.full((60, 20), 0.05), np.repeat(np.eye(20)[-1:], 200, axis=0)])
    assert "not aligned" in score_alignment(stayed, "saturated").failure  # it only waited at the end
    assert score_alignment(stayed, "stop").focus > 0.7
    tail = np.concatenate([w, np.repeat(w[-1:], 30, axis=0)])
    assert abs(score_alignment(tail, "saturated").focus - good.focus) < 0.01


def test_bad_settings_are_refused():
    for name in ("stop_threshold", "frames_per_symbol", "frames_more", "saturated_frames", "window_back", "reduction"):
        kind = type(getattr(DecodeConfig(), name))
        for value in (-2, 10**9, *([float("nan")] if kind is float else [])):
            value = kind(value)
            with pytest.raises(UserError, match=f"decode.{name}: found"):
                DecodeConfig(**{name: value})
