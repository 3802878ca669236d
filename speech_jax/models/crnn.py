"""CRNN-CTC: convolutions, bidirectional LSTM or GRU layers and a CTC head; a common baseline.

After Deep Speech 2 (Amodei et al. 2016), with layer norm between the recurrent layers and the Conformer's subsampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from speech_jax.core.arrays import check_count
from speech_jax.core.types import Batch, Model
from speech_jax.models.config import CRNNConfig
from speech_jax.models.layers import Dropout, LayerNorm, check_features, dense, uniform_fan_in
from speech_jax.models.linen import as_model
from speech_jax.models.recurrent import gru_gates, lstm_gates
from speech_jax.models.subsampling import ConvSubsampling, halve

STAGES = {2: 1, 4: 2, 8: 3}
GATES = {"lstm": 4, "gru": 3}


def output_length(frames: Any, config: CRNNConfig) -> Any:
    """Return the number of output frames of `frames` feature frames (an int, or an integer array)."""
    return halve(frames, STAGES[config.subsampling_factor])


def _lstm(state: tuple[Array, Array], x: Array, recurrent: Array) -> tuple[Array, Array]:
    return lstm_gates(x + recurrent, state[1])


def _gru(state: tuple[Array], x: Array, recurrent: Array) -> tuple[Array]:
    return (gru_gates(x, recurrent, state[0]),)


class BidirectionalRNN(nn.Module):
    """Recurrent layer that runs both directions in one loop over time.

    Valid frames come first, so in reverse the padding does: there the state stays zero, so that the backward direction
    of an utterance starts at its last valid frame. Outputs of padded frames are zero.

    Attributes:
        width: channels of each direction.
        cell: "lstm" or "gru".
        dtype: type of the input projection and the output; the recurrence is float32.
    """

    width: int
    cell: Literal["lstm", "gru"] = "lstm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time d"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time {2*self.width}"]:
        """Return the outputs of both directions, concatenated."""
        batch, time, inputs = x.shape
        gates = GATES[self.cell] * self.width
        init = uniform_fan_in(self.width)  # torch: 1 / sqrt(hidden) for all four
        x = nn.Dense(2 * gates, dtype=self.dtype, kernel_init=init, bias_init=init, name="input")(x)
        kernel = self.param("recurrent_kernel", init, (2, self.width, gates))
        bias = self.param("recurrent_bias", init, (2, gates))

        def both(a: Array) -> Array:  # [batch, time, 2, ...] -> [time, 2, batch, ...], the second direction reversed
            a = jnp.moveaxis(a, (1, 2), (0, 1))
            return jnp.stack([a[:, 0], a[::-1, 1]], axis=1)

        steps = both(x.reshape(batch, time, 2, gates)), both(jnp.broadcast_to(mask[:, :, None], (batch, time, 2)))
        update: Callable = _lstm if self.cell == "lstm" else _gru

        def step(state: tuple[Array, ...], frame: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
            x, live = frame
            recurrent = jnp.einsum("nbh,nhg->nbg", state[0], kernel) + bias[:, None]
            new = update(state, x.astype(jnp.float32), recurrent)
            new = tuple(jnp.where(live[..., None], a, b) for a, b in zip(new, state, strict=True))
            return new, jnp.where(live[..., None], new[0], 0.0)

        zero = jnp.zeros((2, batch, self.width), jnp.float32)
        _, y = lax.scan(step, (zero,) * (2 if self.cell == "lstm" else 1), steps)
        y = jnp.concatenate([y[:, 0], y[::-1, 1]], axis=-1)
        return jnp.moveaxis(y, 0, 1).astype(self.dtype)


class CRNN(nn.Module):
    """The network; called with {"features", "mask"}."""

    config: CRNNConfig
    vocab_size: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """Return {"logits", "mask", "encoded"}."""
        check_features(batch, self.config.num_features)
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x, mask = ConvSubsampling(
            2 * config.width, config.subsampling_channels, STAGES[config.subsampling_factor], config.subsampling,
            dtype, name="subsampling",
        )(batch["features"], batch["mask"])  # fmt: skip
        for i in range(config.layers):
            x = Dropout(config.dropout)(x, train=train)
            x = BidirectionalRNN(config.width, config.cell, dtype, name=f"layers_{i}")(x, mask)
            x = LayerNorm(dtype, name=f"norm_{i}")(x)
        y = Dropout(config.dropout)(x.astype(jnp.float32), train=train)
        logits = dense(2 * config.width, self.vocab_size, name="head", dtype=jnp.float32)(y)
        return {"logits": logits, "mask": mask, "encoded": x}


def crnn_ctc(config: CRNNConfig, vocab_size: int) -> Model:
    """Return a CRNN with a CTC head, as pure functions.

    Batch and outputs are those of `conformer_ctc`; "encoded" has 2 * width channels. There is no model state.

    Args:
        config: settings of the network.
        vocab_size: number of classes, the blank included.

    Example:
        Shapes only, by `jax.eval_shape`; `model.init(key, batch)` and `model.apply(params, state, batch)` compute.

        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.models.config import CRNNConfig
        >>> from speech_jax.models.crnn import crnn_ctc
        >>> model = crnn_ctc(CRNNConfig(num_features=8, layers=1, width=8, subsampling_channels=4), vocab_size=30)
        >>> batch = {"features": jnp.ones((2, 40, 8)), "mask": jnp.arange(40)[None] < jnp.array([[40], [20]])}
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
        >>> outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        >>> outputs["logits"].shape, outputs["mask"].shape
        ((2, 10, 30), (2, 10))
    """
    check_count("vocab_size", vocab_size)
    return as_model(CRNN(config, vocab_size))
