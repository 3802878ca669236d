"""Whole fine-tuning steps against an independent computation in float64: NumPy, derivatives by hand.

A bilinear network on points of uneven rows, whose loss has a mean per point and a mean per row. The steps mix two
losses, pull to the start, clip, decay, freeze, hold, average, adapt, and split the batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.types import Model, Report, Task
from speech_jax.finetuning.adapters import adapter_groups, merge_adapters, with_adapters
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.objectives.means import PENALTY, loss_of, weighted_means
from speech_jax.objectives.mix import mix
from speech_jax.training.config import OptimizerConfig, StepConfig
from speech_jax.training.optimizer import learning_rate, make_optimizer, penalties, trainable
from speech_jax.training.state import new_state
from tests.support.single_step import make_step

ROWS, POINTS, STEPS, PENALTY_WEIGHT = 8, 5, 4, 0.3
SCHEDULE = {"schedule": "constant", "warmup_steps": 0, "peak_lr": 0.05}


def make_batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(ROWS, POINTS, 3)).astype(np.float32),
        "y": rng.normal(size=(ROWS, POINTS)).astype(np.float32),
        "length": rng.integers(0, POINTS + 1, ROWS).astype(np.int32),
    }


def objective(params, model_state, batch, key, step):
    mask = (jnp.arange(POINTS)[None] < batch["length"][:, None]).astype(jnp.float32)
    out = (batch["x"] @ params["encoder"]["kernel"] @ params["head"]["kernel"])[..., 0]
    points, rows = mask.sum(), (batch["length"] > 0).sum().astype(jnp.float32)
    sums = {
        "error": ((mask * (out - batch["y"]) ** 2).sum(), points),
        PENALTY: {"size": (((mask * out).sum(1) ** 2).sum(), rows)},
    }
    factors = {"error": 1.0, PENALTY: {"size": PENALTY_WEIGHT}}
    return loss_of(sums, jax.tree_util.Partial(weighted_means, factors), points, model_state, {})


def loss_and_gradient(encoder, head, batch):
    """The same in float64: (loss, d loss / d encoder, d loss / d head)."""
    x, y = batch["x"].astype(np.float64), batch["y"].astype(np.float64)
    mask = (np.arange(POINTS) < batch["length"][:, None]).astype(np.float64)
    points, rows = max(mask.sum(), 1), max((batch["length"] > 0).sum(), 1)
    out = (x @ encoder @ head)[..., 0]
    row_sums = (mask * out).sum(1)
    loss = (mask * (out - y) ** 2).sum() / points + PENALTY_WEIGHT * (row_sums**2).sum() / rows
    d_out = mask * (2 * (out - y) / points + PENALTY_WEIGHT * 2 * row_sums[:, None] / rows)
    d_head = np.einsum("rpi,ij,rp->j", x, encoder, d_out)[:, None]
    return loss, np.einsum("rpi,rp,j->ij", x, d_out, head[:, 0]), d_head


def reference(params, batches, config, step_config, alpha, fisher=None, adapter=None):
    """STEPS steps of AdamW; returns (parameters, their moving average, loss, gradient norm, penalties) of the last."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    start, average = dict(params), dict(params)
    first = {name: 0 for name in params}
    if adapter is not None:
        first["base/encoder"] = None
    for pattern, factor in config.groups:
        if factor is None and adapter is None:
            first[pattern.strip("^/")] = None
    for pattern, steps in config.hold:
        first[pattern.strip("^/")] = steps
    moments = {name: (0.0, 0.0) for name in params}
    counts = 0
    for step in range(STEPS):
        weights = {"pre": alpha(step), "task": 1 - alpha(step)}
        loss, gradient = 0.0, {name: 0.0 for name in params}
        for part, weight in weights.items():
            if adapter is None:
                value, d_encoder, d_head = loss_and_gradient(params["encoder"], params["head"], batches[step][part])
                parts = {"encoder": d_encoder, "head": d_head}
            else:
                a, b = params["adapter/a"], params["adapter/b"]
                kernel = params["base/encoder"] + adapter.scale * a @ b
                value, d, d_head = loss_and_gradient(kernel, params["base/head"], batches[step][part])
                parts = {"base/encoder": 0 * d, "base/head": d_head}
                parts |= {"adapter/a": adapter.scale * d @ b.T, "adapter/b": adapter.scale * a.T @ d}
            loss += weight * value
            gradient = {name: gradient[name] + weight * parts[name] for name in params}
        moving = {name for name, at in first.items() if at is not None}
        norm = np.sqrt(sum((gradient[name] ** 2).sum() for name in moving))
        pulls = {"anchor": 0.0, "ewc": 0.0}
        for name in moving:
            delta = params[name] - start[name]
            strengths = {"anchor": config.anchor, "ewc": config.ewc * (fisher[name] if fisher else 0.0)}
            for kind, strength in strengths.items():
                pulls[kind] += 0.5 * np.sum(strength * delta**2)
                gradient[name] = gradient[name] + strength * delta
        live = {name for name in moving if step >= first[name]}
        gradient = {name: g if name in live else 0 * g for name, g in gradient.items()}
        total = np.sqrt(sum((gradient[name] ** 2).sum() for name in moving))
        clip = min(1.0, config.clip_norm / total) if config.clip_norm is not None else 1.0
        counts += 1
        decay = min(step_config.ema, (1 + step) / (10 + step))
        for name in moving:
            g = gradient[name] * clip
            m, v = moments[name]
            m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g**2
            moments[name] = m, v
            update = m / (1 - config.b1**counts) / (np.sqrt(v / (1 - config.b2**counts)) + config.eps)
            if np.any(update != 0):
                update = update + config.weight_decay * params[name]
            params[name] = params[name] - config.peak_lr * update
            average[name] = average[name] + (1 - decay) * (params[name] - average[name])
    return params, average, loss, norm, pulls


