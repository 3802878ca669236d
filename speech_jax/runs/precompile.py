"""Compile the programs of a run for TPU chips without such chips, and report their memory and time."""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.placement import batch_struct, replicated, row_shards
from speech_jax.core.types import Bucket, PyTree, Task
from speech_jax.kernels import attention_tpu
from speech_jax.lowering.chips import GIB, Chip, chip_of
from speech_jax.lowering.flops import largest_values, matmul_flops
from speech_jax.lowering.programs import allocations, measure, shard_bytes
from speech_jax.models import attention
from speech_jax.objectives.mix import terms
from speech_jax.runs.claims import check_run
from speech_jax.runs.config import CompileConfig
from speech_jax.runs.objective import build_task, replays
from speech_jax.runs.resolve import check_settings, resolve
from speech_jax.runs.streams import Sources, load_stream
from speech_jax.training import optimizer as optimizers
from speech_jax.training.compiling import batch_spec_of, compile_programs, init_spec_of
from speech_jax.training.frozen import moving_state
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import init_shapes, make_state, num_params

SHOWN_ARRAYS = 12
KEY = jax.eval_shape(lambda: jax.random.key(0))
STEP = jax.ShapeDtypeStruct((), "int32")


def check_compiled(config: TrainConfig) -> None:
    """Raise UserError for a run whose programs cannot be made without its weights or its secret key."""
    for name, is_set, expected in (
        ("trainer.step.privacy", config.trainer.step.privacy.on, "no privacy: its programs contain a secret key"),
        ("adapter.kind", config.adapter.kind != "none", "none: adapters need the start checkpoint's weights"),
        ("teacher.checkpoint", bool(config.teacher.checkpoint), "no teacher: its weights are needed"),
    ):
        if is_set:
            raise UserError(f"{name}: found it set, expected {expected}")


def for_chip(config: TrainConfig, chip: Chip) -> TrainConfig:
    """Return the config with the attention kernels that its models use on `chip`."""
    for name in ("task", "pre_task"):
        task = getattr(config, name)
        if getattr(getattr(task, "model", None), "attention_fused", False) and not attention_tpu.runs_on(chip.kind):
            log.warning(
                "%s.model.attention_fused: the kernel needs a TPU v5 or later; attention in blocks instead", name
            )
            block = task.model.attention_block or attention.BLOCK
            model = dataclasses.replace(task.model, attention_fused=False, attention_block=block)
            config = dataclasses.replace(config, **{name: dataclasses.replace(task, model=model)})
    return config


def read(config: TrainConfig, options: CompileConfig) -> tuple[TrainConfig, Any, list[Any]]:
    """Resolve the run and find the shapes of its batches.

    Args:
        config: The run.
        options: Shapes given by flag; without them the config's data must be readable.

    Returns:
        (config with its task, reader or None, shapes of the batches: buckets, or one per term of the loss).

    Raises:
        UserError: If the config names no task, or a shape is not written as ROWSxSECONDSxLABELS.
    """
    check_run(config)
    check_settings(config)
    with_pre = replays(config) and options.step == "train"
    if options.bucket:
        if config.task is None:
            raise UserError("config.task: found None, expected a task with --bucket")
        reader = config.task.placeholder_reader(options.vocab_size)
        rate = config.task.audio.sample_rate
        buckets: list[Any] = [bucket_of(text, rate) for text in options.bucket]
        buckets = [{"pre": b, "task": b} for b in buckets] if with_pre else buckets
    else:
        sources = Sources()
        config, reader, speakers, *_ = resolve(config, sources)
        rate = config.task.audio.sample_rate
        common = {"speakers": speakers, "options": config.task.stream_options(), "sources": sources}
        plans = {"task": load_stream(config.data, reader, rate, **common).plan}
        if with_pre:
            assert config.pre is not None
            pre_reader = reader if config.pre_task is None else None
            plans["pre"] = load_stream(config.pre, pre_reader, rate, flag="pre", **common).plan
        buckets = list(plans["task"].buckets)
        if with_pre:  # each shape of "pre" and of "task" once
            pre = list(plans["pre"].buckets)
            longest = {"pre": pre[-1], "task": buckets[-1]}
            buckets = [{"pre": pre[-1], "task": b} for b in buckets[:-1]] + [
                {"pre": b, "task": buckets[-1]} for b in pre[:-1]] + [longest]  # fmt: skip
    return config, reader, buckets


def bucket_of(text: str, sample_rate: int) -> Bucket:
    """Return the bucket of a text such as 256x16x200: rows, seconds, labels. Raises UserError for any other text."""
    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)x(\d+)", text)
    if match is None or not int(match[1]) or not float(match[2]):
        raise UserError(f"--bucket: found {text!r}, expected ROWSxSECONDSxLABELS as in 256x16x200")
    return Bucket(int(match[1]), round(float(match[2]) * sample_rate), int(match[3]))


