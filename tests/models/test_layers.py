"""Every layer alone: the padding contract, and a plain or public computation of the same thing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.hashing import hashed_key, random_keep
from speech_jax.models.attention import RelativeAttention, relative_positions, relative_shift
from speech_jax.models.config import ConformerConfig
from speech_jax.models.conformer import ConformerLayer
from speech_jax.models.convolution import depthwise_conv1d
from speech_jax.models.layers import LayerNorm, MaskedBatchNorm, MaskedGroupNorm, dropout, stochastic_depth
from speech_jax.models.subsampling import ConvSubsampling, _in_windows, _whole
from tests.support.contracts import check_layer

WIDTH = 8
TINY = dict(num_features=12, width=WIDTH, layers=2, heads=2, kernel_size=5, subsampling_channels=4, conv_norm_groups=2)


def batch(time=13, channels=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, time, channels)).astype(np.float32)
    return x, np.arange(time) < np.array([time, time - 4, 3])[:, None]


def randomized(variables, seed=1):
    """Random values for all parameters and statistics: zeros and ones hide mistakes."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.uniform(0.3, 1.2, v.shape), jnp.float32) for v in leaves])


@pytest.mark.parametrize("conv_norm", ["batch", "layer", "group"])
def test_conv_module_and_layer_read_valid_frames_only(conv_norm):
    x, mask = batch()
    config = ConformerConfig(**TINY, conv_norm=conv_norm)
    positions = relative_positions(13, WIDTH)
    layer = ConformerLayer(config)
    variables = layer.init(jax.random.key(0), x, positions, mask, False)

    def apply(x, mask):
        x = jnp.where(mask[..., None], x, 0.0)  # the subsampling has cleared NaN before a layer sees it
        return layer.apply(variables, x, relative_positions(x.shape[1], WIDTH), mask, False)

    check_layer(apply, x, mask)


@pytest.mark.parametrize("kind, stages", [("striding", 2), ("dw_striding", 3)])
def test_subsampling_reads_valid_frames_only(kind, stages):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 37, 12)).astype(np.float32)
    mask = np.arange(37) < np.array([37, 20, 1])[:, None]
    layer = ConvSubsampling(WIDTH, 4, stages, kind)
    variables = layer.init(jax.random.key(0), x, mask)
    check_layer(lambda x, mask: layer.apply(variables, x, mask), x, mask, ratio=2**stages)


@pytest.mark.parametrize("kind, stages", [("striding", 2), ("dw_striding", 3)])
def test_the_two_forms_of_subsampling_agree_with_gradients(kind, stages, monkeypatch):
    monkeypatch.setattr("speech_jax.models.subsampling.FRAMES_AT_A_TIME", 6)  # several windows, the last one ragged
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 61, 12)).astype(np.float32)
    mask = np.arange(61) < np.array([61, 33])[:, None]
    params = ConvSubsampling(WIDTH, 4, stages, kind).init(jax.random.key(0), x, mask)["params"]
    weights = {name: (value["kernel"], value["bias"]) for name, value in params.items()}
    valid = mask[:, :: 2**stages, None]

    def both(form):
        def f(x, weights):
            y = form(x, mask, weights, kind=kind, stages=stages)
            return jnp.sum(jnp.where(valid, jnp.sin(y), 0.0)), y

        (_, y), gradient = jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, weights)
        return jnp.where(valid, y, 0.0), gradient

    got, want = both(_in_windows), both(_whole)
    assert float(jnp.abs(want[0]).max()) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), got, want)


