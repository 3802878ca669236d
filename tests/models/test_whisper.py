"""Whisper: transformers' numbers, the contract of every model, its decoder token by token, sharding and training."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.interop.conformer_names import import_tensors
from speech_jax.interop.whisper_names import whisper_mappings
from speech_jax.models.config import WhisperConfig
from speech_jax.models.whisper import encode, output_length, sinusoids, whisper, whisper_decoder
from tests.support.contracts import check_layer

GOLDEN = Path(__file__).parent / "golden/whisper.npz"
CONFIG = WhisperConfig(
    num_features=7, width=20, heads=5, encoder_layers=3, decoder_layers=2, hidden=28, audio_positions=13,
    text_positions=11,
)  # fmt: skip
VOCABULARY = 53


@pytest.fixture(scope="module")
def golden():
    """(parameters, arrays) of the golden file."""
    arrays = dict(np.load(GOLDEN))
    params, state, unused = import_tensors(dict(arrays), whisper_mappings(CONFIG), str(GOLDEN), "a Whisper")
    assert state == {} and set(unused) == {
        "features", "tokens", "logits", "encoded", "model.encoder.embed_positions.weight",
    }  # fmt: skip
    return params, arrays


def batch_of(features, tokens, lengths=None, token_lengths=None):
    def mask(x, lengths):
        return np.arange(x.shape[1]) < (np.full(len(x), x.shape[1]) if lengths is None else lengths)[:, None]

    return {
        "features": features, "mask": mask(features, lengths), "tokens": tokens,
        "token_mask": mask(tokens, token_lengths),
    }  # fmt: skip


def apply(config, params, batch, **options):
    return jax.jit(lambda batch: whisper(config, VOCABULARY).apply(params, {}, batch, **options)[0])(batch)


@pytest.mark.parametrize("options", [{}, {"scan_layers": True}, {"attention_block": 4}, {"attention_fused": True}])
def test_it_computes_what_transformers_does(golden, options):
    params, arrays = golden
    config = dataclasses.replace(CONFIG, **options)
    outputs = apply(config, params, batch_of(arrays["features"], arrays["tokens"]))
    for name in ("encoded", "logits"):
        assert np.abs(outputs[name] - arrays[name]).max() <= 1e-5 * np.abs(arrays[name]).max()
    assert outputs["mask"].all()
    np.testing.assert_allclose(sinusoids(13, 20), arrays["model.encoder.embed_positions.weight"], atol=1e-6)


def test_bfloat16_is_near(golden):
    params, arrays = golden
    config, batch = dataclasses.replace(CONFIG, dtype="bfloat16"), batch_of(arrays["features"], arrays["tokens"])
    logits, expected = apply(config, params, batch)["logits"], arrays["logits"]
    assert logits.dtype == jnp.float32
    assert 1e-4 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("options", [{}, {"attention_block": 4}])
def test_padded_frames_change_nothing(golden, options):
    params, arrays = golden
    config = dataclasses.replace(CONFIG, audio_positions=40, **options)
    x = np.random.default_rng(0).normal(size=(3, 26, 7)).astype(np.float32)
    mask = np.arange(26) < np.array([25, 14, 3])[:, None]
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (1, 6))

    def encoded(x, mask):
        return encode(config, params, {"features": x, "mask": mask})

    check_layer(encoded, x, mask, ratio=2, tolerance=2e-5)
    lengths = np.array(mask.sum(1))
    rows = np.repeat(tokens, 3, axis=0)
    together = apply(config, params, batch_of(np.where(mask[..., None], x, np.nan), rows, lengths))
    np.testing.assert_array_equal(together["mask"].sum(1), output_length(lengths))
    for row, length in enumerate(lengths):
        alone = apply(config, params, batch_of(x[row : row + 1, :length], tokens))
        np.testing.assert_allclose(together["logits"][row], alone["logits"][0], atol=2e-5)


def test_padded_tokens_change_nothing(golden):
    params, arrays = golden
    rng = np.random.default_rng(2)
    lengths = np.array([9, 4])
    tokens = np.where(np.arange(9) < lengths[:, None], arrays["tokens"], rng.integers(-5, 10**6, (2, 9)))
    together = apply(CONFIG, params, batch_of(arrays["features"], tokens, token_lengths=lengths))["logits"]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(together[row, :length], arrays["logits"][row, :length], atol=3e-5)
    # A text at the right end of its row is the same text.
    shifted = np.roll(tokens, 5, axis=1)
    batch = batch_of(arrays["features"], shifted) | {"token_mask": np.arange(9)[None] >= 9 - lengths[:, None]}
    right = apply(CONFIG, params, batch | {"tokens": np.where(np.arange(2)[:, None] == 0, arrays["tokens"], shifted)})
    np.testing.assert_allclose(right["logits"][1, 5:], together[1, :4], atol=3e-5)


@pytest.mark.parametrize("parts", [[9], [1] * 9, [4, 1, 3, 1]])
def test_the_decoder_in_steps_computes_the_whole(golden, parts):
    params, arrays = golden
    batch = batch_of(arrays["features"], arrays["tokens"], np.array([26, 17]))
    expected = apply(CONFIG, params, batch)["logits"]
    decoder = whisper_decoder(CONFIG)
    state = decoder.start(params, *encode(CONFIG, params, batch), 11)
    step, logits, first = jax.jit(decoder.step), [], 0
    for count in parts:
        tokens = arrays["tokens"][:, first : first + count]
        part, state = step(params, state, tokens, np.ones_like(tokens, bool))
        logits.append(part)
        first += count
    np.testing.assert_allclose(np.concatenate(logits, axis=1), expected, atol=3e-5)
    # beyond the end of the cache nothing is overwritten in silence
    many = np.ones((2, 3), int)
    assert np.isnan(step(params, state, many, many > 0)[0]).all()


def test_rows_of_a_step_may_have_read_different_numbers_of_tokens(golden):
    params, arrays = golden
    batch = batch_of(arrays["features"], arrays["tokens"])
    expected, rng = apply(CONFIG, params, batch)["logits"], np.random.default_rng(3)
    decoder = whisper_decoder(CONFIG)
    state = decoder.start(params, *encode(CONFIG, params, batch), 11)
    done = np.zeros(2, int)
    for count in (4, 3, 2):
        mask = rng.random((2, count)) < 0.6
        tokens = rng.integers(0, VOCABULARY, (2, count))
        for row in range(2):
            own = arrays["tokens"][row, done[row] : done[row] + mask[row].sum()]
            tokens[row, mask[row]] = own
        logits, state = decoder.step(params, state, tokens, mask)
        for row in range(2):
            after = done[row] + mask[row].sum()
            np.testing.assert_allclose(logits[row][mask[row]], expected[row, done[row] : after], atol=3e-5)
            done[row] = after
    assert 0 < done.min() and done.sum() < 18


def test_what_is_wrong_is_refused(golden):
    params, arrays = golden
    model = whisper(CONFIG, VOCABULARY)
    good = batch_of(arrays["features"], arrays["tokens"])
    for change, message in (
        ({"tokens": np.zeros((2, 12), int), "token_mask": np.ones((2, 12), bool)}, "found 12 in a row, expected 1 to"),
        ({"tokens": np.zeros((3, 9), int)}, r"tokens: found int64 \[3, 9\], expected int \[2, tokens\]"),
        ({"tokens": np.zeros((2, 9))}, "tokens: found float64"),
        ({"token_mask": np.ones((2, 8), bool)}, r"token_mask: found bool \[2, 8\]"),
        ({"features": np.zeros((2, 28, 7), np.float32), "mask": np.ones((2, 28), bool)}, "found 14 encoder frames"),
        ({"features": np.zeros((2, 26, 8), np.float32)}, r"expected float \[batch, time, 7\]"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.apply(params, {}, good | change)
    unknown = apply(CONFIG, params, good | {"tokens": np.full((2, 9), VOCABULARY)})["logits"]
    assert np.isnan(unknown).all()  # an index beyond the vocabulary would take its last token
    with pytest.raises(ValueError, match="length: found 12, expected 1 to 11"):
        whisper_decoder(CONFIG).start(params, jnp.zeros((2, 13, 20)), jnp.ones((2, 13), bool), 12)


def test_it_learns_and_rematerializes_alike():
    batch = batch_of(*(dict(np.load(GOLDEN))[name] for name in ("features", "tokens")), np.array([26, 11]))

    def loss(params, config, key):
        logits = whisper(config, VOCABULARY).apply(params, {}, batch, key=key, train=True)[0]["logits"]
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_probs, jnp.asarray(batch["tokens"])[:, 1:, None], axis=2).mean()

    params, state = whisper(CONFIG, VOCABULARY).init(jax.random.key(0), batch)
    assert state == {}
    start = loss(params, CONFIG, None)
    assert abs(start - np.log(VOCABULARY)) < 0.1  # the first predictions are near uniform
    step = jax.jit(jax.grad(loss), static_argnums=1)
    gradient = step(params, CONFIG, None)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    remat = step(params, dataclasses.replace(CONFIG, remat=True, scan_layers=True), None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, remat)
    for _ in range(60):
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, step(params, CONFIG, None))
    assert loss(params, CONFIG, None) < 0.5 * start

    dropped = dataclasses.replace(CONFIG, dropout=0.3, dropout_att=0.2, dropout_hidden=0.1)
    one, same, other = (loss(params, dropped, jax.random.key(k)) for k in (0, 0, 1))
    assert one == same != other
    with pytest.raises(ValueError, match="needs a key"):
        loss(params, dropped, None)
