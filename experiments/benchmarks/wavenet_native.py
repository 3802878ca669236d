"""Samples per second of the native WaveNet step, one stream on one core, compared with the limits of the core.

    python experiments/benchmarks/wavenet_native.py [--streams 1] [--rounds 7] [--presets 24x128 …] [--single]
    python experiments/benchmarks/wavenet_native.py --likelihood

Weights are random. Each round times every row and, right after it, its limits, so that whatever else runs on the
machine weighs on both: reading as many bytes as the weights have from end to end, from whichever cache holds them, and
multiplying registers. "of read" is bytes of weights read for a sample (of what is read for several at once, a part)
times samples a second, over the first; "of peak" is products over the second, both of one core, also where two share
a stream (--cores 2). With more streams four share one reading of the weights. Printed are the median and the range of
the rounds. Plain C stands beside AVX2's limits. Needs gcc and AVX2, or AVX-512 with BF16 and VNNI.

--single: after each row one that makes no product for several samples at once; "× single" is the first over the
second, the median and the range of the rounds' ratios.
--likelihood: what the smaller kinds of weights cost on a waveform that float32 weights have drawn, in nats a sample.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from speech_jax.kernels.wavenet import native, native_pack
from speech_jax.kernels.wavenet.step import StepShape, StepWeights

RATE = 22_050
PRESETS = {  # residual, gate, skip, head, layers, cycles, kernel
    "12x64": (64, 128, 64, 64, 12, 2, 2),
    "20x64/128": (64, 128, 128, 128, 20, 2, 2),
    "24x128": (128, 256, 128, 128, 24, 4, 3),
    "30x256": (256, 512, 256, 256, 30, 3, 3),
}
LANES = {"float32": 8, "bfloat16": 16, "int8": 32}  # products of one instruction of AVX2; AVX-512's make twice as many


def random_net(preset: str) -> tuple[StepShape, StepWeights]:
    residual, gate, skip, head, layers, cycles, kernel = PRESETS[preset]
    rng = np.random.default_rng(0)

    def normal(*size: int) -> np.ndarray:
        return (rng.standard_normal(size) / np.sqrt(size[-2] if len(size) > 1 else 16)).astype(np.float32)

    half = gate // 2
    dilations = tuple(2 ** (layer % (layers // cycles)) for layer in range(layers))
    shape = StepShape(dilations, "gaussian", 0.5**0.5, 1, 256, -7.0)
    weights = StepWeights(
        first=normal(1, residual), first_bias=normal(residual), taps=normal(layers, kernel, residual, gate),
        out=normal(layers, half, residual), out_bias=0.1 * normal(layers, residual),
        skip=normal(layers, half, skip) / np.float32(np.sqrt(layers)), skip_bias=normal(skip),
        head1=normal(skip, head), head1_bias=normal(head), head2=0.1 * normal(head, 2),
        head2_bias=np.array([0, -4], np.float32),
    )  # fmt: skip
    return shape, weights


def products(weights: StepWeights) -> int:
    """Multiplications of a weight in one sample: all weights but the first layer's taps, which meet only samples, and
    the last layer's way to a next one."""
    matrices = (weights.taps[1:], weights.out[1:], weights.skip, weights.head1, weights.head2)
    return sum(matrix.size for matrix in matrices)


