"""One step: micro-batches, refused numbers, the moving average, what is frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.objectives.mix import mix, terms
from speech_jax.training.config import OptimizerConfig, StepConfig
from speech_jax.training.frozen import moving_state
from speech_jax.training.optimizer import learning_rate, make_optimizer, trainable
from speech_jax.training.state import init_shapes, new_state
from speech_jax.training.step import check_names, make_gradient
from tests.support import toy
from tests.support.single_step import make_step

EXACT = toy.make_objective(train=False)  # no dropout, no batch statistics


def start(objective, config=None, optimizer_config=None):
    config = config or StepConfig()
    optimizer_config = optimizer_config or OptimizerConfig(peak_lr=1e-2, warmup_steps=0, schedule="constant")
    params, model_state = toy.MODEL.init(jax.random.key(1), None)
    model_state = jax.tree.map(lambda x: x + 0.1, model_state)
    optimizer = make_optimizer(optimizer_config, params, 100)
    step = make_step(
        objective,
        optimizer,
        trainable(optimizer_config, params),
        config,
        seed=3,
        rate=learning_rate(optimizer_config, 100),
        moving_state=moving_state(optimizer_config, params, model_state),
    )
    state = new_state(params, model_state, optimizer, ema=config.ema is not None)
    return jax.device_get(state), jax.jit(step)


def test_weighted_micro_batches_equal_the_whole_batch():
    batch = {"pre": toy.make_batch(0, seed=1), "task": toy.make_batch(0, seed=2)}
    for part in batch.values():
        part["index"][:] = [
            3,
            -1,
            -1,
            -1,
            5,
            6,
            7,
            -1,
        ]  # micro-batch 0 of 2 has rows 0, 2, 4, 6; micro-batch 3 of 4: 3, 7
    objective = mix(EXACT, toy.make_objective(train=False, scale=-1.0), 0.3)
    params, model_state = toy.MODEL.init(jax.random.key(1), None)
    everything = jax.tree.map(lambda _: True, params)
    for term in terms(objective):
        outs = {}
        for parts in (1, 2, 4):
            gradient = jax.jit(make_gradient(term, everything, StepConfig(accumulate=parts)))
            outs[parts] = gradient(params, model_state, jnp.int32(0), term.select(batch), jax.random.key(0))
        for parts in (2, 4):
            np.testing.assert_allclose(outs[parts].value, outs[1].value, rtol=1e-5)
            for a, b in zip(jax.tree.leaves(outs[parts].gradient), jax.tree.leaves(outs[1].gradient), strict=True):
                assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
            for name, (total, count) in outs[1].metrics.items():
                np.testing.assert_allclose(outs[parts].metrics[name][0], total, rtol=1e-5)
                assert float(outs[parts].metrics[name][1]) == float(count) == 4.0
    # a mean of the means would be something else
    rows = term.select(batch)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], rows) for i in range(2)]
    values = [float(term.objective(params, model_state, half, jax.random.key(0), 0).value) for half in halves]
    assert abs(np.mean(values) - float(outs[1].value)) > 1e-3 * abs(float(outs[1].value))


def test_rows_that_do_not_divide_are_refused():
    state, step = start(EXACT, StepConfig(accumulate=3))
    with pytest.raises(UserError, match="found a batch of 8 rows, expected a multiple of 3 micro-batches x 1 devices"):
        step(state, toy.make_batch(0))


def poisoned(seed, field="y"):
    batch = toy.make_batch(0, seed=seed)
    batch[field][0] = np.nan
    return batch


def test_a_bad_step_changes_nothing_but_the_counters():
    objective = mix(toy.make_objective(), toy.make_objective(scale=-1.0), lambda s: jnp.where(s < 3, 0.5, 0.0))
    state, step = start(objective, StepConfig(ema=0.9))
    good = {"pre": toy.make_batch(0, seed=1), "task": toy.make_batch(0, seed=2)}
    state, logs, finite = jax.device_get(step(state, good))
    assert finite.all()
    bad = {"pre": poisoned(1), "task": good["task"]}
    after = state
    for n in (1, 2):
        after, logs, finite = jax.device_get(step(after, bad))
        assert int(after.step) == 1 + n
        assert int(after.opt_state.skipped) == int(after.opt_state.skipped_in_a_row) == n
        for name in ("params", "model_state", "ema"):
            assert toy.digest(getattr(after, name)) == toy.digest(getattr(state, name))
        assert toy.digest(after.opt_state.inner) == toy.digest(state.opt_state.inner)
        names = check_names(state.params, state.model_state, jax.tree.map(lambda _: True, state.params))
        wrong = [name for name, ok in zip(names, finite, strict=True) if not ok]
        assert wrong[0] == "the loss" and "the gradient of head/kernel" in wrong
        assert np.isnan(logs["pre/loss"][0]) and np.isfinite(logs["task/loss"][0])
    # from step 3 on the bad term weighs nothing: the step is good, and the row of bad ones is over
    last, logs, finite = jax.device_get(step(after, bad))
    assert finite.all() and np.isnan(logs["pre/loss"][0])
    assert int(last.opt_state.skipped) == 2 and int(last.opt_state.skipped_in_a_row) == 0
    assert toy.digest(last.params) != toy.digest(state.params)


def test_a_bad_batch_statistic_is_refused_too():
    def objective(params, model_state, batch, key, step):
        out = EXACT(params, model_state, batch, key, step)
        mean = model_state["stats"]["mean"]
        return out._replace(model_state={"stats": {"mean": mean / jnp.where(batch["index"][0] == 7, 0.0, 1.0)}})

    state, step = start(objective)
    batch = toy.make_batch(0)
    batch["index"][0] = 7
    after, _, finite = jax.device_get(step(state, batch))
    assert not finite[-1] and finite[:-1].all()
    assert toy.digest(after.params) == toy.digest(state.params)
    assert toy.digest(after.model_state) == toy.digest(state.model_state)


def test_the_moving_average_equals_a_loop():
    state, step = start(EXACT, StepConfig(ema=0.3))
    average = {name: np.asarray(leaf, np.float64) for name, leaf in named_leaves(state.params).items()}
    for n in range(5):
        state, _, _ = jax.device_get(step(state, toy.make_batch(n)))
        decay = min(0.3, (1 + n) / (10 + n))
        for name, leaf in named_leaves(state.params).items():
            average[name] = decay * average[name] + (1 - decay) * leaf
    for name, leaf in named_leaves(state.ema).items():
        np.testing.assert_allclose(leaf, average[name], rtol=1e-5, atol=1e-6)


def test_what_is_frozen_stays_bit_for_bit_with_its_statistics():
    config = OptimizerConfig(
        peak_lr=1e-2,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.5,
        groups=(("encoder|stats", None), (".*", 1.0)),
    )
    state, step = start(toy.make_objective(), StepConfig(ema=0.9), config)
    state = state._replace(
        params={**state.params, "encoder": jax.tree.map(lambda x: -0.0 * x, state.params["encoder"])}
    )
    after = state
    for n in range(3):
        after, _, finite = jax.device_get(step(after, toy.make_batch(n)))
        assert finite.all()
    assert toy.digest(after.params["encoder"]) == toy.digest(state.params["encoder"])  # the sign of -0.0 too
    assert toy.digest(after.model_state) == toy.digest(state.model_state)
    assert toy.digest(after.params["head"]) != toy.digest(state.params["head"])
    free, step = start(toy.make_objective())
    after, _, _ = jax.device_get(step(free, toy.make_batch(0)))
    assert toy.digest(after.model_state) != toy.digest(free.model_state)


def test_the_randomness_of_a_step_is_its_number():
    state, step = start(toy.make_objective())
    batch = toy.make_batch(0)
    first, again, other = (float(step(state._replace(step=jnp.int32(n)), batch)[1]["loss"][0]) for n in (4, 4, 5))
    assert first == again != other


def test_the_shapes_of_a_state_cost_nothing():
    params, _ = init_shapes(toy.MODEL, toy.batch_spec(toy.BUCKETS[0]), 0)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
