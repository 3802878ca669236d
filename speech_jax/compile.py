"""What a run would do on a TPU that is not at hand: `python -m speech_jax.compile --config X --topology v5e:16x16`.

The trainer's own programs (the gradient of every bucket and the update), or with `--step use` those that recognize,
speak or draw a waveform, go through the real TPU compiler, which needs no TPU. Shown are bytes on each chip,
operations, collectives, a roofline time by a stated model of the chip (lowering/chips.py), and compile times. Needs
the extra `tpu`; run it with JAX_PLATFORMS=cpu.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import tyro
from jax.sharding import Mesh

from speech_jax.config import TrainConfig, parse_config
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.core.log import setup_logging
from speech_jax.core.placement import batch_struct, replicated, row_shards
from speech_jax.core.types import Bucket, PyTree, Task
from speech_jax.evaluation.report import text_table
from speech_jax.inference.programs import use_of
from speech_jax.kernels import attention_tpu as attention_pallas
from speech_jax.lowering.chips import Chip, chip_of, roofline, topology_devices
from speech_jax.lowering.flops import largest_values, matmul_flops
from speech_jax.lowering.hlo import operations, parse
from speech_jax.models import attention
from speech_jax.objectives.mix import terms
from speech_jax.runs.objective import make_task, replays, with_old_term
from speech_jax.runs.resolve import check_settings, resolve
from speech_jax.runs.streams import load_stream, stream_options
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.frontend import FrontEnd, make_front_end
from speech_jax.text.tokenizer import BLANK, Tokenizer
from speech_jax.training import optimizer as optimizers
from speech_jax.training.compiling import batch_spec_of, compile_programs, init_spec_of
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import init_shapes, make_state, num_params

log = logging.getLogger("speech_jax")

GIB = 2**30
SHOWN_LINES = 24  # of the compiler's list of what does not fit
SHOWN_SLOWEST = 20  # instructions in the JSON
SHOWN_ARRAYS = 12
PARTS = ("compute", "memory", "links", "network")  # of the roofline
KEY = jax.eval_shape(lambda: jax.random.key(0))
STEP = jax.ShapeDtypeStruct((), "int32")


@dataclass(frozen=True)
class CompileConfig:
    """Compiles what a config trains, or how it is used, for TPU chips that are not at hand.

    Flags that are not named here go to the config, `--mesh.fsdp 16`.
    """

    config: str
    """The config file."""
    topology: str = "v5e:4x4"
    """The chip and the shape of a slice: v5e:4x4, v5e:16x16, v4:4x4x4, v5p:4x4x4, v6e:16x16."""
    step: Literal["train", "use"] = "train"
    """train: the training step. use: recognition by the best path, speech from texts of so many LABELS, or a chunk of a
    waveform with ROWS folds by the scan, the rows spread over the chips and the parameters on each."""
    slices: int = 1
    """Slices that train together over the data center's network."""
    bucket: tuple[str, ...] = ()
    """ROWSxSECONDSxLABELS, 256x16x200: shapes of the global batch. Without any, those of the config's data are taken,
    which must then be there."""
    vocab_size: int = 128
    """Of the recognizer, where `bucket` is given: then no text is read."""
    longest: bool = False
    """Only the largest shape of the batch, not every bucket."""
    out: str = ""
    """A file for all figures as JSON."""


def main(argv: Sequence[str]) -> int:
    """The front door; returns the exit code."""
    own, rest = tyro.cli(CompileConfig, prog="python -m speech_jax.compile", args=list(argv), return_unknown_args=True)
    setup_logging()
    config = parse_config(["--config", own.config, *rest])
    if own.step == "train":
        check_compiled(config)
    chip, devices = chip_of(own.topology), topology_devices(own.topology, own.slices)
    config = for_chip(config, chip)
    config, reader, buckets = read(config, own)
    if own.longest:
        buckets = buckets[-1:]
    facts = (check if own.step == "train" else check_use)(config, reader, buckets, devices, own)
    print(table(facts, chip))
    if own.out:
        write_file(own.out, json.dumps(facts, indent=1) + "\n")
    return 0 if facts["fits"] else 2


