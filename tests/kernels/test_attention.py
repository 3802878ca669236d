"""The attention kernels for a TPU and for a GPU, run by the interpreter, beside the plain attention."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.kernels import attention_gpu, attention_tpu
from speech_jax.kernels.attention_tpu import AttentionInputs
from speech_jax.models.attention import (
    RelativeAttention,
    attend,
    attend_fused,
    relative_positions,
    relative_shift,
)
from speech_jax.training.config import MeshConfig
from speech_jax.training.sharding import make_mesh

SIZE = 32  # queries of a program: 70 are three of them
KERNELS = {"tpu": attention_tpu.attend, "gpu": attention_gpu.attend}
both = pytest.mark.parametrize("on", list(KERNELS))


def questions(rows=3, time=70, heads=2, width=16, dtype=jnp.float32, positions=True) -> AttentionInputs:
    """Random; one row is full, one is half padding, the others have no valid key at all."""
    rng = np.random.default_rng(0)
    random = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    mask = np.arange(time) < np.array([time, time // 2, *[0] * (rows - 2)])[:, None]
    position_query = random(rows, time, heads, width) if positions else None
    relative_key = random(2 * time - 1, heads, width) if positions else None
    query, key, value = (random(rows, time, heads, width) for _ in range(3))
    return AttentionInputs(query, position_query, key, value, relative_key, jnp.asarray(mask))


def value_and_gradient(function, inputs: AttentionInputs):
    """The values in float32, and the gradient of a random sum of them by the inputs."""
    direction = np.random.default_rng(1).normal(size=inputs.query.shape).astype(np.float32)
    learned = {name: x for name, x in inputs._asdict().items() if name != "key_mask" and x is not None}

    def loss(learned):
        found = function(inputs._replace(**learned)).astype(jnp.float32)
        return jnp.sum(found * direction), found

    (_, value), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(learned)
    return value, gradient


def apart(got, want) -> float:
    """The largest difference over the largest value."""
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    return np.abs(got - want).max() / np.abs(want).max()


def typically_apart(got, want) -> float:
    """The root mean square of the differences over the largest value."""
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    return np.sqrt(np.mean((got - want) ** 2)) / np.abs(want).max()


def kernel(inputs: AttentionInputs, seeds=None, rate=0.0, size=SIZE, on="tpu"):
    return KERNELS[on](inputs, seeds, rate, size=size, interpret=True)


@pytest.mark.parametrize(
    ("on", "dtype", "tolerance"),
    [
        ("tpu", jnp.float32, 1e-5),
        ("tpu", jnp.bfloat16, 1e-3),
        ("gpu", jnp.float32, 1e-5),
        # An online softmax rounds other weights to bfloat16 than an ordinary one, so results may differ by a step of
        # bfloat16 or two (2^-8 of the largest value each), in either's disfavor. Typically they differ by far less.
        ("gpu", jnp.bfloat16, 2**-7),
    ],
)
@pytest.mark.parametrize("positions", [True, False])
def test_the_kernel_is_the_plain_attention(positions, on, dtype, tolerance):
    # a GPU's kernels share eight rows out and pad 12 channels
    inputs = questions(rows=9, width=12, dtype=dtype, positions=positions)
    want, expected = value_and_gradient(partial(attend, key=None, rate=0.0), inputs)
    got, gradient = value_and_gradient(partial(kernel, on=on), inputs)
    assert apart(got, want) <= tolerance and typically_apart(got, want) <= 1e-3
    for name in expected:
        assert apart(gradient[name], expected[name]) <= min(10 * tolerance, 1e-2), name
        assert typically_apart(gradient[name], expected[name]) <= 1e-3, name


def test_one_block_may_hold_all_queries():
    inputs = questions(time=20)
    size = attention_tpu.block_size(20, 20, 16, 4)
    assert size == 32
    assert apart(kernel(inputs, size=size), attend(inputs, None, 0.0)) <= 1e-5


def kept(seeds, time, rate) -> np.ndarray:
    """What dropout keeps [batch, heads, time, time], by the hash written down once more, in NumPy's uint32."""
    index = np.arange(time, dtype=np.uint32)
    x = np.asarray(seeds).astype(np.uint32)[:, :, None, None]
    x = x ^ (index * np.uint32(0x9E3779B1))[:, None] ^ (index * np.uint32(0x85EBCA77))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x >= rate * 2**32


@both
def test_dropout_is_that_of_the_hash_in_both_directions(on):
    rate, inputs = 0.25, questions()
    rows, time, heads, _ = inputs.query.shape
    seeds = jax.random.bits(jax.random.key(0), (rows, heads), jnp.uint32)
    mask = kept(seeds, time, rate)
    assert abs(mask.mean() - (1 - rate)) < 0.01

    def plain(inputs: AttentionInputs):
        scores = jnp.einsum("bqhd,bkhd->bhqk", inputs.query, inputs.key)
        scores += relative_shift(jnp.einsum("bqhd,phd->bhqp", inputs.position_query, inputs.relative_key))
        weights = jax.nn.softmax(jnp.where(inputs.key_mask[:, None, None], scores, -1e30), axis=-1)
        weights = jnp.where(inputs.key_mask[:, None, None] & mask, weights / (1 - rate), 0.0)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, inputs.value)

    want, expected = value_and_gradient(plain, inputs)
    got, gradient = value_and_gradient(partial(kernel, seeds=seeds, rate=rate, on=on), inputs)
    assert apart(got, want) <= 1e-5
    for name in expected:
        assert apart(gradient[name], expected[name]) <= 1e-4, name


