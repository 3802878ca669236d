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


def test_fisher_information_of_a_linear_model():
    """For y = w x + noise at the minimum, the mean squared gradient of w is that of x times the noise's variance."""
    rng = np.random.default_rng(0)
    scales = np.array([0.5, 1.0, 2.0, 4.0])

    def objective(params, model_state, batch, key, step):
        error = batch["x"] @ params["w"] - batch["y"]
        return LossOut(jnp.mean(error**2) / 2, jnp.float32(len(error)), model_state, {})

    def batches():
        for _ in range(2000):
            x = rng.normal(size=(16, 4)) * scales
            yield {"x": x.astype(np.float32), "y": (x @ np.ones(4) + rng.normal(size=16)).astype(np.float32)}

    found = estimate_fisher(objective, {"w": jnp.ones(4)}, {}, batches(), rows=lambda b: len(b["y"]))["w"]
    np.testing.assert_allclose(found, scales**2 / np.mean(scales**2), rtol=0.15)
    assert found.mean() == pytest.approx(1.0, rel=1e-5)
