"""Several processes that train together: how they find each other, agree, and fail together."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file

T = TypeVar("T")

SEEN_WITHIN = 30.0
"""Seconds within which a file of one machine must show on the others; a mounted bucket takes a few."""

LONGEST_TEXT = 1024
"""Bytes that each process can tell the others at once."""


@dataclass(frozen=True)
class HostsConfig:
    """How the processes of one run find each other. Every process is started with the same command, but for `index`."""

    launcher: Literal["auto", "none", "tpu", "slurm", "mpi"] = "auto"
    """Who started the processes and knows their number. "auto": whom `coordinator`, Slurm's step, Open MPI's or GKE's
    environment show, else nobody: one process. "tpu" asks the machines' metadata, on Cloud TPU."""
    coordinator: str = ""
    """HOST:PORT of process 0, where the others report; or JAX_COORDINATOR_ADDRESS."""
    count: int = 0
    """How many processes there are; 0 asks the launcher or JAX_NUM_PROCESSES."""
    index: int = -1
    """This process's number, from 0; -1 asks the launcher or JAX_PROCESS_ID."""
    heartbeat: int = 100
    """Seconds after which a process that is silent counts as dead and the others stop."""


def start_hosts(config: HostsConfig) -> None:
    """Joins the other processes, if there are any; must come before anything that asks JAX for its devices.

    Raises UserError for an environment or flags that do not say enough.
    """
    found = find_hosts(config, os.environ)
    if found is None:
        return
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=config.heartbeat)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"hosts: found no way to the other processes ({text}), expected all of them to start"
        ) from error


def find_hosts(config: HostsConfig, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None for a process that trains alone.

    Raises UserError for flags and an environment that do not fit together.
    """
    if config.launcher == "none":
        return None
    coordinator = config.coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    count = config.count or _number(environment, "JAX_NUM_PROCESSES", 0)
    index = config.index if config.index >= 0 else _number(environment, "JAX_PROCESS_ID", -1)
    told: dict[str, Any] = {}
    if coordinator:
        if not re.fullmatch(r"\S+:\d{1,5}", coordinator):
            raise UserError(f"hosts.coordinator: found {coordinator!r}, expected HOST:PORT")
        told["coordinator_address"] = coordinator
    elif count > 1:
        raise UserError(f"hosts.coordinator: found none beside {count} processes, expected HOST:PORT of process 0")
    if count:
        told["num_processes"] = count
    if index >= 0:
        if count and index >= count:
            raise UserError(f"hosts.index: found {index} of {count} processes, expected 0 to {count - 1}")
        told["process_id"] = index

    launcher = config.launcher if config.launcher != "auto" else _launcher(environment)
    if launcher == "slurm":
        return told | {"cluster_detection_method": "slurm"}
    if launcher == "mpi":
        told = {
            "num_processes": _number(environment, "OMPI_COMM_WORLD_SIZE", 1),
            "process_id": _number(environment, "OMPI_COMM_WORLD_RANK", 0),
            "local_device_ids": [_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0)],
        } | told
        if not coordinator and "OMPI_MCA_orte_hnp_uri" not in environment:  # Open MPI 5 says it no longer
            raise UserError("hosts.coordinator: found none under Open MPI, expected HOST:PORT of the process of rank 0")
        return told if coordinator else told | {"cluster_detection_method": "ompi"}
    if launcher == "tpu":
        return told
    if not told:
        return None
    for name, value in (("coordinator", coordinator), ("count", count), ("index", index >= 0)):
        if not value:
            raise UserError(f"hosts.{name}: found none, expected coordinator, count and index together")
    return told | {"cluster_detection_method": "deactivate"}


def _launcher(environment: Mapping[str, str]) -> str:
    """Who started more than this process, by what it leaves in the environment."""
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


def tell_all(text: str) -> list[str]:
    """What each process says, in the order of their numbers, on every process; cut to LONGEST_TEXT bytes."""
    if jax.process_count() == 1:
        return [text]
    said = text.encode()[:LONGEST_TEXT]
    padded = np.frombuffer(said.ljust(LONGEST_TEXT, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, LONGEST_TEXT)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def together(work: Callable[[], T]) -> T:
    """`work()` on every process. A UserError of one is raised on all, so that none waits for one that has left."""
    if jax.process_count() == 1:
        return work()
    result, own = None, None
    try:
        result = work()
    except UserError as error:
        own = error
    for index, text in enumerate(tell_all("" if own is None else str(own))):
        if text:
            raise UserError(f"process {index} of {jax.process_count()}: {text}") from own
    return result  # type: ignore[return-value]


def agree(facts: Mapping[str, Callable[[], str]]) -> None:
    """Raises UserError on all processes, naming the first fact in which one differs from process 0. One process alone
    computes none of them."""
    if jax.process_count() == 1:
        return
    for name, fact in facts.items():
        hashes = tell_all(hashlib.sha256(fact().encode()).hexdigest()[:12])
        for index, found in enumerate(hashes):
            if found != hashes[0]:
                raise UserError(
                    f"{name}: found another on process {index} than on process 0 (sha256 {found} and {hashes[0]}), "
                    "expected the same on all"
                )


def check_shared(folder: Path) -> None:
    """Raises UserError on all processes if one does not see in `folder` what process 0 writes there."""
    if jax.process_count() == 1:
        return
    file = folder / ".process0"
    (token, *_) = tell_all(f"{os.getpid()} {time.time_ns()}")

    def look() -> None:
        if jax.process_index() == 0:
            write_file(file, token)
            return
        until = time.monotonic() + SEEN_WITHIN
        while not file.is_file() or file.read_text() != token:
            if time.monotonic() > until:
                raise UserError(
                    f"{folder}: found a folder of this machine alone, expected one that all processes share"
                )
            time.sleep(0.1)

    together(look)