CASES = {
    "plain": ({}, 1, "none"),
    "pulled to the start": ({"anchor": 0.5, "ewc": 2.0}, 1, "none"),
    "frozen encoder": ({"groups": (("^encoder/", None), ("", 1.0))}, 1, "none"),
    "held encoder": ({"hold": (("^encoder/", 2),), "anchor": 0.5}, 1, "none"),
    "micro-batches": ({"anchor": 0.5}, 4, "none"),
    "clipped": ({"clip_norm": 0.1}, 2, "none"),
    "lora": ({}, 1, "lora"),
    "lora in micro-batches": ({}, 4, "lora"),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_an_independent_computation_in_float64(case):
    changes, parts, kind = CASES[case]
    rng = np.random.default_rng(0)
    plain = {"encoder": {"kernel": rng.normal(size=(3, 4))}, "head": {"kernel": rng.normal(size=(4, 1))}}
    plain = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), plain)
    batches = [{"pre": make_batch(2 * n), "task": make_batch(2 * n + 1)} for n in range(STEPS)]
    config = dataclasses.replace(
        OptimizerConfig(**SCHEDULE, anchor_free=(), no_decay=(), weight_decay=0.1, eps=1e-6), **changes
    )
    step_config = StepConfig(accumulate=parts, ema=0.9)
    adapter = AdapterConfig("lora", rank=2, targets=("^encoder/kernel",)) if kind == "lora" else None
    mixed = mix(objective, objective, lambda step: 0.8 - 0.1 * step)
    task = Task(Model(None, None), mixed, None, lambda *_: Report({}))
    params, names = plain, {"encoder": ("encoder", "kernel"), "head": ("head", "kernel")}
    if adapter is not None:
        task = with_adapters(task, adapter)
        config = dataclasses.replace(config, groups=adapter_groups(adapter))
        matrices = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(2, 4))}
        matrices = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), matrices)
        params = {"base": plain, "adapter": {"encoder": {"kernel": matrices}}}
        names = {f"base/{name}": ("base", *path) for name, path in names.items()}
        names |= {f"adapter/{m}": ("adapter", "encoder", "kernel", m) for m in "ab"}

    def flat(tree):
        leaves = {}
        for name, path in names.items():
            leaf = tree
            for key in path:
                leaf = leaf[key]
            leaves[name] = np.asarray(leaf, np.float64)
        return leaves

    fisher = jax.tree.map(lambda p: jnp.square(p) + 0.1, params)
    optimizer = make_optimizer(config, params, 100, fisher)
    step = jax.jit(make_step(
        task.objective, optimizer, trainable(config, params), step_config, seed=0, rate=learning_rate(config, 100),
        penalties=lambda params, state: penalties(config, params, state),
    ))  # fmt: skip
    state = new_state(params, {}, optimizer, ema=True)
    for batch in batches:
        state, logs, finite = step(state, batch)
        assert finite.all()
    expected = reference(
        flat(params), batches, config, step_config, lambda step: 0.8 - 0.1 * step, flat(fisher), adapter
    )
    for got, want in ((flat(state.params), expected[0]), (flat(state.ema), expected[1])):
        for name, leaf in want.items():
            assert np.linalg.norm(got[name] - leaf) <= 1e-6 * np.linalg.norm(leaf), name
    assert float(logs["loss"][0]) == pytest.approx(expected[2], rel=1e-6)
    assert float(logs["grad_norm"][0]) == pytest.approx(expected[3], rel=2e-6)
    for name in ("anchor", "ewc"):
        if changes.get(name):
            assert float(logs[f"penalty/{name}"][0]) == pytest.approx(expected[4][name], rel=1e-5)
            assert 0 < float(logs[f"penalty_share/{name}"][0]) < 1
    if adapter is not None:
        merged = merge_adapters(state.params["base"], state.params["adapter"], adapter)
        kernel = expected[0]["base/encoder"] + adapter.scale * expected[0]["adapter/a"] @ expected[0]["adapter/b"]
        np.testing.assert_allclose(merged["encoder"]["kernel"], kernel, rtol=1e-5, atol=1e-6)
