"""The manifest for GKE: what is rendered, and what is refused."""

import contextlib
import copy
import importlib.util
import io
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "tpu_scripts" / "jobset.py"
FLAGS = {
    "name": "my-run",
    "accelerator": "v5e",
    "topology": "4x4",
    "slices": "2",
    "image": "img:1",
    "config": "configs/X.py",
    "bucket": "my-bucket",
}
spec = importlib.util.spec_from_file_location("jobset", SCRIPT)
jobset = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jobset)


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = jobset.main(list(words))
    return Result(code, out.getvalue(), err.getvalue())


def call(*more, **changed):
    return run(*[word for flag, value in (FLAGS | changed).items() for word in (f"--{flag}", value)], *more)


@pytest.fixture(name="manifest", scope="module")
def make_manifest():
    result = call("--spot", "--metrics-port", "9100", "--", "--note", "it's $HOME")
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def pod_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_two_slices_of_sixteen_chips(manifest):
    replicated = manifest["spec"]["replicatedJobs"][0]
    job, pod = replicated["template"]["spec"], pod_of(manifest)
    assert replicated["replicas"] == 2 and job["parallelism"] == job["completions"] == 4
    assert job["backoffLimit"] == 0 and manifest["spec"]["failurePolicy"]["maxRestarts"] == 20
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    command = container["command"]
    assert command[:3] == ["python", "-m", "speech_jax.train"]
    assert command[command.index("--out-dir") + 1] == "/bucket/runs/my-run"
    assert "it's $HOME" in command and "--trainer.watch.metrics-port" in command


@pytest.mark.parametrize(
    "accelerator, topology, hosts, chips",
    [
        ("v5e", "1x1", 1, 1),
        ("v5e", "2x4", 1, 8),
        ("v6e", "16x16", 64, 4),
        ("v5p", "4x4x8", 32, 4),
        ("v4", "2x2x1", 1, 4),
    ],
)
def test_hosts_of_a_topology(accelerator, topology, hosts, chips):
    result = call(accelerator=accelerator, topology=topology)
    manifest = yaml.safe_load(result.stdout)
    assert manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == hosts
    assert pod_of(manifest)["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"name": "A;b"}, "--name: found 'A;b'"),
        ({"accelerator": "v3"}, "--accelerator: found 'v3', expected one of v4"),
        ({"topology": "4x4x4"}, "--topology: found '4x4x4', expected NxN for v5e"),
        ({"topology": "3x3"}, "--topology: found 3x3 (9 chips), expected whole hosts of 4 chips"),
        ({"slices": "0"}, "--slices: found 0, expected at least 1"),
        ({"bucket": ""}, "--bucket: found none with 8 hosts"),
        ({"image": "a b"}, "--image: found 'a b'"),
        ({"config": ""}, "--config: found none"),
    ],
)
def test_bad_flags_are_one_line(changed, line):
    result = call(**changed)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {line}") and result.stderr.count("\n") == 1


def broken(manifest, change):
    manifest = copy.deepcopy(manifest)
    change(manifest, manifest["spec"]["replicatedJobs"][0]["template"]["spec"], pod_of(manifest))
    return manifest


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda m, job, pod: m.pop("kind"), "kind: found nothing"),
        (lambda m, job, pod: m["spec"].update(replicatedJobs=[]), "spec.replicatedJobs: found nothing"),
        (lambda m, job, pod: pod["containers"][0].pop("image"), "containers.*.image: found nothing"),
        (lambda m, job, pod: pod.update(restartPolicy="Always"), "found restartPolicy Always"),
        (lambda m, job, pod: job.update(completions=3, parallelism=3), "found 3 pods for 4x4, expected 4"),
        (lambda m, job, pod: job.update(parallelism=2), "found parallelism unlike completions"),
        (lambda m, job, pod: job.update(backoffLimit="0"), "backoffLimit: found '0', expected int"),
        (lambda m, job, pod: pod.update(volumes=[]), "found a mount of 'bucket'"),
        (lambda m, job, pod: pod["containers"][0]["resources"].clear(), "found google.com/tpu [None], expected 4"),
        (lambda m, job, pod: pod["nodeSelector"].clear(), "found accelerator None"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, manifest, change, line):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(broken(manifest, change)))
    result = run("--check", str(file))
    assert result.returncode == 2 and line in result.stderr and result.stderr.count("\n") == 1
