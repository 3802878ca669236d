"""WaveNet's sampling on a CPU: every engine and preset from mel frames to audio, compared with public code and limits.

    python -m experiments.benchmarks.wavenet [--rounds 5] [--peer-python PYTHON --peer R9Y9_CLONE] [--only REGEX]

Weights are random; all is timed through `decoding.wavenet.stream` as `synthesize` calls it, conditioning and noise
included. Each round times every row once, and right after it what the machine could do at that moment: reading as many
bytes as the weights have from end to end on one core, from whichever cache holds them, and multiplying registers.
"of read" is weight bytes a step times steps a second over the first, "of peak" products over the second; a step of n
folds reads the weights once. Printed are the median and the range of the rounds. The native step takes one core, or two
that share a stream; XLA takes all that it is given; the limits are one core's. The peer is r9y9's
`incremental_forward` (24 x 128, one Gaussian, weight norm removed) under torch with the same number of threads, in the
same rounds.

Then: seconds to compile the scan's sampler for a chunk (nothing cached) and how many programs two lengths took; and how
much the process's peak memory grows from 2 s to 60 s of audio. Needs gcc and AVX2, or AVX-512 with BF16 and VNNI.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.wavenet_native import limits, limits_now, products, seconds
from speech_jax.decoding.wavenet import scan
from speech_jax.decoding.wavenet.engines import make_engine
from speech_jax.decoding.wavenet.stream import (
    FOLD_FRAMES,
    Net,
    chunk_frames,
    fold_frames,
    folded_audio,
    make_net,
    stream_audio,
)
from speech_jax.kernels.wavenet import native
from speech_jax.kernels.wavenet.draw import make_noise
from speech_jax.models import wavenet as presets

RATE = 22_050
ROWS = [  # preset, engine, weights, cores of the native step, folds, seconds of audio that are made
    ("base", "native", "int8", 1, 1, 0.5),
    ("base", "native", "int8", 2, 1, 0.5),
    ("base", "native", "bfloat16", 1, 1, 0.5),
    ("base", "native", "float32", 1, 1, 0.25),
    ("base", "native", "float32", 2, 1, 0.25),
    ("base", "scan", "float32", 1, 1, 0.2),
    ("medium", "native", "float32", 1, 1, 1.0),
    ("medium", "native", "float32", 2, 1, 1.0),
    ("medium", "native", "int8", 1, 1, 2.0),
    ("medium", "native", "int8", 2, 1, 2.0),
    ("medium", "scan", "float32", 1, 1, 0.5),
    ("medium", "scan", "float32", 1, 16, 8.0),
    ("medium", "scan", "float32", 1, 32, 24.0),
    ("medium", "scan", "float32", 1, 64, 24.0),
    ("medium", "scan", "float32", 1, 64, 60.0),  # folds warm up for as long, but make more each
    ("medium", "scan", "float32", 1, 64, 120.0),
    ("small", "native", "int8", 1, 1, 2.0),
    ("small", "scan", "float32", 1, 1, 1.0),
]
PEER = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from wavenet_vocoder import WaveNet
torch.set_num_threads(int(sys.argv[2]))
torch.manual_seed(0)
net = WaveNet(out_channels=2, layers=24, stacks=4, residual_channels=128, gate_channels=256, skip_out_channels=128,
              kernel_size=3, dropout=0.0, cin_channels=80, gin_channels=-1, scalar_input=True,
              output_distribution="Normal", upsample_conditional_features=True,
              upsample_params={"upsample_scales": [4, 4, 4, 4], "cin_channels": 80, "cin_pad": 2}).eval()
net.make_generation_fast_()
samples = 512
c = torch.randn(1, 80, samples // 256 + 4)
print("ready", flush=True)
for line in sys.stdin:
    with torch.no_grad():
        began = time.perf_counter()
        net.incremental_forward(torch.zeros(1, 1, 1), c=c, T=samples, softmax=False, quantize=False, tqdm=lambda x: x)
    print(samples / (time.perf_counter() - began), flush=True)
"""


def mel_of(length: float, config) -> np.ndarray:
    frames = max(1, round(length * RATE / config.hop))
    return np.random.default_rng(1).standard_normal((frames, config.num_mels)).astype(np.float32)


