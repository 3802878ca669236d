"""Tacotron 2: equal to the public code, step by step equal to all at once, and blind to padding and batch mates."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.interop.tacotron2_names import (
    nvidia_name,
    tacotron2_config,
    tacotron2_params_from_torch,
    tacotron2_params_to_torch,
    torchaudio_name,
)
from speech_jax.interop.tensors import read_torch
from speech_jax.models.attention_tts import make_attention, prior_filter
from speech_jax.models.config import AttentionConfig, StyleConfig, Tacotron2Config
from speech_jax.models.tacotron2 import encode, init_params, refine, tacotron2, utterance_seeds, with_speaker_inputs
from speech_jax.models.tacotron2_decoder import decoder_step, start_decoder
from speech_jax.models.tacotron2_parts import make_parts

GOLDEN = Path(__file__).parents[1] / "interop" / "golden"
KINDS = ("location", "dynamic", "gmm", "forward")


@pytest.fixture(scope="module")
def public():
    """(config with the prenet's dropout off, params, model_state, what NVIDIA's code computed)"""
    tensors = read_torch(GOLDEN / "tacotron2.pt")
    tensors = {torchaudio_name(n.removeprefix("state_dict.")): a for n, a in tensors.items()}
    config = dataclasses.replace(tacotron2_config(tensors, "tacotron2.pt"), prenet_dropout=0.0)
    params, model_state, left = tacotron2_params_from_torch(tensors, config, "tacotron2.pt")
    assert all(name.endswith("num_batches_tracked") for name in left)
    return config, params, model_state, np.load(GOLDEN / "tacotron2.npz")


def public_batch(golden):
    text, lengths, mel_lengths = (golden[name] for name in ("text", "text_lengths", "mel_lengths"))
    return {
        "text": jnp.asarray(text, jnp.int32),
        "text_mask": jnp.arange(text.shape[1])[None] < lengths[:, None],
        "mel": jnp.asarray(golden["mels"].transpose(0, 2, 1)),
        "mel_mask": jnp.arange(golden["mels"].shape[2])[None] < mel_lengths[:, None],
        "index": jnp.arange(len(text)),
    }


def test_encoder_frames_stop_and_alignment_equal_the_public_code(public):
    config, params, model_state, golden = public
    batch = public_batch(golden)
    memory, _ = encode(make_parts(config), params, model_state["batch_stats"], batch)
    out, same = jax.jit(tacotron2(config, 148).apply)(params, model_state, batch)
    for row, (n, m) in enumerate(zip(golden["text_lengths"], golden["mel_lengths"], strict=True)):
        np.testing.assert_allclose(memory[row, :n], golden[f"encoded_{row}"], atol=1e-5)
        np.testing.assert_allclose(out["mel"][row, :m], golden[f"before_{row}"].T, atol=1e-4)
        np.testing.assert_allclose(out["mel_post"][row, :m], golden[f"after_{row}"].T, atol=1e-4)
        np.testing.assert_allclose(out["stop"][row, :m], golden[f"stop_{row}"], atol=1e-4)
        np.testing.assert_allclose(out["weights"][row, :m, :n], golden[f"weights_{row}"], atol=1e-4)
        assert golden[f"weights_{row}"].max() > 0.3  # it looks somewhere
    jax.tree.map(np.testing.assert_array_equal, same, model_state)


def test_free_running_equals_the_public_code_over_200_frames(public):
    config, params, model_state, golden = public
    parts = make_parts(config)
    batch = {"text": jnp.asarray(golden["text"][:1], jnp.int32), "text_mask": jnp.ones((1, 14), bool)}
    memory, _ = encode(parts, params, model_state["batch_stats"], batch)
    seeds = utterance_seeds(jax.random.key(0), jnp.arange(1))
    fixed, state = start_decoder(parts, params, memory, batch["text_mask"], seeds)

    def step(state, _):
        frames, stop, weights, state = decoder_step(parts, fixed, state, 1)
        return state, (frames[:, 0], stop[:, 0], weights)

    _, (mel, stop, weights) = jax.jit(lambda s: jax.lax.scan(step, s, None, 200))(state)
    mel = jnp.moveaxis(mel, 0, 1)
    after, _ = refine(parts, params, model_state["batch_stats"], mel, jnp.ones((1, 200), bool))
    np.testing.assert_allclose(mel, golden["free_before"].transpose(0, 2, 1), atol=1e-3)
    np.testing.assert_allclose(after, golden["free_after"].transpose(0, 2, 1), atol=1e-3)
    np.testing.assert_allclose(np.asarray(stop)[:, 0], golden["free_stop"].reshape(-1), atol=1e-3)


def test_out_again_it_is_the_same_file(public):
    config, params, model_state, _ = public
    original = {n.removeprefix("state_dict."): a for n, a in read_torch(GOLDEN / "tacotron2.pt").items()}
    out = {nvidia_name(name): a for name, a in tacotron2_params_to_torch(params, model_state, config).items()}
    assert set(out) == set(original) - {"iteration", "learning_rate"}
    for name, a in out.items():
        if "bias_ih" in name:
            np.testing.assert_allclose(a, original[name] + original[name.replace("bias_ih", "bias_hh")], atol=1e-6)
        elif "bias_hh" not in name and "num_batches" not in name:
            np.testing.assert_array_equal(a, original[name])


# ---- our own


def tiny(**changes):
    base = Tacotron2Config(
        num_mels=6, embedding=8, encoder_layers=2, encoder_width=8, prenet=8, attention_rnn=12, decoder_rnn=10,
        attention=AttentionConfig(width=8, filters=4, filter_length=5, prior_length=4), postnet_layers=2, postnet=8,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def batch(symbols=9, frames=12, lengths=((9, 12), (5, 7), (3, 4)), seed=0, filler=0.0):
    rng = np.random.default_rng(seed)
    count = len(lengths)
    text, mel = rng.integers(1, 20, (count, 9)), rng.normal(size=(count, 12, 6)).astype(np.float32)
    out = {
        "text": np.zeros((count, symbols), np.int32), "text_mask": np.zeros((count, symbols), bool),
        "mel": np.full((count, frames, 6), filler, np.float32), "mel_mask": np.zeros((count, frames), bool),
        "index": np.arange(count, dtype=np.int32), "speaker": np.arange(count, dtype=np.int32) % 2,
    }  # fmt: skip
    for row, (n, m) in enumerate(lengths):
        out["text"][row, :n], out["text_mask"][row, :n] = text[row, :n], True
        out["mel"][row, :m], out["mel_mask"][row, :m] = mel[row, :m], True
    return out


def variants():
    for kind in KINDS:
        yield kind, tiny(attention=dataclasses.replace(tiny().attention, kind=kind))
    yield "two frames a step", tiny(reduction=2)
    yield (
        "voices and styles",
        tiny(speakers=2, style=StyleConfig(tokens=3, width=8, heads=2, channels=(4, 4), summary=6)),
    )


@pytest.fixture(scope="module", params=list(variants()), ids=lambda v: v[0])
def network(request):
    config = request.param[1]
    model = tacotron2(config, 20)
    params, state = model.init(jax.random.key(0), None)
    params = jax.tree.map(lambda a: a + 0.05 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    return config, model, params, state


def test_padding_and_batch_mates_change_nothing(network):
    """In a longer bucket, beside others, with NaN in the padding: the same frames, stops and alignments; the same
    gradient too."""
    config, model, params, state = network
    one = batch()
    longer = batch(symbols=13, frames=18, filler=np.nan, lengths=((9, 12), (5, 7), (3, 4)))

    def run(b):
        def loss(params):
            out, _ = model.apply(params, state, b, key=jax.random.key(5))
            mask = b["mel_mask"][..., None]
            value = jnp.sum(jnp.where(mask, out["mel_post"] ** 2 + out["mel"] ** 2, 0.0))
            return value + jnp.sum(jnp.where(b["mel_mask"], out["stop"] ** 2, 0.0)), out

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ((value, out), gradient), ((longer_value, longer_out), longer_gradient) = run(one), run(longer)
    steps = 12 // config.reduction
    np.testing.assert_allclose(longer_value, value, rtol=1e-5)
    for name, limit in (("mel", 12), ("mel_post", 12), ("stop", 12), ("weights", steps)):
        for row, (n, m) in enumerate(((9, 12), (5, 7), (3, 4))):
            a, b = np.asarray(out[name][row, :limit]), np.asarray(longer_out[name][row, :limit])
            if name == "weights":
                a, b = a[: m // config.reduction, :n], b[: m // config.reduction, :n]
            else:
                a, b = a[:m], b[:m]
            np.testing.assert_allclose(b, a, atol=1e-5, err_msg=f"{name}, row {row}")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=2e-4, rtol=1e-4), gradient, longer_gradient)


def test_steps_fed_with_the_right_frames_are_teacher_forcing(network):
    config, model, params, state = network
    parts, one = make_parts(config), batch(lengths=((9, 12), (9, 12), (5, 12)))
    key = jax.random.key(5)
    out, _ = model.apply(params, state, one, key=key)
    seeds = utterance_seeds(jax.random.split(key, 3)[2], one["index"])
    memory, _ = encode(parts, params, state["batch_stats"], one)
    fixed, moving = start_decoder(parts, params, memory, one["text_mask"], seeds)
    r = config.reduction
    step = jax.jit(lambda s: decoder_step(parts, fixed, s, r))
    for number in range(12 // r):
        if number:
            moving = {**moving, "frame": jnp.asarray(one["mel"][:, number * r - 1])}
        frames, stop, weights, moving = step(moving)
        now = slice(number * r, (number + 1) * r)
        np.testing.assert_allclose(frames, out["mel"][:, now], atol=1e-5)
        np.testing.assert_allclose(stop, out["stop"][:, now], atol=1e-5)
        np.testing.assert_allclose(weights, out["weights"][:, number], atol=1e-5)


def test_everything_is_trained(network):
    """Every parameter has a gradient in training, with dropout and held states; the statistics move."""
    config, model, params, state = network
    one = batch()

    def loss(params):
        out, new = model.apply(params, state, one, key=jax.random.key(1), train=True)
        return jnp.mean(out["mel_post"] ** 2) + jnp.mean(out["stop"] ** 2) + jnp.mean(out["mel"] ** 2), new

    gradient, new = jax.jit(jax.grad(loss, has_aux=True))(params)
    dead = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradient)
            if not np.abs(g).max() > 0]  # fmt: skip
    assert not [name for name in dead if "norm" not in name and "bias" not in name], dead
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    moved = [np.abs(a - b).max() > 0 for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True)]
    assert all(moved)


def test_synthesis_repeats_and_depends_on_the_key(network):
    config, _, params, state = network
    parts, one = make_parts(config), batch()
    memory, _ = encode(parts, params, state["batch_stats"], one)

    def frames(seed, index):
        seeds = utterance_seeds(jax.random.key(seed), jnp.asarray(index))
        fixed, moving = start_decoder(parts, params, memory, one["text_mask"], seeds)
        for _ in range(3):
            made, _, _, moving = decoder_step(parts, fixed, moving, config.reduction)
        return np.asarray(made)

    np.testing.assert_array_equal(frames(0, [0, 1, 2]), frames(0, [0, 1, 2]))
    assert np.abs(frames(0, [0, 1, 2]) - frames(1, [0, 1, 2])).max() > 1e-4
    np.testing.assert_allclose(frames(0, [0, 7, 8])[0], frames(0, [0, 1, 2])[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_only_moves_as_it_is_allowed_to(kind):
    """Weights stay in the text and sum to one; the kinds that only go forward do."""
    config = AttentionConfig(kind=kind, width=8, filters=4, filter_length=5, prior_length=4)
    attention = make_attention(config, 12, 8)
    params = attention.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    memory, mask = rng.normal(size=(3, 20, 8)).astype(np.float32), np.arange(20)[None] < np.array([20, 9, 0])[:, None]
    fixed, state = attention.start(params, memory, jnp.asarray(mask))
    centers = []
    for _ in range(15):
        query = jnp.asarray(rng.normal(size=(3, 12)), jnp.float32)
        weights, state = attention.step(params, fixed, state, query)
        weights = np.asarray(weights)
        assert not weights[~mask].any() and (weights >= 0).all()
        if kind != "gmm":
            np.testing.assert_allclose(weights[:2].sum(1), 1, atol=1e-5)
        else:
            assert (weights.sum(1) <= 1 + 1e-5).all()
        centers.append((weights[:1] * np.arange(20)).sum(1) / np.maximum(weights[:1].sum(1), 1e-6))
    if kind == "gmm":
        assert (np.diff(np.asarray(state["mean"])) is not None) and (np.asarray(state["mean"]) > 0).all()
    if kind == "forward":
        assert (np.diff(np.concatenate(centers)) > -1e-3).all() or np.max(np.diff(np.concatenate(centers))) <= 1.001
    assert np.isfinite(np.concatenate(centers)).all()


def test_the_prior_of_dynamic_convolution_is_a_distribution():
    prior = prior_filter(AttentionConfig(prior_length=11, prior_alpha=0.1, prior_beta=0.9))
    assert prior.sum() == pytest.approx(1, abs=1e-6)
    assert (prior * np.arange(11)).sum() == pytest.approx(10 * 0.1, abs=1e-5)


def test_a_smaller_reduction_takes_the_first_frames_of_a_step():
    config = tiny(reduction=3)
    model = tacotron2(config, 20)
    params, state = model.init(jax.random.key(0), None)
    out, _ = model.apply(params, state, batch(), key=jax.random.key(0), reduction=2)
    assert out["mel"].shape == (3, 12, 6) and out["weights"].shape == (3, 6, 9)
    with pytest.raises(UserError, match="expected a multiple of the reduction factor 5|reduction: found 5"):
        model.apply(params, state, batch(), key=jax.random.key(0), reduction=5)


@pytest.mark.bad_types
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": np.ones((3, 9), np.float32)}, r"text: found float32 \[3, 9\], expected int"),
        ({"text_mask": np.ones((3, 1), bool)}, r"text_mask: found bool \[3, 1\], expected bool \[3, 9\]"),
        ({"mel": np.zeros((3, 6, 12), np.float32)}, r"mel: found float32 \[3, 6, 12\], expected float \[3, frames"),
        ({"mel": np.zeros((2, 12, 6), np.float32)}, r"mel: found float32 \[2, 12, 6\], expected float \[3, frames"),
        ({"mel_mask": np.ones((3, 12))}, r"mel_mask: found float32 \[3, 12\], expected bool"),
        ({"index": np.zeros(3)}, r"index: found float32 \[3\], expected int \[3\]"),
        ({"speaker": np.zeros((), np.int32)}, r"speaker: found int32 \[\], expected int \[3\]"),
        ({"text": np.ones((3, 0), int), "text_mask": np.ones((3, 0), bool)}, r"text: found \[3, 0\], expected no size"),
        ({"speaker": None}, "batch: found index, mel, mel_mask, text, text_mask, expected text, text_mask, speaker"),
    ],
)
def test_batches_of_another_shape_or_type_are_refused(change, message):
    model = tacotron2(tiny(speakers=2, speaker_width=4), 20)
    params, state = jax.eval_shape(model.init, jax.random.key(0), None)
    given = {name: array for name, array in (batch() | change).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, params, state, given)


def test_counts_and_keys_that_would_pass_are_refused():
    with pytest.raises(ValueError, match="symbols: found 0, expected an integer of at least 1"):
        tacotron2(tiny(), 0)
    model = tacotron2(tiny(), 20)
    params, state = jax.eval_shape(model.init, jax.random.key(0), None)
    with pytest.raises(ValueError, match="key: found None with train=True, expected a key"):
        model.apply(params, state, batch(), train=True)  # every step would drop the same units
    with pytest.raises(UserError, match="reduction: found 0, expected 1 to 1"):
        jax.eval_shape(lambda p, s: model.apply(p, s, batch(), reduction=0), params, state)


@pytest.mark.parametrize(
    "changes", [dict(encoder_width=7), dict(kernel_size=4), dict(reduction=0), dict(held_rate=1.0)]
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(UserError, match="model: found"):
        tiny(**changes)


def test_the_public_size():
    """28,193,153 parameters, of which the public code's second bias of each LSTM is none of ours."""
    parts = make_parts(Tacotron2Config())
    params, _ = jax.eval_shape(lambda k: init_params(parts, 148, k), jax.random.key(0))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert count == 28_193_153 - 2 * 4 * 256 - 2 * 4 * 1024


