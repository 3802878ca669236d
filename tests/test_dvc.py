"""The DVC pipeline: its commands are run one after the other as DVC would run them. DVC itself is not needed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_the_stages_run_and_leave_what_they_say(tmp_path):
    pytest.importorskip("espeakng_loader")
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    settings = {name: value for part in pipeline["vars"] for name, value in part.items()}
    settings["folder"] = "work"

    def fill(text):
        return re.sub(r"\$\{(\w+)\}", lambda found: str(settings[found[1]]), text)

    for name in ("configs", "speech_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
    }
    made = set()
    assert list(pipeline["stages"]) == ["prepare", "train", "evaluate"]
    for name, stage in pipeline["stages"].items():
        for dependency in map(fill, stage["deps"]):
            assert dependency in made or (ROOT / dependency).exists(), f"{name} wants {dependency}"
        words = shlex.split(fill(stage["cmd"]))
        assert words[0] == "python"
        result = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=500
        )
        assert result.returncode == 0, f"{name}: {result.stderr[-2000:]}"
        for out in map(fill, stage["outs"]):
            assert list((tmp_path / out).iterdir()), f"{name} left nothing in {out}"
            made.add(out)
    assert (tmp_path / "work/report/report.json").exists()
