"""L2-SP and EWC: the gradient of the quadratic, the weights, the head left free, and that a resumed run keeps both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import LossOut
from speech_jax.finetuning.fisher import estimate_fisher
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.optimizer import make_optimizer, pull_to_start
from tests.support import toy
from tests.training.test_optimizer import GRADIENTS, make_params, steps

SGD = dict(name="sgd", momentum=0.0, schedule="constant", peak_lr=0.1, warmup_steps=0, weight_decay=0, clip_norm=None)


@pytest.mark.parametrize("ewc", [0.0, 0.7])
def test_it_is_the_gradient_of_the_quadratic(ewc):
    start, fisher = make_params(0), jax.tree.map(jnp.square, make_params(9))

    def penalty(params):
        def one(p, s, f):
            return jnp.sum((0.3 + ewc * f) / 2 * (p - s) ** 2)

        return sum(jax.tree.leaves(jax.tree.map(one, params["encoder"], start["encoder"], fisher["encoder"])))

    config = OptimizerConfig(**SGD, anchor=0.3, ewc=ewc)
    found, _ = steps(make_optimizer(config, start, 100, fisher), start, GRADIENTS)
    params = start
    for gradient in GRADIENTS:
        total = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, total)
    for name, leaf in named_leaves(found).items():
        np.testing.assert_allclose(leaf, named_leaves(params)[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_strong_pull_holds_everything_but_the_head():
    start = make_params(0)
    config = OptimizerConfig(name="adamw", schedule="constant", peak_lr=1e-2, warmup_steps=0, anchor=100.0)
    free = OptimizerConfig(name="adamw", schedule="constant", peak_lr=1e-2, warmup_steps=0)
    gradients = [GRADIENTS[0]] * 200
    held, moved = (steps(make_optimizer(c, start, 200), start, gradients)[0] for c in (config, free))

    def distance(params, part):
        return float(optax.tree.norm(jax.tree.map(jnp.subtract, params[part], start[part])))

    assert distance(held, "encoder") < 0.1 * distance(moved, "encoder")
    assert distance(held, "head") == pytest.approx(distance(moved, "head"), rel=0.2)


def test_frozen_and_free_leaves_keep_no_anchor():
    params = make_params()
    state = pull_to_start(0.1, 0.0, ("^head/",)).init(params)
    assert set(named_leaves(state.start)) == {n for n in named_leaves(params) if n.startswith("encoder")}
    assert state.fisher is None


def test_bad_strengths_are_refused():
    with pytest.raises(UserError, match="optimizer.anchor: found -1"):
        make_optimizer(OptimizerConfig(anchor=-1), make_params(), 10)


def test_a_resumed_run_is_pulled_to_where_the_first_began(tmp_path):
    """The start and the weights live in the checkpoint: the second half knows neither and gives the same bits."""
    optimizer = OptimizerConfig(peak_lr=1e-2, warmup_steps=5, anchor=0.5, ewc=0.5)
    params, _ = jax.device_get(toy.init(jax.random.key(3), None))
    fisher = jax.tree.map(lambda p: np.abs(p) + 0.1, params)
    whole = toy.train(tmp_path / "whole", steps=12, optimizer=optimizer, fisher=fisher)
    toy.train(tmp_path / "half", steps=6, optimizer=optimizer, fisher=fisher)
    other = jax.tree.map(np.zeros_like, fisher)
    rest = toy.train(tmp_path / "half", steps=12, optimizer=optimizer, fisher=other)
    assert toy.digest(whole.state.params) == toy.digest(rest.state.params)
    without = toy.train(tmp_path / "without", steps=12, optimizer=optimizer, fisher=other)
    assert toy.digest(without.state.params) != toy.digest(whole.state.params)


def linear_loss(params, model_state, batch, key, step):
    error = batch["x"] @ params["w"] - batch["y"]
    return LossOut(jnp.mean(error**2) / 2, jnp.float32(len(error)), model_state, {})


def linear_batches(scales, weights, count, rows):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.normal(size=(rows, len(scales))) * scales
        y = x @ weights + rng.normal(size=rows)
        yield {"x": x.astype(np.float32), "y": y.astype(np.float32), "index": np.arange(rows)}


@pytest.mark.parametrize("per", ["utterance", "batch"])
def test_fisher_information_of_a_linear_model(per):
    """For y = w x + noise at the minimum, the mean squared gradient of w is that of x times the noise's variance."""
    scales = np.array([0.5, 1.0, 2.0, 4.0])
    batches = linear_batches(scales, np.ones(4), 2000 if per == "batch" else 400, 16)
    fisher = estimate_fisher(linear_loss, {"w": jnp.ones(4)}, {}, batches, per=per)
    np.testing.assert_allclose(fisher.weights["w"], scales**2 / np.mean(scales**2), rtol=0.15)
    assert fisher.weights["w"].mean() == pytest.approx(1.0, rel=1e-5)


def test_the_fisher_information_is_that_of_single_utterances_whatever_they_are_batched_with():
    """Away from a minimum, too; fillers, and an utterance whose gradient is not finite, count for nothing."""
    scales, params = np.array([0.5, 1.0, 2.0]), {"w": jnp.array([1.0, -2.0, 0.5])}
    [whole] = linear_batches(scales, np.ones(3), 1, 12)
    whole["y"][7] = np.nan
    x, y = (whole[name].astype(np.float64) for name in "xy")
    gradients = ((x @ np.array(params["w"], np.float64) - y)[:, None] * x)[np.isfinite(y)]
    expected = np.mean(gradients**2, axis=0)
    for rows, microbatch in ((1, 1), (4, 3), (12, 5), (12, 16)):
        batches = [{name: array[i : i + rows] for name, array in whole.items()} for i in range(0, 12, rows)]
        filler = {"x": np.full_like(batches[-1]["x"], 9), "y": batches[-1]["y"] * 0, "index": np.full(rows, -1)}
        fisher = estimate_fisher(linear_loss, params, {}, [*batches, filler], microbatch=microbatch)
        np.testing.assert_allclose(fisher.weights["w"], expected / expected.mean(), rtol=1e-5)
        assert (fisher.examples, fisher.left_out) == (11, 1)
        sizes = np.sum(gradients**2, axis=1)
        assert (fisher.size, fisher.deviation) == pytest.approx((sizes.mean(), sizes.std()), rel=1e-5)
        assert "of 11 utterances (1 left out" in fisher.describe()
