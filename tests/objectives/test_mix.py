"""L = alpha L_pre + (1 - alpha) L_task: linear, exact at the ends, harmless at weight 0, the same at three levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.types import LossOut
from speech_jax.objectives import schedules
from speech_jax.objectives.mix import (
    combine,
    combine_gradients,
    combine_pair,
    cosine_similarity,
    mix,
    terms,
)

KEY = jax.random.key(3)


def make_term(target, noise=0.1, poison=False):
    """Mean squared error of a tanh layer, with randomness and a running statistic."""

    def term(params, model_state, batch, key, step):
        x = batch["x"] + noise * jax.random.normal(key, batch["x"].shape)
        out = jnp.tanh(x @ params["w"] + params["b"][None, :])
        per_row = ((out - target) ** 2).mean(1)
        if poison:
            per_row = jnp.sqrt(per_row - 100.0)  # NaN in the value and in every gradient
        statistic = 0.9 * model_state["mean"] + 0.1 * out.mean(0)
        rows = jnp.float32(batch["x"].shape[0])
        return LossOut(per_row.mean(), rows, {"mean": statistic}, {"error": (per_row.sum(), rows)})

    return term


@pytest.fixture(name="setup")
def make_setup():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=4), jnp.float32)}
    state = {"mean": jnp.asarray(rng.normal(size=4), jnp.float32)}
    batch = {
        "pre": {"x": jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)},
        "task": {"x": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)},
    }
    return params, state, batch


@functools.cache
def jitted(objective):
    def loss(p, state, batch, key, step):
        out = objective(p, state, batch, key, step)
        return out.value, out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def value_and_grad(objective, params, state, batch, step=0, key=KEY):
    (value, out), gradient = jitted(objective)(params, state, batch, key, jnp.int32(step))
    return value, out, gradient


def per_term(objective, params, state, batch, step=0, key=KEY):
    """As the trainer does it: a value and a gradient for each leaf, then combined."""
    values, gradients = {}, {}
    for term in terms(objective):
        value, _, gradient = value_and_grad(term.objective, params, state, term.select(batch), step, term.key(key))
        values[term.name], gradients[term.name] = value, gradient
    return combine(objective, values, gradients, jnp.int32(step))


def assert_close(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_the_gradient_of_the_mix_is_the_mix_of_the_gradients(setup):
    params, state, batch = setup
    pre, task = make_term(0.5), make_term(-0.5)
    for step in (0, 5, 10):
        objective = mix(pre, task, schedules.linear(0.9, 0.1, 10))
        alpha = 0.9 - 0.08 * step
        value, out, gradient = value_and_grad(objective, params, state, batch, step)
        v_pre, _, g_pre = value_and_grad(pre, params, state, batch["pre"], step, jax.random.fold_in(KEY, 1))
        v_task, task_out, g_task = value_and_grad(task, params, state, batch["task"], step)
        assert_close(value, alpha * v_pre + (1 - alpha) * v_task)
        assert_close(gradient, jax.tree.map(lambda p, t, a=alpha: a * p + (1 - a) * t, g_pre, g_task))
        assert_same(out.model_state, task_out.model_state)  # only the task's batch moves the statistics
        assert_close(out.weight, alpha * 6 + (1 - alpha) * 3)
        taken_apart = per_term(objective, params, state, batch, step)
        assert_close(taken_apart[0], value)
        assert_close(taken_apart[1], gradient)


@pytest.mark.parametrize(("alpha", "branch"), [(0.0, "task"), (1.0, "pre")])
def test_a_constant_alpha_at_the_end_is_the_single_term_bit_for_bit(setup, alpha, branch):
    params, state, batch = setup
    single = {"pre": make_term(0.5), "task": make_term(-0.5)}
    calls = []

    def other(*args):
        calls.append(args)
        raise AssertionError("the dropped term was computed")

    objective = mix(*(single[name] if name == branch else other for name in ("pre", "task")), alpha)
    only = {branch: batch[branch]}  # the other stream need not even be there
    value, out, gradient = value_and_grad(objective, params, state, only)
    expected, single_out, expected_gradient = value_and_grad(single[branch], params, state, batch[branch])
    assert_same((value, gradient, out.model_state), (expected, expected_gradient, single_out.model_state))
    assert [term.name for term in terms(objective)] == [branch]
    assert terms(objective)[0].owns_state
    assert not calls


@pytest.mark.parametrize(("alpha", "branch"), [(0.0, "task"), (1.0, "pre"), (-3.0, "task"), (7.0, "pre")])
def test_a_schedule_is_clipped_and_exact_at_the_ends(setup, alpha, branch):
    params, state, batch = setup
    single = {"pre": make_term(0.5, noise=0.0), "task": make_term(-0.5, noise=0.0)}
    objective = mix(single["pre"], single["task"], lambda step: jnp.float32(alpha))
    value, _, gradient = value_and_grad(objective, params, state, batch)
    expected, _, expected_gradient = value_and_grad(single[branch], params, state, batch[branch])
    assert_same(value, expected)
    assert_close(gradient, expected_gradient, 1e-7)
    taken_apart = per_term(objective, params, state, batch)
    assert_same(taken_apart[:2], (expected, expected_gradient))


@pytest.mark.parametrize("level", ["loss", "terms", "combine_gradients"])
@pytest.mark.parametrize(("alpha", "poisoned"), [(0.0, "pre"), (1.0, "task")])
def test_a_term_of_weight_zero_cannot_poison(setup, alpha, poisoned, level):
    params, state, batch = setup
    single = {name: make_term(0.5, noise=0.0, poison=name == poisoned) for name in ("pre", "task")}
    good = "task" if poisoned == "pre" else "pre"
    objective = mix(single["pre"], single["task"], schedules.constant(alpha))
    bad_value, _, bad_gradient = value_and_grad(single[poisoned], params, state, batch[poisoned])
    assert np.isnan(bad_value) and np.isnan(bad_gradient["w"]).all()  # or this test could not fail
    value, _, gradient = value_and_grad(single[good], params, state, batch[good])
    if level == "loss":
        found, _, found_gradient = value_and_grad(objective, params, state, batch)
        assert_close((found, found_gradient), (value, gradient), 1e-7)
    elif level == "terms":
        assert_same(per_term(objective, params, state, batch)[:2], (value, gradient))
    else:
        transform = combine_gradients(schedules.constant(alpha))
        pair = {poisoned: bad_gradient, good: gradient}
        assert_same(transform.update(pair, transform.init(params))[0], gradient)


def test_mixes_nest(setup):
    params, state, batch = setup
    a, b, c = make_term(0.5), make_term(-0.5), make_term(0.1)
    objective = mix(a, mix(b, c, 0.25), schedules.constant(0.4))
    nested = {"pre": batch["pre"], "task": {"pre": {"x": batch["pre"]["x"] * 2}, "task": batch["task"]}}
    value, out, gradient = value_and_grad(objective, params, state, nested)
    assert [t.name for t in terms(objective)] == ["pre", "task/pre", "task/task"]
    assert [t.owns_state for t in terms(objective)] == [False, False, True]
    keys = {"pre": jax.random.fold_in(KEY, 1), "task/pre": jax.random.fold_in(KEY, 1), "task/task": KEY}
    parts = [
        (0.4, a, nested["pre"], keys["pre"]),
        (0.6 * 0.25, b, nested["task"]["pre"], keys["task/pre"]),
        (0.6 * 0.75, c, nested["task"]["task"], keys["task/task"]),
    ]
    expected = [value_and_grad(f, params, state, rows, 0, key) for _, f, rows, key in parts]
    assert_close(value, sum(w * e[0] for (w, *_), e in zip(parts, expected, strict=True)))
    total = jax.tree.map(lambda *g: sum(p[0] * x for p, x in zip(parts, g, strict=True)), *(e[2] for e in expected))
    assert_close(gradient, total)
    taken_apart, gradient_apart, logs = per_term(objective, params, state, nested)
    assert_close((taken_apart, gradient_apart), (value, gradient))
    assert {"alpha", "task/alpha", "grad_cos/pre_task", "grad_cos/task/pre_task"} <= set(logs)
    assert {"grad_norm/pre", "grad_norm/task/pre", "grad_norm/task/task"} <= set(logs)
    assert {"pre/error", "task/pre/error", "task/task/error", "task/task/loss"} <= set(out.metrics)


def test_what_is_logged(setup):
    params, state, batch = setup
    pre, task = make_term(0.5), make_term(-0.5)
    objective = mix(pre, task, 0.3)
    _, out, _ = value_and_grad(objective, params, state, batch)
    v_pre, pre_out, g_pre = value_and_grad(pre, params, state, batch["pre"], 0, jax.random.fold_in(KEY, 1))
    _, _, g_task = value_and_grad(task, params, state, batch["task"])
    assert_close(out.metrics["pre/error"], pre_out.metrics["error"])
    assert_close(out.metrics["pre/loss"][0] / out.metrics["pre/loss"][1], v_pre)
    _, _, logs = per_term(objective, params, state, batch)
    assert_close(logs["alpha"], (0.3, 1.0))
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]).astype(np.float64) for g in (g_pre, g_task)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert_close(logs["grad_cos/pre_task"][0], cosine, 1e-5)
    assert_close(logs["grad_norm/pre"][0], np.linalg.norm(flat[0]), 1e-5)
    assert float(cosine_similarity(g_pre, jax.tree.map(jnp.zeros_like, g_task))) == 0.0


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_constant_outside_the_range_is_refused(alpha):
    with pytest.raises(UserError, match=r"alpha: found .*, expected a number in \[0, 1\]"):
        mix(make_term(0.0), make_term(0.0), alpha)
    with pytest.raises(UserError, match="alpha"):
        combine_gradients(alpha)


def test_the_loss_form_and_the_gradient_form_agree_after_ten_steps(setup):
    params, state, batch = setup
    alpha = schedules.cosine(0.8, 0.2, 10)
    pre, task = make_term(0.5), make_term(-0.5)
    objective = mix(pre, task, alpha)
    adamw = optax.adamw(1e-2)
    chained = optax.chain(combine_gradients(alpha), optax.adamw(1e-2))
    p1, s1, p2, s2 = params, adamw.init(params), params, chained.init(params)
    for step in range(10):
        key = jax.random.fold_in(KEY, step)
        _, _, gradient = value_and_grad(objective, p1, state, batch, step, key)
        updates, s1 = adamw.update(gradient, s1, p1)
        p1 = optax.apply_updates(p1, updates)
        pair = {
            "pre": value_and_grad(pre, p2, state, batch["pre"], step, jax.random.fold_in(key, 1))[2],
            "task": value_and_grad(task, p2, state, batch["task"], step, key)[2],
        }
        updates, s2 = chained.update(pair, s2, p2)
        p2 = optax.apply_updates(p2, updates)
    moved = max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(p1), jax.tree.leaves(params), strict=True))
    assert moved > 0.05  # the steps did something
    assert_close(p1, p2, 2e-6)
    assert int(s2[0].count) == 10
    assert_close(s2[0].alpha, float(alpha(jnp.int32(9))))


def test_the_gradient_form_can_follow_the_runs_step(setup):
    params, *_ = setup
    transform = combine_gradients(schedules.linear(1.0, 0.0, 100))
    pair = {"pre": params, "task": jax.tree.map(jnp.negative, params)}
    combined, _ = transform.update(pair, transform.init(params), step=jnp.int32(75))
    assert_close(combined, jax.tree.map(lambda p: (0.25 - 0.75) * p, params))


def test_pcgrad_takes_out_what_conflicts():
    rng = np.random.default_rng(5)
    a = {"x": jnp.asarray(rng.normal(size=20), jnp.float32), "y": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
    noise = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), a)
    against = jax.tree.map(lambda x, n: -x + 0.5 * n, a, noise)
    alpha = jnp.float32(0.3)

    def flat(tree):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)

    fa, fb = flat(a), flat(against)
    assert fa @ fb < 0
    expected = 0.3 * (fa - (fa @ fb) / (fb @ fb) * fb) + 0.7 * (fb - (fa @ fb) / (fa @ fa) * fa)
    found = combine_pair(alpha, a, against, "pcgrad")
    np.testing.assert_allclose(flat(found), expected, rtol=1e-4, atol=1e-5)
    assert flat(found) @ fa > -1e-4 and flat(found) @ fb > -1e-4  # no conflict is left
    with_it = jax.tree.map(lambda x, n: x + 0.1 * n, a, noise)
    assert_same(combine_pair(alpha, a, with_it, "pcgrad"), combine_pair(alpha, a, with_it, "sum"))
    assert_same(combine_pair(jnp.float32(0), a, against, "pcgrad"), against)
    nothing = jax.tree.map(jnp.zeros_like, a)
    assert np.isfinite(flat(combine_pair(alpha, a, nothing, "pcgrad"))).all()


def test_the_ratio_of_the_norms_matters_under_adam(setup):
    """Why each term has to be a mean: Adam forgets the scale of the whole, not that of one term against the other."""
    params, state, batch = setup
    pre, task = make_term(0.5, 0.0), make_term(-0.5, 0.0)

    def scaled(term, factor):
        return lambda *args: (lambda out: out._replace(value=factor * out.value))(term(*args))

    def after(pre_factor, task_factor):
        objective = mix(scaled(pre, pre_factor), scaled(task, task_factor), 0.5)
        adam, p = optax.adam(1e-2, eps=1e-30), params
        opt_state = adam.init(p)
        for _ in range(3):
            updates, opt_state = adam.update(value_and_grad(objective, p, state, batch)[2], opt_state, p)
            p = optax.apply_updates(p, updates)
        return p

    assert_close(after(1.0, 1.0), after(64.0, 64.0), 1e-5)
    far = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after(1.0, 1.0), after(64.0, 1.0))
    assert max(jax.tree.leaves(far)) > 1e-3


def test_schedules_equal_a_numpy_loop():
    steps = np.arange(-5, 60)
    found = {
        "constant": schedules.constant(0.3),
        "linear": schedules.linear(0.8, 0.2, 20, begin=10),
        "cosine": schedules.cosine(0.8, 0.2, 20, begin=10),
        "recadam": schedules.recadam(0.2, 30),
    }
    for step in steps.tolist():
        done = min(max((step - 10) / 20, 0), 1)
        expected = {
            "constant": 0.3,
            "linear": 0.8 - 0.6 * done,
            "cosine": 0.2 + 0.3 * (1 + np.cos(np.pi * done)),
            "recadam": 1 - 1 / (1 + np.exp(-0.2 * (step - 30))),
        }
        for name, schedule in found.items():
            np.testing.assert_allclose(schedule(jnp.int32(step)), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.bad_types
def test_alpha_from_a_config():
    config = schedules.AlphaConfig(kind="linear", start=0.6, end=0.1, steps=10)
    assert_close(schedules.make_alpha(config)(jnp.int32(5)), 0.35)
    assert schedules.make_alpha(schedules.AlphaConfig(start=0.0)) == 0.0
    assert isinstance(schedules.make_alpha(schedules.AlphaConfig(start=0.5)), float)
    with pytest.raises(UserError, match=r"alpha.end: found 1.5"):
        schedules.make_alpha(schedules.AlphaConfig(kind="cosine", end=1.5))
    with pytest.raises(UserError, match="alpha.kind"):
        schedules.make_alpha(schedules.AlphaConfig(kind="zigzag"))


def test_the_larger_alpha_is_the_less_is_forgotten():
    """Learn one mapping, fine-tune to another with and without replay: the old loss falls as alpha rises."""
    rng = np.random.default_rng(0)
    x_old, x_new = (jnp.asarray(rng.normal(size=(64, 4)), jnp.float32) for _ in range(2))

    def term(target):
        def objective(params, model_state, batch, key, step):
            out = jnp.tanh(batch @ params["in"]) @ params["out"]
            return LossOut(jnp.mean((out[:, 0] - target(batch)) ** 2), jnp.float32(64), model_state, {})

        return objective

    old, new = term(lambda x: jnp.sin(2 * x[:, 0]) + x[:, 1]), term(lambda x: x[:, 2] * x[:, 3] - x[:, 1])
    adam = optax.adam(1e-2)

    @functools.partial(jax.jit, static_argnums=0)
    def train(objective, params):
        def one(carry, step):
            params, state = carry
            batch = {"pre": x_old, "task": x_new}
            gradient = jax.grad(lambda p: objective(p, {}, batch, KEY, step).value)(params)
            updates, state = adam.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(one, (params, adam.init(params)), jnp.arange(400))
        return params

    start = {"in": jnp.asarray(rng.normal(size=(4, 32)), jnp.float32), "out": jnp.zeros((32, 1))}
    pretrained = train(mix(old, new, 1.0), start)
    losses = {}
    for alpha in (0.0, 0.1, 0.5, 0.9):
        params = train(mix(old, new, alpha), pretrained)
        losses[alpha] = [float(f(params, {}, x, KEY, 0).value) for f, x in ((old, x_old), (new, x_new))]
    before = float(old(pretrained, {}, x_old, KEY, 0).value)
    forgotten = [losses[alpha][0] for alpha in losses]
    assert forgotten == sorted(forgotten, reverse=True)
    assert forgotten[0] > 100 * before and forgotten[-1] < 0.05 * forgotten[0]
    assert losses[0.1][1] < 0.5 * float(new(pretrained, {}, x_new, KEY, 0).value)  # and the new one is learned