@pytest.mark.parametrize("k, padding", [(5, (2, 2)), (4, (3, 0))])
def test_depthwise_convolution_equals_xla_with_gradients(k, padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 3)).astype(np.float32), rng.normal(size=(k, 3)).astype(np.float32)

    def ours(x, kernel):
        return jnp.sin(depthwise_conv1d(x, kernel, padding=padding))

    def theirs(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel[:, None], (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=3
        )
        return jnp.sin(y)

    np.testing.assert_allclose(ours(x, kernel), theirs(x, kernel), atol=1e-5)
    gradients = [jax.grad(lambda *a, f=f: f(*a).sum(), argnums=(0, 1))(x, kernel) for f in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_attention_equals_the_formula_of_transformer_xl():
    """Scores (q_i + u) k_j + (q_i + v) W r_(i-j), written as loops in float64."""
    time, heads, d = 7, 2, WIDTH // 2
    x, mask = batch(time)
    layer = RelativeAttention(WIDTH, heads)
    positions = relative_positions(time, WIDTH)
    variables = randomized(layer.init(jax.random.key(0), x, positions, mask, train=False))
    got = layer.apply(variables, x, positions, mask, train=False)

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    project = {n: (x @ p[n]["kernel"] + p[n]["bias"]).reshape(3, time, heads, d) for n in ("linear_q", "linear_k", "linear_v")}  # fmt: skip  # noqa: E501
    rate = 10000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    want = np.zeros((3, time, heads, d))
    for b in range(3):
        for h in range(heads):
            for i in range(time):
                scores = np.full(time, -np.inf)
                for j in np.flatnonzero(mask[b]):
                    r = np.stack([np.sin((i - j) * rate), np.cos((i - j) * rate)], -1).reshape(-1)
                    r = (r @ p["linear_pos"]["kernel"]).reshape(heads, d)[h]
                    q = project["linear_q"][b, i, h]
                    key = project["linear_k"][b, j, h]
                    scores[j] = ((q + p["pos_bias_u"][h]) @ key + (q + p["pos_bias_v"][h]) @ r) / np.sqrt(d)
                weights = np.exp(scores - scores.max())
                want[b, i, h] = weights / weights.sum() @ project["linear_v"][b, :, h]
    want = want.reshape(3, time, WIDTH) @ p["linear_out"]["kernel"] + p["linear_out"]["bias"]
    np.testing.assert_allclose(np.asarray(got)[mask], want[mask], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-3)])
def test_attention_in_blocks_is_attention(relative, dtype, tolerance):
    """Values and gradients, with a last block that is not full."""
    x, mask = batch(13)
    positions = relative_positions(13, WIDTH) if relative else None
    layers = [RelativeAttention(WIDTH, 2, dtype=dtype, block=block) for block in (0, 4, 13)]
    variables = randomized(layers[0].init(jax.random.key(0), x, positions, mask, train=False))

    def loss(variables, layer):
        y = layer.apply(variables, x, positions, mask, train=False).astype(jnp.float32)
        return jnp.sum(jnp.where(mask[..., None], y * direction, 0.0)), y

    direction = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    (_, want), expected = jax.value_and_grad(loss, has_aux=True)(variables, layers[0])
    for layer in layers[1:]:
        (_, got), gradient = jax.value_and_grad(loss, has_aux=True)(variables, layer)
        apart = np.abs(np.asarray(got) - want)[mask].max()
        assert apart <= tolerance * np.abs(np.asarray(want)[mask]).max()
        pairs = list(zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True))
        assert max(np.abs(a - b).max() for a, b in pairs) <= 10 * tolerance * max(np.abs(b).max() for _, b in pairs)


def test_attention_in_blocks_drops_in_every_block():
    x, mask = batch(12)
    layer = RelativeAttention(WIDTH, 2, dropout=0.5, block=4)
    positions = relative_positions(12, WIDTH)
    variables = randomized(layer.init(jax.random.key(0), x, positions, mask, train=False))
    plain = layer.apply(variables, x, positions, mask, train=False)
    dropped = [
        layer.apply(variables, x, positions, mask, train=True, rngs={"dropout": jax.random.key(n)}) for n in (0, 0, 1)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    for first in (0, 4, 8):
        assert not np.allclose(dropped[0][0, first : first + 4], dropped[2][0, first : first + 4])
        assert not np.allclose(dropped[0][0, first : first + 4], plain[0, first : first + 4])


def test_the_memory_of_attention_in_blocks_grows_with_the_length():
    def peak(time, block):
        layer = RelativeAttention(WIDTH, 2, block=block)
        x, mask = jnp.ones((2, time, WIDTH)), jnp.ones((2, time), bool)
        positions = relative_positions(time, WIDTH)
        variables = layer.init(jax.random.key(0), x, positions, mask, train=False)
        gradient = jax.grad(lambda v: jnp.square(layer.apply(v, x, positions, mask, train=False)).sum())
        return jax.jit(gradient).lower(variables).compile().memory_analysis().temp_size_in_bytes

    assert peak(1024, 64) / peak(512, 64) < 2.5
    assert peak(1024, 0) / peak(512, 0) > 3  # the plain one's, with its square
    assert peak(1024, 0) / peak(1024, 64) > 5


def test_relative_shift_takes_column_of_the_distance():
    time = 5
    scores = np.random.default_rng(0).normal(size=(1, 1, time, 2 * time - 1)).astype(np.float32)
    got = np.asarray(relative_shift(jnp.asarray(scores)))
    want = [[scores[0, 0, i, time - 1 - i + j] for j in range(time)] for i in range(time)]
    np.testing.assert_array_equal(got[0, 0], want)


def test_attention_of_a_row_without_valid_frames_is_finite_with_its_gradient():
    x, _ = batch()
    mask = jnp.zeros((3, 13), bool)
    layer = RelativeAttention(WIDTH, 2)
    positions = relative_positions(13, WIDTH)
    variables = randomized(layer.init(jax.random.key(0), x, positions, mask, train=False))
    gradient = jax.grad(lambda v: jnp.square(layer.apply(v, x, positions, mask, train=False)).sum())(variables)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def test_batch_norm_is_torchs_over_the_valid_frames_and_moves_its_statistics_as_torch_does():
    x, mask = batch()
    layer = MaskedBatchNorm()
    variables = randomized(layer.init(jax.random.key(0), x, mask, train=False))
    y, new = layer.apply(variables, jnp.where(mask[..., None], x, 1e3), mask, train=True, mutable=["batch_stats"])
    valid = x[mask].astype(np.float64)
    p, old = variables["params"], variables["batch_stats"]
    want = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])
    np.testing.assert_allclose(np.asarray(y)[mask], want, atol=1e-5)
    for name, value in (("mean", valid.mean(0)), ("var", valid.var(0, ddof=1))):
        np.testing.assert_allclose(new["batch_stats"][name], 0.9 * old[name] + 0.1 * value, atol=1e-5)

    more = jnp.concatenate([x, jnp.full((2, 13, WIDTH), 7.0)]), jnp.concatenate([mask, jnp.zeros((2, 13), bool)])
    z, newer = layer.apply(variables, *more, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(z)[:3][mask], np.asarray(y)[mask], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), newer, new)

    _, kept = layer.apply(variables, x, np.zeros_like(mask), train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], old)


