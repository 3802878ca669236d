"""WaveNet's Pallas kernel on a GPU, compared with the plain scan: samples per second of one stream and of many folds.

    python experiments/benchmarks/wavenet_pallas_gpu.py [--preset 20x64] [--folds 1 512] [--seconds 1] [--rounds 5]
    python experiments/benchmarks/wavenet_pallas_gpu.py --without-gpu 90

Weights are random. First the kernel's samples are compared with the plain loop's, given the same noise; then each round
times every contestant once and the best round counts. The bar of the past is 42.8 kHz for one stream of 20x64 (NVIDIA's
nv-wavenet, persistent CUDA kernel, V100).

--without-gpu NN (needs `pip install triton`) does what can be done where there is no GPU: lowers each program to
Triton's dialect as JAX does, has Triton compile that for sm_NN, and prints what ptxas says of it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.kernels.wavenet import pallas as wavenet_pallas
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.kernels.wavenet.pallas_kernel import WARPS
from speech_jax.kernels.wavenet.step import StepShape, StepWeights, noise_width, outputs_of

RATE, HOP, MIXTURES, CLASSES = 22050, 256, 10, 256
BAR = 42_800
# residual, gate, skip, head, kernel, layers, cycles
PRESETS = {
    "12x64": (64, 128, 64, 64, 2, 12, 2),
    "20x64": (64, 128, 128, 128, 2, 20, 2),
    "24x128": (128, 256, 128, 128, 3, 24, 4),
    "30x256": (256, 512, 256, 256, 3, 30, 3),
    "24x512": (512, 512, 256, 256, 3, 24, 4),
}


def shape_of(name: str, output: str) -> StepShape:
    """The static part of a preset."""
    *_, layers, cycles = PRESETS[name]
    dilations = tuple(2 ** (layer % (layers // cycles)) for layer in range(layers))
    return StepShape(dilations, output, 0.5**0.5, MIXTURES, CLASSES, -7.0)


def weight_shapes(name: str, output: str) -> StepWeights:
    """The shapes of a preset's weights."""
    residual, gate, skip, head, kernel, layers, _ = PRESETS[name]
    outputs, inputs = outputs_of(shape_of(name, output)), CLASSES if output == "mulaw" else 1
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return StepWeights(
        of(inputs, residual), of(residual), of(layers, kernel, residual, gate), of(layers, gate // 2, residual),
        of(layers, residual), of(layers, gate // 2, skip), of(skip), of(skip, head), of(head), of(head, outputs),
        of(outputs),
    )  # fmt: skip


def random_weights(name: str, output: str, seed: int = 0) -> StepWeights:
    """Random weights of such a size that signals neither vanish nor grow."""
    rng = np.random.default_rng(seed)

    def draw(like: jax.ShapeDtypeStruct) -> jax.Array:
        width = like.shape[-2] if len(like.shape) > 1 else 16
        return jnp.asarray(rng.normal(0, 0.7 / np.sqrt(width), like.shape), jnp.float32)

    return jax.tree.map(draw, weight_shapes(name, output))


def inputs(name: str, output: str, batch: int, rows: int, seed: int = 1) -> tuple[jax.Array, jax.Array]:
    """(cond, noise) of so many rows."""
    shape, (_, gate, *_) = shape_of(name, output), PRESETS[name]
    key, other = jax.random.split(jax.random.key(seed))
    cond = 0.5 * jax.random.normal(key, (batch, rows, len(shape.dilations), gate))
    size = (batch, rows * HOP, noise_width(shape))
    if output == "gaussian":
        return cond, jax.random.normal(other, size)
    return cond, jax.random.uniform(other, size, minval=1e-6, maxval=1 - 1e-6)


def time_them(name: str, output: str, batch: int, rows: int, rounds: int, backend: str) -> None:
    """Compares and times the plain scan, and the kernel with float32 and with bfloat16 factors."""
    shape, weights = shape_of(name, output), random_weights(name, output)
    cond, noise = inputs(name, output, batch, rows)
    calls = {"plain scan": (wavenet_plain.start(shape, weights, batch), wavenet_plain.sample, {})}
    for dtype in ("float32", "bfloat16"):
        reason = wavenet_pallas.fits(shape, weights, backend, batch=batch, dtype=dtype, hop=HOP)
        if reason:
            print(f"{name} {output} {batch} folds, Pallas {dtype}: {reason}")
            continue
        state = wavenet_pallas.start(shape, weights, batch, backend=backend, dtype=dtype, hop=HOP)
        calls[f"Pallas {dtype}"] = (state, wavenet_pallas.sample, {"backend": backend})
    results, compiled, best = {}, {}, dict.fromkeys(calls, np.inf)
    for label, (state, call, options) in calls.items():
        began = time.perf_counter()
        compiled[label] = call.lower(shape, weights, state, cond, HOP, noise, **options).compile()
        seconds = time.perf_counter() - began
        results[label] = np.asarray(compiled[label](weights, state, cond, noise)[0])
        print(f"{name} {output} {batch} folds, {label}: compiled in {seconds:.1f} s")
    for _ in range(rounds):
        for label, (state, *_) in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled[label](weights, state, cond, noise))
            best[label] = min(best[label], time.perf_counter() - began)
    for label, seconds in best.items():
        each = rows * HOP / seconds
        apart = np.abs(results[label] - results["plain scan"]).max()
        against = f", {each / BAR:.2f} of the bar" if batch == 1 and name == "20x64" else ""
        print(
            f"{name} {output} {batch} folds, {label}: {each:,.0f} samples/s a stream ({each / RATE:.2f} x real time"
            f"{against}), {each * batch:,.0f} in all, {best['plain scan'] / seconds:.1f} x the plain scan; "
            f"furthest from it {apart:.1e}"
        )


def triton_text(name: str, output: str, batch: int, dtype: str) -> str:
    """The kernel in Triton's dialect, as JAX lowers it for CUDA."""
    from jaxlib.mlir import ir
    from jaxlib.triton import dialect

    shape, weights = shape_of(name, output), weight_shapes(name, output)
    options = {"backend": "gpu", "dtype": dtype, "hop": HOP}
    state = jax.eval_shape(lambda w: wavenet_pallas.start(shape, w, batch, **options), weights)
    arrays = jax.eval_shape(lambda: inputs(name, output, batch, 4))
    traced = wavenet_pallas.sample.trace(shape, weights, state, arrays[0], HOP, arrays[1], backend="gpu")
    found = []

    def visit(op):
        if op.name == "stablehlo.custom_call" and "mhlo.backend_config" in op.attributes:
            found.append(op.attributes["mhlo.backend_config"]["ir"].value_bytes)
        return ir.WalkResult.ADVANCE

    traced.lower(lowering_platforms=("cuda",)).compiler_ir().operation.walk(visit)
    with ir.Context() as context:
        dialect.register_dialect(context)
        context.allow_unregistered_dialects = True  # the barrier is of MLIR's gpu dialect
        text = ir.Module.parse(found[0]).operation.get_asm(enable_debug_info=False)
    # The MLIR of Triton's own package spells the barrier otherwise.
    return re.sub(r'"?gpu\.barrier"?.*', "ttg.barrier local|global_read|global_write", text)


def compile_without_gpu(name: str, output: str, batch: int, dtype: str, capability: int) -> str:
    """Return what Triton and ptxas report of the kernel: registers, bytes of stack (spills) and of shared memory."""
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    import triton
    from triton.backends.compiler import GPUTarget

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = Path(folder, "kernel.ttir")
        source.write_text(triton_text(name, output, batch, dtype))
        began = time.process_time()
        made = triton.compile(
            str(source),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": WARPS, "num_stages": 1},
        )
        seconds = time.process_time() - began
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(made.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        report = subprocess.run([tool, "--dump-resource-usage", binary], capture_output=True, text=True).stdout
    use = dict(re.findall(r"(REG|STACK):(\d+)", report))
    return (
        f"registers {use.get('REG')}, stack {use.get('STACK')} B, shared memory {made.metadata.shared} B, "
        f"warps {made.metadata.num_warps}, compiled in {seconds:.0f} s of one core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["20x64"], choices=list(PRESETS))
    parser.add_argument("--output", nargs="+", default=["gaussian"], choices=["gaussian", "logistics", "mulaw"])
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 512])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], help="only with --without-gpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio, at 22,050 Hz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-gpu", type=int, metavar="NN")
    flags = parser.parse_args()
    cases = [(name, output, folds) for name in flags.preset for output in flags.output for folds in flags.folds]
    if flags.without_gpu:
        for name, output, folds in cases:
            for dtype in flags.dtype:
                use = compile_without_gpu(name, output, folds, dtype, flags.without_gpu)
                print(f"sm_{flags.without_gpu} {name} {output} {folds} folds {dtype}: {use}", flush=True)
        return
    if jax.default_backend() != "gpu":
        sys.exit(f"found backend {jax.default_backend()!r}, expected a GPU; see --without-gpu")
    print(jax.devices()[0].device_kind, "jax", jax.__version__)
    for name, output, folds in cases:
        time_them(name, output, folds, max(1, round(flags.seconds * RATE / HOP)), flags.rounds, "gpu")


if __name__ == "__main__":
    main()
