"""What every engine that samples a WaveNet takes: folded weights, and the facts that a program is compiled for.

Layer l with dilation d_l and kernel k, at sample t:

    a_l[t]  = sum over j of x_l[t - (k-1-j)·d_l] @ taps[l, j]  +  cond_l[t]       # taps[l, k-1] sees the current sample
    z_l[t]  = tanh(a_l[:G/2]) · sigmoid(a_l[G/2:])
    x_{l+1} = (x_l + z_l @ out[l] + out_bias[l]) · residual_scale
    skip    = sum over l of z_l @ skip[l]  +  skip_bias
    y       = relu(relu(skip) @ head1 + head1_bias) @ head2 + head2_bias
    x_0[t]  = w[t-1] @ first + first_bias

w[t-1] is the sample before (I = 1), or the one-hot of its class (I = classes, a row is looked up). Before the first
sample it is 0, or the class of 0.0; what each layer saw before then (x_l at t < 0) is zero vectors, as in a convolution
padded with zeros in front.

Conditioning comes as `cond [batch, rows, L, G]`, with the biases of the gates (and the speaker's part) added in, and
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
    """A stack's weights, float32: weight norm folded, scalings and biases of the skips added up."""

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
    """What is static: hashable, the key of a compiled program.

    output "gaussian": mean and log scale (O = 2); "logistics": logits, means and log scales of `mixtures` logistics
    (O = 3 · mixtures); "mulaw": logits of `classes` classes. min_log_scale: the least log scale, from below.
    """

    dilations: tuple[int, ...]
    output: Output
    residual_scale: float
    mixtures: int
    classes: int
    min_log_scale: float


class StepState(NamedTuple):
    """Between two samples: what each layer has seen, in whatever layout the engine likes, and the last sample (float32)
    or class (int32) of each row."""

    history: Any
    last: Array


def outputs_of(shape: StepShape) -> int:
    """Outputs of the head."""
    return {"gaussian": 2, "logistics": 3 * shape.mixtures, "mulaw": shape.classes}[shape.output]


def noise_width(shape: StepShape) -> int:
    """Numbers drawn for each sample: one normal deviate; or uniforms, one a mixture and one more; or one uniform."""
    return shape.mixtures + 1 if shape.output == "logistics" else 1


def receptive_field(shape: StepShape, kernel: int) -> int:
    """Samples that an output depends on, the one fed in included."""
    return (kernel - 1) * sum(shape.dilations) + 1


def before_first(shape: StepShape, batch: int) -> Array:
    """The "last sample" before the first one: 0, or the class of 0.0."""
    if shape.output == "mulaw":
        return jnp.full((batch,), zero_class(shape.classes), jnp.int32)
    return jnp.zeros((batch,), jnp.float32)


def tempered(shape: StepShape, weights: StepWeights, temperature: float) -> StepWeights:
    """Weights of a network that says what this one says with its scales times the temperature, and the logits of its
    classes or mixture over it: below 1 likely samples become likelier, so that there is less noise. A scale stays above
    the shape's least. Raises UserError unless the temperature is a positive number."""
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature: found {temperature!r}, expected a number above 0")
    cold, log, width = 1 / temperature, math.log(temperature), shape.mixtures
    factor, more = {
        "gaussian": ([1.0, 1.0], [0.0, log]),
        "logistics": ([cold] * width + [1.0] * 2 * width, [0.0] * 2 * width + [log] * width),
        "mulaw": ([cold] * shape.classes, [0.0] * shape.classes),
    }[shape.output]
    factor, more = jnp.array(factor), jnp.array(more)
    return weights._replace(head2=weights.head2 * factor[None], head2_bias=weights.head2_bias * factor + more)


def check_weights(shape: StepShape, weights: StepWeights) -> None:
    """UserError unless the arrays fit each other and the shape, naming the first that does not."""
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
    for name, array, want in zip(StepWeights._fields, weights, expected, strict=True):
        if tuple(array.shape) != want:
            raise UserError(f"WaveNet weights {name!r}: found shape {tuple(array.shape)}, expected {want}")
