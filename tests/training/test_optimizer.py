"""Optimizers against optax's own, schedules against a plain loop, and freezing without its traps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.rules import match_rules, named_leaves
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.optimizer import check_optimizer, learning_rate, make_optimizer, rate_factors, trainable
from speech_jax.training.presets import tacotron2_deep_learning_examples, tacotron2_nvidia, tacotron2_paper


def make_params(seed=0):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "encoder": {
            "dense": {"kernel": array(4, 3), "bias": array(3)},
            "layer_norm": {"scale": array(3), "bias": array(3)},
        },
        "head": {"kernel": array(3, 2), "bias": array(2)},
    }


def steps(optimizer, params, gradients):
    state = optimizer.init(params)

    @jax.jit
    def one(params, state, gradient, step):
        updates, state = optimizer.update(gradient, state, params, step=step)
        return optax.apply_updates(params, updates), state

    for step, gradient in enumerate(gradients):
        params, state = one(params, state, gradient, jnp.int32(step))
    return params, state


GRADIENTS = [make_params(seed) for seed in range(1, 6)]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "lion"])
def test_each_rule_is_optaxs(name):
    config = OptimizerConfig(
        name=name,
        schedule="constant",
        warmup_steps=3,
        peak_lr=1e-2,
        weight_decay=0.0 if name == "adam" else 0.1,
        no_decay=(),
        clip_norm=None,
        eps=1e-7,
    )
    rate = learning_rate(config, 100)
    rules = {
        "adamw": optax.adamw(rate, b1=0.9, b2=0.98, eps=1e-7, weight_decay=0.1),
        "adam": optax.adam(rate, b1=0.9, b2=0.98, eps=1e-7),
        "lion": optax.lion(rate, b1=0.9, b2=0.98, weight_decay=0.1),
        "sgd": optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(rate)),
        "rmsprop": optax.chain(
            optax.scale_by_rms(decay=0.98, eps=1e-7),
            optax.trace(0.9),
            optax.add_decayed_weights(0.1),
            optax.scale_by_learning_rate(rate),
        ),
    }
    params = make_params()
    ours, _ = steps(make_optimizer(config, params, 100), params, GRADIENTS)
    theirs, _ = steps(optax.with_extra_args_support(rules[name]), params, GRADIENTS)
    for key, leaf in named_leaves(ours).items():
        np.testing.assert_allclose(leaf, named_leaves(theirs)[key], rtol=1e-6, atol=1e-7, err_msg=key)
        assert np.abs(leaf - named_leaves(params)[key]).max() > 1e-3


def test_schedules_equal_a_plain_loop():
    total, warmup, peak, end = 200, 20, 2e-3, 1e-5
    expected = {
        "constant": lambda t: peak,
        "noam": lambda t: max(peak * (warmup / t) ** 0.5, end),
        "cosine": lambda t: end + (peak - end) * 0.5 * (1 + np.cos(np.pi * min((t - warmup) / (total - warmup), 1))),
        "wsd": lambda t: peak if t <= total - 50 else end + (peak - end) * max(1 - (t - total + 50) / 50, 0),
        "tri_stage": lambda t: peak * (end / peak) ** min(max((t - warmup - 30) / (total - warmup - 30), 0), 1),
    }
    for name, after in expected.items():
        hold = 30 if name == "tri_stage" else 0
        config = OptimizerConfig(
            schedule=name,
            peak_lr=peak,
            end_lr=end,
            warmup_steps=warmup,
            hold_steps=hold,
            decay_steps=50 if name == "wsd" else 0,
        )
        found = jax.vmap(learning_rate(config, total))(jnp.arange(total + 10))
        for step, value in enumerate(found.tolist()):
            t = step + 1
            want = peak * t / warmup if t < warmup else after(t)
            assert value == pytest.approx(want, rel=2e-5, abs=1e-9), (name, step)
    assert float(learning_rate(OptimizerConfig(warmup_steps=0, schedule="constant", peak_lr=0.5), 10)(0)) == 0.5
    holds = OptimizerConfig(schedule="tri_stage", peak_lr=peak, warmup_steps=1, hold_steps=3_000)
    assert [float(learning_rate(holds, 4)(step)) for step in range(4)] == pytest.approx([peak] * 4)


@pytest.mark.parametrize("schedule", ["tri_stage", "cosine", "wsd"])
def test_a_warm_up_longer_than_the_run_is_refused(schedule):
    with pytest.raises(UserError, match="optimizer.warmup_steps: found 100"):
        learning_rate(OptimizerConfig(schedule=schedule, warmup_steps=100), 100)


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop", "lion"])
def test_frozen_leaves_stay_bit_for_bit_and_keep_no_state(name):
    """With decay, clipping and a gradient on the frozen leaves: the traps of fine-tuning with optax."""
    params = make_params()
    params["encoder"]["dense"]["kernel"] = params["encoder"]["dense"]["kernel"].at[0, 0].set(-0.0)
    config = OptimizerConfig(
        name=name, schedule="constant", warmup_steps=0, weight_decay=0.5, groups=(("^encoder/", None), ("head", 1.0))
    )
    gradients = [jax.tree.map(lambda g: 20.0 * g, g) for g in GRADIENTS]
    after, state = steps(make_optimizer(config, params, 100), params, gradients)
    for key, leaf in named_leaves(after).items():
        same = np.asarray(leaf).view(np.uint32) == np.asarray(named_leaves(params)[key]).view(np.uint32)
        if key.startswith("encoder"):
            assert (same | (np.asarray(leaf) == 0)).all(), key
        else:
            assert not same.any(), key
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    moments = {"adamw": 2, "sgd": 1, "rmsprop": 2, "lion": 1}[name]
    assert sum(leaf.size for leaf in arrays) == moments * (3 * 2 + 2)


def test_frozen_gradients_do_not_count_in_the_clipping():
    params = make_params()
    config = OptimizerConfig(
        name="sgd",
        momentum=0.0,
        schedule="constant",
        warmup_steps=0,
        peak_lr=1.0,
        weight_decay=0.0,
        clip_norm=0.1,
        groups=(("encoder", None), (".*", 1.0)),
    )
    gradient = make_params(9)
    gradient["encoder"] = jax.tree.map(lambda g: 1e6 * g, gradient["encoder"])
    optimizer = make_optimizer(config, params, 10)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, step=jnp.int32(0))
    assert float(optax.tree.norm(updates["head"])) == pytest.approx(0.1, rel=1e-5)
    assert float(optax.tree.norm(updates["encoder"])) == 0.0


def test_one_clip_for_all_groups_and_a_rate_for_each():
    params, gradient = make_params(), make_params(9)
    config = OptimizerConfig(
        name="sgd",
        momentum=0.0,
        schedule="constant",
        warmup_steps=0,
        peak_lr=0.5,
        weight_decay=0.0,
        clip_norm=1.0,
        groups=(("head", 3.0), (".*", 0.1)),
    )
    optimizer = make_optimizer(config, params, 10)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, step=jnp.int32(0))
    norm = float(optax.tree.norm(gradient))
    assert norm > 1.0
    for key, update in named_leaves(updates).items():
        factor = 3.0 if "head" in key else 0.1
        np.testing.assert_allclose(update, -0.5 * factor * named_leaves(gradient)[key] / norm, rtol=1e-5)


def test_decay_spares_biases_norms_and_what_no_gradient_reaches():
    params = make_params()
    config = OptimizerConfig(schedule="constant", warmup_steps=0, peak_lr=0.1, weight_decay=0.5, clip_norm=None)
    gradients = [{**g, "head": jax.tree.map(jnp.zeros_like, g["head"])} for g in GRADIENTS]  # alpha = 1: no task
    with_decay, _ = steps(make_optimizer(config, params, 10), params, gradients)
    without, _ = steps(
        make_optimizer(OptimizerConfig(**{**vars(config), "weight_decay": 0.0}), params, 10), params, gradients
    )
    differs = {
        key: bool(np.any(np.asarray(leaf) != np.asarray(named_leaves(without)[key])))
        for key, leaf in named_leaves(with_decay).items()
    }
    assert [key for key, value in differs.items() if value] == ["encoder/dense/kernel"]
    np.testing.assert_array_equal(with_decay["head"]["kernel"], params["head"]["kernel"])


def test_groups_must_cover_and_must_fit():
    params = make_params()
    with pytest.raises(UserError, match=r"optimizer.groups: found no rule for 'head/(bias|kernel)'"):
        make_optimizer(OptimizerConfig(groups=(("encoder", 1.0),)), params, 10)
    with pytest.raises(UserError, match="found 'enkoder', which fits no parameter"):
        make_optimizer(OptimizerConfig(groups=(("enkoder", None), (".*", 1.0))), params, 10)
    with pytest.raises(UserError, match="expected a regular expression"):
        make_optimizer(OptimizerConfig(groups=(("(", 1.0),)), params, 10)
    with pytest.raises(UserError, match="every parameter is frozen"):
        make_optimizer(OptimizerConfig(groups=((".*", None),)), params, 10)
    with pytest.raises(UserError, match="with adam, expected 0"):
        make_optimizer(OptimizerConfig(name="adam", weight_decay=0.1), params, 10)
    with pytest.raises(UserError, match="optimizer.name"):
        make_optimizer(OptimizerConfig(name="adagrad"), params, 10)


def test_the_first_rule_that_is_found_wins():
    config = OptimizerConfig(groups=(("head/bias$", None), ("head", 1.0), (".*", None)))
    moving = {key for key, value in named_leaves(trainable(config, make_params())).items() if value}
    assert moving == {"head/kernel"}
    values = match_rules(make_params(), (("dense", 1), (".", 2)), "rules")
    assert named_leaves(values)["encoder/dense/bias"] == 1 and named_leaves(values)["head/bias"] == 2


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop", "lion"])
def test_what_is_held_stands_still_and_then_starts_as_if_new(name):
    """Held leaves do not move, decay, clip the others or gather momentum; the head alone warms up."""
    params = make_params()
    config = OptimizerConfig(
        name=name, schedule="constant", warmup_steps=0, weight_decay=0.5, hold=(("^encoder/", 3),), no_decay=()
    )
    alone = OptimizerConfig(
        name=name, schedule="constant", warmup_steps=0, weight_decay=0.5, groups=(("^encoder/", None), ("", 1.0)),
        no_decay=(),
    )  # fmt: skip
    gradients = [jax.tree.map(lambda g: 20.0 * g, g) for g in GRADIENTS]
    after, _ = steps(make_optimizer(config, params, 100), params, gradients[:3])
    expected, _ = steps(make_optimizer(alone, params, 100), params, gradients[:3])
    for key, leaf in named_leaves(after).items():
        np.testing.assert_array_equal(leaf, named_leaves(expected)[key], err_msg=key)
    later, _ = steps(make_optimizer(config, params, 100), params, gradients)
    for key, leaf in named_leaves(later).items():
        assert np.abs(leaf - named_leaves(after)[key]).max() > 1e-4, key


def test_rates_fall_from_layer_to_layer():
    names = ("subsampling/out", "layers_0/linear", "layers_1/linear", "layers_10/linear", "head")
    params = {}
    for name in names:
        parts = (["encoder"] if name != "head" else []) + name.split("/")
        node = params
        for part in parts:
            node = node.setdefault(part, {})
        node["kernel"] = jnp.ones((2, 2))
    config = OptimizerConfig(layer_decay=0.5, groups=(("layers_10/", 0.1), ("", 1.0)))
    factors = {name.split("/")[-3 if "layers" in name else 1 if "sub" in name else 0]: value
               for name, value in rate_factors(config, params).items()}  # fmt: skip
    only_first = OptimizerConfig(layer_decay=0.5, groups=(("layers_0/|head", 1.0), ("", None)))
    make_optimizer(only_first, params, 10_000)
    assert factors == {
        "head": 1.0, "layers_10": 0.05, "layers_1": 0.5**10, "layers_0": 0.5**11, "subsampling": 0.5**12
    }  # fmt: skip
    sgd = OptimizerConfig(name="sgd", momentum=0, schedule="constant", peak_lr=1.0, warmup_steps=0, weight_decay=0,
                          clip_norm=None, layer_decay=0.5)  # fmt: skip
    gradient = jax.tree.map(jnp.ones_like, params)
    moved, _ = steps(make_optimizer(sgd, params, 10), params, [gradient])
    for name, leaf in named_leaves(moved).items():
        np.testing.assert_allclose(1.0 - leaf, rate_factors(sgd, params)[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hold=(("^encodr/", 3),)), "optimizer.hold: found '\\^encodr/', which fits no parameter"),
        (dict(hold=(("^encoder/", -1),)), "optimizer.hold: found -1 steps"),
        (dict(layer_decay=0.0), "optimizer.layer_decay: found 0.0"),
        (dict(layer_decay=0.5), "expected some"),
    ],
)
def test_bad_holds_and_layer_decays_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(OptimizerConfig(**changes), make_params(), 100)


REST, FREEZE = (".*", 1.0), ("^encoder/", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(groups=(REST, FREEZE)), "found '.encoder/' after '.*', which leaves it no parameter"),
        (dict(groups=(REST, (".*", None))), r"groups: found '\.\*' after '\.\*'"),
        (dict(groups=(("er/.*kernel", 1.0), ("er/", 0.5), FREEZE, REST)), "'.encoder/' after 'er/.*kernel', 'er/'"),
        (dict(groups=(("^encodr/", None), REST)), r"fits no parameter; did you mean '\^encoder/'\?"),
        (dict(hold=(("encoder", 3), ("dense", 4))), "optimizer.hold: found 'dense' after 'encoder'"),
        (dict(hold=(("^encoder/", 3),), groups=(FREEZE, REST)), "hold of what optimizer.groups train: found"),
        (dict(no_decay=("^haed/",)), r"optimizer.no_decay: found '\^haed/', .* did you mean '\^head/'\?"),
        (dict(weight_decay=0.1, no_decay=(".*",)), "optimizer.weight_decay: found 0.1, which reaches no parameter"),
        (dict(anchor=0.1, anchor_free=("^haed/",)), "optimizer.anchor_free: found '.haed/', which fits no parameter"),
        (dict(anchor=0.1, anchor_free=("^(encoder|head)/",)), "anchor: found 0.1, which reaches no parameter"),
        (dict(ewc=1.0, groups=(FREEZE, REST)), "optimizer.ewc: found 1.0, which reaches no parameter"),
        (dict(hold=((".*", 10_000),)), "optimizer.hold: found every parameter held for 10000 steps or more"),
        (dict(hold=(("^head/", 10_001),), groups=(FREEZE, REST)), "optimizer.hold: found every parameter held"),
        (dict(layer_decay=0.5, groups=(FREEZE, REST)), "optimizer.layer_decay: found 0.5, which reaches no parameter"),
    ],
)
def test_a_rule_or_a_penalty_that_reaches_no_parameter_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(OptimizerConfig(**changes), make_params(), 10_000)


@pytest.mark.parametrize(
    "changes",
    [
        dict(groups=(FREEZE, ("^head/", 10.0), REST)),  # a rest of nothing
        dict(groups=(("bias$", 1.0), (".*", None))),  # the default weight decay may reach nothing
        dict(hold=(REST[:1] + (3,),)),
        dict(hold=(("bias", 0), ("^encoder/", 10_000))),  # the biases are not held
        dict(anchor=0.1, anchor_free=()),
    ],
)
def test_rules_that_cover_everything_are_fine(changes):
    make_optimizer(OptimizerConfig(**changes), make_params(), 10_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(schedule="cosine", warmup_steps=100), "optimizer.warmup_steps: found 100"),
        (dict(schedule="tri_stage", warmup_steps=0, end_lr=0.0), "optimizer.end_lr: found 0.0"),
        (dict(hold_steps=-1), "optimizer.hold_steps: found -1"),
        (dict(name="adagrad"), "optimizer.name: found 'adagrad'"),
        (dict(name="adam"), "optimizer.weight_decay: found 0.001 with adam"),
        (dict(l2=-1.0), "optimizer.l2: found -1.0"),
        (dict(layer_decay=2.0), "optimizer.layer_decay: found 2.0"),
        (dict(eps=-1.0), "optimizer.eps: found -1.0, expected a number of 0 or more"),
        (dict(weight_decay=float("nan")), "optimizer.weight_decay: found nan"),
        (dict(b1=1.5), "optimizer.b1: found 1.5, expected a number from 0 to below 1"),
        (dict(name="sgd", momentum=-0.1), "optimizer.momentum: found -0.1"),
        (dict(ewc=1.0, ewc_microbatch=0), "optimizer.ewc_microbatch: found 0, expected 1 or more"),
        (dict(clip_norm=-1.0), "optimizer.clip_norm: found -1.0, expected a number above 0, or None"),
        (dict(clip_norm=0.0), "optimizer.clip_norm: found 0.0"),
        (dict(peak_lr=0.0), "optimizer.peak_lr: found 0.0, expected a number above 0"),
        (dict(groups=((".*", -1.0),)), "optimizer.groups: found -1.0 for '.*', expected a number above 0"),
        (dict(groups=(("^encoder/", 0.0), (".*", 1.0))), "found 0.0 for '.encoder/', .*, or None, which freezes"),
        (dict(hold=(("head", -1),)), "optimizer.hold: found -1 steps"),
        (dict(hold=(("head", 3), ("^encoder/", 0))), "optimizer.hold: found 0 steps for '.encoder/', expected 1"),
        (dict(no_decay=("(",)), r"optimizer.no_decay: found '\(', expected a regular expression"),
        (dict(groups=(("(", 1.0),)), r"optimizer.groups: found '\(', expected a regular expression"),
    ],
)
def test_what_needs_no_parameters_is_checked_without_them(changes, message):
    check_optimizer(OptimizerConfig(), 100)
    with pytest.raises(UserError, match=message):
        check_optimizer(OptimizerConfig(**changes), 100)


def test_l2_is_pytorchs_weight_decay_of_adam():
    """torch.optim.Adam: the decay is part of the gradient, so Adam scales it too. A plain loop in float64."""
    config = dataclasses.replace(tacotron2_nvidia(), clip_norm=None, l2=0.1)
    params = make_params()
    moved, _ = steps(make_optimizer(config, params, 100), params, GRADIENTS)
    for name, start in named_leaves(params).items():
        p = np.asarray(start, np.float64)
        m, v = np.zeros_like(p), np.zeros_like(p)
        for t, gradient in enumerate(GRADIENTS, 1):
            g = np.asarray(named_leaves(gradient)[name], np.float64) + 0.1 * p
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p = p - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(named_leaves(moved)[name], p, atol=1e-6)


def test_the_published_rates_of_tacotron_2():
    rate = learning_rate(tacotron2_paper(), 150_000)
    assert [float(rate(step)) for step in (0, 49_999)] == pytest.approx([1e-3, 1e-3])
    assert float(rate(99_999)) == pytest.approx(1e-4, rel=1e-4)
    assert [float(rate(step)) for step in (149_999, 200_000)] == pytest.approx([1e-5, 1e-5], rel=1e-4)
    assert float(learning_rate(tacotron2_nvidia(), 10)(9)) == pytest.approx(1e-3)
    falls = learning_rate(tacotron2_deep_learning_examples(10), 20_000)
    found = [float(falls(step)) for step in (0, 4_999, 5_000, 9_999, 10_000, 15_000, 19_999)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6, 1e-6])


@pytest.mark.parametrize("changes", [dict(falls=(5, 5)), dict(falls=(9, 3)), dict(fall_factor=0.0)])
def test_falls_that_make_no_sense_are_refused(changes):
    with pytest.raises(UserError, match="optimizer: found falls"):
        learning_rate(OptimizerConfig(schedule="steps", **changes), 100)
