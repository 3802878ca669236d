"""Compile a run for a TPU slice, without having a TPU: `python -m speech_jax.compile --config X --topology v5e:16x16`.

The trainer's own programs (the gradient of every bucket, and the update), or with `--step use` the inference program,
go through the real TPU compiler, which needs no TPU. The report has bytes per chip, operations, collectives, a roofline
time by a stated model of the chip (lowering/chips.py), and compile times. Needs the extra `tpu`. Progress is on
standard error, the report alone on standard output.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from speech_jax.config import parse_config
from speech_jax.core.command_line import parse
from speech_jax.core.errors import run_front_door
from speech_jax.core.files import write_file
from speech_jax.core.log import setup_logging
from speech_jax.evaluation.report import markdown_table
from speech_jax.runs.config import CompileConfig

if TYPE_CHECKING:
    from speech_jax.lowering.chips import Chip

PARTS = ("compute", "memory", "links", "network")  # of the roofline


def main(argv: Sequence[str]) -> int:
    """Compile the programs of a run and print their costs.

    Returns:
        Exit code: 0 if everything fits in the chip's memory, else 2.
    """
    prog = "python -m speech_jax.compile"
    options, rest = parse(CompileConfig, argv, prog=prog, return_unknown_args=True)
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs: a GPU or TPU that is here stays free
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    import jax

    from speech_jax.lowering.chips import chip_of, topology_devices
    from speech_jax.monitoring.progress import Stages
    from speech_jax.runs.precompile import check, check_compiled, check_use, for_chip, read

    jax.config.update("jax_enable_compilation_cache", False)  # the report has compile times
    setup_logging()
    config = parse_config(["--config", options.config, *rest])
    if options.step == "train":
        check_compiled(config)
    with Stages() as stages:
        stages.begin("loading the TPU compiler")
        chip, devices = chip_of(options.topology), topology_devices(options.topology, options.slices)
        stages.begin("reading the shapes of the batches")
        config, reader, buckets = read(for_chip(config, chip), options)
        if options.longest:
            buckets = buckets[-1:]
        stages.begin("compiling the training step" if options.step == "train" else "compiling inference")
        compile_step = check if options.step == "train" else check_use
        facts = compile_step(config, reader, buckets, devices, options, stages.say)
    print(table(facts, chip))
    if options.out:
        write_file(options.out, json.dumps(facts, indent=1) + "\n")
    return 0 if facts["fits"] else 2


def table(facts: dict[str, Any], chip: Chip) -> str:
    """Return the figures as Markdown."""
    from speech_jax.lowering.chips import GIB

    mesh = " x ".join(f"{axis} {size}" for axis, size in facts["mesh"].items())
    head = (
        f"{facts['config']} on {facts['slices']} x {facts['topology']}: {facts['chips']} chips, mesh {mesh}; "
        f"{facts['parameters']:,} parameters, {facts['state_bytes'] / GIB:.2f} GiB of state on each chip\n"
    )
    if "allocations" in facts:
        return "\n".join([head, f"does not fit in {facts['chip_bytes'] / GIB:.0f} GiB:", *facts["allocations"]])
    rows = []
    for p in facts["programs"]:
        line, total = p["roofline"], p["roofline"]["seconds"]
        collectives = [f"{c['times']:.0f} {kind} {c['bytes'] / 1e6:.1f} MB" for kind, c in p["collectives"].items()]
        shape = " x ".join(map(str, max(p.get("batch", {"": ()}).values(), key=math.prod)))
        rows.append((
            p["name"], shape, f"{p['temporary_bytes'] / GIB:.2f}", f"{p['flops'] / 1e9:.1f}", f"{p['bytes'] / 1e9:.2f}",
            ", ".join(collectives) or "none", f"{1e3 * total:.2f}", *(f"{100 * line[k] / total:.0f} %" for k in PARTS),
        ))  # fmt: skip
    header = ("program", "batch", "temporary GiB", "GFLOP", "GB moved", "collectives", "roofline ms", *PARTS)
    unknown = sum(p["loops_of_unknown_length"] for p in facts["programs"])
    return "\n".join([
        head,
        markdown_table(header, rows),
        f"\nlargest step: {facts['bytes_per_chip'] / GIB:.2f} of {facts['chip_bytes'] / GIB:.0f} GiB on each chip, "
        f"{1e3 * facts['step_seconds']:.2f} ms by the roofline, {100 * facts['utilization']:.1f} % of {chip.kind}'s "
        f"bfloat16 peak as model FLOPs; compiled in {facts['compile_seconds']:.0f} s",
        *([f"counted once because their length is unknown: {unknown} loops"] if unknown else []),
    ])  # fmt: skip


if __name__ == "__main__":
    run_front_door(main)
