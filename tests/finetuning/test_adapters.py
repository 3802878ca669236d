"""Adapters: nothing changes at first, merging is exact, the base never moves, and the file alone is enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.finetuning.adapters import (
    adapter_groups,
    init_adapters,
    load_adapter,
    merge_adapters,
    plain_params,
    save_adapter,
    with_adapters,
)
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.models.config import ConformerConfig, CRNNConfig
from speech_jax.models.conformer import conformer_ctc
from speech_jax.models.crnn import crnn_ctc
from speech_jax.objectives.mix import mix
from speech_jax.training.config import OptimizerConfig
from speech_jax.training.optimizer import make_optimizer
from tests.support import toy

TOY = AdapterConfig("lora", rank=2, targets=("hidden/kernel$",))
MODELS = {
    "conformer": (
        conformer_ctc(ConformerConfig(num_features=8, width=8, layers=2, heads=2, kernel_size=5), 5),
        (r"self_attn/linear_[qkv]/kernel$", "feed_forward1/linear1/kernel$", "depthwise_conv/kernel$", "conv0/kernel$"),
    ),
    "crnn": (crnn_ctc(CRNNConfig(num_features=8, width=8, layers=1), 5), ("kernel$",)),
}


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), tree)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
@pytest.mark.parametrize("name", MODELS)
def test_merged_weights_are_plain_weights(name, kind):
    """A new adapter changes no bit; a trained one changes the output, and its merged weights fit the plain model."""
    model, targets = MODELS[name]
    batch = {"features": random_like(jnp.zeros((2, 40, 8)), 0), "mask": jnp.ones((2, 40), bool)}
    params, model_state = jax.jit(model.init)(jax.random.key(0), batch)
    config = AdapterConfig(kind, rank=3, scale=0.7, targets=targets)
    adapters = init_adapters(jax.random.key(1), params, config)
    jax.tree.map(np.testing.assert_array_equal, merge_adapters(params, adapters, config), params)
    trained = random_like(adapters, 2)
    merged = merge_adapters(params, trained, config)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    forward = jax.jit(lambda p: model.apply(p, model_state, batch, key=None, train=False)[0]["logits"])
    assert np.abs(forward(merged) - forward(params)).max() > 1e-3
    touched = {n for n in named_leaves(params) if not np.array_equal(named_leaves(params)[n], named_leaves(merged)[n])}
    kernels = {n for n in touched if n.endswith("kernel")}
    assert kernels == {n.rsplit("/", 1)[0] for n in named_leaves(trained)}
    assert (touched == kernels) == (kind == "lora")  # a layer after the layer moves its bias too


def test_a_bottleneck_is_a_layer_behind_the_layer():
    params = random_like({"layer": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}}, 0)
    config = AdapterConfig("bottleneck", rank=2, scale=0.5, targets=("kernel$",))
    adapters = random_like(init_adapters(jax.random.key(0), params, config), 1)
    x = random_like(jnp.zeros((3, 6)), 2)
    y = x @ params["layer"]["kernel"] + params["layer"]["bias"][None]
    pair = adapters["layer"]["kernel"]
    expected = y + 0.5 * (y @ pair["a"]) @ pair["b"]
    merged = merge_adapters(params, adapters, config)["layer"]
    np.testing.assert_allclose(x @ merged["kernel"] + merged["bias"][None], expected, atol=1e-5)


def test_lora_adds_a_low_rank_matrix():
    params = random_like({"kernel": jnp.zeros((3, 5, 4))}, 0)
    config = AdapterConfig("lora", rank=2, scale=0.5, targets=("kernel$",))
    adapters = random_like(init_adapters(jax.random.key(0), params, config), 1)
    change = np.asarray(merge_adapters(params, adapters, config)["kernel"] - params["kernel"]).reshape(15, 4)
    pair = adapters["kernel"]
    np.testing.assert_allclose(change, 0.5 * pair["a"] @ pair["b"], atol=1e-6)
    assert np.linalg.matrix_rank(change, tol=1e-4) == 2


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_only_adapters_and_the_head_are_trained(tmp_path, alpha):
    """In a mix too; the optimizer keeps nothing for the base; the file holds what moved and fits its base only."""
    objective = toy.make_objective()
    if alpha is not None:
        objective = mix(toy.make_objective(scale=-1.0), objective, alpha)
    task = with_adapters(toy.make_task(objective), TOY)
    optimizer = OptimizerConfig(peak_lr=1e-2, warmup_steps=0, weight_decay=0.5, groups=adapter_groups(TOY))
    base, model_state = jax.device_get(toy.init(jax.random.key(5), None))
    adapters = jax.device_get(init_adapters(jax.random.key(1), base, TOY))
    init = {"base": base, "adapter": adapters}, model_state
    result = toy.train(tmp_path, steps=8, task=task, alpha=alpha, optimizer=optimizer, init=init, ema=None)
    params = jax.device_get(result.state.params)
    assert toy.digest(params["base"]["encoder"]) == toy.digest(base["encoder"])
    for moved, before in ((params["base"]["head"], base["head"]), (params["adapter"], adapters)):
        assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(*map(jax.tree.leaves, (moved, before)), strict=True))
    sizes = sum(x.size for x in jax.tree.leaves(result.state.opt_state))
    trained = sum(x.size for x in jax.tree.leaves((params["base"]["head"], params["adapter"])))
    assert sizes <= 2 * trained + 8

    file = tmp_path / "adapter.safetensors"
    save_adapter(file, params, TOY, "{}", step=8)
    plain, tokenizer = load_adapter(file, base)
    assert tokenizer == "{}"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, plain_params(params, TOY))
    assert file.stat().st_size < 4 * trained + 2000
    other = {**base, "encoder": {**base["encoder"], "in": base["encoder"]["hidden"]}}
    with pytest.raises(UserError, match="of another model"):
        load_adapter(file, other)


def test_two_adapters_fit_one_base(tmp_path):
    base, _ = jax.device_get(toy.init(jax.random.key(5), None))
    found = []
    for seed in (1, 2):
        trained = {"base": base, "adapter": random_like(init_adapters(jax.random.key(0), base, TOY), seed)}
        save_adapter(tmp_path / f"{seed}.safetensors", trained, TOY, "{}", step=seed)
        found.append(load_adapter(tmp_path / f"{seed}.safetensors", base)[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[-1], plain_params(trained, TOY))
    assert toy.digest(found[0]) != toy.digest(found[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rank=0), "adapter.rank: found 0"),
        (dict(scale=0.0), "adapter.scale: found 0.0, expected a number above 0"),
        (dict(targets=("linear_x",)), "adapter.targets: found 'linear_x', which fits no parameter"),
        (dict(targets=("bias$",)), "expected a matrix"),
        (dict(targets=("kernel$", "head/kernel")), "adapter.targets: found 'head/kernel', which adds nothing"),
        (dict(train=("^haed/",)), r"adapter.train: found '\^haed/', which fits no parameter; did you mean '\^head/'"),
        (dict(train=(".*",)), "adapter.train: found .*, which is every parameter"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    params, _ = toy.init(jax.random.key(0), None)
    with pytest.raises(UserError, match=message):
        init_adapters(jax.random.key(0), params, AdapterConfig(**{"kind": "lora", "targets": ("kernel$",), **changes}))


@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_a_file_that_is_no_adapter_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    for path in (tmp_path / "x.safetensors", tmp_path / "missing"):
        with pytest.raises(UserError, match="expected an adapter"):
            load_adapter(path, {})


def test_the_groups_cover_every_parameter_also_without_a_head():
    base = toy.init(jax.random.key(0), None)[0]
    for params in (base, {"encoder": base["encoder"]}):
        adapters = init_adapters(jax.random.key(0), params, TOY)
        make_optimizer(OptimizerConfig(groups=adapter_groups(TOY)), {"base": params, "adapter": adapters}, 10)
