"""Inputs common to all engines that sample a WaveNet: folded weights, static facts, and the state between samples.

Layer l with dilation d_l and kernel k, at sample t:

    a_l[t]  = sum over j of x_l[t - (k-1-j)·d_l] @ taps[l, j]  +  cond_l[t]       # taps[l, k-1]: the current sample
    z_l[t]  = tanh(a_l[:G/2]) · sigmoid(a_l[G/2:])
    x_{l+1} = (x_l + z_l @ out[l] + out_bias[l]) · residual_scale
    skip    = sum over l of z_l @ skip[l]  +  skip_bias
    y       = relu(relu(skip) @ head1 + head1_bias) @ head2 + head2_bias
    x_0[t]  = w[t-1] @ first + first_bias

w[t-1] is the previous sample (one input), or the one-hot of its class (a row lookup). Before the first sample it is 0,
or the class of 0.0; the inputs of the layers before then (x_l at t < 0) are zero vectors, as in a convolution padded
with zeros on the left.

Conditioning comes as `cond [batch, rows, L, G]`, which includes the biases of the gates (and the speaker's part), and
`hop`: sample t uses row t // hop. Noise comes as `noise [batch, time, n]`, so that engines can be compared sample by
sample.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from speech_jax.audio.mulaw import zero_class
from speech_jax.core.errors import UserError

Output = Literal["gaussian", "logistics", "mulaw"]


class StepWeights(NamedTuple):
    """Weights of a stack, float32; see the module's docstring for their use.

    Weight norm and scalings are folded in, and the biases of all skips are summed.

    Attributes:
        first: input projection; for "mulaw" one row per class.
        first_bias: its bias.
        taps: dilated convolutions; the oldest tap first.
        out: projections of the gated values to the residual.
        out_bias: their biases.
        skip: projections of the gated values to the skip.
        skip_bias: sum of their biases.
        head1: hidden layer of the head.
        head1_bias: its bias.
        head2: output layer of the head.
        head2_bias: its bias.
    """

    first: Float[Array, "inputs residual"]
    first_bias: Float[Array, " residual"]
    taps: Float[Array, "layers kernel residual gate"]
    out: Float[Array, "layers half_gate residual"]
    out_bias: Float[Array, "layers residual"]
    skip: Float[Array, "layers half_gate skip"]
    skip_bias: Float[Array, " skip"]
    head1: Float[Array, "skip head"]
    head1_bias: Float[Array, " head"]
    head2: Float[Array, "head outputs"]
    head2_bias: Float[Array, " outputs"]


class StepShape(NamedTuple):
    """Static facts of a network: hashable, the key of a compiled program.

    Attributes:
        dilations: dilation of each layer.
        output: distribution of a sample. "gaussian": mean and log scale (2 outputs); "logistics": logits, means and log
            scales of a mixture (3 · mixtures outputs); "mulaw": logits of the classes.
        residual_scale: factor on the residual after each layer.
        mixtures: number of logistics.
        classes: number of µ-law classes.
        min_log_scale: lower bound of log scales.
    """

    dilations: tuple[int, ...]
    output: Output
    residual_scale: float
    mixtures: int
    classes: int
    min_log_scale: float


class StepState(NamedTuple):
    """State between two samples.

    Attributes:
        history: earlier inputs of each layer, in the layout of the engine.
        last: last sample (float32) or class (int32) of each row.
    """

    history: Any
    last: Array


def outputs_of(shape: StepShape) -> int:
    """Return the number of outputs of the head."""
    return {"gaussian": 2, "logistics": 3 * shape.mixtures, "mulaw": shape.classes}[shape.output]


def noise_width(shape: StepShape) -> int:
    """Return the noise values per sample: one normal; or for "logistics" mixtures + 1 uniforms; for "mulaw" one."""
    return shape.mixtures + 1 if shape.output == "logistics" else 1


def receptive_field(shape: StepShape, kernel: int) -> int:
    """Return the number of samples that an output depends on, including the previous one."""
    return (kernel - 1) * sum(shape.dilations) + 1


def before_first(shape: StepShape, batch: int) -> Array:
    """Return `StepState.last` before the first sample: 0, or the class of 0.0."""
    if shape.output == "mulaw":
        return jnp.full((batch,), zero_class(shape.classes), jnp.int32)
    return jnp.zeros((batch,), jnp.float32)


def tempered(shape: StepShape, weights: StepWeights, temperature: float) -> StepWeights:
    """Return weights whose distributions are sharpened or flattened by a temperature.

    Scales are multiplied by the temperature, logits of classes and mixtures are divided by it. Below 1 likely samples
    become likelier, which gives less noise. Scales stay above the shape's minimum.

    Raises:
        UserError: the temperature is not a positive number.
    """
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature: found {temperature!r}, expected a number above 0")
    inverse, log, width = 1 / temperature, math.log(temperature), shape.mixtures
    factor, offset = {
        "gaussian": ([1.0, 1.0], [0.0, log]),
        "logistics": ([inverse] * width + [1.0] * 2 * width, [0.0] * 2 * width + [log] * width),
        "mulaw": ([inverse] * shape.classes, [0.0] * shape.classes),
    }[shape.output]
    factor, offset = jnp.array(factor), jnp.array(offset)
    return weights._replace(head2=weights.head2 * factor[None], head2_bias=weights.head2_bias * factor + offset)


def check_weights(shape: StepShape, weights: StepWeights) -> None:
    """Check that the arrays fit each other and the shape.

    Raises:
        UserError: names the first array that does not fit.
    """
    layers, kernel, residual, gate = weights.taps.shape
    skip, head = weights.head1.shape
    expected = StepWeights(
        first=(shape.classes if shape.output == "mulaw" else 1, residual),
        first_bias=(residual,),
        taps=(len(shape.dilations), kernel, residual, gate - gate % 2),
        out=(layers, gate // 2, residual),
        out_bias=(layers, residual),
        skip=(layers, gate // 2, skip),
        skip_bias=(skip,),
        head1=(skip, head),
        head1_bias=(head,),
        head2=(head, outputs_of(shape)),
        head2_bias=(outputs_of(shape),),
    )
    for name, array, expected_shape in zip(StepWeights._fields, weights, expected, strict=True):
        if tuple(array.shape) != expected_shape:
            raise UserError(f"WaveNet weights {name!r}: found shape {tuple(array.shape)}, expected {expected_shape}")
