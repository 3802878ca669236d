#!/usr/bin/env python3
"""The same run on Google Kubernetes Engine: writes a JobSet manifest, one job a slice, one pod a host.

    python tpu_scripts/jobset.py --name my-run --accelerator v5e --topology 4x4 --slices 2 --image IMAGE \\
        --bucket my-bucket --config configs/X.py -- --trainer.steps 100000 | kubectl apply -f -
    python tpu_scripts/jobset.py --check job.yaml

Nothing is sent anywhere: the manifest is checked against what the JobSet and Job APIs require, and printed. The cluster
needs the JobSet controller (https://jobset.sigs.k8s.io/docs/installation/), node pools of that accelerator and topology
(https://cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice) and, for --bucket, the Cloud Storage FUSE driver
(https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-pv). XPK (https://github.com/AI-Hypercomputer/xpk)
makes clusters and submits the same kind of JobSet: `xpk workload create --command "python -m speech_jax.train …"`.

A pod whose node is taken away gets SIGTERM, on which the trainer saves; the JobSet begins again, at most --restarts
times, and the trainer goes on with its last checkpoint in the bucket. Pods have a network of their own, which the FUSE
driver wants.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any

import yaml

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
IMAGE = re.compile(r"[a-z0-9][-a-z0-9._/:]*(@sha256:[0-9a-f]{64})?", re.IGNORECASE)
BUCKET = re.compile(r"[a-z0-9][-a-z0-9_.]{1,61}[a-z0-9]")
# The node label's value, how many axes a topology has, and chips a host of a slice with several hosts.
# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
ACCELERATORS = {
    "v4": ("tpu-v4-podslice", 3, 4),
    "v5e": ("tpu-v5-lite-podslice", 2, 4),
    "v5p": ("tpu-v5p-slice", 3, 4),
    "v6e": ("tpu-v6e-slice", 2, 4),
}
WHOLE = {"v5e": ("1x1", "2x2", "2x4"), "v6e": ("1x1", "2x2", "2x4"), "v4": ("2x2x1",), "v5p": ("2x2x1",)}  # one host
FOLDER = "/bucket"


class BadInput(Exception):
    """One line: where, what was found, what was expected."""


def hosts_of(accelerator: str, topology: str) -> tuple[int, int]:
    """(hosts, chips a host) of a slice."""
    if accelerator not in ACCELERATORS:
        raise BadInput(f"--accelerator: found {accelerator!r}, expected one of {', '.join(ACCELERATORS)}")
    _, axes, chips = ACCELERATORS[accelerator]
    if not re.fullmatch("x".join(["[1-9][0-9]?"] * axes), topology):
        raise BadInput(f"--topology: found {topology!r}, expected {'x'.join('N' * axes)} for {accelerator}")
    total = math.prod(int(n) for n in topology.split("x"))
    if topology in WHOLE[accelerator]:
        return 1, total
    if total % chips or total < 2 * chips:
        raise BadInput(f"--topology: found {topology} ({total} chips), expected whole hosts of {chips} chips")
    return total // chips, chips


def render(options: argparse.Namespace) -> dict[str, Any]:
    """The manifest."""
    for flag, pattern, value in (
        ("--name", NAME, options.name),
        ("--image", IMAGE, options.image),
        ("--bucket", BUCKET, options.bucket or "none"),
    ):
        if not pattern.fullmatch(value or ""):
            raise BadInput(f"{flag}: found {value!r}, expected {pattern.pattern}")
    for flag, number, low in (("--slices", options.slices, 1), ("--restarts", options.restarts, 0)):
        if number < low:
            raise BadInput(f"{flag}: found {number}, expected at least {low}")
    hosts, chips = hosts_of(options.accelerator, options.topology)
    if hosts * options.slices > 1 and not options.bucket:
        raise BadInput(f"--bucket: found none with {hosts * options.slices} hosts, expected one that all of them share")
    out = f"{FOLDER}/runs/{options.name}" if options.bucket else f"runs/{options.name}"
    command = ["python", "-m", "speech_jax.train", "--config", options.config, "--out-dir", out, *options.flags]
    container: dict[str, Any] = {
        "name": "train",
        "image": options.image,
        "command": command,  # as process 1, so that SIGTERM reaches it
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],  # TPU runtime; between slices
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": chips}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[options.accelerator][0],
            "cloud.google.com/gke-tpu-topology": options.topology,
        },
        "containers": [container],
    }
    if options.spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
    template: dict[str, Any] = {"spec": pod}
    if options.bucket:
        template["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
        container["volumeMounts"] = [{"name": "bucket", "mountPath": FOLDER}]
        attributes = {"bucketName": options.bucket, "mountOptions": "implicit-dirs"}
        pod["volumes"] = [
            {"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}
        ]
        pod["serviceAccountName"] = options.service_account
    if options.metrics_port:
        container["ports"].append({"containerPort": options.metrics_port, "name": "metrics"})
        command += [
            "--trainer.watch.metrics-port",
            str(options.metrics_port),
            "--trainer.watch.metrics-host",
            "0.0.0.0",
        ]
    job = {"parallelism": hosts, "completions": hosts, "backoffLimit": 0, "template": template}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": options.name,
            "labels": {"speech_jax": options.name},
            # One job has one node pool for itself: a slice is never shared.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": options.restarts},
            "replicatedJobs": [{"name": "slice", "replicas": options.slices, "template": {"spec": job}}],
        },
    }


# What the APIs require or forbid, as (path, type). `*` is every entry of a list.
# https://github.com/kubernetes-sigs/jobset/blob/main/config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml and
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
_JOB = "spec.replicatedJobs.*.template.spec"
_POD = _JOB + ".template.spec"
REQUIRED = (
    ("apiVersion", str),
    ("kind", str),
    ("metadata.name", str),
    ("spec.replicatedJobs", list),
    ("spec.replicatedJobs.*.name", str),
    (_JOB, dict),
    (_JOB + ".template", dict),
    (_POD + ".restartPolicy", str),
    (_POD + ".containers", list),
    (_POD + ".containers.*.name", str),
    (_POD + ".containers.*.image", str),
    (_POD + ".containers.*.command.*", str),
    (_POD + ".nodeSelector", dict),
)
OPTIONAL = (
    ("spec.failurePolicy.maxRestarts", int),
    ("spec.replicatedJobs.*.replicas", int),
    (_JOB + ".parallelism", int),
    (_JOB + ".completions", int),
    (_JOB + ".backoffLimit", int),
    (_POD + ".terminationGracePeriodSeconds", int),
    (_POD + ".containers.*.ports.*.containerPort", int),
    (_POD + ".containers.*.volumeMounts.*.name", str),
    (_POD + ".containers.*.volumeMounts.*.mountPath", str),
    (_POD + ".volumes.*.name", str),
)


def at(tree: Any, path: str) -> list[Any]:
    """Every value at a path; None where it is missing. Missing entries of an empty or absent list are none."""
    if not path:
        return [tree]
    head, _, rest = path.partition(".")
    if head == "*":
        return [value for entry in (tree if isinstance(tree, list) else []) for value in at(entry, rest)]
    if not isinstance(tree, dict) or head not in tree:
        return [] if "*" in rest else [None]
    return at(tree[head], rest)


def check(manifest: Any) -> None:
    """Raises BadInput for the first thing that the API server would refuse, or that would hang a slice."""
    for path, kind in REQUIRED:
        values = at(manifest, path)
        if not values or any(v is None or v == [] or v == "" for v in values):
            raise BadInput(f"{path}: found nothing, expected one")
        if not all(isinstance(v, kind) for v in values):
            raise BadInput(f"{path}: found {values}, expected {kind.__name__}")
    for path, kind in OPTIONAL:
        for value in at(manifest, path):
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise BadInput(f"{path}: found {value!r}, expected {kind.__name__}")
    if (manifest["apiVersion"], manifest["kind"]) != ("jobset.x-k8s.io/v1alpha2", "JobSet"):
        raise BadInput(
            f"apiVersion: found {manifest['apiVersion']} {manifest['kind']}, expected jobset.x-k8s.io/v1alpha2 JobSet"
        )
    if not NAME.fullmatch(manifest["metadata"]["name"]):
        raise BadInput(f"metadata.name: found {manifest['metadata']['name']!r}, expected {NAME.pattern}")
    for replicated in manifest["spec"]["replicatedJobs"]:
        spec = replicated["template"]["spec"]
        pod, where = spec["template"]["spec"], f"replicatedJobs {replicated['name']}"
        if pod["restartPolicy"] not in ("Never", "OnFailure"):
            raise BadInput(f"{where}: found restartPolicy {pod['restartPolicy']}, expected Never or OnFailure")
        if spec.get("parallelism", 1) != spec.get("completions", 1):
            raise BadInput(f"{where}: found parallelism unlike completions, expected one pod a host")
        selector = pod["nodeSelector"]
        label, topology = (selector.get(f"cloud.google.com/gke-tpu-{part}") for part in ("accelerator", "topology"))
        kinds = [kind for kind, row in ACCELERATORS.items() if row[0] == label]
        if not kinds:
            known = ", ".join(row[0] for row in ACCELERATORS.values())
            raise BadInput(f"{where}: found accelerator {label!r}, expected one of {known}")
        hosts, chips = hosts_of(kinds[0], str(topology))
        if spec.get("completions", 1) != hosts:
            raise BadInput(f"{where}: found {spec.get('completions', 1)} pods for {topology}, expected {hosts}")
        asked = [c.get("resources", {}).get("limits", {}).get("google.com/tpu") for c in pod["containers"]]
        if sum(n or 0 for n in asked) != chips:
            raise BadInput(f"{where}: found google.com/tpu {asked}, expected {chips} a host")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    raise BadInput(f"{where}: found a mount of {mount['name']!r}, expected one of {sorted(volumes)}")


def main(argv: list[str]) -> int:
    flags: list[str] = []
    if "--" in argv:
        argv, flags = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FILE", help="only check a manifest that is there")
    parser.add_argument("--name", help="of the JobSet and of the run")
    parser.add_argument("--accelerator", help=", ".join(ACCELERATORS))
    parser.add_argument("--topology", default="", help="of one slice: 4x4, 4x4x4")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--image", help="with the package and jax[tpu] in it")
    parser.add_argument("--config", default="", help="path in the image")
    parser.add_argument("--bucket", default="", help="for the run's folder; needed with more than one host")
    parser.add_argument(
        "--service-account", default="default", help="Kubernetes service account with rights on the bucket"
    )
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--restarts", type=int, default=20, help="of the whole JobSet")
    parser.add_argument(
        "--grace", type=int, default=120, help="seconds between SIGTERM and SIGKILL; Spot nodes give less"
    )
    parser.add_argument("--metrics-port", type=int, default=0)
    options = parser.parse_args(argv)
    options.flags = flags
    try:
        if options.check:
            try:
                with open(options.check, encoding="utf-8") as file:
                    check(yaml.safe_load(file))
            except (OSError, yaml.YAMLError) as error:
                raise BadInput(f"{options.check}: {' '.join(str(error).split())}, expected a manifest") from error
            return 0
        if not options.config:
            raise BadInput("--config: found none, expected one")
        manifest = render(options)
        check(manifest)
        yaml.safe_dump(manifest, sys.stdout, sort_keys=False)
        return 0
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
