"""Multi-process runs: joining the processes, checking that they agree, and failing on all of them at once."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.training.config import HostsConfig
from speech_jax.training.roll_call import RollCall

T = TypeVar("T")

SHARED_FILE_TIMEOUT = 30.0
"""Seconds within which a file written by one process must be visible to the others; a mounted bucket takes a few."""

MAX_TEXT_BYTES = 1024
"""Bytes of each process's text that `allgather_text` sends."""


def start_hosts(config: HostsConfig) -> None:
    """Join the other processes of the run, if there are any.

    Call it before anything that asks JAX for its devices.

    Args:
        config: the `hosts` flags; completed from the environment.

    Raises:
        UserError: if flags and environment are incomplete, or the other processes cannot be reached.
    """
    options = find_hosts(config, os.environ)
    if options is None:
        return
    roll_call = None
    if {"coordinator_address", "num_processes", "process_id"} <= options.keys():
        address, count, index = (options[name] for name in ("coordinator_address", "num_processes", "process_id"))
        roll_call = RollCall(address, count, index, config.timeout)
        roll_call.watch()
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=config.timeout,
            heartbeat_timeout_seconds=max(config.heartbeat, config.timeout + 30 if roll_call else 0),
        )
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"hosts: cannot connect to the other processes ({text}), expected all to start") from error


def find_hosts(config: HostsConfig, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the keyword arguments for `jax.distributed.initialize`.

    Args:
        config: the `hosts` flags; they win over the environment.
        environment: environment variables, such as `os.environ`.

    Returns:
        The keyword arguments; None for a run of one process.

    Raises:
        UserError: if flags and environment are incomplete or contradict each other.
    """
    if config.launcher == "none":
        return None
    coordinator = config.coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    count = config.count or _number(environment, "JAX_NUM_PROCESSES", 0)
    index = config.index if config.index >= 0 else _number(environment, "JAX_PROCESS_ID", -1)
    options: dict[str, Any] = {}
    if coordinator:
        if not re.fullmatch(r"\S+:\d{1,5}", coordinator):
            raise UserError(f"hosts.coordinator: found {coordinator!r}, expected HOST:PORT")
        options["coordinator_address"] = coordinator
    elif count > 1:
        raise UserError(f"hosts.coordinator: found none with {count} processes, expected HOST:PORT of process 0")
    if count:
        options["num_processes"] = count
    if index >= 0:
        if count and index >= count:
            raise UserError(f"hosts.index: found {index} of {count} processes, expected 0 to {count - 1}")
        options["process_id"] = index

    launcher = config.launcher if config.launcher != "auto" else _launcher(environment)
    if launcher == "slurm":
        return options | {"cluster_detection_method": "slurm"}
    if launcher == "mpi":
        options = {
            "num_processes": _number(environment, "OMPI_COMM_WORLD_SIZE", 1),
            "process_id": _number(environment, "OMPI_COMM_WORLD_RANK", 0),
            "local_device_ids": [_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0)],
        } | options
        if not coordinator and "OMPI_MCA_orte_hnp_uri" not in environment:  # Open MPI 5 no longer sets it
            raise UserError("hosts.coordinator: found none under Open MPI, expected HOST:PORT of the process of rank 0")
        return options if coordinator else options | {"cluster_detection_method": "ompi"}
    if launcher == "tpu":
        return options
    if not options:
        return None
    for name, value in (("coordinator", coordinator), ("count", count), ("index", index >= 0)):
        if not value:
            raise UserError(f"hosts.{name}: found none, expected coordinator, count and index together")
    return options | {"cluster_detection_method": "deactivate"}


def _launcher(environment: Mapping[str, str]) -> str:
    """Return the launcher of a group of processes by its environment variables; "" for one process."""
    if "SLURM_STEP_NODELIST" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return "slurm"
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        return "mpi"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    return ""


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(f"{name}: found {text!r}, expected a number")
    return int(text)


def allgather_text(text: str) -> list[str]:
    """Return the texts of all processes, by process index, cut to MAX_TEXT_BYTES bytes each."""
    if jax.process_count() == 1:
        return [text]
    encoded = text.encode()[:MAX_TEXT_BYTES]
    padded = np.frombuffer(encoded.ljust(MAX_TEXT_BYTES, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, MAX_TEXT_BYTES)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def run_on_all_or_fail(work: Callable[[], T]) -> T:
    """Run `work` on every process, and fail on all of them if it fails on one.

    Without this, the other processes would wait forever for one that has exited.

    Args:
        work: called once on each process; must not itself wait for the other processes.

    Returns:
        This process's result.

    Raises:
        UserError: on every process, if `work` raised one on any.
    """
    if jax.process_count() == 1:
        return work()
    result, local_error = None, None
    try:
        result = work()
    except UserError as error:
        local_error = error
    for index, text in enumerate(allgather_text("" if local_error is None else str(local_error))):
        if text:
            raise UserError(f"process {index} of {jax.process_count()}: {text}") from local_error
    return result  # type: ignore[return-value]


def assert_equal_across_hosts(values: Mapping[str, Callable[[], str]]) -> None:
    """Check that every process computes the same values as process 0.

    Args:
        values: name -> function that computes a text. A run of one process calls none of them.

    Raises:
        UserError: on every process, naming the first value that differs on any.
    """
    if jax.process_count() == 1:
        return
    for name, compute in values.items():
        hashes = allgather_text(hashlib.sha256(compute().encode()).hexdigest()[:12])
        for index, digest in enumerate(hashes):
            if digest != hashes[0]:
                raise UserError(
                    f"{name}: found another on process {index} than on process 0 (sha256 {digest} and {hashes[0]}), "
                    "expected the same on all"
                )


def check_shared(folder: Path) -> None:
    """Check that every process sees in `folder` the files that process 0 writes there.

    Raises:
        UserError: on every process, if one of them does not see a test file within SHARED_FILE_TIMEOUT seconds.
    """
    if jax.process_count() == 1:
        return
    file = folder / ".process0"
    (token, *_) = allgather_text(f"{os.getpid()} {time.time_ns()}")

    def write_or_wait() -> None:
        if jax.process_index() == 0:
            write_file(file, token)
            return
        deadline = time.monotonic() + SHARED_FILE_TIMEOUT
        while not file.is_file() or file.read_text() != token:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{folder}: found a folder of this machine alone, expected one that all processes share"
                )
            time.sleep(0.1)

    run_on_all_or_fail(write_or_wait)