def test_fixed_statistics_stay_and_are_what_training_normalizes_with():
    config = tiny(norm_statistics="fixed", conv_dropout=0.0, held_rate=0.0, prenet_dropout=0.0)
    model, rng = tacotron2(config, 20), np.random.default_rng(5)
    params, state = model.init(jax.random.key(0), batch())
    state = jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0.1, 0.5, a.shape), a.dtype), state)

    @jax.jit
    def outputs(params, state):
        heard, same = model.apply(params, state, batch(), key=jax.random.key(1), train=True)
        return heard, same, model.apply(params, state, batch(), key=jax.random.key(1), train=False)[0]

    heard, same, spoken = outputs(params, state)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    for name in ("mel", "mel_post", "stop", "weights"):
        np.testing.assert_allclose(heard[name], spoken[name], atol=1e-6)
    moving = tacotron2(dataclasses.replace(config, norm_statistics="batch"), 20)
    other, new = jax.jit(lambda p, s: moving.apply(p, s, batch(), key=jax.random.key(1), train=True))(params, state)
    assert np.abs(other["mel"] - heard["mel"]).max() > 1e-3
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True))


@pytest.mark.parametrize("kind", ["dynamic", "forward"])
def test_a_network_of_one_voice_becomes_one_of_several_and_says_the_same(kind):
    attention = dataclasses.replace(tiny().attention, kind=kind)
    style = StyleConfig(tokens=3, width=8, heads=2, channels=(4, 4), summary=6)  # lies behind the speaker's vector
    one = tiny(attention=attention, style=style)
    several = dataclasses.replace(one, speakers=2, speaker_width=5)
    params, state = tacotron2(one, 20).init(jax.random.key(0), batch())
    grown = {**with_speaker_inputs(several, params), "speakers": jnp.ones((2, 5))}
    shapes = jax.eval_shape(lambda: tacotron2(several, 20).init(jax.random.key(0), batch())[0])
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, shapes)

    @jax.jit
    def both(params, grown):
        return tacotron2(one, 20).apply(params, state, batch())[0], tacotron2(several, 20).apply(grown, state, batch())[
            0
        ]

    want, found = both(params, grown)
    for name in ("mel", "mel_post", "stop", "weights"):
        np.testing.assert_allclose(found[name], want[name], atol=1e-6)
