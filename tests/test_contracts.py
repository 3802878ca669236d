"""The contract must be able to fail: layers that break it, each in one way."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.contracts import check_layer


def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 9, 2)).astype(np.float32), np.arange(9) < np.array([9, 5, 2])[:, None]


def smooth(x):
    return x + jnp.pad(x, ((0, 0), (0, 1), (0, 0)))[:, 1:]  # looks one frame ahead


def test_a_layer_that_clears_its_padding_passes():
    check_layer(lambda x, mask: jnp.sin(smooth(jnp.where(mask[..., None], x, 0.0))), *case())


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda x, mask: smooth(x), "padding"),
        (lambda x, mask: smooth(x * mask[..., None]), "not finite"),  # 0 * NaN
        (lambda x, mask: jnp.where(mask[..., None], x, 0.0) / x.shape[1], "longer bucket"),
        (
            lambda x, mask: (
                jnp.where(mask[..., None], x, 0.0) - jnp.where(mask[..., None], x, 0.0).mean((0, 1))[None, None]
            ),
            "longer bucket",
        ),  # noqa: E501
        (lambda x, mask: jnp.where(mask[..., None], jnp.sin(x), 0.0), "gradient"),  # 0 * cos(NaN), on the way back
    ],
)
def test_a_layer_that_reads_its_padding_fails(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_layer(broken, *case())


def test_a_layer_whose_steps_differ_fails():
    def apply(x, mask):
        return jnp.where(mask[..., None], x, 0.0)

    check_layer(apply, *case(), step=lambda x: x)
    with pytest.raises(AssertionError, match="step by step"):
        check_layer(apply, *case(), step=lambda x: x + 1e-3)