def limits() -> ctypes.CDLL:
    source = Path(__file__).with_name("wavenet_native_limits.c")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "limits.so"
        subprocess.run(["gcc", "-O2", "-fPIC", "-shared", "-o", built, source], check=True)
        library = ctypes.CDLL(str(built))
    for level in ("avx2", "avx512"):
        getattr(library, f"limit_read_{level}").argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for dtype in native.DTYPES:
            getattr(library, f"limit_{dtype}_{level}").argtypes = [ctypes.c_int64]
    return library


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def limits_now(library: ctypes.CDLL, packed: native.NativeWeights, times: int, loops: int) -> tuple[float, float]:
    """(bytes a second, products a second) that one core could read of these weights, `times` over, and could make."""
    level, size = max(packed.instructions, "avx2", key=native.INSTRUCTIONS.index), packed.weight_bytes // 512 * 512
    read, multiply = getattr(library, f"limit_read_{level}"), getattr(library, f"limit_{packed.dtype}_{level}")
    reading = seconds(lambda: read(packed.memory[0].ctypes.data, size, times))
    peak = seconds(lambda: multiply(loops))
    return size * times / reading, 8 * loops * LANES[packed.dtype] * (1 + (level == "avx512")) / peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--instructions", choices=native.INSTRUCTIONS, default=native.instructions()[-1])
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1)
    parser.add_argument("--dtypes", nargs="+", choices=native.DTYPES, default=list(native.DTYPES))
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--likelihood", action="store_true")
    flags = parser.parse_args()
    if flags.likelihood:
        return likelihood(flags.presets)
    library, rng, streams = limits(), np.random.default_rng(1), flags.streams
    rows, measured = {}, {}
    for preset in flags.presets:
        shape, weights = random_net(preset)
        for dtype, ahead in itertools.product(flags.dtypes, (True, False)[: 1 + flags.single]):
            with mock.patch.object(native_pack, "AHEAD", native_pack.AHEAD if ahead else (1,)):
                packed = native.pack(shape, weights, dtype, flags.instructions, flags.cores)
            frames = max(1, int(0.12 * 5e10 / packed.weight_bytes / 256 / streams))  # about a tenth of a second
            cond = rng.standard_normal((streams, frames, packed.layers, packed.gate)).astype(np.float32)
            noise = rng.standard_normal((streams, frames * 256, 1)).astype(np.float32)
            rows[preset, dtype, ahead] = packed, native.start(packed, streams), cond, noise, products(weights)
    for number in range(flags.rounds + 1):  # the first warms up
        for key, (packed, state, cond, noise, _) in rows.items():
            took = seconds(lambda: native.sample(packed, state, cond, 256, noise))  # noqa: B023
            speed = noise.shape[0] * noise.shape[1] / took
            found = speed, *limits_now(library, packed, int(2e9 / packed.weight_bytes) + 1, 4_000_000)
            if number:
                measured.setdefault(key, []).append(found)
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    name = cpu.split(":")[1].strip()
    print(f"{name}, {flags.instructions}, streams {streams}, cores {flags.cores}, {flags.rounds} rounds")
    print(
        "preset    weights      MB  samples/s (range)             × real time   GB/s  limit of read GFLOP/s of peak"
        + "  × single" * flags.single
    )
    for (preset, dtype, ahead), found in measured.items():
        packed, *_, count = rows[preset, dtype, ahead]
        speeds, reads, peaks = np.array(found).T
        speed = np.median(speeds)
        groups = streams // 4 + bin(streams % 4).count("1")  # readings of the weights for one sample of all streams
        bandwidth = speeds * (groups / streams * packed.step_bytes + packed.ahead_bytes)
        against = "  (single)" if not ahead else ""
        if ahead and flags.single:
            ratios = speeds / np.array(measured[preset, dtype, False])[:, 0]
            against = f"  {np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})"
        print(
            f"{preset:9s} {dtype:9s} {packed.weight_bytes / 1e6:5.2f}  "
            f"{f'{speed:,.0f} ({speeds.min():,.0f}–{speeds.max():,.0f})':29s} {speed / RATE:11.2f} "
            f"{np.median(bandwidth) / 1e9:6.1f} {np.median(reads) / 1e9:6.1f} "
            f"{100 * np.median(bandwidth / reads):5.0f} % "
            f"{2 * count * speed / 1e9:8.1f} {100 * np.median(count * speeds / peaks):5.0f} %{against}"
        )


def likelihood(presets: list[str]) -> None:
    print("preset    weights    nats a sample   more than float32, of four waveforms")
    for preset in presets:
        shape, weights = random_net(preset)
        rng = np.random.default_rng(2)
        cond = rng.standard_normal((4, 80, len(shape.dilations), weights.taps.shape[-1])).astype(np.float32)
        noise = rng.standard_normal((4, 80 * 50, 1)).astype(np.float32)
        packed = native.pack(shape, weights)
        drawn, _ = native.sample(packed, native.start(packed, 4), cond, 50, noise)
        nats = {}
        for dtype in native.DTYPES:
            packed = native.pack(shape, weights, dtype)
            y, _ = native.follow(packed, native.start(packed, 4), cond, 50, drawn)
            mean, log_scale = y[..., 0], np.maximum(y[..., 1], shape.min_log_scale)
            each = 0.5 * ((drawn - mean) / np.exp(log_scale)) ** 2 + log_scale + 0.5 * np.log(2 * np.pi)
            nats[dtype] = each.mean(axis=1)
            more = ", ".join(f"{value:+.4f}" for value in nats[dtype] - nats["float32"])
            print(f"{preset:9s} {dtype:9s} {nats[dtype].mean():13.4f}   {more}")


if __name__ == "__main__":
    main()
