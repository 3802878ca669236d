"""The sweep: every combination and seed once, resumed where it was stopped, and one report."""

import dataclasses
import json
from pathlib import Path

import pytest

from speech_jax import sweep as front_door
from speech_jax.core.errors import UserError
from speech_jax.runs import train as runs_train
from tests.test_train import corpus, data, tiny, trained, write_config_file  # noqa: F401


def config(**changes):
    return dataclasses.replace(front_door.SweepConfig(config="x.py", out="runs/sweep"), **changes)


def test_the_plan_is_every_combination_with_every_seed():
    runs = front_door.plan(config(grid=("alpha=0,0.5", "lr=1e-3,1e-4"), seeds=2))
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    assert runs[0].name == "alpha=0, lr=1e-3"
    assert runs[0].flags[:4] == ["--alpha.start", "0", "--optimizer.peak-lr", "1e-3"]
    assert runs[1].flags[-2:] == ["--seed", "1"]
    assert [run.name for run in front_door.plan(config())] == ["all"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(grid=("alpha",)), "'alpha', expected NAME=V1,V2"),
        (dict(grid=("a=1", "a=2")), "--grid: found a=1 and a=2, expected each setting once"),
        (dict(grid=("alpha=0.1", "alpha.start=0.5")), "found alpha=0.1 and alpha.start=0.5, expected each setting"),
        (dict(grid=("lr=1e-3", "optimizer.peak_lr=1e-4")), "expected each setting once"),
        (dict(grid=("alpha=0.3,0.3",)), "--grid: found alpha=0.3 twice, as runs/sweep/alpha=0.3/seed_0"),
        (dict(grid=("init_from=a/b,a-b",)), "--grid: found init_from=a-b twice"),  # one folder for both
        (dict(grid=("seed=1,2",)), "--grid: found seed=1,2, which the sweep sets for each run, expected --seeds N"),
        (dict(grid=("out_dir=a,b",)), "--grid: found out_dir=a,b, .*, expected --out DIR"),
        (dict(seeds=0), "--seeds: found 0"),
    ],
)
def test_bad_grids_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        front_door.plan(config(**changes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha.start", "0.9"], "--alpha.start: found it beside --grid alpha=0.1,0.3, expected one of the two"),
        (["--optimizer.peak_lr=0.1"], "--optimizer.peak-lr: found it beside --grid lr=1e-3"),
        (["--seed", "7"], "--seed: found it, which the sweep sets for each run, expected --seeds N"),
        (["--out-dir=zzz"], "--out-dir: found it, .* expected --out DIR"),
    ],
)
def test_a_flag_that_the_sweep_sets_is_refused(flags, message):
    grid = config(grid=("alpha=0.1,0.3", "lr=1e-3"))
    assert len(front_door.plan(grid, ["--trainer.steps", "4", "--data.seed", "3", "--alpha.kind=constant"])) == 2
    with pytest.raises(UserError, match=message):
        front_door.plan(grid, flags)


def test_a_sweep_runs_and_draws_and_does_nothing_twice(corpus, trained, tmp_path, capsys, monkeypatch):  # noqa: F811
    start, _ = trained
    own = tiny(
        corpus,
        tmp_path / "unused",
        data=data(corpus, "new", num_buckets=1),
        pre=data(corpus, "old", num_buckets=1),
        init_from=start.out_dir,
        task=None,
        evaluate=(
            dataclasses.replace(start.evaluate[0], name="old", data=data(corpus, "old_test", num_buckets=1)),
            dataclasses.replace(start.evaluate[0], name="new", data=data(corpus, "new", num_buckets=1)),
        ),
        trainer=dataclasses.replace(
            start.trainer, steps=2, eval_every=1, checkpoint=dataclasses.replace(start.trainer.checkpoint, every=2)
        ),
    )
    file = write_config_file(tmp_path / "sweep.py", own)
    arguments = ["--config", str(file), "--out", str(tmp_path / "out"), "--grid", "alpha=0,0.5"]
    assert front_door.main(arguments) == 0
    assert "alpha=0.5" in capsys.readouterr().out
    points = json.loads((tmp_path / "out" / "points.json").read_text())
    assert [p["name"] for p in points] == ["alpha=0", "alpha=0.5"]
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    found = front_door.evaluations(tmp_path / "out" / "alpha=0.5" / "seed_0", config())
    assert [step for step, *_ in found] == [1, 2]

    trainings = []

    def count(training):
        trainings.append(training)
        return real(training)

    real = runs_train.train
    monkeypatch.setattr(runs_train, "train", count)
    assert front_door.main([*arguments, "--trainer.log-every", "2"]) == 0
    assert len(trainings) == 2
    again = front_door.evaluations(Path(trainings[0].out_dir), config())
    assert [step for step, *_ in again] == [1, 2]  # nothing was trained again

    # the same folder with other settings: refused before anything is trained, and nothing is written
    table = (tmp_path / "out" / "table.md").read_text()
    for flags, setting in (
        (["--optimizer.peak-lr", "0.1"], "optimizer.peak_lr 0.1"),
        (["--data.plan.rows", "16"], "data.plan.rows: found 16, expected 8"),
    ):
        with pytest.raises(UserError, match=f"out/alpha=0/seed_0: .*{setting}"):
            front_door.main([*arguments, "--seeds", "2", *flags])
    assert len(trainings) == 2 and (tmp_path / "out" / "table.md").read_text() == table
    config_text = json.loads((tmp_path / "out" / "alpha=0" / "seed_0" / "config.json").read_text())
    assert config_text["optimizer"]["peak_lr"] == own.optimizer.peak_lr

    # more seeds: only those are trained, and both streams follow the seed
    assert front_door.main([*arguments, "--seeds", "2", "--old", "old/loss"]) == 0
    assert [(t.seed, t.data.seed, t.pre.seed) for t in trainings[2:]] == [(seed, None, None) for seed in (0, 1, 0, 1)]
    table = capsys.readouterr().out.strip().splitlines()[-4:]
    assert "old/loss |" in table[0] and "new WER %" in table[0] and "±" in table[2]
    points = json.loads((tmp_path / "out" / "points.json").read_text())
    old = [run["old"] for run in points[0]["runs"]]
    assert points[0]["seeds"] == 2 and points[0]["old"] == pytest.approx(sum(old) / 2)
    assert points[0]["old_std"] == pytest.approx(abs(old[0] - old[1]) / 2**0.5) and points[0]["old_std"] > 0

    with pytest.raises(UserError, match="--grid: found alpha=0.5 and alpha=0.50, which are the same settings"):
        front_door.main([*arguments[:-1], "alpha=0.5,0.50"])
    with pytest.raises(UserError, match="--new: found 'mars/wer', expected a metric of one of the sets old, new"):
        front_door.main([*arguments, "--new", "mars/wer"])
