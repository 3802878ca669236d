"""The private gradient: against a loop over examples, its sensitivity, its noise, what it refuses, and a whole run."""

import functools
import json
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.placement import batch_sharding
from speech_jax.core.rules import named_leaves
from speech_jax.objectives.mix import mix
from speech_jax.training.config import MeshConfig, OptimizerConfig, PrivacyConfig, StepConfig
from speech_jax.training.privacy import KEY_FILE, Accountant
from speech_jax.training.private_step import make_private_gradient, whole_term
from speech_jax.training.sharding import make_mesh
from tests.support import toy

TASK = toy.make_objective(train=False)  # no dropout, no batch statistics
PRE = toy.make_objective(train=False, scale=-1.0)
MIXED = mix(PRE, TASK, 0.3)
KEY = jax.random.key(11)


def start():
    params, model_state = toy.MODEL.init(jax.random.key(1), None)
    return params, jax.tree.map(lambda x: x + 0.1, model_state)


def pair(task_index=0, fillers=1):
    """Rows of a mix; the last `fillers` of each stream are empty, and one more of the pre stream."""
    batch = {"pre": toy.make_batch(3, seed=1, fillers=fillers), "task": toy.make_batch(task_index, seed=2)}
    batch["pre"]["index"][2] = -1
    return batch


@functools.cache
def compiled(objective, mesh, frozen, privacy):
    params, _ = start()
    trainable = {name: jax.tree.map(lambda _, name=name: name != frozen, part) for name, part in params.items()}
    config = StepConfig(privacy=privacy)
    return jax.jit(make_private_gradient(whole_term(objective), trainable, config, mesh=mesh))


def gradient_of(objective, batch, *, mesh=None, frozen=None, step=5, key=KEY, **privacy):
    gradient = compiled(objective, mesh, frozen, PrivacyConfig(**privacy))
    return jax.device_get(gradient(*start(), jnp.int32(step), batch, jax.random.key(3), key))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def by_hand(objective, batch, clip):
    """The clipped gradients, one a row, in float64: a row at a time, each by itself."""
    params, model_state = start()
    rows = len(jax.tree.leaves(batch)[0])
    found = []
    for i in range(rows):
        row = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        if any(leaf[0] < 0 for name, leaf in named_leaves(row).items() if name.endswith("index")):
            found.append(np.zeros_like(flat(params)))
            continue
        one = jax.grad(lambda p, row=row: objective(p, model_state, row, KEY, jnp.int32(5)).value)(params)
        one = flat(one)
        found.append(one * min(1.0, clip / np.linalg.norm(one)))
    return np.stack(found)


