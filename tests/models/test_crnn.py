"""The CRNN baseline: its recurrence against loops in float64, and the contract of every model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.models.config import CRNNConfig
from speech_jax.models.crnn import BidirectionalRNN, crnn_ctc, output_length
from speech_jax.objectives.ctc import ctc_loss
from tests.support.contracts import check_layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(x, params, cell, width):
    """One direction after the other, frame by frame, the equations as torch's documentation prints them."""
    gates = {"lstm": 4, "gru": 3}[cell] * width
    outputs = []
    for n, frames in enumerate((x, x[::-1])):
        h, c, out = np.zeros(width), np.zeros(width), []
        for frame in frames:
            a = (frame @ params["input"]["kernel"] + params["input"]["bias"])[n * gates : (n + 1) * gates]
            b = h @ params["recurrent_kernel"][n] + params["recurrent_bias"][n]
            if cell == "lstm":
                i, f, g, o = np.split(a + b, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
                z, candidate = sigmoid(az + bz), np.tanh(an + sigmoid(ar + br) * bn)
                h = (1 - z) * candidate + z * h
            out.append(h)
        outputs.append(np.array(out if n == 0 else out[::-1]))
    return np.concatenate(outputs, -1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrence_equals_torchs_equations_and_reads_valid_frames_only(cell):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9, 4)).astype(np.float32)
    mask = np.arange(9) < np.array([9, 6, 1])[:, None]
    layer = BidirectionalRNN(3, cell)
    variables = layer.init(jax.random.key(0), x, mask)

    def apply(x, mask):
        return layer.apply(variables, jnp.where(mask[..., None], x, 0.0), mask)

    check_layer(apply, x, mask)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    got = np.asarray(apply(x, mask))
    for row in range(3):
        length = mask[row].sum()
        np.testing.assert_allclose(got[row, :length], reference(x[row, :length], params, cell, 3), atol=1e-6)
        np.testing.assert_array_equal(got[row, length:], 0.0)


def test_the_model_keeps_the_contract_and_learns_through_ctc():
    config = CRNNConfig(num_features=8, layers=2, width=6, subsampling_channels=4, cell="gru")
    model = crnn_ctc(config, 5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 21, 8)).astype(np.float32)
    mask = np.arange(21) < np.array([21, 14, 5])[:, None]
    spec = {"features": jax.ShapeDtypeStruct((3, 21, 8), jnp.float32), "mask": jax.ShapeDtypeStruct((3, 21), bool)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), spec)
    params, model_state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})
    assert jax.tree.map(lambda a: a.shape, (params, model_state)) == jax.tree.map(lambda a: a.shape, shapes)
    assert model_state == {}

    def apply(x, mask):
        out, _ = model.apply(params, model_state, {"features": x, "mask": mask}, key=None, train=False)
        return jax.nn.log_softmax(out["logits"]), out["mask"]

    check_layer(apply, x, mask, ratio=4)
    assert apply(x, mask)[0].shape == (3, output_length(21, config), 5)

    @jax.jit
    def loss(params, key):
        batch = {"features": jnp.where(mask[..., None], x, jnp.nan), "mask": mask}
        out, _ = model.apply(params, model_state, batch, key=key, train=True)
        labels = jnp.array([[1, 2, 3], [4, 4, 0], [0, 0, 0]])
        return ctc_loss(out["logits"], out["mask"], labels, jnp.array([3, 2, 0]))[0].sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    first, g = gradient(params, jax.random.key(0))
    assert all(bool(jnp.isfinite(a).all()) and float(jnp.abs(a).max()) > 0 for a in jax.tree.leaves(g))
    other, _ = gradient(params, jax.random.key(1))
    assert float(first) != float(other)  # dropout depends on the key
    for step in range(30):
        _, g = gradient(params, jax.random.key(step))
        params = jax.tree.map(lambda p, g: p - 0.1 * g / (1 + jnp.abs(g)), params, g)
    assert float(loss(params, jax.random.key(0))) < 0.7 * float(first)


def test_a_config_without_layers_is_refused_in_one_line():
    with pytest.raises(UserError, match="found layers 0"):
        dataclasses.replace(CRNNConfig(), layers=0)