def check(
    config: TrainConfig,
    reader: Any,
    buckets: list[Any],
    devices: Sequence,
    options: CompileConfig,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compile the training step.

    Args:
        config: The run, with its task.
        reader: Its tokenizer or front end.
        buckets: Shapes of its batches, ascending.
        devices: The chips to compile for.
        options: The flags.
        say: Called with a line after each program.

    Returns:
        JSON figures of each program and of the largest step; with "fits" False, the largest allocations instead.
    """
    task = build_task(config, reader).task
    chip = chip_of(options.topology)
    mesh = make_mesh(config.mesh, list(devices))
    spec = init_spec_of(task.batch_spec, buckets[-1])
    params, model_state = init_shapes(task.model, spec, config.seed)
    _, state, shardings = make_state(
        task.model, spec, lambda p: optimizers.make_optimizer(config.optimizer, p, config.trainer.steps), mesh,
        config.mesh, seed=config.seed, ema=config.trainer.step.ema is not None, rules=task.sharding,
    )  # fmt: skip
    facts = head_of(options, mesh, buckets)
    facts |= {"parameters": num_params(params), "state_bytes": shard_bytes(state)}
    key: Any = jax.ShapeDtypeStruct((), KEY.dtype, sharding=replicated(mesh))
    try:
        programs = compile_programs(
            task, state=state, shardings=shardings,
            optimizer=optimizers.make_optimizer(config.optimizer, params, config.trainer.steps),
            trainable=optimizers.trainable(config.optimizer, params), config=config.trainer.step, buckets=buckets,
            mesh=mesh, keys=[key],
            rate=optimizers.learning_rate(config.optimizer, config.trainer.steps),
            moving_state=moving_state(config.optimizer, state.params, state.model_state), say=say,
            check_stop=lambda: None, log_every=config.trainer.log_every,
            penalties=functools.partial(optimizers.penalties, config.optimizer),
        )  # fmt: skip
    except jax.errors.JaxRuntimeError as error:
        lines = allocations(error) + largest_arrays(task, params, model_state, buckets[-1], mesh)
        return facts | {"fits": False, "allocations": lines}
    facts["compile_seconds"] = programs.seconds

    # One program per term and shape; in memory with it lie the state, the other terms' gradients and its batch.
    terms_by_name = {term.name: term for term in terms(task.objective)}
    for (name, shapes), program in programs.gradients.items():
        term = terms_by_name[name]
        batch = batch_struct({leaf: jax.ShapeDtypeStruct(shape, kind) for leaf, shape, kind in shapes}, mesh)
        figures = measure(f"gradient {name}".strip(), program, chip)
        figures["batch"] = {leaf: shape for leaf, shape, _ in shapes}
        figures["batch_bytes"] = shard_bytes(batch)
        figures["model_flops"] = 3 * matmul_flops(term.objective, params, model_state, batch, KEY, STEP)
        facts["programs"].append(figures)
    facts["programs"].append(measure("update", programs.update, chip))
    return facts | whole_step(facts, chip)


def head_of(options: CompileConfig, mesh: Mesh, buckets: list[Any]) -> dict[str, Any]:
    """Return the figures that are known before anything is compiled."""
    return {
        "config": options.config, "topology": options.topology, "slices": options.slices, "chips": mesh.size,
        "mesh": dict(mesh.shape), "chip_bytes": chip_of(options.topology).memory, "buckets": buckets, "programs": [],
        "fits": True,
    }  # fmt: skip


def check_use(
    config: TrainConfig,
    reader: Any,
    buckets: list[Any],
    devices: Sequence,
    options: CompileConfig,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compile the inference program, with the arguments of `check`.

    Returns:
        The figures of `check`; the "step" is one run of the largest shape.

    Raises:
        UserError: If the task has no inference program.
    """
    chip = chip_of(options.topology)
    mesh = make_mesh(dataclasses.replace(config.mesh, data=-1, fsdp=1, tensor=1), list(devices))
    facts = head_of(options, mesh, buckets)
    facts["compile_seconds"] = 0.0
    whole = replicated(mesh)
    for bucket in buckets:
        inference = config.task.program(bucket, reader.vocab_size if reader else 0)
        weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), inference.weights)
        facts |= {"parameters": num_params(weights), "state_bytes": shard_bytes(weights)}
        batch = batch_struct(inference.batch, mesh)
        began = time.monotonic()
        try:
            with jax.set_mesh(mesh):
                program = jax.jit(inference.function).lower(weights, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            return facts | {"fits": False, "allocations": allocations(error)}
        seconds = time.monotonic() - began
        say(f"compiled {inference.name} {len(facts['programs']) + 1} of {len(buckets)} in {seconds:.1f} s")
        facts["compile_seconds"] += seconds
        figures = measure(inference.name, program, chip)
        figures["batch"] = {name: leaf.shape for name, leaf in batch.items()}
        figures["model_flops"] = matmul_flops(inference.function, weights, batch)
        facts["programs"].append(figures)
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
    """Return the figures of the largest step: the slowest gradient of each term, then the update."""
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


def largest_arrays(task: Task, params: PyTree, model_state: PyTree, bucket: Any, mesh: Mesh) -> list[str]:
    """Return lines that name the largest arrays of each term's forward pass, in bytes per chip, and their source."""
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