@pytest.mark.parametrize("microbatch", [1, 4, 8])
def test_the_clipped_gradient_is_that_of_a_loop_over_examples(microbatch):
    for objective, batch in ((TASK, toy.make_batch(0, seed=2)), (MIXED, pair())):
        norms = np.linalg.norm(by_hand(objective, batch, math.inf), axis=1)
        clip = float(np.median(norms[norms > 0]))  # half of them are clipped, half are not
        expected = by_hand(objective, batch, clip).sum(0) / 8
        out = gradient_of(objective, batch, clip_norm=clip, microbatch=microbatch)
        assert np.abs(flat(out.gradient) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_it_is_the_same_on_eight_devices():
    mesh = make_mesh(MeshConfig())
    batch = pair()
    placed = jax.device_put(batch, batch_sharding(mesh))
    for noise in (0.0, 1.0):  # the noise too: it does not depend on where it is drawn
        many = gradient_of(MIXED, placed, mesh=mesh, noise_multiplier=noise, clip_norm=0.5)
        one = gradient_of(MIXED, batch, noise_multiplier=noise, clip_norm=0.5)
        np.testing.assert_allclose(flat(many.gradient), flat(one.gradient), rtol=1e-5, atol=1e-6)


def test_one_utterance_moves_the_sum_by_no_more_than_the_clip_norm():
    """Replaced by nothing: the clip norm, whichever stream it is of; by another one: twice that. NaN and inf too."""
    clip, rows = 0.2, 8
    batch = pair()
    sum_of = lambda b: rows * flat(gradient_of(MIXED, b, clip_norm=clip).gradient)  # noqa: E731
    whole = sum_of(batch)
    moved = {}
    for stream in ("pre", "task"):
        for what, y in (("gone", 0.0), ("other", -1e4), ("nan", np.nan), ("inf", np.inf)):
            other = jax.tree.map(np.copy, batch)
            if what == "gone":
                other[stream]["index"][0] = -1
            other[stream]["y"][0] = y
            moved[stream, what] = np.linalg.norm(sum_of(other) - whole)
    bounds = {"gone": clip, "other": 2 * clip, "nan": clip, "inf": clip}
    for (_, what), distance in moved.items():
        assert distance <= bounds[what] * (1 + 1e-5)
    assert moved["task", "gone"] > 0.99 * clip  # the bound is reached: this row was clipped
    assert moved["task", "other"] > clip


def test_without_noise_and_clipping_it_is_the_mean_of_the_utterances_gradients():
    batch = toy.make_batch(0, seed=2, fillers=0)
    params, model_state = start()
    out = gradient_of(TASK, batch, clip_norm=math.inf)
    mean = jax.grad(lambda p: TASK(p, model_state, batch, KEY, 5).value)(params)  # the toy's loss is a mean of the rows
    np.testing.assert_allclose(flat(out.gradient), flat(mean), rtol=1e-5, atol=1e-7)
    both = {"pre": toy.make_batch(3, seed=1, fillers=0), "task": batch}
    out = gradient_of(MIXED, both, clip_norm=math.inf)
    mean = jax.grad(lambda p: MIXED(p, model_state, both, KEY, 5).value)(params)
    np.testing.assert_allclose(flat(out.gradient), flat(mean), rtol=1e-5, atol=1e-7)


def test_filler_rows_add_nothing_whatever_lies_in_them_and_neither_does_their_partner():
    batch = pair()
    clean = flat(gradient_of(MIXED, batch, clip_norm=0.5).gradient)
    for stream, row in (("pre", 2), ("task", 2), ("task", -1), ("pre", -1)):
        for garbage in (np.nan, 1e6):
            other = jax.tree.map(np.copy, batch)
            other[stream]["x"][row] = garbage
            other[stream]["y"][row] = garbage
            np.testing.assert_array_equal(flat(gradient_of(MIXED, other, clip_norm=0.5).gradient), clean)
    nothing = jax.tree.map(np.copy, batch)
    nothing["task"]["index"][:] = -1
    assert not flat(gradient_of(MIXED, nothing, clip_norm=0.5).gradient).any()
    # the number they are divided by does not follow the number of real rows
    alone = by_hand(MIXED, batch, 0.5)
    np.testing.assert_allclose(clean, alone.sum(0) / 8, rtol=1e-4, atol=1e-6)
    assert (np.linalg.norm(alone, axis=1) == 0).sum() == 2


def test_the_noise_has_the_stated_deviation_and_is_its_own_in_every_leaf_step_and_run():
    batch = toy.make_batch(0, seed=2)
    plain = gradient_of(TASK, batch, clip_norm=0.5)
    sigma, clip, rows = 3.0, 0.5, 8
    draws = {}
    for step in range(21):
        noisy = gradient_of(TASK, batch, clip_norm=clip, noise_multiplier=sigma, step=step)
        draws[step] = [n - p for n, p in zip(*map(jax.tree.leaves, (noisy.gradient, plain.gradient)), strict=True)]
    std = sigma * clip / rows
    values = np.concatenate([leaf.ravel() for leaves in draws.values() for leaf in leaves]) / std
    n = len(values)
    assert n > 5000
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.std() - 1) < 4 / math.sqrt(2 * n)
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 4 * math.sqrt(0.6827 * 0.3173 / n)
    for place in range(len(draws[0])):  # each leaf by itself
        leaf = np.concatenate([leaves[place].ravel() for leaves in draws.values()]) / std
        assert abs(leaf.std() - 1) < 4.5 / math.sqrt(2 * len(leaf))
    assert len(np.unique(np.round(values, 6))) > 0.99 * n  # nothing is drawn twice
    again = gradient_of(TASK, batch, clip_norm=clip, noise_multiplier=sigma, step=20)
    other = gradient_of(TASK, batch, clip_norm=clip, noise_multiplier=sigma, step=20, key=jax.random.key(12))
    np.testing.assert_array_equal(flat(again.gradient), flat(noisy.gradient))
    assert np.abs(flat(other.gradient) - flat(noisy.gradient)).min() > 0


def test_only_what_is_trained_is_clipped_and_gets_noise():
    out = gradient_of(TASK, toy.make_batch(0), frozen="encoder", noise_multiplier=1.0)
    assert set(named_leaves(out.gradient)) == {"head/kernel", "head/bias"}


def test_exact_figures_stay_inside_unless_they_are_asked_for():
    batch = pair()
    out = gradient_of(MIXED, batch, clip_norm=0.05, noise_multiplier=1.0)
    assert set(out.metrics) == {"alpha"} and float(out.value) == 0
    out = gradient_of(MIXED, batch, clip_norm=0.05, noise_multiplier=1.0, log_exact=True)
    real = (batch["pre"]["index"] >= 0) & (batch["task"]["index"] >= 0)
    params, model_state = start()
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in np.flatnonzero(real)]
    losses = [float(MIXED(params, model_state, row, KEY, jnp.int32(5)).value) for row in rows]
    np.testing.assert_allclose(out.value, np.mean(losses), rtol=1e-5)
    norms = np.linalg.norm(by_hand(MIXED, batch, math.inf), axis=1)
    assert tuple(map(float, out.metrics["privacy/clipped"])) == ((norms > 0.05).sum(), 6.0)
    assert {"pre/loss", "task/loss", "task/abs_error"} <= set(out.metrics)


