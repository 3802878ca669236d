"""The whole Conformer: NeMo's numbers and sizes, the padding contract, training."""

import dataclasses
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import conformer_ctc, fastconformer_large, large, medium, output_length, small
from speech_jax.objectives.ctc import ctc_loss
from tests.support.contracts import check_layer

GOLDEN = Path(__file__).parent / "golden"
TINY = ConformerConfig(
    num_features=8, width=8, layers=2, heads=2, kernel_size=5, subsampling_channels=4, conv_norm_groups=2
)


def count(tree):
    return sum(int(np.prod(a.shape)) for a in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "preset, encoder, head, vocab",
    [
        (small, 12_972_608, 181_425, 1025),
        (medium, 30_505_472, 257 * 129, 129),
        (large, 121_435_136, 66_177, 129),
        (fastconformer_large, 108_762_112, 513 * 1025, 1025),
    ],
)
def test_parameters_are_as_many_as_nemos(preset, encoder, head, vocab):
    spec = {"features": jax.ShapeDtypeStruct((2, 64, 80), jnp.float32), "mask": jax.ShapeDtypeStruct((2, 64), bool)}
    params, _ = jax.eval_shape(conformer_ctc(preset(), vocab).init, jax.random.key(0), spec)
    assert (count(params["encoder"]), count(params["head"])) == (encoder, head)


def from_nemo(arrays, stages, channels):
    """NeMo's state dict under our names; torch's [out, in, ...] weights become [..., in, out]."""
    params, stats = {}, {}

    def put(tree, path, value):
        for part in path[:-1]:
            tree = tree.setdefault(part, {})
        tree[path[-1]] = jnp.asarray(value)

    convolutions = {"0": "conv0"}
    for stage in range(1, stages):
        if "encoder.pre_encode.conv.3.weight" in arrays:
            convolutions |= {str(3 * stage - 1): f"depthwise{stage}", str(3 * stage): f"pointwise{stage}"}
        else:
            convolutions[str(2 * stage)] = f"conv{stage}"
    for key in (k for k in arrays if k.startswith(("encoder.", "decoder."))):
        value = arrays[key]
        leaf = key.rsplit(".", 1)[1]
        name = "kernel" if leaf == "weight" and value.ndim > 1 else "scale" if leaf == "weight" else leaf
        if key.startswith("decoder."):
            path, value = ("head",), value[..., 0].T if value.ndim > 1 else value
        elif match := re.match(r"encoder\.pre_encode\.conv\.(\d+)\.", key):
            path = ("encoder", "subsampling", convolutions[match[1]])
            if value.ndim == 4:
                value = value.transpose(2, 3, 1, 0)
                value = value[0, 0] if path[-1].startswith("pointwise") else value
                value = value[:, :, 0] if path[-1].startswith("depthwise") else value
        elif key.startswith("encoder.pre_encode.out."):
            path = ("encoder", "subsampling", "out")
            if value.ndim == 2:  # (out, channel, band) -> (band, channel, out)
                value = value.reshape(len(value), channels, -1).transpose(2, 1, 0).reshape(-1, len(value))
        else:
            _, _, i, *rest, _ = key.split(".")
            path = ("encoder", f"layers_{i}", *("norm" if part == "batch_norm" else part for part in rest))
            if "depthwise" in key:
                value = value[:, 0].T if value.ndim == 3 else value
            elif value.ndim == 3:
                value = value[..., 0].T
            elif value.ndim == 2 and "pos_bias" not in key:
                value = value.T
            name = name if "pos_bias" not in key else leaf
        if leaf.startswith("running_"):
            put(stats, (*path, leaf.removeprefix("running_")), value)
        else:
            put(params, (*path, name), value)
    return params, {"batch_stats": stats} if stats else {}


