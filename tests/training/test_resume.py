"""A run that was stopped and went on is, bit for bit, the run that was not: state, data order, every later loss."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from speech_jax.training.checkpoint import saved_steps
from tests.support import toy

STEPS = 30


def start(folder, *options, steps=STEPS, before=None):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-u", "-m", "tests.support.toy", str(folder), str(steps), *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=before
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"] for line in lines if line["kind"] == "train"}


@pytest.fixture(name="uninterrupted", scope="module")
def make_uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(start(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_at_a_random_step_and_gone_on(tmp_path, uninterrupted, number):
    """Dropout, batch statistics, Adam's moments, the average, a schedule of alpha and two streams of data."""
    whole, expected = uninterrupted
    # Slow steps, so that the signal comes in time on a busy machine; below nohup the signal would be ignored.
    process = start(tmp_path, "--sleep", 0.2, before=lambda: signal.signal(number, signal.SIG_DFL))
    wanted = 5 * int(np.random.default_rng([os.getpid(), number]).integers(1, 4))
    for line in process.stdout:
        if line.strip() == f"batch {wanted}":
            break
    process.send_signal(number)
    stopped = finish(process)
    assert stopped["stopped"] and wanted < stopped["step"] < STEPS
    assert saved_steps(tmp_path / "checkpoints") == [stopped["step"]]
    resumed = finish(start(tmp_path))
    assert resumed["hash"] == expected["hash"]
    assert resumed["step"] == STEPS and not resumed["stopped"]
    assert stopped["seen"] + resumed["seen"] == expected["seen"] == list(range(STEPS))
    after = {step: values for step, values in losses(tmp_path).items() if step > stopped["step"]}
    assert after and after == {step: losses(whole)[step] for step in after}


def test_a_closed_stderr_saves_and_stops(tmp_path, uninterrupted):
    """As in `2>&1 | head`."""
    process = start(tmp_path, "--sleep", 0.05, "--progress", 0)
    for line in process.stderr:
        if line.startswith("step 8/"):
            break
    process.stderr.close()
    stopped = json.loads(process.stdout.read().splitlines()[-1])
    assert process.wait() == 0
    assert stopped["stopped"] and 8 <= stopped["step"] < STEPS
    assert finish(start(tmp_path))["hash"] == uninterrupted[1]["hash"]


def test_an_ignored_sighup_stays_ignored(tmp_path, uninterrupted):
    process = start(tmp_path, "--sleep", 0.05, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    for line in process.stdout:
        if line.strip() == "batch 5":
            break
    process.send_signal(signal.SIGHUP)
    assert finish(process)["hash"] == uninterrupted[1]["hash"]


def test_the_first_line_after_a_resume_has_the_mean_of_all_its_steps(tmp_path):
    """Lines every 5 steps, checkpoints every 4: the sums of the steps between are a part of the checkpoint."""
    toy.train(tmp_path, steps=12, every=4, log_every=5)
    whole = losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "12")
    toy.train(tmp_path, steps=12, every=4, log_every=5)
    assert losses(tmp_path) == whole and list(whole) == [5, 10, 12]


def test_killed_and_gone_on_from_an_older_checkpoint(tmp_path, uninterrupted):
    _, expected = uninterrupted
    process = start(tmp_path, "--sleep", 0.05, "--every", 4)
    for line in process.stdout:
        if line.strip() == "batch 15":
            break
    process.kill()
    process.wait()
    resumed = finish(start(tmp_path, "--every", 4))
    assert resumed["hash"] == expected["hash"]
    assert resumed["seen"][0] in (8, 12) and resumed["seen"][-1] == STEPS - 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)  # the log does not tell the same steps twice


def test_a_signal_while_compiling_saves_and_goes_on(tmp_path, uninterrupted):
    _, expected = uninterrupted
    process = start(tmp_path)
    for line in process.stderr:
        if line.startswith("compiled"):
            break
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped["stopped"] and stopped["step"] < STEPS
    assert saved_steps(tmp_path / "checkpoints") == [stopped["step"]]
    assert finish(start(tmp_path))["hash"] == expected["hash"]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = toy.train(tmp_path, steps=4)
    again = toy.train(tmp_path, steps=4)
    assert toy.digest(again.state) == toy.digest(first.state)
    assert again.programs == 0  # nothing was compiled in vain


def test_a_damaged_newest_checkpoint_costs_its_steps_and_no_more(tmp_path, caplog):
    expected = toy.train(tmp_path / "whole", steps=9)
    toy.train(tmp_path / "run", steps=8, every=4)
    victim = next(p for p in (tmp_path / "run" / "checkpoints" / "8" / "state").rglob("*") if p.is_file())
    victim.write_bytes(victim.read_bytes()[::-1] + b"x")
    resumed = toy.train(tmp_path / "run", steps=9, every=4)
    assert str(victim) in caplog.text and "falling back to the checkpoint before step 8" in caplog.text
    assert toy.digest(resumed.state) == toy.digest(expected.state)
    assert (tmp_path / "run" / "checkpoints" / "8.damaged").is_dir()


def test_two_processes_stop_at_the_same_step_and_go_on(tmp_path):
    """SIGTERM to one of two hosts: both save the same step, and the run goes on bit for bit."""

    def start_both(folder, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [start(folder, *options, "--port", port, "--process", n) for n in range(2)]

    expected = [finish(process) for process in start_both(tmp_path / "whole")]
    assert expected[0]["hash"] == expected[1]["hash"]
    both = start_both(tmp_path / "run", "--sleep", 0.1)
    for line in both[1].stdout:
        if line.strip() == "batch 5":
            break
    both[1].send_signal(signal.SIGTERM)
    stopped = [finish(process) for process in both]
    assert stopped[0]["stopped"] and stopped[1]["stopped"]
    assert 5 < stopped[0]["step"] == stopped[1]["step"] < STEPS
    resumed = [finish(process) for process in start_both(tmp_path / "run")]
    assert resumed[0]["hash"] == resumed[1]["hash"] == expected[0]["hash"]
