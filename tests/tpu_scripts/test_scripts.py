"""The bats tests of tpu_scripts/, its README's commands, the syntax of gcloud commands, the trainer under worker.sh."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "tpu_scripts"


@pytest.mark.skipif(shutil.which("bats") is None, reason="no bats: apt-get install bats, or make test-scripts")
@pytest.mark.parametrize("name", ["arguments", "life", "supervise"])
def test_bats(name):
    result = subprocess.run(["bats", f"{name}.bats"], cwd=HERE, text=True, capture_output=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\nok 1 " in result.stdout


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="no gcloud: its own parser judges the commands where it is")
def test_gcloud_takes_every_command(tmp_path):
    """`gcloud meta lint-gcloud-commands` parses a command without running it and without a network."""
    lines = [line for line in (HERE / "dry_run.txt").read_text().splitlines() if line.startswith("gcloud ")]
    # It splits words itself and knows no quotes like ours: values in quotes become plain words.
    plain = [
        " ".join(w if " " not in w and "'" not in w else w.split("=")[0] + "=x" for w in shlex.split(line))
        for line in lines
    ]
    commands = tmp_path / "commands.json"
    wrong = [*plain, "gcloud compute tpus queued-resources delete x --zone=us-central2-b --forcibly"]
    commands.write_text(json.dumps([{"command_string": line} for line in dict.fromkeys(wrong)]))
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    result = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={commands}"],
        env=environment, text=True, capture_output=True, timeout=600,
    )  # fmt: skip
    judged = json.loads(result.stdout)
    bad = {entry["command_string"]: entry["error_message"] for entry in judged if not entry["success"]}
    assert list(bad) == wrong[-1:], bad


def test_every_command_of_the_readme_with_a_dry_run():
    """Word by word, `--dry-run` at the end: also behind `--`, where the trainer's flags are."""
    blocks = re.findall(r"```sh\n(.*?)```", (SCRIPTS / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    script = re.sub(r"\s+#.*", "", "\n".join(blocks)).replace("0 * * * * tpu_scripts/", "./")
    script = re.sub(r"(\./\w+\.sh[^;\n]*)", r"\1 --dry-run", script)
    environment = {"PATH": f"{HERE / 'fake'}:{os.environ['PATH']}", "CLOUD": "/nowhere"}  # a call of this gcloud fails
    done = subprocess.run(
        ["bash", "-euxc", script], cwd=SCRIPTS.parent, env=environment, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert script.count("--dry-run") == 14 and "storage rsync ../data/librispeech gs://my-bucket" in done.stdout
    assert "storage rsync gs://my-bucket/runs/first runs/first" in done.stdout  # to here, not to the workers
    assert "--trainer.watch.profile 10:20 )" in done.stdout


def test_the_trainer_under_the_worker_script(tmp_path):
    """The real loop: SIGTERM to the script saves and is `stopped`, a second start goes on from there to the end."""
    home = tmp_path / "home"
    (home / "speech_jax").mkdir(parents=True)
    shutil.copy(SCRIPTS / "worker.sh", home / "speech_jax")
    environment = os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(HERE.parents[1]),
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
    }
    trainer = [sys.executable, "-u", "-m", "tests.support.toy", str(tmp_path / "run"), "12"]

    def worker(*words):
        command = ["bash", str(home / "speech_jax/worker.sh"), *words]
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)

    def wait_for(what, text=lambda: (home / "speech_jax/jobs/r/log.txt").read_text()):
        for _ in range(3000):
            if what in text():
                return
            time.sleep(0.1)
        raise AssertionError(f"no {what!r} in {text()}")

    assert worker("status", "r").stdout.strip() == "none"
    started = worker("start", "r", "", "--", *trainer, "--sleep", "0.5")
    assert started.stdout.strip() == "started", started.stderr
    wait_for("batch 5")
    assert worker("status", "r").stdout.strip() == "running"
    assert worker("stop", "r", "120").stdout.strip() == "stopped"
    step = int(next((tmp_path / "run/checkpoints").glob("[0-9]*")).name)
    assert 5 < step < 12
    assert worker("start", "r", "", "--", *trainer).stdout.strip() == "started"
    wait_for("exit 0", lambda: worker("status", "r").stdout)
    assert f"resuming at step {step}" in (home / "speech_jax/jobs/r/log.txt").read_text()