def check_compiled(config: TrainConfig) -> None:
    """UserError for a run whose programs this check would not make as they are."""
    for name, there, wanted in (
        ("trainer.step.privacy", config.trainer.step.privacy.on, "no privacy: its programs hold a secret key"),
        ("adapter.kind", config.adapter.kind != "none", "none: adapters are put on weights that are at hand"),
        ("teacher.checkpoint", bool(config.teacher.checkpoint), "no teacher: its weights must be at hand"),
    ):
        if there:
            raise UserError(f"{name}: found it set, expected {wanted}")


def for_chip(config: TrainConfig, chip: Chip) -> TrainConfig:
    """The config with what its models would do on such a chip, of which they know only where it is at hand."""
    for name in ("task", "pre_task"):
        task = getattr(config, name)
        if getattr(getattr(task, "model", None), "attention_fused", False) and not attention_pallas.runs_on(chip.kind):
            log.warning(
                "%s.model.attention_fused: the kernel needs a TPU v5 or later; attention in blocks instead", name
            )
            block = task.model.attention_block or attention.BLOCK
            model = dataclasses.replace(task.model, attention_fused=False, attention_block=block)
            config = dataclasses.replace(config, **{name: dataclasses.replace(task, model=model)})
    return config


def read(config: TrainConfig, own: CompileConfig) -> tuple[TrainConfig, Any, list[Any]]:
    """(the config with its task, what reads its texts, the shapes of its batches, of both terms of its loss)."""
    check_settings(config)
    both = replays(config) and own.step == "train"
    if own.bucket:
        if config.task is None:
            raise UserError("config.task: found None, expected a task beside --bucket")
        reader = stand_in(config.task, own.vocab_size)
        rate = config.task.audio.sample_rate
        buckets: list[Any] = [bucket_of(text, rate) for text in own.bucket]
        buckets = [{"pre": b, "task": b} for b in buckets] if both else buckets
    else:
        config, reader, speakers = resolve(config)
        rate = config.task.audio.sample_rate
        options = stream_options(config, speakers)
        plans = {"task": load_stream(config.data, reader, rate, **options).plan}
        if both:
            plans["pre"] = load_stream(config.pre, reader if config.pre_task is None else None, rate, **options).plan
        buckets = list(plans["task"].buckets)
        if both:  # each shape of either once
            pre = list(plans["pre"].buckets)
            longest = {"pre": pre[-1], "task": buckets[-1]}
            buckets = [{"pre": pre[-1], "task": b} for b in buckets[:-1]] + [
                {"pre": b, "task": buckets[-1]} for b in pre[:-1]] + [longest]  # fmt: skip
    return config, reader, buckets


def bucket_of(text: str, sample_rate: int) -> Bucket:
    """ "256x16x200" as rows, samples and labels."""
    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)x(\d+)", text)
    if match is None or not int(match[1]) or not float(match[2]):
        raise UserError(f"--bucket: found {text!r}, expected ROWSxSECONDSxLABELS as in 256x16x200")
    return Bucket(int(match[1]), round(float(match[2]) * sample_rate), int(match[3]))


def stand_in(task: Any, vocab_size: int) -> Tokenizer | FrontEnd | None:
    """Something that reads as many tokens; which ones does not matter for the shapes."""
    if isinstance(task, CTCTaskConfig):
        return Tokenizer("char", (BLANK, *(chr(0x4E00 + n) for n in range(vocab_size - 1))))
    if isinstance(task, Tacotron2TaskConfig):
        return make_front_end(task.frontend, ["abcdefghijklmnopqrstuvwxyz"])
    return None


