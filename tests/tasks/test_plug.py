"""The task plug: a task that the tests define trains, resumes, mixes with alpha and compiles like the built-in ones."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from speech_jax.config import EvalConfig, TrainConfig, config_from_assets, load_config_file
from speech_jax.core.errors import UserError
from speech_jax.finetuning.adapters import AdapterConfig
from speech_jax.objectives.schedules import AlphaConfig
from speech_jax.runs.train import train
from speech_jax.tasks.ctc import TeacherConfig
from speech_jax.training.checkpoint import CheckpointConfig, load_assets, load_params
from speech_jax.training.loop import TrainerConfig
from speech_jax.training.optimizer import OptimizerConfig
from tests.support.toy_task import FrameTaskConfig
from tests.test_train import corpus, data, losses  # noqa: F401

ROOT = Path(__file__).parents[2]


def config(corpus, out, **changes) -> TrainConfig:  # noqa: F811
    base = TrainConfig(
        out_dir=str(out),
        data=data(corpus, "old"),
        task=FrameTaskConfig(),
        evaluate=(EvalConfig("test", data(corpus, "old_test", num_buckets=1)),),
        optimizer=OptimizerConfig(peak_lr=0.1, warmup_steps=1),
        trainer=TrainerConfig(
            steps=6, eval_every=3, log_every=1, tensorboard=False,
            checkpoint=CheckpointConfig(every=3, metric="test/loss"),
        ),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):  # noqa: F811
    run = config(corpus, tmp_path_factory.mktemp("plug") / "run")
    return run, train(run)


def test_it_trains_and_its_checkpoint_names_it(trained):
    run, result = trained
    values = losses(run.out_dir)
    assert values[6] < values[1] and result.reports["test"].metrics["loss"] > 0
    assert config_from_assets(load_assets(run.out_dir, "last")) == run


def test_it_resumes_bit_for_bit(trained, corpus, tmp_path):  # noqa: F811
    run, _ = trained
    half = config(corpus, tmp_path / "run", trainer=dataclasses.replace(run.trainer, steps=3))
    train(half)
    train(dataclasses.replace(half, trainer=run.trainer))
    whole, resumed = (jax.tree.leaves(load_params(out, "last")) for out in (run.out_dir, half.out_dir))
    for left, right in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(left, right)


def test_it_starts_from_a_checkpoint_and_mixes_with_the_old_recordings(trained, corpus, tmp_path):  # noqa: F811
    run, _ = trained
    mixed = config(
        corpus, tmp_path / "mixed", task=None, init_from=run.out_dir, data=data(corpus, "new"),
        pre=data(corpus, "old"), alpha=AlphaConfig(start=0.3),
    )  # fmt: skip
    train(mixed)
    lines = [json.loads(line) for line in Path(mixed.out_dir, "metrics.jsonl").read_text().splitlines()]
    metrics = next(line["metrics"] for line in lines if line["kind"] == "train")
    assert metrics["alpha"] == pytest.approx(0.3)
    expected = 0.3 * metrics["pre/loss"] + 0.7 * metrics["task/loss"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_it_compiles_through_the_front_door(tmp_path):
    """`compile` needs the TPU compiler, an extra; the programs themselves are made by the same functions."""
    pytest.importorskip("libtpu")
    (tmp_path / "toy.py").write_text(
        "from speech_jax.config import TrainConfig\nfrom speech_jax.data.config import DataConfig\n"
        "from tests.support.toy_task import FrameTaskConfig\n"
        "config = TrainConfig(out_dir='runs/toy', data=DataConfig(), task=FrameTaskConfig())\n"
    )
    command = [
        sys.executable, "-m", "speech_jax.compile", "--config", str(tmp_path / "toy.py"), "--topology", "v5e:2x2",
        "--bucket", "8x1x8", "--out", str(tmp_path / "facts.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["fits"] and facts["parameters"] == 81 * 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": TeacherConfig(checkpoint="x")}, "teacher: found one with a task that is no recognizer"),
        ({"adapter": AdapterConfig("lora")}, "adapter: found no init_from"),
    ],
)
def test_what_it_cannot_do_is_said(corpus, tmp_path, changes, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        train(config(corpus, tmp_path / "x", **changes))


def test_a_field_of_it_is_a_flag(corpus, tmp_path):  # noqa: F811
    path = tmp_path / "toy.py"
    path.write_text(
        "from speech_jax.config import TrainConfig\nfrom speech_jax.data.config import DataConfig\n"
        "from tests.support.toy_task import FrameTaskConfig\n"
        "config = TrainConfig(out_dir='x', data=DataConfig(), task=FrameTaskConfig())\n"
    )
    from speech_jax.config import parse_config

    parsed = parse_config(["--config", str(path), "--task.audio.num-mels", "40"])
    assert parsed.task.audio.num_mels == 40 and load_config_file(str(path)).task.audio.num_mels == 80


def test_an_unknown_task_in_a_checkpoint_is_named(trained, monkeypatch):
    run, _ = trained
    assets = load_assets(run.out_dir, "last")
    assets["config"]["task"]["type"] = "NobodysTaskConfig"
    with pytest.raises(UserError, match=r"config.task: found NobodysTaskConfig, expected one of CTCTaskConfig, .*"):
        config_from_assets(assets)