@pytest.mark.parametrize(
    "name, config",
    [
        ("conformer_4x", dict(kernel_size=7)),
        ("fastconformer_8x", dict(kernel_size=5, subsampling="dw_striding", subsampling_factor=8, subsampling_channels=8)),  # noqa: E501
        ("conformer_layer_norm", dict(kernel_size=5, subsampling_channels=6, conv_norm="layer", xscaling=False, use_bias=False)),  # noqa: E501
    ],
)  # fmt: skip
def test_equals_nemo(name, config):
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    config = ConformerConfig(num_features=12, width=16, layers=2, heads=2, **config)
    model = conformer_ctc(config, 9)
    params, model_state = from_nemo(arrays, {4: 2, 8: 3}[config.subsampling_factor], config.subsampling_channels or 16)
    features = arrays["features"]
    mask = np.arange(features.shape[1]) < arrays["lengths"][:, None]
    batch = {"features": features, "mask": mask}
    own = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert jax.tree.map(lambda a: a.shape, (params, model_state)) == jax.tree.map(lambda a: a.shape, own)

    out, _ = jax.jit(lambda batch: model.apply(params, model_state, batch, key=None, train=False))(batch)
    np.testing.assert_array_equal(out["mask"].sum(-1), arrays["out_lengths"])
    np.testing.assert_array_equal(output_length(arrays["lengths"], config), arrays["out_lengths"])
    got, want = np.asarray(jax.nn.log_softmax(out["logits"])), arrays["log_probs"]
    valid = np.asarray(out["mask"])
    assert np.ptp(want[valid]) > 1.0
    np.testing.assert_allclose(got[valid], want[valid], atol=1e-5)


def data(rows=3, time=29):
    rng = np.random.default_rng(0)
    lengths = np.array([time, time - 10, 9, 0])[:rows]
    return rng.normal(size=(rows, time, 8)).astype(np.float32), np.arange(time) < lengths[:, None]


@pytest.mark.parametrize("conv_norm", ["batch", "layer", "group"])
def test_padding_changes_nothing(conv_norm):
    config = dataclasses.replace(TINY, conv_norm=conv_norm)
    model = conformer_ctc(config, 5)
    x, mask = data()
    params, model_state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})

    def apply(x, mask):
        out, same = model.apply(params, model_state, {"features": x, "mask": mask}, key=None, train=False)
        assert same is model_state
        return jax.nn.log_softmax(out["logits"]), out["mask"]

    check_layer(apply, x, mask, ratio=4)


def loss_of(config, vocab=5):
    """(loss, model state) and the gradient, as a jitted function of (params, model state, batch, key)."""
    model = conformer_ctc(config, vocab)

    def loss(params, model_state, batch, key):
        out, model_state = model.apply(params, model_state, batch, key=key, train=True)
        rows = len(batch["features"])
        labels = jnp.tile(jnp.array([[1, 2]]), (rows, 1))
        nll, feasible = ctc_loss(
            out["logits"], out["mask"], labels, jnp.full(rows, 2), row_mask=jnp.asarray(batch["mask"]).any(-1)
        )
        return nll.sum() / feasible.sum(), model_state

    return model, jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_training_with_nan_padding_and_filler_rows():
    """Finite gradients that reach every parameter; padding and filler do not touch batch statistics or gradients."""
    config = dataclasses.replace(TINY, dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0)
    model, gradient = loss_of(config)
    x, mask = data(rows=4)
    dirty = np.where(mask[..., None], x, np.nan).astype(np.float32)
    params, model_state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})
    (value, state), g = gradient(params, model_state, {"features": dirty, "mask": mask}, jax.random.key(1))
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(g):
        assert bool(jnp.isfinite(leaf).all()), path
        assert float(jnp.abs(leaf).max()) > 0, path
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state, model_state)
    assert min(jax.tree.leaves(moved)) > 1e-4

    crowd = {"features": np.full((6, 37, 8), np.nan, np.float32), "mask": np.zeros((6, 37), bool)}
    crowd["features"][:3, :29], crowd["mask"][:3, :29] = dirty[:3], mask[:3]
    (other, other_state), h = gradient(params, model_state, crowd, jax.random.key(1))
    np.testing.assert_allclose(other, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other_state, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max() + 1)), h, g)


