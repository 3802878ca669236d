"""Unsupervised pre-training: what is hidden, what is learned, and that padding and batch mates change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.audio import rows
from speech_jax.audio.config import AugmentConfig
from speech_jax.core.errors import UserError
from speech_jax.models.config import ConformerConfig
from speech_jax.objectives.masking import code_perplexity, hidden_frames, hide_features, spread, stack_frames
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import ctc_task
from speech_jax.tasks.pretrain import BestRQConfig, ContrastiveConfig, PretrainTaskConfig
from speech_jax.tasks.pretrain_task import pretrain_task, shared_objective, with_pretext
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import train_tokenizer

ENCODER = ConformerConfig(
    width=16, layers=1, heads=2, kernel_size=5, subsampling="dw_striding", subsampling_channels=8, conv_norm="layer",
    dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0,
)  # fmt: skip
METHODS = ("best_rq", "autoencoder", "contrastive")


def config(method, **changes):
    base = PretrainTaskConfig(
        method=method, model=ENCODER, hidden_span=4, best_rq=BestRQConfig(codes=32, codebooks=2),
        contrastive=ContrastiveConfig(codes=16, width=16, distractors=8),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def batch(samples=16_000, lengths=(16_000, 12_000, 9_000), seed=0):
    """Tones that change every 100 ms, so that a hidden frame can be told from its neighbors."""
    rng = np.random.default_rng(seed)
    audio = np.zeros((len(lengths) + 1, samples), np.float32)
    for row, n in enumerate(lengths):
        pitch = np.repeat(rng.uniform(200, 4000, 1 + n // 3200), 3200)[:n]
        audio[row, :n] = 0.1 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.003 * rng.normal(size=n)
    count = len(audio)
    return {
        "audio": audio, "audio_lengths": np.array([*lengths, 0], np.int32),
        "labels": np.zeros((count, 8), np.int32), "label_lengths": np.zeros(count, np.int32),
        "index": np.array([*range(5, 5 + len(lengths)), -1], np.int32),
    }  # fmt: skip


# ---- what is hidden


def keys(indices):
    return rows.row_keys(jax.random.key(0), len(indices), jnp.asarray(indices), 16)


def test_about_the_wanted_share_is_hidden_in_whole_spans():
    mask = jnp.ones((200, 100), bool)
    hidden = np.asarray(hidden_frames(keys(range(200)), mask, share=0.4, span=10))
    assert hidden.mean() == pytest.approx(0.4, abs=0.03)
    edges = np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int), axis=1)
    for row in edges:
        starts, ends = np.flatnonzero(row == 1), np.flatnonzero(row == -1)
        assert np.all((ends - starts >= 10) | (ends == 100))


def test_what_is_hidden_belongs_to_the_utterance():
    """The same frames in another row, a longer bucket, with other mates; never in the padding; never nothing."""
    lengths = np.array([30, 20, 3])
    mask = np.arange(30)[None] < lengths[:, None]
    short = np.asarray(hidden_frames(keys([7, 8, 9]), mask, share=0.3, span=5))
    wider = np.pad(mask[::-1], ((0, 0), (0, 12)))
    long = np.asarray(hidden_frames(keys([9, 8, 7]), jnp.asarray(wider), share=0.3, span=5))
    np.testing.assert_array_equal(short, long[::-1, :30])
    assert not long[:, 30:].any() and not (short & ~mask).any() and short.any(axis=1).all()


def test_hidden_features_are_noise_and_the_rest_is_untouched():
    features = jnp.ones((2, 22, 3))
    hidden = jnp.zeros((2, 6), bool).at[0, 1:3].set(True).at[1, 5].set(True)
    found = np.asarray(hide_features(keys([0, 1]), features, hidden, 4))
    changed = (found != 1).all(-1)
    expected = np.zeros((2, 22), bool)
    expected[0, 4:12], expected[1, 20:22] = True, True
    np.testing.assert_array_equal(changed, expected)
    assert np.abs(found[changed]).max() < 0.6


def test_frames_are_stacked_and_measured():
    features = np.arange(2 * 7 * 2, dtype=np.float32).reshape(2, 7, 2)
    mask = np.arange(7)[None] < np.array([[7], [5]])
    stacked = np.asarray(stack_frames(jnp.asarray(features), jnp.asarray(mask), 4, 2))
    np.testing.assert_array_equal(stacked[0, 0], features[0, :4].ravel())
    np.testing.assert_array_equal(stacked[1, 1], [*features[1, 4], 0, 0, 0, 0, 0, 0])
    codes, valid = jnp.asarray([[0, 1, 2, 3, 0]]), jnp.asarray([[True, True, True, True, False]])
    assert float(code_perplexity(codes, valid, 8)) == pytest.approx(4.0)
    assert float(code_perplexity(jnp.zeros((1, 5), int), valid, 8)) == pytest.approx(1.0)
    assert float(spread(jnp.ones((1, 5, 3)), valid)) == pytest.approx(0.0, abs=1e-6)


# ---- what is learned


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    """(method, task, losses, accuracies, parameters before and after training on one batch, last metrics, state)."""
    method = request.param
    task = pretrain_task(config(method))
    one = batch()
    params, state = jax.jit(task.model.init)(jax.random.key(0), one)
    rate, steps = (1e-3, 120) if method == "contrastive" else (3e-3, 60)  # its targets move, and it takes its time
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def step(params, opt, number):
        def loss(params):
            out = task.objective(params, state, one, jax.random.fold_in(jax.random.key(1), number), number)
            return out.value, out.metrics

        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(params, updates), opt, value, metrics

    start, opt, losses, accuracies = params, optimizer.init(params), [], []
    for number in range(steps):
        params, opt, value, metrics = step(params, opt, jnp.int32(number))
        losses.append(float(value))
        right, count = metrics.get("accuracy", (0.0, 1.0))
        accuracies.append(float(right) / float(count))
    return method, task, losses, accuracies, start, params, metrics, state


def test_the_hidden_frames_are_learned(trained):
    method, _, losses, accuracies, before, after, metrics, _ = trained
    if method == "contrastive":
        assert np.mean(accuracies[-20:]) > 0.2, accuracies  # one of nine by chance
    else:
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5]), (losses[:5], losses[-10:])
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after["encoder"], before["encoder"]))
    assert float(moved) > 0.1
    assert {"encoded_spread", "hidden"} <= set(metrics)
    if method != "autoencoder":
        assert float(metrics["code_perplexity"][0]) > 2


def test_evaluation_repeats_and_draws(trained):
    method, task, *_, params, _, state = trained
    reports = [task.evaluate(params, state, [batch()]) for _ in range(2)]
    assert reports[0].metrics == reports[1].metrics and set(reports[0].metrics) == set(task.metrics)
    assert ("reconstruction" in reports[0].images) == (method == "autoencoder")


def test_padding_batch_mates_and_fillers_change_nothing(trained):
    """The loss of one utterance is the same alone, in a longer bucket, and beside others whatever lies in theirs."""
    _, task, *_, params, _, state = trained
    value = jax.jit(lambda b: (out := task.objective(params, state, b, jax.random.key(3), 5)).value * out.weight)
    alone = batch(lengths=(12_000,), samples=12_000)
    expected = float(value(alone))
    longer = {**alone, "audio": np.pad(alone["audio"], ((0, 0), (0, 6_400)), constant_values=np.nan)}
    assert float(value(longer)) == pytest.approx(expected, rel=2e-4)
    assert np.isfinite(expected) and expected > 0


def test_frames_of_the_same_entries_are_not_wrong_choices():
    """Where every frame chose the same entry there is nothing left to mistake it for."""
    task = pretrain_task(config("contrastive", contrastive=ContrastiveConfig(groups=1, codes=2, diversity=0.0)))
    params, state = jax.jit(task.model.init)(jax.random.key(0), batch())
    choose = params["pretext"]["choose"]
    sure = dict(choose, kernel=jnp.zeros_like(choose["kernel"]), bias=jnp.array([14.0, 0.0]))
    value = jax.jit(lambda p: task.objective(p, state, batch(), jax.random.key(0), 0).value)
    assert float(value(params)) > 0.1
    assert float(value({**params, "pretext": {**params["pretext"], "choose": sure}})) < 1e-6


def test_augmentation_is_heard_but_not_reconstructed():
    """With noise on, the autoencoder's target stays the clean recording."""
    noisy = config("autoencoder", augment=AugmentConfig(noise=1.0, noise_snr=(0.0, 0.0), speed=(0.9, 1.1)))
    task = pretrain_task(noisy)
    params, state = jax.jit(task.model.init)(jax.random.key(0), batch())
    out = jax.jit(lambda p: task.objective(p, state, batch(), jax.random.key(0), 0))(params)
    assert np.isfinite(float(out.value)) and float(out.weight) > 0