def check(
    config: TrainConfig, reader: Any, buckets: list[Any], devices: Sequence, own: CompileConfig
) -> dict[str, Any]:
    """Compiles the training step, and says all that is known of each program and of the largest step."""
    task = with_old_term(config, make_task(config, reader), reader)
    chip = chip_of(own.topology)
    mesh = make_mesh(config.mesh, list(devices))
    spec = init_spec_of(task.batch_spec, buckets[-1])
    params, model_state = init_shapes(task.model, spec, config.seed)
    _, state, shardings = make_state(
        task.model, spec, lambda p: optimizers.make_optimizer(config.optimizer, p, config.trainer.steps), mesh,
        config.mesh, seed=config.seed, ema=config.trainer.step.ema is not None, rules=task.sharding,
    )  # fmt: skip
    facts = head_of(own, mesh, buckets) | {"parameters": num_params(params), "state_bytes": shard_bytes(state)}
    try:
        programs = compile_programs(
            task, state, shardings, optimizers.make_optimizer(config.optimizer, params, config.trainer.steps),
            optimizers.trainable(config.optimizer, params), config.trainer.step, buckets, mesh,
            keys=[jax.ShapeDtypeStruct((), KEY.dtype, sharding=replicated(mesh))],
            rate=optimizers.learning_rate(config.optimizer, config.trainer.steps),
            moving_state=optimizers.moving_state(config.optimizer, state.model_state), say=say, check_stop=lambda: None,
        )  # fmt: skip
    except jax.errors.JaxRuntimeError as error:
        found = allocations(error) + largest_arrays(task, params, model_state, buckets[-1], mesh)
        return facts | {"fits": False, "allocations": found}
    facts["compile_seconds"] = programs.seconds

    # One program a term and shape, and what lies beside it: the state, the other terms' gradients, its batch.
    every_term = {term.name: term for term in terms(task.objective)}
    for (name, shapes), program in programs.gradients.items():
        term = every_term[name]
        batch = batch_struct({leaf: jax.ShapeDtypeStruct(shape, kind) for leaf, shape, kind in shapes}, mesh)
        found = measure(f"gradient {name}".strip(), program, chip)
        found["batch"] = {leaf: shape for leaf, shape, _ in shapes}
        found["batch_bytes"] = shard_bytes(batch)
        found["model_flops"] = 3 * matmul_flops(term.objective, params, model_state, batch, KEY, STEP)
        facts["programs"].append(found)
    facts["programs"].append(measure("update", programs.update, chip))
    return facts | whole_step(facts, chip)


def head_of(own: CompileConfig, mesh: Mesh, buckets: list[Any]) -> dict[str, Any]:
    """What was asked for, and no program yet."""
    return {
        "config": own.config, "topology": own.topology, "slices": own.slices, "chips": mesh.size,
        "mesh": dict(mesh.shape), "chip_bytes": chip_of(own.topology).memory, "buckets": buckets, "programs": [],
        "fits": True,
    }  # fmt: skip