def test_a_batch_on_eight_devices_gives_the_loss_gradients_and_statistics_of_one():
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    config = dataclasses.replace(TINY, layers=1)
    model, gradient = loss_of(config)
    x, mask = data(rows=4)
    batch = {"features": np.concatenate([x, x[::-1] * 2]), "mask": np.concatenate([mask, mask[::-1]])}
    params, model_state = jax.jit(model.init)(jax.random.key(0), batch)
    want = gradient(params, model_state, batch, jax.random.key(1))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put((params, model_state, jax.random.key(1)), NamedSharding(mesh, PartitionSpec()))
    got = gradient(everywhere[0], everywhere[1], sharded, everywhere[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max() + 1)), got, want)


def test_rematerialisation_loop_and_bfloat16_change_little_and_stochastic_depth_and_dropout_follow_the_key():
    x, mask = data()
    batch = {"features": x, "mask": mask}
    config = dataclasses.replace(TINY, conv_norm="layer", stochastic_depth=0.5)
    model, gradient = loss_of(config)
    params, model_state = jax.jit(model.init)(jax.random.key(0), batch)
    (value, _), g = gradient(params, model_state, batch, jax.random.key(1))
    (again, _), _ = gradient(params, model_state, batch, jax.random.key(1))
    (other, _), _ = gradient(params, model_state, batch, jax.random.key(2))
    assert float(again) == float(value) != float(other)

    for keeps, loop in (("nothing", True), ("products", True), ("products", False)):
        other_ways = dataclasses.replace(config, remat=True, remat_keeps=keeps, scan_layers=loop)
        (same, _), h = loss_of(other_ways)[1](params, model_state, batch, jax.random.key(1))
        np.testing.assert_allclose(same, value, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), h, g)

    half = conformer_ctc(dataclasses.replace(config, dtype="bfloat16"), 5)
    assert {a.dtype for a in jax.tree.leaves(half.init(jax.random.key(0), batch))} == {jnp.dtype("float32")}
    a, _ = half.apply(params, model_state, batch, key=None, train=False)
    b, _ = model.apply(params, model_state, batch, key=None, train=False)
    assert a["logits"].dtype == jnp.float32 and a["encoded"].dtype == jnp.bfloat16
    valid = np.asarray(b["mask"])
    difference = np.abs(np.asarray(a["logits"]) - np.asarray(b["logits"]))[valid]
    assert 0 < difference.max() < 0.1 * np.abs(np.asarray(b["logits"])[valid]).max() + 0.05


def test_lowers_for_an_accelerator_with_its_own_convolutions():
    """One program text per platform: XLA's convolution for a TPU, matrix products in a loop for a CPU."""
    model = conformer_ctc(TINY, 5)
    x, mask = data()
    params, model_state = jax.eval_shape(model.init, jax.random.key(0), {"features": x, "mask": mask})

    def forward(params, model_state, x, mask):
        return model.apply(params, model_state, {"features": x, "mask": mask}, key=None, train=False)[0]["logits"]

    traced = jax.jit(forward).trace(params, model_state, x, mask)
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize(
    "field, value", [("heads", 3), ("kernel_size", 4), ("layers", 0), ("stochastic_depth", 1.0), ("width", 7)]
)
def test_a_config_that_cannot_be_is_refused_in_one_line(field, value):
    with pytest.raises(UserError, match=f"found .*{value}.*expected") as error:
        dataclasses.replace(TINY, **{field: value})
    assert "\n" not in str(error.value)