@pytest.mark.parametrize("on, heads", [("tpu", 2), ("tpu", 3), ("gpu", 2)])  # three are not divided: each has all
def test_on_a_mesh_each_device_computes_its_own_rows_and_heads(on, heads):
    inputs, rate = questions(rows=4, heads=heads), 0.25
    seeds = jax.random.bits(jax.random.key(0), (4, heads), jnp.uint32)
    function = partial(kernel, seeds=seeds, rate=rate, on=on)
    want, expected = value_and_gradient(function, inputs)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got, gradient = value_and_gradient(function, inputs)
    np.testing.assert_allclose(got, want, atol=1e-6)
    for name in expected:
        assert apart(gradient[name], expected[name]) <= 1e-5, name


@pytest.mark.parametrize("asked_for", ["fused", "fused_gpu"])
def test_without_its_accelerator_the_layer_attends_in_blocks(asked_for):
    time, width = 150, 8
    x = np.random.default_rng(0).normal(size=(2, time, width)).astype(np.float32)
    mask, positions = np.arange(time) < np.array([time, 60])[:, None], relative_positions(time, width)
    plain, fused = RelativeAttention(width, 2), RelativeAttention(width, 2, **{asked_for: True})
    variables = plain.init(jax.random.key(0), x, positions, mask, train=False)
    want = plain.apply(variables, x, positions, mask, train=False)
    got = fused.apply(variables, x, positions, mask, train=False)
    np.testing.assert_allclose(np.asarray(got)[mask], np.asarray(want)[mask], atol=1e-5)


CALLS = {"tpu": "stablehlo.custom_call @tpu_custom_call", "cuda": "stablehlo.custom_call @__gpu$xla.gpu.triton"}


@pytest.mark.parametrize(
    ("asked_for", "wanted", "share"),
    [
        ("fused", {"tpu": 2, "cuda": 0, "cpu": 0}, "2x2x224x16xf32"),  # rows, heads, queries, channels of a device
        ("fused_gpu", {"tpu": 0, "cuda": 4, "cpu": 0}, "2x2x208x16xf32"),
    ],
)
def test_an_accelerator_gets_the_kernels_that_were_asked_for_with_each_devices_share(asked_for, wanted, share):
    rows, time, width, heads = 8, 200, 64, 4
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    layer = RelativeAttention(width, heads, dropout=0.1, **{asked_for: True})
    positions = relative_positions(time, width)
    x, mask = jax.ShapeDtypeStruct((rows, time, width), jnp.float32), jax.ShapeDtypeStruct((rows, time), jnp.bool_)
    variables = jax.eval_shape(partial(layer.init, train=False), jax.random.key(0), x, positions, mask)

    def loss(variables, x, mask):
        rngs = {"dropout": jax.random.key(1)}
        return jnp.sum(layer.apply(variables, x, positions, mask, train=True, rngs=rngs))

    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(loss)).trace(variables, x, mask)
        text = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in wanted}
    assert {platform: sum(map(text[platform].count, CALLS.values())) for platform in wanted} == wanted
    assert f"tensor<{share}>" in text[max(wanted, key=wanted.get)]


def test_a_tpu_before_v5_attends_in_blocks(monkeypatch):
    inputs = jax.eval_shape(partial(questions, time=20))
    for kind, calls in (("TPU v4", 0), ("TPU v5 lite", 1), ("TPU v6 lite", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "tpu")
            patch.setattr(jax, "devices", lambda kind=kind: [SimpleNamespace(device_kind=kind)])
            fused = partial(attend_fused, size=128, key=None, rate=0.0, tpu=True, gpu=False)
            text = jax.jit(fused).trace(inputs).lower(lowering_platforms=("tpu",)).as_text()
        assert text.count(CALLS["tpu"]) == calls, kind


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_block_size_is_lowered_for_a_gpu(dtype):
    """To Triton's dialect, whose rules are narrower than the interpreter's."""
    for width in (8, 64, 128):
        size = attention_gpu.block_size(width, jnp.dtype(dtype).itemsize)
        if size is None:
            continue
        inputs = jax.eval_shape(partial(questions, time=100, width=width, dtype=dtype))
        seeds = jax.ShapeDtypeStruct((3, 2), jnp.uint32)

        def loss(inputs, seeds, size=size):
            return jnp.sum(attention_gpu.attend(inputs, seeds, 0.1, size=size))

        traced = jax.jit(jax.grad(loss, allow_int=True)).trace(inputs, seeds)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count(CALLS["cuda"]) == 4


def test_too_many_keys_or_channels_leave_the_kernel_out():
    assert attention_tpu.block_size(750, 750, 64, 2) == 256
    assert attention_tpu.block_size(1500, 1500, 64, 2) == 64
    assert attention_tpu.block_size(8000, 8000, 64, 2) is None
    assert attention_gpu.block_size(64, 2) == 64
    assert attention_gpu.block_size(88, 2) == 32
    assert attention_gpu.block_size(64, 4) == 16
    assert attention_gpu.block_size(129, 2) is None