def test_group_and_layer_norm_equal_plain_numpy():
    x, mask = batch()
    layer = MaskedGroupNorm(groups=2)
    variables = randomized(layer.init(jax.random.key(0), x, mask))
    p = jax.tree.map(np.asarray, variables["params"])
    got = np.asarray(layer.apply(variables, jnp.where(mask[..., None], x, -50.0), mask))
    for b in range(3):
        valid = x[b][mask[b]].astype(np.float64).reshape(-1, 2, WIDTH // 2)
        want = (valid - valid.mean((0, 2), keepdims=True)) / np.sqrt(valid.var((0, 2), keepdims=True) + 1e-5)
        np.testing.assert_allclose(got[b][mask[b]], want.reshape(-1, WIDTH) * p["scale"] + p["bias"], atol=1e-5)

    layer = LayerNorm()
    variables = randomized(layer.init(jax.random.key(0), x))
    p = jax.tree.map(np.asarray, variables["params"])
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]
    np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)


def test_dropout_is_unbiased_independent_and_a_function_of_its_key():
    shape = (4, 500, 100)
    keep = np.asarray(random_keep(jax.random.key(3), 0.1, shape), np.float64)
    assert abs(keep.mean() - 0.9) < 0.002  # six standard deviations are 0.004 at 200,000 draws
    for axis in range(3):  # neighbors along every axis, and two keys, are uncorrelated
        a = np.moveaxis(keep, axis, 0)
        assert abs(np.corrcoef(a[:-1].ravel(), a[1:].ravel())[0, 1]) < 0.015
    other = np.asarray(random_keep(jax.random.key(4), 0.1, shape), np.float64)
    assert abs(np.corrcoef(keep.ravel(), other.ravel())[0, 1]) < 0.015
    np.testing.assert_array_equal(keep, random_keep(jax.random.key(3), 0.1, shape))
    x = jnp.ones(shape)
    y = np.asarray(dropout(x, jax.random.key(3), 0.1))
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.9], rtol=1e-6)


def test_hashed_keys_are_distinct_and_what_is_drawn_from_them_independent():
    key = hashed_key(jax.random.key(3))
    keys = [*jax.random.split(key, 200), *(jax.random.fold_in(key, n) for n in range(200)), key]
    data = {tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}
    assert len(data) == len(keys)
    drawn = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (1000,)))(jnp.stack(keys)), np.float64)
    assert 0 <= drawn.min() and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.003 and abs(drawn.var() - 1 / 12) < 0.001
    between = np.corrcoef(drawn) - np.eye(len(keys))
    assert np.abs(between).max() < 6 / 1000**0.5  # six standard deviations
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.01
    np.testing.assert_array_equal(drawn[0], jax.random.uniform(keys[0], (1000,)))


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean():
    before, after = jnp.full((4000, 1, 2), 3.0), jnp.full((4000, 1, 2), 5.0)
    y = np.asarray(stochastic_depth(before, after, jax.random.key(0), jnp.float32(0.25)))
    np.testing.assert_array_equal(y[..., 0], y[..., 1])
    np.testing.assert_allclose(np.unique(y), [3.0, 3.0 + 2.0 / 0.75], rtol=1e-6)
    assert abs(y.mean() - 5.0) < 0.1
