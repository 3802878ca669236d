"""Eight fake devices: where things lie, and that it makes no difference to the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from speech_jax.core.errors import UserError
from speech_jax.core.placement import batch_struct, put_batch
from speech_jax.core.rules import named_leaves
from speech_jax.objectives.mix import mix
from speech_jax.training.config import MeshConfig, OptimizerConfig, StepConfig
from speech_jax.training.optimizer import learning_rate, make_optimizer, trainable
from speech_jax.training.sharding import make_mesh, param_shardings
from speech_jax.training.state import init_shapes, make_state
from speech_jax.training.step import make_gradient, terms
from tests.support import toy
from tests.support.single_step import make_step


def test_axes_are_auto_and_sizes_are_checked():
    mesh = make_mesh(MeshConfig(fsdp=4))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}
    for config in (MeshConfig(data=3), MeshConfig(data=-1, fsdp=-1), MeshConfig(tensor=0), MeshConfig(fsdp=16)):
        with pytest.raises(UserError, match="^mesh: found"):
            make_mesh(config)


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


def test_rules_say_where_a_parameter_lies():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = shapes(kernel=(6, 128), odd=(3, 5), big=(256, 64), bias=(128,))
    config = MeshConfig(rules=(("kernel", (None, "tensor")), (".*", "auto")), min_shard=128)
    found = {name: s.spec for name, s in param_shardings(params, mesh, config).items()}
    assert found == {
        "kernel": PartitionSpec(None, "tensor"),
        "odd": PartitionSpec(),
        "big": PartitionSpec("fsdp", None),
        "bias": PartitionSpec("fsdp"),
    }
    bad = {
        "no rule for 'bias'": (("kernel|odd|big", "auto"),),
        "distinct axes": ((".*", ("fsdp", "fsdp")),),
        "a multiple of 2": ((".*", ("tensor",)),),
        "out of": ((".*", ("model",)),),
    }
    for message, rules in bad.items():
        with pytest.raises(UserError, match=f"mesh.rules.*{message}"):
            param_shardings(params, mesh, MeshConfig(rules=rules))


def test_rows_must_divide_over_the_mesh():
    mesh = make_mesh(MeshConfig())
    with pytest.raises(UserError, match="batch 'x': found 12 rows, expected a multiple of 8"):
        batch_struct({"x": jax.ShapeDtypeStruct((12, 3), jnp.float32)}, mesh)
    placed = put_batch({"x": np.ones((16, 3), np.float32)}, mesh)["x"]
    assert placed.sharding.shard_shape(placed.shape) == (2, 3)


def prepare(mesh_config, devices, ema=True):
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    optimizer_config = OptimizerConfig(peak_lr=1e-2, warmup_steps=2)
    spec = toy.batch_spec(toy.BUCKETS[0])
    params, _ = init_shapes(toy.MODEL, spec, 0)
    optimizer = make_optimizer(optimizer_config, params, 100)
    make, struct, shardings = make_state(
        toy.MODEL, spec, lambda p: make_optimizer(optimizer_config, p, 100), mesh, mesh_config, seed=0, ema=ema
    )
    moving = trainable(optimizer_config, params)
    objective = mix(toy.make_objective(scale=-1.0), toy.make_objective(), lambda step: 0.3)
    rate = learning_rate(optimizer_config, 100)
    step = make_step(objective, optimizer, moving, StepConfig(ema=0.9), seed=0, mesh=mesh, rate=rate)
    return mesh, make, struct, shardings, jax.jit(step, donate_argnums=0, out_shardings=(shardings, None, None))


def test_the_state_is_born_sharded():
    config = MeshConfig(fsdp=4, min_shard=64)
    _, make, struct, _, step = prepare(config, 8)
    state = make()
    hidden = state.params["encoder"]["hidden"]["kernel"]
    assert hidden.sharding.spec == PartitionSpec("fsdp", None)
    assert hidden.addressable_shards[0].data.shape == (4, 16)
    split = [n for n, x in named_leaves(state).items() if not x.sharding.is_fully_replicated]
    # the parameter, its average, and both of Adam's moments
    assert sum("hidden/kernel" in name for name in split) == 4
    assert sum("hidden/bias" in name for name in split) == 0
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    first = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert first < 0.5 * whole
    batch = {"pre": toy.make_batch(0, seed=1), "task": toy.make_batch(1, seed=2)}
    state, _, _ = step(state, put_batch(batch, make_mesh(config)))
    assert state.params["encoder"]["hidden"]["kernel"].sharding.spec == PartitionSpec("fsdp", None)
    assert jax.tree.map(lambda s: s.shape, struct) == jax.tree.map(lambda s: s.shape, state)


def outcome(mesh_config, devices):
    """(value and gradient of each term, losses of three steps, parameters after them)."""
    mesh, make, _, _, step = prepare(mesh_config, devices)
    state = make()
    host = {"pre": toy.make_batch(0, seed=1), "task": toy.make_batch(0, seed=2)}
    moving = jax.tree.map(lambda _: True, state.params)
    gradients = {}
    for term in terms(mix(toy.make_objective(scale=-1.0), toy.make_objective(), 0.3)):
        gradient = jax.jit(make_gradient(term, moving, StepConfig(), mesh=mesh))
        out = gradient(
            state.params, state.model_state, state.step, put_batch(term.select(host), mesh), jax.random.key(0)
        )
        gradients[term.name] = jax.device_get((out.value, out.gradient))
    losses = []
    for _ in range(3):
        state, logs, finite = step(state, put_batch(host, mesh))
        assert bool(finite.all())
        losses.append(float(logs["loss"][0]))
    return gradients, losses, jax.device_get(state.params)


@pytest.fixture(name="one_device", scope="module")
def make_one_device():
    return outcome(MeshConfig(), 1)


TENSOR = (("hidden/kernel", (None, "tensor")), (".*", "auto"))


@pytest.mark.parametrize("config", [MeshConfig(fsdp=4, min_shard=64), MeshConfig(tensor=2, rules=TENSOR)])
def test_one_device_and_eight_agree(config, one_device):
    """Loss, gradients, and three whole steps."""
    g1, l1, p1 = one_device
    g8, l8, p8 = outcome(config, 8)
    np.testing.assert_allclose(l1, l8, rtol=1e-5)
    assert l1[2] < l1[0]
    for one, eight in zip(jax.tree.leaves(g1), jax.tree.leaves(g8), strict=True):
        assert np.abs(one).max() > 0
        assert np.abs(one - eight).max() <= 1e-5 * np.abs(one).max()
    for one, eight in zip(jax.tree.leaves(p1), jax.tree.leaves(p8), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)
