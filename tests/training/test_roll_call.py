"""Roll call of the processes of a run: who is missing or lost is named by all others, and nothing aborts."""

import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speech_jax.core.errors import UserError
from speech_jax.training.roll_call import RollCall

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from speech_jax.core.errors import run_front_door
from speech_jax.training.config import HostsConfig
from speech_jax.training.hosts import start_hosts
def main(argv):
    index, port, steps = map(int, argv)
    start_hosts(HostsConfig(coordinator=f"127.0.0.1:{port}", count=3, index=index, timeout=5))
    import numpy as np
    from jax.experimental import multihost_utils
    for step in range(steps):
        multihost_utils.process_allgather(np.ones(2))
        if step == 1:
            print("joined", flush=True)
        time.sleep(0.05)
run_front_door(main)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def call_all(*calls: tuple[int, int], port: int, timeout: float = 20) -> list[str]:
    """Let threads of the (index, count) call, and return their errors, "" for none."""

    def call(index: int, count: int) -> str:
        try:
            RollCall(f"127.0.0.1:{port}", count, index, timeout).close()
        except UserError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [*pool.map(lambda pair: call(*pair), calls)]


def test_all_call_also_beside_strangers() -> None:
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(call_all, (0, 3), (2, 3), port=port)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"speech_jax one two\n", b""):
            while True:
                try:
                    stranger = socket.create_connection(("127.0.0.1", port))
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
            stranger.sendall(words)
            stranger.close()
        assert call_all((1, 3), port=port) == [""]
        assert first.result() == ["", ""]


def test_who_does_not_call_is_named_by_all() -> None:
    line = "hosts: found no process 2, 3 of 4 within 0.5 s (hosts.timeout)"
    assert call_all((0, 4), (1, 4), port=free_port(), timeout=0.5) == [line] * 2
    (error,) = call_all((1, 2), port=(port := free_port()), timeout=0.5)
    assert error == f"hosts: found no process 0 of 2 within 0.5 s (hosts.timeout); 127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize(("calls", "found"), [([(0, 2), (1, 3)], "1 of 3"), ([(0, 3), (1, 3), (1, 3)], "1 of 3 twice")])
def test_processes_of_another_count_or_the_same_index(calls: list, found: str) -> None:
    errors = call_all(*calls, port=free_port())
    assert errors == [f"hosts: found process {found}, expected each of {calls[0][1]} processes once"] * len(calls)


def test_a_taken_port() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (error,) = call_all((0, 2), port=port)
    assert error == f"hosts.coordinator: port {port} cannot be used (Address already in use), expected a free one"


@pytest.mark.parametrize(
    ("number", "lost", "reason"),
    [
        (signal.SIGKILL, 1, "has ended"),
        (signal.SIGKILL, 0, "has ended"),
        (signal.SIGSTOP, 1, "has given no sign of life for 5 s"),
        (None, None, ""),
    ],
)
def test_the_others_name_who_is_lost(number: signal.Signals | None, lost: int | None, reason: str) -> None:
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(port), "3" if lost is None else "2000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        )
        for index in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            while "joined" not in (line := process.stdout.readline()):
                assert line, process.stderr and process.stderr.read()
        if lost is not None:
            processes[lost].send_signal(number)
        for index, process in enumerate(processes):
            if index == lost:
                continue
            printed = process.communicate(timeout=60)[1]
            assert process.returncode == (0 if lost is None else 2), printed
            errors = [line for line in printed.splitlines() if line.startswith("error: ")]
            assert len(errors) == (lost is not None)
            assert lost is None or re.match(f"error: hosts: process {lost} of 3 {reason}", errors[0])
            assert "Traceback" not in printed
    finally:
        for process in processes:
            process.kill()
            process.wait()
