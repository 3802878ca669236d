"""Train a config with a grid of settings and seeds, and plot old against new error rates: `python -m speech_jax.sweep`.

    python -m speech_jax.sweep --config NAME --grid alpha=0,0.1,0.3 --seeds 3 --old a/wer --new b/wer --out DIR

Runs are sequential, each in DIR/SETTINGS/seed_N. The same command skips finished runs and resumes a stopped one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from speech_jax.config import TrainConfig, parse_config
from speech_jax.core.command_line import Range, parse
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.core.log import setup_logging
from speech_jax.core.types import Better
from speech_jax.evaluation.pareto import Point, Summary, pareto_table, plot_pareto, summarize

SHORT = {"alpha": "alpha.start", "lr": "optimizer.peak-lr"}  # abbreviations of flags


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train a config for every combination of the grid and every seed, and plot old against new error rates.

    All other flags go to every training, for example `--trainer.steps 400`: `python -m speech_jax.train --help` lists
    them. The sweep itself sets `--seed` and `--out-dir`, and what is in the grid.
    """

    config: str
    """Config of the fine-tuning: a file, or a name such as my_data."""
    out: str
    """Folder of the runs, table.md, points.json and pareto.png."""
    grid: tuple[str, ...] = ()
    """NAME=V1,V2,…: a flag of the training and its values; alpha and lr stand for alpha.start and optimizer.peak-lr.
    Several form a grid."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Runs per combination, with seeds 0 to N - 1, see `--seed`. Table, plot and points.json then show mean and
    standard deviation."""
    old: str = "old/wer"
    """Metric of the old domain, as SET/METRIC of the config's evaluation sets."""
    new: str = "new/wer"
    """Metric of the new domain."""


class SweepRun(NamedTuple):
    """A training of the sweep.

    Attributes:
        name: Its settings.
        seed: Seed of the run.
        folder: Folder of the run.
        flags: Flags of the training.
    """

    name: str
    seed: int
    folder: Path
    flags: list[str]


def main(argv: Sequence[str]) -> int:
    """Train every run of the sweep, and update the report after each. Returns exit code 0, also if it is stopped."""
    config, rest = parse(SweepConfig, argv, prog="python -m speech_jax.sweep", return_unknown_args=True)
    setup_logging()
    runs = plan(config, rest)
    import jax  # after the flags are parsed, so that --help does not wait for it

    from speech_jax.runs.prepare import check_given, check_resume
    from speech_jax.runs.train import train

    trainings = [(run, parse_config(["--config", config.config, *rest, *run.flags])) for run in runs]  # all checked now
    check_different(trainings)
    for _, training in trainings:
        check_given(training)
        check_metrics(training, config)
        check_resume(training)
    for run, training in trainings:
        result = train(training)
        if result.stopped:
            print(f"stopped in {run.folder}; the same command resumes", file=sys.stderr)
            return 0
        jax.clear_caches()
        report(config, runs)
    return 0


def plan(config: SweepConfig, rest: Sequence[str] = ()) -> list[SweepRun]:
    """Return all runs of the sweep.

    Args:
        config: the sweep.
        rest: the flags that go to every training.

    Raises:
        UserError: for a grid that cannot be read, and for a setting that is given twice: in the grid, or in it and in
            `rest`, or as a flag that the sweep sets itself.
    """
    if config.seeds < 1:
        raise UserError(f"--seeds: found {config.seeds}, expected 1 or more")
    axes = []
    grid: dict[str, str] = {}
    for text in config.grid:
        name, _, values = text.partition("=")
        if not name or not values:
            raise UserError(f"--grid: found {text!r}, expected NAME=V1,V2,…")
        if _flag_of(name) in grid:
            raise UserError(f"--grid: found {grid[_flag_of(name)]} and {text}, expected each setting once")
        grid[_flag_of(name)] = text
        axes.append([(name, value) for value in values.split(",")])
    given = {_flag_of(word.removeprefix("--").partition("=")[0]) for word in rest if word.startswith("--")}
    for name, expected in (("seed", "--seeds N, for the seeds 0 to N - 1"), ("out-dir", "--out DIR")):
        if name in grid or name in given:
            where = f"--grid: found {grid[name]}" if name in grid else f"--{name}: found it"
            raise UserError(f"{where}, which the sweep sets for each run, expected {expected}")
    for name in sorted(given & set(grid)):
        raise UserError(f"--{name}: found it beside --grid {grid[name]}, expected one of the two")
    runs: list[SweepRun] = []
    for chosen in itertools.product(*axes):
        name = ", ".join(f"{key}={value}" for key, value in chosen) or "all"
        flags = [word for key, value in chosen for word in (f"--{SHORT.get(key, key)}", value)]
        for seed in range(config.seeds):
            folder = Path(config.out) / name.replace(", ", "_").replace("/", "-") / f"seed_{seed}"
            run_flags = ["--out-dir", str(folder), "--seed", str(seed)]
            if any(run.folder == folder for run in runs):
                raise UserError(f"--grid: found {name} twice, as {folder}, expected each combination once")
            runs.append(SweepRun(name, seed, folder, [*flags, *run_flags]))
    return runs


