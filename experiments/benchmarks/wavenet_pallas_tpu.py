"""WaveNet's Pallas kernel compiled by the TPU compiler without a TPU, and the speed that its schedule predicts.

    pip install 'jax[tpu]'
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python experiments/benchmarks/wavenet_pallas_tpu.py \
        [--preset 12x64 20x64 24x128] [--folds 128 512] [--dtype float32 bfloat16] [--topology v5e:2x2]

The model of the speed. A TPU core runs one bundle of instructions a cycle, in an order fixed by the compiler, waiting
for matrix units included. The compiler writes down the bundles of the final program; here those of the loop over layers
and those of the loop over samples around it are counted:

    cycles a sample of one tile = layers · bundles of a layer + the other bundles of a sample
    samples/s = folds of the tile / (cycles / clock)

The clock of a v5e is taken as 0.94 GHz: for a bfloat16 product of 4096³, of which the schedule has 824,700 bundles, the
compiler's own cost model says 0.880 ms. (At the 1.5 GHz that follows from 197 TFLOP/s of four units of 128 x 128 with a
row a cycle, that schedule would be faster than the peak.) A sample has two dependent products a layer and two of the
head; "a stage" is the cycles over their number. The rate of the products that the model implies is printed beside, to
be held against the 197 TFLOP/s of bfloat16; float32 at the highest precision takes several passes for each. Left out:
stalls on memory that the schedule does not know, and the start of a call (weights and histories into VMEM, once). It is
an estimate by the compiler's schedule, not a measurement.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VMEM = {"v4": 16, "v5e": 128, "v5p": 64, "v6e": 128}  # MiB a core
CLOCK = {"v5e": 0.94e9}


def compile_one(name: str, output: str, folds: int, dtype: str, topology: str) -> None:
    """Compiles and prints one line: in a process of its own, as the compiler's flags are read only once."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from wavenet_pallas_gpu import HOP, inputs, shape_of, weight_shapes

    from speech_jax.kernels.wavenet import pallas as wavenet_pallas

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    shape, weights = shape_of(name, output), weight_shapes(name, output)
    memory = VMEM[topology.split(":")[0]] * 2**20
    options = {"backend": "tpu", "dtype": dtype, "hop": HOP, "memory": memory}
    reason = wavenet_pallas.fits(shape, weights, batch=folds, **options)
    if reason:
        print("does not fit:", reason)
        return
    state = jax.eval_shape(lambda w: wavenet_pallas.start(shape, w, folds, **options), weights)
    cond, noise = jax.eval_shape(lambda: inputs(name, output, folds, 4))
    put = lambda tree: jax.tree.map(  # noqa: E731
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree
    )
    lowered = wavenet_pallas.sample.lower(
        shape, put(weights), put(state), put(cond), HOP, put(noise), backend="tpu", memory=memory
    )
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    ring = state.history.ring
    memory_use, cost = compiled.memory_analysis(), compiled.cost_analysis()
    flops = cost["flops"] / (4 * HOP * ring.shape[0] * ring.shape[-1])  # of a sample, as told by the kernel
    print(
        f"ring {jnp.dtype(ring.dtype).itemsize * ring.size / ring.shape[0] / 2**20:.1f} MiB; tiles {ring.shape[0]}; "
        f"tile {ring.shape[-1]}; layers {len(shape.dilations)}; compiled {seconds:.1f} s; "
        f"flops {flops:.0f}; HBM {cost['bytes accessed'] / 2**20:.0f} MiB; "
        f"program {memory_use.generated_code_size_in_bytes / 2**20:.2f} MiB; "
        f"arguments {memory_use.argument_size_in_bytes / 2**20:.0f} MiB; "
        f"temporary {memory_use.temp_size_in_bytes / 2**20:.0f} MiB"
    )


def loops(folder: str) -> tuple[int, int, float]:
    """(bundles of the loop over layers, other bundles of the loop over samples, MiB of VMEM) in the compiler's dump.

    Lines of the final program read `address label : >>> { … }`, an arrow a loop: the grid, samples, layers.
    """
    (final,) = Path(folder).glob("*wavenet_sample*-final_bundles.txt")
    addresses: dict[int, list[int]] = {}
    for line in final.read_text().splitlines():
        if found := re.match(r"\s*(0x[0-9a-f]+|0)\s+(?:\w\w)?\s*:\s(>*) \{", line):
            addresses.setdefault(len(found[2]), []).append(int(found[1], 16))
    inner = max(addresses[3]) - min(addresses[3]) + 1
    outer = max(addresses[2]) - min(addresses[2]) + 1 - inner
    (first,) = Path(folder).glob("*wavenet_sample*-02-original.txt")
    text = first.read_text()
    held = sum(int(size, 16) for size in re.findall(r"#allocation\d+ \[.*?space=vmem, size = (0x[0-9a-f]+)", text))
    for kind, shape in re.findall(r"inlined_call_operand\.vmem \[shape: (\w+)\[([\d,]+)\]", text):
        size = {"f32": 4, "s32": 4, "bf16": 2}[kind]
        for axis in shape.split(","):
            size *= int(axis)
        held += size
    return inner, outer, held / 2**20


def child(case: tuple, topology: str, dump: str | None) -> str:
    """compile_one in a process of its own; its line, or the error's last one."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    if dump:
        environment["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true"
    arguments = [sys.executable, __file__, "--one", *map(str, case), topology]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    told = [line for line in lines if line.startswith(("ring", "does not fit")) or done.returncode]
    return told[-1] if told else f"no answer, exit {done.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["12x64", "20x64", "24x128"])
    parser.add_argument("--output", nargs="+", default=["gaussian"])
    parser.add_argument("--folds", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        name, output, folds, dtype, topology = flags.one
        compile_one(name, output, int(folds), dtype, topology)
        return
    clock = CLOCK.get(flags.topology.split(":")[0])
    for case in [(n, o, f, d) for n in flags.preset for o in flags.output for f in flags.folds for d in flags.dtype]:
        print(flags.topology, "{} {} {} folds {}".format(*case), flush=True)
        line = child(case, flags.topology, None)
        print("   ", line, flush=True)
        if not line.startswith("ring"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            child(case, flags.topology, folder)
            inner, outer, held = loops(folder)
        facts = {key: float(value) for key, value in re.findall(r"(tile|layers|flops) (\d+)", line)}
        cycles = facts["layers"] * inner + outer
        told = f"VMEM {held:.1f} MiB; bundles {inner} a layer + {outer} = {cycles:.0f} cycles a sample of the tile"
        if clock:
            each = clock / cycles
            told += (
                f"; model: {cycles / (2 * facts['layers'] + 2):.0f} cycles a stage, {1e6 / each:.1f} us, "
                f"{each / 1e3:.1f} kHz a stream, {each * facts['tile'] / 1e6:.2f} M samples/s a core "
                f"({each * facts['tile'] / 22050:.0f} x real time), {facts['flops'] * each * facts['tile'] / 1e12:.1f} "
                "TFLOP/s"
            )
        print("   ", told, flush=True)


if __name__ == "__main__":
    main()