class Mixer(nn.Module):
    """A stand-in for self-attention: the mean of the valid frames."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, x, positions, mask, *, train):
        weight = mask[..., None]
        mean = jnp.where(weight, x, 0).sum(1, keepdims=True) / jnp.maximum(weight.sum(1, keepdims=True), 1)
        return nn.Dense(self.config.width, name="out")(mean) + jnp.zeros_like(x)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"convolution": None}, {"feed_forward1", "feed_forward2", "self_attn"}),
        ({"attention": None}, {"feed_forward1", "feed_forward2", "conv"}),
        ({"feed_forward": None}, {"self_attn", "conv"}),
        ({"attention": Mixer}, {"feed_forward1", "feed_forward2", "self_attn", "conv"}),
        ({"norm": nn.RMSNorm}, None),
        ({"norm": None}, None),
    ],
)
def test_parts_of_a_layer_are_replaced_or_left_out(parts, names):
    config = dataclasses.replace(TINY, conv_norm="layer")
    model = conformer_ctc(config, 5, **parts)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 40, 8)), jnp.float32)
    batch = {"features": features, "mask": jnp.arange(40)[None] < jnp.array([[40], [23]])}
    params, state = model.init(jax.random.key(0), batch)
    layer = params["encoder"]["layers_0"]
    modules = {name for name in layer if not name.startswith("norm_")}
    assert modules == names or names is None
    if parts.get("norm", "") is None:
        assert not [name for name in layer if name.startswith("norm_")]
    outputs, _ = model.apply(params, state, batch)
    alone = {name: value[1:, :23] for name, value in batch.items()}
    np.testing.assert_allclose(outputs["logits"][1:, :6], model.apply(params, state, alone)[0]["logits"], atol=1e-5)
    grads = jax.grad(lambda p: model.apply(p, state, batch, key=jax.random.key(1), train=True)[0]["logits"].sum())(
        params
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    plain = conformer_ctc(config, 5)
    assert not np.allclose(outputs["logits"], plain.apply(*plain.init(jax.random.key(0), batch), batch)[0]["logits"])


@pytest.mark.bad_types
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"norm": nn.RMSNorm()}, r"norm: found an instance of RMSNorm, expected None or .* called with \(dtype=…"),
        ({"norm": "layer"}, "norm: found 'layer', expected None or a function or class"),
        ({"feed_forward": nn.Dense(8)}, "feed_forward: found an instance of Dense"),
        ({"convolution": False}, "convolution: found False, expected None or"),
    ],
)
def test_parts_that_make_no_module_are_refused(parts, message):
    with pytest.raises(TypeError, match=message):
        conformer_ctc(TINY, 5, **parts)


def test_the_output_of_a_part_has_the_shape_of_its_input():
    def mean(config, *, name):
        return lambda x, positions, mask, *, train: x.mean(1, keepdims=True)  # would pass by broadcasting

    batch = {"features": jnp.zeros((2, 40, 8)), "mask": jnp.ones((2, 40), bool)}
    with pytest.raises(ValueError, match=r"output of attention: found float32 \[2, 1, \d+\], expected float \[2, 10"):
        jax.eval_shape(conformer_ctc(TINY, 5, attention=mean).init, jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": jnp.zeros((2, 8, 40))},
            r"features: found float32 \[2, 8, 40\], expected float \[batch, time, 8\]",
        ),
        ({"features": jnp.zeros((40, 8))}, r"features: found float32 \[40, 8\]"),
        ({"features": jnp.zeros((2, 40, 8), jnp.int16)}, r"features: found int16 \[2, 40, 8\], expected float"),
        ({"mask": jnp.ones((2, 1), bool)}, r"mask: found bool \[2, 1\], expected bool \[2, 40\]"),
        ({"mask": jnp.ones((2, 40))}, r"mask: found float32 \[2, 40\], expected bool"),
        (
            {"features": jnp.zeros((2, 0, 8)), "mask": jnp.ones((2, 0), bool)},
            r"features: found \[2, 0, 8\], expected no size of 0",
        ),
    ],
)
def test_batches_of_another_shape_or_type_are_refused(change, message):
    model = conformer_ctc(TINY, 5)
    with pytest.raises(ValueError, match="vocab_size: found 0, expected an integer of at least 1"):
        conformer_ctc(TINY, 0)
    with pytest.raises(ValueError, match=r"batch: found features, expected features, mask"):
        model.init(jax.random.key(0), {"features": jnp.zeros((2, 40, 8))})
    batch = {"features": jnp.zeros((2, 40, 8)), "mask": jnp.ones((2, 40), bool)}
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    for call in (lambda b: model.init(jax.random.key(0), b), lambda b: model.apply(params, state, b)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call, batch | change)