def _flag_of(name: str) -> str:
    """Return the flag that a name in a grid, or another spelling of a flag, stands for."""
    return SHORT.get(name, name).replace("_", "-")


def check_different(trainings: Sequence[tuple[SweepRun, TrainConfig]]) -> None:
    """Raise UserError for two runs of the same settings, such as alpha=0.3 and alpha=0.30: they are no two draws."""
    different: list[tuple[SweepRun, TrainConfig]] = []
    for run, training in trainings:
        settings = dataclasses.replace(training, out_dir="")
        same = next((other.name for other, others in different if others == settings), None)
        if same is not None:
            raise UserError(f"--grid: found {same} and {run.name}, which are the same settings, expected each once")
        different.append((run, settings))


def check_metrics(training: TrainConfig, config: SweepConfig) -> None:
    """Raise UserError unless the training evaluates both metrics, and less of them is better, as the plot takes it."""
    from speech_jax.runs.claims import metric_of  # these load JAX
    from speech_jax.runs.resolve import task_of

    task = task_of(training)
    metrics = task.build(task.placeholder_reader(100)).metrics
    sets = [e.name for e in training.evaluate]
    known: dict[str, Better] = {f"{name}/{metric}": better for name in sets for metric, better in metrics.items()}
    for flag, metric in (("--old", config.old), ("--new", config.new)):
        if metric.rpartition("/")[0] not in sets:
            raise UserError(f"{flag}: found {metric!r}, expected a metric of one of the sets {', '.join(sets)}")
        if metrics and metric_of(known, metric, flag) == "max":  # not where the task does not name its metrics
            raise UserError(f"{flag}: found {metric!r}, of which more is better, expected an error rate or a loss")


def report(config: SweepConfig, runs: Sequence[SweepRun]) -> None:
    """Write table.md, points.json and pareto.png from the runs' logs so far."""
    final, intermediate = [], []
    for run in runs:
        metrics = evaluations(run.folder, config)
        if metrics:
            points = [Point(run.name, run.name.split("=")[0], old, new) for _, old, new in metrics]
            final.append(points[-1])
            intermediate += points[:-1]
    table = pareto_table(final, old=config.old, new=config.new)
    out = Path(config.out)
    write_file(out / "table.md", table + "\n")
    write_file(out / "points.json", json.dumps([to_json(summary) for summary in summarize(final)], indent=1) + "\n")
    write_file(out / "pareto.png", plot_pareto(final, old=config.old, new=config.new, intermediate=intermediate))
    print(table, flush=True)


def to_json(summary: Summary) -> dict:
    """Return a setting's mean and standard deviation over its seeds, and the runs' own figures, as JSON."""
    deviations = {"old_std": summary.old_std, "new_std": summary.new_std}
    runs = [{"old": point.old, "new": point.new} for point in summary.runs]
    return summary.mean._asdict() | deviations | {"seeds": len(runs), "runs": runs}


def evaluations(folder: Path, config: SweepConfig) -> list[tuple[int, float, float]]:
    """Return (step, old, new) of every evaluation of a run in order; of a repeated step, the last one."""
    by_step: dict[int, tuple[float, float]] = {}
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        row = json.loads(line)
        if row["kind"] == "eval" and {config.old, config.new} <= set(row["metrics"]):
            by_step[row["step"]] = row["metrics"][config.old], row["metrics"][config.new]
    return [(step, *by_step[step]) for step in sorted(by_step)]


if __name__ == "__main__":
    run_front_door(main)