def test_what_cannot_be_private_is_refused():
    with pytest.raises(UserError, match="found the statistic 'stats/mean'"):
        gradient_of(toy.make_objective(), toy.make_batch(0))
    with pytest.raises(UserError, match="found a batch of 8 rows, expected a multiple of 3"):
        gradient_of(TASK, toy.make_batch(0), microbatch=3)
    uneven = {"pre": {name: x[:4] for name, x in toy.make_batch(0).items()}, "task": toy.make_batch(0)}
    with pytest.raises(UserError, match=r"found batches of \[4, 8\] rows"):
        gradient_of(MIXED, uneven)
    private = PrivacyConfig(noise_multiplier=1.0)
    for options in ({"accumulate": 2}, {"gradients": "pcgrad"}):
        with pytest.raises(UserError, match="with privacy"):
            StepConfig(privacy=private, **options)
    for options in ({"noise_multiplier": -1.0}, {"clip_norm": 0.0}, {"delta": 1.0}, {"microbatch": 0}):
        with pytest.raises(UserError, match=r"trainer\.step\.privacy\."):
            PrivacyConfig(**options)


def dropped_out(scale):
    """The toy's objective with dropout and without statistics that move."""
    inner = toy.make_objective(scale=scale)

    def objective(params, model_state, *rest):
        return inner(params, model_state, *rest)._replace(model_state=model_state)

    return objective


def run(folder, steps, **config):
    privacy = PrivacyConfig(noise_multiplier=0.5, clip_norm=0.5)
    return toy.train(
        folder,
        steps=steps,
        alpha=0.3,
        task=toy.make_task(mix(dropped_out(-1.0), dropped_out(1.0), lambda step: 0.5 - step / 100)),
        step=StepConfig(ema=0.9, privacy=privacy),
        optimizer=OptimizerConfig(peak_lr=1e-2, warmup_steps=2),
        epsilon=Accountant(privacy, {"task": 5, "pre": 3}).epsilon,
        **config,
    )


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["metrics"] for row in rows if row["kind"] == "train"}


def test_a_private_run_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    class Stop(Exception):
        pass

    def stop_at(index, batch):
        if index == 9:
            raise Stop
        return batch

    straight = run(tmp_path / "straight", 12)
    assert straight.programs == 4  # each shape of one stream with each of the other
    assert json.loads((tmp_path / "straight" / KEY_FILE).read_text()) == {"ended": 12}  # the secret is gone

    stopped, again = tmp_path / "stopped", tmp_path / "again"
    stopping = toy.PairedBatches(toy.feed(seed=1), toy.feed(seed=2, wrap=stop_at))
    with pytest.raises(Stop):
        run(stopped, 12, data=stopping)
    secret = json.loads((stopped / KEY_FILE).read_text())["key"]
    assert (stopped / KEY_FILE).stat().st_mode & 0o077 == 0
    resumed = run(stopped, 12)
    assert sorted(lines(stopped)) == sorted(lines(tmp_path / "straight"))

    # the same run without the stop: the same secret, which only a run that goes on takes from its file
    with mock.patch("os.urandom", lambda n: np.array(secret, np.uint32).tobytes()):
        whole = run(again, 12)
    for name in ("params", "ema", "opt_state"):
        assert toy.digest(getattr(whole.state, name)) == toy.digest(getattr(resumed.state, name))
        assert toy.digest(getattr(whole.state, name)) != toy.digest(getattr(straight.state, name))  # another secret
    assert {n: m["privacy/epsilon"] for n, m in lines(stopped).items()} == {
        n: m["privacy/epsilon"] for n, m in lines(again).items()
    }


def test_the_log_has_epsilon_and_no_exact_figure(tmp_path):
    run(tmp_path, 12)
    found = lines(tmp_path)
    assert {n: m["privacy/epsilon"] for n, m in found.items()} == {
        n: Accountant(PrivacyConfig(noise_multiplier=0.5), {"pre": 3}).epsilon(n) for n in (2, 4, 6, 8, 10, 12)
    }
    assert set(found[2]) == {"alpha", "grad_norm", "learning_rate", "skipped", "privacy/epsilon"}


def test_a_run_that_goes_on_without_its_secret_is_refused(tmp_path):
    run(tmp_path, 4)
    assert run(tmp_path, 6).state.step == 6  # it had ended: a new secret will do
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(UserError, match="found no key of the run's noise"):
        run(tmp_path, 8)
    (tmp_path / KEY_FILE).write_text(json.dumps({"ended": 4}))
    with pytest.raises(UserError, match="expected that of the first 6 steps"):
        run(tmp_path, 8)