@pytest.mark.parametrize("changes", [dict(hidden_share=0.0), dict(hidden_share=1.0), dict(hidden_span=0)])
def test_bad_settings_are_refused(changes):
    with pytest.raises(UserError, match="task.hidden_"):
        config("best_rq", **changes)


def test_on_the_same_recordings_both_losses_share_the_encoders_pass():
    """The unsupervised term is the one it is alone, to rounding; recognition adds only its head and its loss."""
    pretext = config("best_rq")
    alone, ctc = pretrain_task(pretext), CTCTaskConfig(model=ENCODER)
    tokenizer = train_tokenizer(["ab c"], TokenizerConfig())
    one = batch()
    one["labels"][:3, :2], one["label_lengths"][:3] = [[1, 2], [2, 3], [3, 1]], 2
    both = with_pretext(ctc_task(ctc, tokenizer), alone)
    params, state = jax.jit(both.model.init)(jax.random.key(0), one)
    joint = shared_objective(ctc, pretext, tokenizer, 0.25)
    key = jax.random.key(2)

    def gradient(objective):
        def value(params):
            out = objective(params, state, one, key, jnp.int32(0))
            return out.value, out.metrics

        program = jax.jit(jax.value_and_grad(value, has_aux=True)).lower(params).compile()
        return program(params), program.cost_analysis()["flops"]

    ((pre, _), pre_gradient), pre_flops = gradient(alone.objective)
    ((value, metrics), joint_gradient), joint_flops = gradient(joint)
    _, task_flops = gradient(both.objective)
    mean = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert mean["pre/loss"] == pytest.approx(float(pre), rel=1e-5)
    assert float(value) == pytest.approx(0.25 * mean["pre/loss"] + 0.75 * mean["task/loss"], rel=1e-5)
    assert joint_flops < 0.7 * (pre_flops + task_flops)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.25 * b, atol=1e-5),
        joint_gradient["pretext"],
        pre_gradient["pretext"],
    )
    assert np.abs(joint_gradient["head"]["kernel"]).max() > 0