def check_use(
    config: TrainConfig, reader: Any, buckets: list[Any], devices: Sequence, own: CompileConfig
) -> dict[str, Any]:
    """The same of the program in which the model is used; "the step" is one run of the largest of them."""
    chip, mesh = chip_of(own.topology), make_mesh(dataclasses.replace(config.mesh, data=-1, fsdp=1, tensor=1), devices)
    facts = head_of(own, mesh, buckets) | {"compile_seconds": 0.0}
    whole = replicated(mesh)
    for bucket in buckets:
        use = use_of(config.task, reader.vocab_size if reader else 0, bucket)
        weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), use.weights)
        facts |= {"parameters": num_params(weights), "state_bytes": shard_bytes(weights)}
        batch = batch_struct(use.batch, mesh)
        began = time.monotonic()
        try:
            with jax.set_mesh(mesh):
                program = jax.jit(use.function).lower(weights, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            return facts | {"fits": False, "allocations": allocations(error)}
        facts["compile_seconds"] += time.monotonic() - began
        found = measure(use.name, program, chip)
        found["batch"] = {name: leaf.shape for name, leaf in batch.items()}
        found["model_flops"] = matmul_flops(use.function, weights, batch)
        facts["programs"].append(found)
    longest = max(facts["programs"], key=lambda p: p["roofline"]["seconds"])
    seconds = longest["roofline"]["seconds"]
    needed = max(
        p["argument_bytes"] + p["output_bytes"] + p["temporary_bytes"] + p["code_bytes"] for p in facts["programs"]
    )
    return facts | {
        "bytes_per_chip": needed, "fits": needed <= chip.memory, "step_seconds": seconds,
        "utilization": longest["model_flops"] / (seconds * facts["chips"] * chip.peak),
    }  # fmt: skip


def whole_step(facts: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """The largest step: of each term the gradient that takes longest, then the update."""
    *gradients, update = facts["programs"]
    longest = {g["name"]: g for g in sorted(gradients, key=lambda g: g["roofline"]["seconds"])}.values()
    gradient_bytes = sum(g["output_bytes"] for g in longest)
    working = max(p["temporary_bytes"] + p["code_bytes"] for p in (*longest, update))
    needed = facts["state_bytes"] + sum(g["batch_bytes"] for g in longest) + gradient_bytes + working
    seconds = sum(p["roofline"]["seconds"] for p in (*longest, update))
    flops = sum(g["model_flops"] for g in longest)
    return {
        "bytes_per_chip": needed, "fits": needed <= chip.memory, "step_seconds": seconds,
        "utilization": flops / (seconds * facts["chips"] * chip.peak),
    }  # fmt: skip


def measure(name: str, program: Any, chip: Chip) -> dict[str, Any]:
    """One compiled program: bytes, operations, collectives and roofline on one chip."""
    module = parse(program.as_text())
    ops = operations(module)
    memory = program.memory_analysis()
    collectives: dict[str, dict[str, float]] = {}
    for op in ops:
        if op.wire:
            found = collectives.setdefault(op.kind, {"times": 0.0, "bytes": 0.0})
            found["times"] += op.times
            found["bytes"] += op.times * op.wire
    slowest = sorted(ops, key=lambda op: -op.times * max(op.flops / chip.peak, op.bytes / chip.bandwidth))
    return {
        "name": name,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": sum(op.times * op.flops for op in ops),
        "bytes": sum(op.times * op.bytes for op in ops),
        "collectives": collectives,
        "loops_of_unknown_length": len(module.unknown_loops),
        "roofline": roofline(ops, chip),
        "slowest": [op._asdict() for op in slowest[:SHOWN_SLOWEST]],
    }


def shard_bytes(tree: PyTree) -> int:
    """Bytes of a tree of shapes with shardings on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def allocations(error: Exception) -> list[str]:
    """The compiler's list of what takes most memory, where it gave up because of that; any other error is raised."""
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        raise error
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    wanted = [line for line in lines if re.match(r"(Ran out|Program hbm|\d+\. Size|Shape:|Operator:|XLA label:)", line)]
    return (wanted or lines)[:SHOWN_LINES]


def largest_arrays(task: Task, params: PyTree, model_state: PyTree, bucket: Any, mesh: Mesh) -> list[str]:
    """The largest arrays of the forward pass of each term, in bytes on each chip, and where they are made: the compiler
    does not always say."""
    lines, shards = [], row_shards(mesh)
    for term in terms(task.objective):
        batch = batch_spec_of(task.batch_spec, term.select(bucket))
        for value in largest_values(term.objective, params, model_state, batch, KEY, STEP, count=SHOWN_ARRAYS):
            shape = " x ".join(map(str, value.shape))
            lines.append(
                f"Size {value.nbytes / shards / GIB:.2f} GiB on each chip: {value.dtype} [{shape}], {value.primitive} "
                f"in {value.source}"
            )
    return lines


# ---- what is printed


def say(line: str) -> None:
    """Progress, so that the table alone is on standard output."""
    print(line, file=sys.stderr, flush=True)


def table(facts: dict[str, Any], chip: Chip) -> str:
    """The figures as Markdown."""
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
        talk = ", ".join(f"{c['times']:.0f} {kind} {c['bytes'] / 1e6:.1f} MB" for kind, c in p["collectives"].items())
        shape = " x ".join(map(str, max(p.get("batch", {"": ()}).values(), key=math.prod)))
        rows.append((
            p["name"], shape, f"{p['temporary_bytes'] / GIB:.2f}", f"{p['flops'] / 1e9:.1f}", f"{p['bytes'] / 1e9:.2f}",
            talk or "none", f"{1e3 * total:.2f}", *(f"{100 * line[k] / total:.0f} %" for k in PARTS),
        ))  # fmt: skip
    header = ("program", "batch", "temporary GiB", "GFLOP", "GB moved", "collectives", "roofline ms", *PARTS)
    unknown = sum(p["loops_of_unknown_length"] for p in facts["programs"])
    return "\n".join([
        head,
        text_table(header, rows),
        f"\nlargest step: {facts['bytes_per_chip'] / GIB:.2f} of {facts['chip_bytes'] / GIB:.0f} GiB on each chip, "
        f"{1e3 * facts['step_seconds']:.2f} ms by the roofline, {100 * facts['utilization']:.1f} % of {chip.kind}'s "
        f"bfloat16 peak as model FLOPs; compiled in {facts['compile_seconds']:.0f} s",
        *([f"taken once, as nothing says how often they run: {unknown} loops"] if unknown else []),
    ])  # fmt: skip


if __name__ == "__main__":
    run_front_door(main)