def start_peer(python: str, clone: str) -> subprocess.Popen:
    version = Path(clone) / "wavenet_vocoder" / "version.py"  # their setup.py writes it
    if not version.exists():
        version.write_text("version = __version__ = '0'\n")
    threads = str(len(os.sched_getaffinity(0)))
    peer = subprocess.Popen(
        [python, "-c", PEER, clone, threads], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert peer.stdout.readline().strip() == "ready"
    return peer


def once(row: tuple, net: Net, engine) -> float:
    """Samples of audio a second."""
    folds, length = row[4:]
    mel = mel_of(length, net.config)
    if folds == 1:
        spent = seconds(lambda: [None for _ in stream_audio(net, [mel], engine=engine)])
    else:
        spent = seconds(lambda: folded_audio(net, mel, folds=folds, engine=engine))
    return len(mel) * net.config.hop / spent


def steps_a_sample(row: tuple, config) -> float:
    """Steps of the network for each sample of audio: 1 for a stream; folds share a step, but warm up and overlap."""
    folds, length = row[4:]
    if folds == 1:
        return 1.0
    total, count = len(mel_of(length, config)), chunk_frames(config, folds)
    frames = sum(fold_frames(config, total, folds)) + FOLD_FRAMES
    return -(-frames // count) * count / total  # a fold is made in whole chunks


def pack(row: tuple, net: Net) -> native.NativeWeights:
    """The row's weights as the native step holds them, which is also what a scan reads."""
    return native.pack(
        net.shape, type(net.weights)(*(np.asarray(a, np.float32) for a in net.weights)), row[2], cores=row[3]
    )


def measure(rows: list[tuple], nets: dict, packed: dict, rounds: int, peer: subprocess.Popen | None) -> dict:
    """{row: [rounds, (samples/s, bytes/s that could be read, products/s that could be made)]}"""
    library, found = limits(), {}
    engines = {row: make_engine(row[1], nets[row[0]].shape, nets[row[0]].weights, nets[row[0]].config.hop,
                                batch=row[4], dtype=row[2], cores=row[3]) for row in rows}  # fmt: skip
    for number in range(rounds + 1):  # the first warms up, and compiles
        for row in rows:
            speed = once(row, nets[row[0]], engines[row])
            possible = limits_now(library, packed[row], int(1e9 / packed[row].weight_bytes) + 1, 2_000_000)
            if number:
                found.setdefault(row, []).append((speed, *possible))
        if peer:
            peer.stdin.write("\n")
            peer.stdin.flush()
            speed = float(peer.stdout.readline())
            if number:
                found.setdefault(("peer",), []).append((speed, np.nan, np.nan))
    return {row: np.array(values) for row, values in found.items()}


def compiling(net: Net, rows: int) -> tuple[float, float]:
    """(seconds, processor seconds) to compile the scan's sampler for a chunk of so many rows."""
    frames = chunk_frames(net.config, rows)
    cond = jax.ShapeDtypeStruct((rows, frames, net.config.layers, net.config.gate), np.float32)
    seeds, first = np.zeros((rows, 2), np.uint32), np.zeros(rows, np.int32)
    noise = jax.eval_shape(lambda: make_noise(net.shape, seeds, first, frames * net.config.hop))
    state = scan.start(net.shape, net.weights, rows)
    began, spent = time.perf_counter(), time.process_time()
    scan.sample.lower(net.shape, net.weights, state, cond, net.config.hop, noise).compile()
    return time.perf_counter() - began, time.process_time() - spent


def spread(values: np.ndarray) -> str:
    return f"{np.median(values):,.0f} ({values.min():,.0f}–{values.max():,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer")
    parser.add_argument("--only", default="")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.memory:
        return memory(*flags.memory)
    jax.config.update("jax_enable_compilation_cache", False)
    rows = [row for row in ROWS if re.search(flags.only, "{} {} {} {} {}".format(*row))]
    nets = {}
    for name in dict.fromkeys(row[0] for row in rows):
        config = getattr(presets, name)()
        nets[name] = make_net(config, presets.init_params(config, jax.random.key(0)))
    peer = start_peer(flags.peer_python, flags.peer) if flags.peer else None

    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu.split(':')[1].strip()}, {cores} cores, load {os.getloadavg()[0]:.1f}, {flags.rounds} rounds")
    kinds = dict.fromkeys((row[0], row[4]) for row in rows if row[1] == "scan")
    compiled = {(name, folds): compiling(nets[name], folds) for name, folds in kinds}  # before anything has run
    packed = {row: pack(row, nets[row[0]]) for row in rows}
    found = measure(rows, nets, packed, flags.rounds, peer)
    print(
        "preset engine  weights  cores folds  audio  samples/s (range)          × real time  GB/s  of read  GFLOP/s"
        "  of peak  × peer"
    )
    slow = np.median(found[("peer",)][:, 0]) if peer else None
    for row in rows:
        name, engine, dtype, cores, folds, length = row
        speeds, reads, peaks = found[row].T
        steps = speeds * steps_a_sample(row, nets[name].config)
        read = packed[row].step_bytes + packed[row].ahead_bytes if engine == "native" else packed[row].weight_bytes
        bandwidth, products_s = steps * read, steps * folds * products(nets[name].weights)
        against = f"{np.median(speeds) / slow:7.1f}" if slow and name == "base" else ""
        print(
            f"{name:6s} {engine:7s} {dtype:9s}{cores:4d}{folds:6d}{length:6.1f} s  "
            f"{spread(speeds):27s}{np.median(speeds) / RATE:11.2f} "
            f"{np.median(bandwidth) / 1e9:6.1f} {100 * np.median(bandwidth / reads):6.0f} % "
            f"{2 * np.median(products_s) / 1e9:8.1f} {100 * np.median(products_s / peaks):6.0f} % {against}"
        )
    if slow:
        speeds = found[("peer",)][:, 0]
        print(f"peer   torch   float32         1          {spread(speeds)}")

    print("\npreset folds  compiling the sampler: s, processor s")
    for (name, folds), times in compiled.items():
        print("{:6s} {:5d} {:12.1f} {:12.1f}".format(name, folds, *times))
    for case in (("small", "scan", "float32"), ("medium", "native", "int8")):
        command = [sys.executable, "-m", "experiments.benchmarks.wavenet", "--memory", *case]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def memory(name: str, kind: str, dtype: str) -> None:
    """In a process of its own, since a peak never comes down."""
    config = getattr(presets, name)()
    net = make_net(config, presets.init_params(config, jax.random.key(0)))
    engine = make_engine(kind, net.shape, net.weights, config.hop, dtype=dtype)
    peaks = []
    for length in (2.0, 60.0):
        for _ in stream_audio(net, [mel_of(length, config)], engine=engine):
            pass
        # VmHWM and not getrusage's ru_maxrss, which a process takes over from the one that started it
        status = Path("/proc/self/status").read_text()
        peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)
    print(
        f"{name} {kind} {dtype}: peak memory {peaks[0]:.0f} MB after 2 s of audio, {peaks[1]:.0f} MB after 60 s; "
        f"programs of the scan for both: {scan.sample._cache_size()}"
    )


if __name__ == "__main__":
    main()
