"""Several real processes on this machine that train together through the front door, and what ends them."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.training.checkpoint import saved_steps
from speech_jax.training.config import HostsConfig, MeshConfig
from speech_jax.training.hosts import find_hosts
from tests.test_train import ROOT, corpus, tiny, write_config_file  # noqa: F401 - corpus is a fixture

HEARTBEAT = 10

SLURM = {"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_STEP_NUM_TASKS": "2"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
FLAGS = {"coordinator": "a:1", "count": 2, "index": 1}
TOLD = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1, "cluster_detection_method": "deactivate"}


@pytest.mark.parametrize(
    "flags, environment, expected",
    [
        ({}, {}, None),
        (FLAGS, {}, TOLD),
        ({}, {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, TOLD),
        ({"index": 0}, {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
         TOLD | {"process_id": 0}),
        (FLAGS | {"launcher": "none"}, SLURM, None),
        ({}, SLURM, {"cluster_detection_method": "slurm"}),
        ({}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({}, {"SLURM_NTASKS": "4"}, None),  # a batch script itself, of which there is one
        ({}, MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"},
         {"num_processes": 4, "process_id": 3, "local_device_ids": [1], "cluster_detection_method": "ompi"}),
        ({"coordinator": "a:1"}, MPI,
         {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3, "local_device_ids": [1]}),
        ({}, {"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, {}),
        ({}, {"TPU_WORKER_HOSTNAMES": "t-0"}, None),
        ({"launcher": "tpu"}, {}, {}),
    ],
)  # fmt: skip
def test_who_the_others_are(flags, environment, expected):
    assert find_hosts(HostsConfig(**flags), environment) == expected


@pytest.mark.parametrize(
    "flags, environment, message",
    [
        ({"coordinator": "a"}, {}, "hosts.coordinator: found 'a', expected HOST:PORT"),
        ({"coordinator": "a:1", "index": 0}, {}, "hosts.count: found none"),
        ({"coordinator": "a:1", "count": 2}, {}, "hosts.index: found none"),
        ({"count": 2, "index": 0}, {}, "hosts.coordinator: found none with 2 processes"),
        (FLAGS | {"index": 2}, {}, "hosts.index: found 2 of 2 processes, expected 0 to 1"),
        ({}, MPI, "hosts.coordinator: found none under Open MPI"),
        ({}, {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES: found 'two'"),
    ],
)
def test_what_does_not_say_enough(flags, environment, message):
    with pytest.raises(UserError, match=message):
        find_hosts(HostsConfig(**flags), environment)


class Together:
    """`count` processes of the trainer, each with `devices` of the fake devices."""

    def __init__(self, file: Path, count: int, *flags: str, devices: int = 1, own: dict[int, tuple[str, ...]] = {}):  # noqa: B006
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags_of_xla = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags_of_xla}
        several = ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", str(count)] if count > 1 else []
        several += ["--hosts.heartbeat", str(HEARTBEAT)] if count > 1 else []
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "speech_jax.train",
                    "--config",
                    str(file),
                    *several,
                    *(["--hosts.index", str(index)] if count > 1 else []),
                    *flags,
                    *own.get(index, ()),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )  # fmt: skip
            for index in range(count)
        ]

    def finish(self, timeout: float = 300) -> tuple[list[int], list[str]]:
        """Exit codes and what was printed."""
        try:
            printed = [process.communicate(timeout=timeout)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], printed

    def done(self) -> None:
        codes, printed = self.finish()
        assert not any(codes), "\n".join(printed)


def records(out: Path, kind: str = "train") -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"] for line in lines if line["kind"] == kind}


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and max(records(out), default=0) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} never came")


def same_training(found: Path, expected: Path, since: int = 0) -> None:
    a, b = records(found), records(expected)
    steps = sorted(step for step in b if step > since)
    assert steps and set(steps) <= set(a)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([a[s][name] for s in steps], [b[s][name] for s in steps], rtol=1e-4)


def config_of(corpus: Path, out: Path, **trainer) -> TrainConfig:  # noqa: F811
    config = tiny(corpus, out, mesh=MeshConfig(data=1, fsdp=-1, min_shard=16))
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **trainer))


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory) -> tuple[Path, Path]:  # noqa: F811
    """(config file, folder) of a run of one process on two devices."""
    out = tmp_path_factory.mktemp("alone")
    file = write_config_file(out / "config.py", config_of(corpus, out))
    Together(file, 1, devices=2).done()
    return file, out


def test_two_processes_are_one_run(alone, tmp_path):
    file, expected = alone
    Together(file, 2, "--out-dir", str(tmp_path)).done()
    same_training(tmp_path, expected)
    found, wanted = records(tmp_path, "eval"), records(expected, "eval")
    assert found.keys() == wanted.keys()
    for step in wanted:
        np.testing.assert_allclose(found[step]["old/loss"], wanted[step]["old/loss"], rtol=1e-4)


def test_a_signal_to_one_of_two_ends_both_and_four_go_on(alone, tmp_path):
    file, expected = alone
    both = Together(file, 2, "--out-dir", str(tmp_path), "--trainer.eval-every", "0")
    wait_for_step(tmp_path, 2)
    both.processes[1].send_signal(signal.SIGTERM)
    both.done()
    (step,) = saved_steps(tmp_path / "checkpoints")
    assert 2 <= step < 12
    Together(file, 4, "--out-dir", str(tmp_path)).done()
    same_training(tmp_path, expected, since=step)


def test_one_of_two_is_killed_the_other_stops_and_one_alone_goes_on(alone, tmp_path):
    file, expected = alone
    both = Together(file, 2, "--out-dir", str(tmp_path), "--trainer.checkpoint.every", "4")
    wait_for_step(tmp_path, 6)
    both.processes[1].kill()
    began = time.monotonic()
    codes, printed = both.finish()
    assert codes[0] not in (0, None), printed[0]
    assert time.monotonic() - began < HEARTBEAT + 5
    Together(file, 1, "--out-dir", str(tmp_path)).done()
    same_training(tmp_path, expected, since=8)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--seed", "7"), "config: found another on process 1 than on process 0"),
        (("--init-from", "nowhere"), "nowhere: found no checkpoint"),
        (("--out-dir", "{other}"), "config: found another on process 1"),
    ],
)
def test_processes_that_disagree(alone, tmp_path, flags, message):
    file, _ = alone
    flags = tuple(flag.format(other=tmp_path / "other") for flag in flags)
    run = ("--out-dir", str(tmp_path / "run"))
    own = {0: run, 1: flags if "--out-dir" in flags else (*run, *flags)}
    codes, printed = Together(file, 2, own=own).finish(60)
    assert all(code != 0 for code in codes), printed
    assert (
        [line for line in printed[0].splitlines() if line.startswith("error: ")]
        == [line for line in printed[0].splitlines() if message in line]
        != []
    ), printed[0]
    assert not (tmp_path / "run" / "checkpoints").exists()
