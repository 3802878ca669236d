"""wav2vec 2.0: its convolutions against XLA's, the contract of every model, and what happens in training alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from speech_jax.core.errors import UserError
from speech_jax.models.config import Wav2Vec2Config
from speech_jax.models.convolution import grouped_conv1d, strided_conv1d
from speech_jax.models.wav2vec2 import _spans, output_length, samples_per_frame, wav2vec2_ctc
from speech_jax.objectives.ctc import ctc_loss
from tests.support.contracts import check_layer

TINY = Wav2Vec2Config(
    width=8, layers=2, heads=2, hidden=12, conv_width=(6, 6, 6), conv_kernel=(5, 3, 2), conv_stride=(3, 2, 2),
    position_kernel=4, position_groups=2, kernel_size=3,
)  # fmt: skip
KINDS = {
    "base": {},
    "large": {"norm_first": True, "conv_norm": "layer", "conv_bias": True, "position_kernel": 5},
    "relative": {"block": "conformer", "activation": "swish"},
    "rotary": {"block": "conformer", "positions": "rotary", "conv_norm": "layer"},
    "plain": {"block": "conformer", "positions": "none"},
}


def same_as_xla(ours, theirs, x, kernel, tolerance=1e-4):
    weight = np.random.default_rng(2).normal(size=theirs(x, kernel).shape).astype(np.float32)

    def both(f):
        return f(x, kernel), jax.grad(lambda x, k: (f(x, k) * weight).sum(), argnums=(0, 1))(x, kernel)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), both(ours), both(theirs))


@pytest.mark.parametrize("time, k, stride", [(31, 10, 5), (40, 3, 2), (9, 2, 2), (17, 3, 1), (10, 10, 5)])
def test_strided_convolution_is_xlas(time, k, stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, time, 3), (k, 3, 4)))

    def xla(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride,), [(0, 0)], dimension_numbers=("NWC", "WIO", "NWC"))

    same_as_xla(lambda x, kernel: strided_conv1d(x, kernel, stride), xla, x, kernel)


@pytest.mark.parametrize("time, k", [(20, 16), (20, 7), (5, 12), (3, 1)])
def test_grouped_convolution_and_its_gradient_are_xlas(time, k):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, time, 6), (k, 2, 9)))

    def xla(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1,), [(k // 2, k - 1 - k // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=3,
        )  # fmt: skip

    same_as_xla(grouped_conv1d, xla, x, kernel)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_batch_mates_change_nothing(kind):
    config = dataclasses.replace(TINY, **KINDS[kind])
    model, ratio = wav2vec2_ctc(config, 5), samples_per_frame(config)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 140, 1)).astype(np.float32)
    mask = np.arange(140) < np.array([139, 97, 30])[:, None]
    params, state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})

    def apply(x, mask):
        return model.apply(params, state, {"features": x, "mask": mask}, key=None, train=False)[0]

    out = apply(x, mask)
    assert out["logits"].shape == (3, -(-140 // ratio), 5)
    np.testing.assert_array_equal(out["mask"].sum(1), output_length(mask.sum(1), config))
    check_layer(lambda x, mask: apply(x, mask)["logits"], x, mask, ratio=ratio)


@pytest.mark.parametrize("kind", ["base", "relative"])
def test_it_learns_through_ctc_and_its_dropouts_depend_on_the_key(kind):
    masks = {"mask_channels": 0.1, "mask_time": 0.2, "mask_time_span": 3, "remat": kind == "relative"}
    config = dataclasses.replace(TINY, **masks, **KINDS[kind])
    model = wav2vec2_ctc(config, 5)
    x = np.random.default_rng(0).normal(size=(3, 140, 1)).astype(np.float32)
    mask = np.arange(140) < np.array([139, 97, 30])[:, None]
    spec = {"features": jax.ShapeDtypeStruct((1, 7, 1), jnp.float32), "mask": jax.ShapeDtypeStruct((1, 7), bool)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), spec)  # fewer samples than one frame hears
    params, state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(jnp.shape, shapes)

    @jax.jit
    def loss(params, key):
        batch = {"features": jnp.where(mask[..., None], x, jnp.nan), "mask": mask}
        out, new = model.apply(params, state, batch, key=key, train=True)
        labels = jnp.array([[1, 2, 3], [4, 4, 0], [0, 0, 0]])
        return ctc_loss(out["logits"], out["mask"], labels, jnp.array([3, 2, 0]))[0].sum(), new

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (first, new), g = gradient(params, jax.random.key(0))
    assert all(bool(jnp.isfinite(a).all()) and float(jnp.abs(a).max()) > 0 for a in jax.tree.leaves(g))
    assert float(first) != float(loss(params, jax.random.key(1))[0])
    assert float(first) == float(gradient(params, jax.random.key(0))[0][0])
    if kind == "relative":
        assert not np.allclose(*(s["batch_stats"]["encoder"]["layers_1"]["conv"]["norm"]["mean"] for s in (state, new)))
    for step in range(40):
        _, g = gradient(params, jax.random.key(step))
        params = jax.tree.map(lambda p, g: p - 0.1 * g / (1 + jnp.abs(g)), params, g)
    assert float(loss(params, jax.random.key(0))[0]) < 0.8 * float(first)


def test_about_the_wanted_share_is_masked_in_spans():
    hidden = np.asarray(_spans(jax.random.key(0), 0.2, 5, (400, 500)))
    assert 0.17 < hidden.mean() < 0.19  # 1 - (1 - 0.04)^5 away from the start: spans overlap
    lengths = np.diff(np.flatnonzero(np.diff(np.pad(hidden, ((0, 0), (1, 1))).ravel())))[::2]
    assert lengths.min() >= 1 and np.mean(lengths >= 5) > 0.98


def test_lengths_are_those_of_the_convolutions():
    base = Wav2Vec2Config()
    assert samples_per_frame(base) == 320
    samples = np.array([0, 1, 399, 400, 719, 720, 16000])
    np.testing.assert_array_equal(output_length(samples, base), [0, 0, 0, 1, 1, 2, 49])
    assert [output_length(int(n), base) for n in samples] == [0, 0, 0, 1, 1, 2, 49]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"heads": 5}, "with 5 heads"),
        ({"conv_stride": (3, 2)}, "as many of each"),
        ({"conv_stride": (3, 2, 3)}, "0 < stride <= kernel"),
        ({"block": "conformer", "kernel_size": 4}, "expected an odd number"),
        ({"block": "conformer", "heads": 8, "positions": "rotary"}, "expected an even number"),
        ({"position_groups": 3}, "expected a divisor of the width 8"),
        ({"layer_drop": 1.0}, "expected 0 <= p < 1"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **change)
