"""The Pallas kernel, run by the interpreter: it equals a float64 loop and the plain engine, chunks change nothing, and
what does not fit is said. Both programs are lowered for their accelerators; a TPU's is compiled where its compiler is.
"""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from speech_jax.core.errors import UserError
from speech_jax.kernels.wavenet import pallas as wavenet_pallas
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.kernels.wavenet.pallas import fits, sample, start
from speech_jax.kernels.wavenet.step import StepShape, StepWeights, before_first, noise_width, outputs_of

GATE, CLASSES, MIXTURES = 10, 20, 3


def net(output, *, kernel=2, dilations=(1, 2, 3), residual=6, skip=5, head=7, gate=GATE, seed=0):
    """A net of odd widths, whose weights let the sound vary."""
    shape = StepShape(dilations, output, 0.7, MIXTURES, CLASSES, -7.0)
    rng, layers = np.random.default_rng(seed), len(dilations)
    inputs, outputs = CLASSES if output == "mulaw" else 1, outputs_of(shape)
    sizes = StepWeights(
        (inputs, residual), (residual,), (layers, kernel, residual, gate), (layers, gate // 2, residual),
        (layers, residual), (layers, gate // 2, skip), (skip,), (skip, head), (head,), (head, outputs), (outputs,),
    )  # fmt: skip
    draw = lambda size: rng.normal(0, 1 / np.sqrt(size[-2] if len(size) > 1 else 8), size)  # noqa: E731
    return shape, StepWeights(*(jnp.asarray(draw(size), jnp.float32) for size in sizes))


def inputs(shape, batch, rows, hop, gate=GATE, seed=1):
    rng = np.random.default_rng(seed)
    cond = rng.normal(size=(batch, rows, len(shape.dilations), gate))
    size = (batch, rows * hop, noise_width(shape))
    noise = 0.5 * rng.normal(size=size) if shape.output == "gaussian" else rng.uniform(0.01, 0.99, size)
    return jnp.asarray(cond, jnp.float32), jnp.asarray(noise, jnp.float32)


def float64_loop(shape, weights, cond, hop, noise):
    """kernels/wavenet/step.py's equations, one stream and one sample at a time."""
    w = StepWeights(*(np.asarray(array, np.float64) for array in weights))
    cond, noise = np.asarray(cond, np.float64), np.asarray(noise, np.float64)
    made = np.zeros(noise.shape[:2])
    for stream in range(len(noise)):
        seen = [[] for _ in shape.dilations]
        last = np.asarray(before_first(shape, 1))[0]
        for t in range(noise.shape[1]):
            x = (w.first[last] if shape.output == "mulaw" else last * w.first[0]) + w.first_bias
            skips = w.skip_bias.copy()
            for layer, dilation in enumerate(shape.dilations):
                seen[layer].append(x)
                a = cond[stream, t // hop, layer].copy()
                for tap in range(w.taps.shape[1]):
                    back = t - (w.taps.shape[1] - 1 - tap) * dilation
                    a += seen[layer][back] @ w.taps[layer, tap] if back >= 0 else 0
                left, right = np.split(a, 2)
                z = np.tanh(left) / (1 + np.exp(-right))
                skips += z @ w.skip[layer]
                x = (x + z @ w.out[layer] + w.out_bias[layer]) * shape.residual_scale
            hidden = np.maximum(np.maximum(skips, 0) @ w.head1 + w.head1_bias, 0)
            y, n = hidden @ w.head2 + w.head2_bias, noise[stream, t]
            if shape.output == "gaussian":
                last = np.clip(y[0] + np.exp(max(y[1], shape.min_log_scale)) * n[0], -1, 1)
            elif shape.output == "logistics":
                logits, means, scales = np.split(y, 3)
                i = np.argmax(logits - np.log(-np.log(n[:-1])))
                spread = np.exp(max(scales[i], shape.min_log_scale)) * (np.log(n[-1]) - np.log(1 - n[-1]))
                last = np.clip(means[i] + spread, -1, 1)
            else:
                odds = np.exp(y - y.max())
                last = min(int(np.sum(np.cumsum(odds / odds.sum()) <= n[0])), shape.classes - 1)
            made[stream, t] = last
    return made


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
@pytest.mark.parametrize(
    ("output", "kernel", "batch", "hop"), [("gaussian", 3, 1, 4), ("logistics", 2, 2, 1), ("mulaw", 2, 3, 4)]
)
def test_the_kernel_equals_the_loop_in_one_piece_and_in_chunks(backend, output, kernel, batch, hop):
    """Odd widths, a dilation that is no power of two, and more samples than the longest ring."""
    shape, weights = net(output, kernel=kernel)
    cond, noise = inputs(shape, batch, 16 // hop, hop)
    truth = float64_loop(shape, weights, cond, hop, noise)
    assert truth.std(axis=1).min() > 0.1
    plain, _ = wavenet_plain.sample(shape, weights, wavenet_plain.start(shape, weights, batch), cond, hop, noise)
    state = start(shape, weights, batch, backend=backend, hop=hop)
    whole, ended = sample(shape, weights, state, cond, hop, noise, backend=backend, interpret=True)
    assert whole.shape == truth.shape and whole.dtype == plain.dtype
    assert np.abs(whole - truth).max() <= 1e-4
    assert np.abs(whole - plain).max() <= 1e-5

    pieces, half = [], 8 // hop
    for rows, samples in ((slice(0, half), slice(0, 8)), (slice(half, None), slice(8, None))):
        made, state = sample(
            shape, weights, state, cond[:, rows], hop, noise[:, samples], backend=backend, interpret=True
        )
        pieces.append(made)
    np.testing.assert_array_equal(jnp.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(state.last, ended.last)
    np.testing.assert_array_equal(state.history.positions, ended.history.positions)
    np.testing.assert_array_equal(state.history.ring[..., :batch], ended.history.ring[..., :batch])


def test_nothing_is_read_before_it_was_written():
    """The TPU's own interpreter, with copies between memories as they are, and NaN in fresh memory."""
    shape, weights = net("gaussian", kernel=3)
    cond, noise = inputs(shape, 1, 3, 2)
    state = start(shape, weights, 1, backend="tpu", hop=2)
    careful = pltpu.InterpretParams(uninitialized_memory="nan")
    made, ended = sample(shape, weights, state, cond, 2, noise, backend="tpu", interpret=careful)
    assert np.abs(made - float64_loop(shape, weights, cond, 2, noise)).max() <= 1e-4
    assert np.isfinite(ended.history.ring).all()


def test_more_folds_than_a_tile_holds():
    """17 folds are two tiles of a GPU; each fold is what it is alone."""
    shape, weights = net("gaussian", dilations=(1, 2))
    cond, noise = inputs(shape, 17, 1, 4)
    truth = float64_loop(shape, weights, cond, 4, noise)
    state = start(shape, weights, 17, backend="gpu", hop=4)
    assert state.history.ring.shape[0] == 2
    made, _ = sample(shape, weights, state, cond, 4, noise, backend="gpu", interpret=True)
    assert np.abs(made - truth).max() <= 1e-4


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_bfloat16_is_near_and_not_the_same(backend):
    shape, weights = net("gaussian", dilations=(1, 2))
    cond, noise = inputs(shape, 2, 1, 4)
    truth = float64_loop(shape, weights, cond, 4, noise)
    state = start(shape, weights, 2, backend=backend, dtype="bfloat16", hop=4)
    assert state.history.ring.dtype == jnp.bfloat16
    made, _ = sample(shape, weights, state, cond, 4, noise, backend=backend, interpret=True)
    assert 1e-6 < np.abs(made - truth).max() < 0.05


def preset(residual, gate, skip, kernel, layers, cycles, output="gaussian"):
    shape = StepShape(tuple(2 ** (i % (layers // cycles)) for i in range(layers)), output, 0.7, 10, 256, -7.0)
    of = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)  # noqa: E731
    head, inputs, outputs = skip, 256 if output == "mulaw" else 1, outputs_of(shape)
    return shape, StepWeights(
        of(inputs, residual), of(residual), of(layers, kernel, residual, gate), of(layers, gate // 2, residual),
        of(layers, residual), of(layers, gate // 2, skip), of(skip), of(skip, head), of(head), of(head, outputs),
        of(outputs),
    )  # fmt: skip


SMALL, MEDIUM, LARGE = (64, 128, 64, 2, 12, 2), (64, 128, 128, 2, 20, 2), (128, 256, 128, 3, 24, 4)
HUGE = (256, 512, 256, 3, 30, 3)


def test_what_fits_where():
    v4 = 16 * 2**20
    for widths in (SMALL, MEDIUM, LARGE):
        for batch in (1, 128, 512):
            for dtype in ("float32", "bfloat16"):
                for backend in ("tpu", "gpu"):
                    assert fits(*preset(*widths), backend, batch=batch, dtype=dtype) is None
    assert fits(*preset(*SMALL), "tpu", memory=v4) is None
    for widths, options in ((MEDIUM, {"memory": v4}), (HUGE, {"dtype": "bfloat16"})):
        reason = fits(*preset(*widths), "tpu", **options)
        assert "MiB of VMEM" in reason and "\n" not in reason
    assert "stay in an L2 cache" in fits(*preset(128, 256, 128, 3, 96, 16), "gpu")
    assert "width of 256" in fits(*preset(*HUGE), "gpu", dtype="bfloat16")
    assert "backend 'cpu'" in fits(*preset(*SMALL), "cpu")
    assert "dtype 'int8'" in fits(*preset(*SMALL), "tpu", dtype="int8")
    assert "kernel size 1" in fits(*preset(64, 128, 64, 1, 12, 2), "gpu")
    shape, weights = net("gaussian")
    with pytest.raises(UserError, match="WaveNet Pallas kernel: .* MiB of VMEM"):
        start(shape, weights, 1, backend="tpu", memory=10_000)


@pytest.mark.parametrize(
    ("widths", "output", "batch", "dtype"),
    [
        (MEDIUM, "gaussian", 1, "float32"),
        (MEDIUM, "mulaw", 512, "bfloat16"),
        (LARGE, "logistics", 32, "float32"),
    ],
)
@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_both_programs_are_lowered_for_their_accelerators(backend, widths, output, batch, dtype):
    """As far as it goes without one: to Mosaic's and Triton's dialects, whose rules are narrower than the
    interpreter's."""
    shape, weights = preset(*widths, output)
    options = {"backend": backend, "dtype": dtype, "hop": 256}
    state = jax.eval_shape(lambda w: start(shape, w, batch, **options), weights)
    cond = jax.ShapeDtypeStruct((batch, 2, len(shape.dilations), widths[1]), jnp.float32)
    noise = jax.ShapeDtypeStruct((batch, 512, noise_width(shape)), jnp.float32)
    traced = sample.trace(shape, weights, state, cond, 256, noise, backend=backend)
    text = traced.lower(lowering_platforms=("tpu" if backend == "tpu" else "cuda",)).as_text()
    assert ("tpu_custom_call" if backend == "tpu" else "xla.gpu.triton") in text


COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from speech_jax.kernels.wavenet.pallas import sample, start
from tests.kernels.test_wavenet_pallas import inputs, net
device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
place = lambda tree: jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=jax.sharding.SingleDeviceSharding(device)), tree)
for output in ("gaussian", "logistics", "mulaw"):
    shape, weights = net(output)
    cond, noise = inputs(shape, 3, 2, 4)
    state = start(shape, weights, 3, backend="tpu", hop=4)
    args = (shape, place(weights), place(state), place(cond), 4, place(noise))
    print(output, sample.lower(*args, backend="tpu").compile().memory_analysis().generated_code_size_in_bytes)
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU's compiler (libtpu) is not installed")
def test_the_tpu_compiler_takes_it():
    """For a v5e, which need not be there. In a process of its own, as libtpu can be loaded by one at a time."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["gaussian", "logistics", "mulaw"]
    assert all(int(line.split()[1]) > 0 for line in done.stdout.splitlines())


def test_the_module_keeps_its_word_on_memory():
    """The plan's estimate is what its arrays take, and more; and grows with the folds."""
    shape, weights = preset(*LARGE)
    options = {"backend": "tpu", "dtype": "float32", "hop": 256, "memory": None}
    plans = [wavenet_pallas._plan(shape, weights, batch=batch, **options) for batch in (128, 512)]
    assert [plan.tile for plan in plans] == [128, 256]
    needed = [wavenet_pallas.vmem_bytes(shape, plan, weights, 256) for plan in plans]
    rings = [sum(plan.lengths) * plan.residual * plan.tile * 4 for plan in plans]
    held = sum(array.size * 4 for array in weights)
    assert needed[0] > rings[0] + held and needed[0] < needed[1] <= plans[1].memory
