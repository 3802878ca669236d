"""Settings of a run that nothing uses, or that cannot be meant together: an error before any data is read.

Rules inside one room are the `idle` methods of its configs (core/claims.py); here are those between rooms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from speech_jax.audio.config import MASKS
from speech_jax.audio.io import channel_index
from speech_jax.config import TrainConfig
from speech_jax.core.claims import check_claims, refuse_idle, value_at
from speech_jax.core.errors import UserError, did_you_mean
from speech_jax.core.types import Better, TaskConfig
from speech_jax.data.config import PlanConfig
from speech_jax.objectives.schedules import make_alpha
from speech_jax.training.config import TrainerConfig
from speech_jax.training.optimizer import check_optimizer

LEAST = {  # the least value of numbers that __post_init__ leaves alone, so that checkpoints that have others load
    "trainer.steps": 0,
    "trainer.step.accumulate": 1,
    "trainer.checkpoint.every": 0,
    "trainer.checkpoint.keep_last": 1,
    "trainer.checkpoint.keep_best": 0,
    "trainer.eval_every": 0,
    "trainer.patience": 0,
    "trainer.log_every": 1,
    "trainer.max_bad_steps": 1,
    "trainer.examples": 0,
    "seed": 0,
}
LEAST_OF_STREAMS = {"seed": 0, "workers": 0, "threads": 1, "prefetch": 0, "cache_mb": 0, "plan.max_rows": 0}
RECADAM_REST = 0.1  # share of the way from start to end that RecAdam's alpha may still have before it at the last step


def check_run(config: TrainConfig) -> list[str]:
    """Check the settings of a run as its user gave them, before the task of a checkpoint is filled in.

    Args:
        config: the run.

    Returns:
        Lines for the log: settings without effect that are legitimate, such as a constant alpha of 0 in a sweep.

    Raises:
        UserError: for any other setting that reaches nothing, by name.
    """
    check_ranges(config)
    check_optimizer(config.optimizer, config.trainer.steps)
    check_alpha(config)  # before the others, as its messages say more
    check_claims(config)
    refuse_idle(config, idle_in_run(config))
    check_names(config)
    check_stages(config)
    return ends_of_sweeps(config) + late_stages(config) + no_evaluation(config)


def check_ranges(config: TrainConfig) -> None:
    """Raise UserError for a number of the loop or of a stream that is out of its range, or a channel that is none."""
    streams = {"data": config.data} | ({} if config.pre is None else {"pre": config.pre})
    streams |= {f"evaluate.{i}.data": evaluation.data for i, evaluation in enumerate(config.evaluate)}
    least = dict(LEAST)
    for name, data in streams.items():
        least |= {f"{name}.{field}": value for field, value in LEAST_OF_STREAMS.items()}
        least |= {f"{name}.sources.{i}.limit": 0 for i in range(len(data.sources))}
        channel_index(data.channel, f"{name}.channel")
    for name, value in least.items():
        found = value_at(config, name)
        if found is not None and not found >= value:
            raise UserError(f"{name}: found {found}, expected {value} or more")
    ema = config.trainer.step.ema
    if ema is not None and not 0 <= ema < 1:
        raise UserError(f"trainer.step.ema: found {ema}, expected a number from 0 to below 1, or None for no average")


def check_alpha(config: TrainConfig) -> None:
    """Check that alpha weighs something, and that its schedule reaches its end within the run.

    Raises:
        UserError: for an alpha without L_pre, or a schedule that is longer than the run.
    """
    alpha, steps = config.alpha, config.trainer.steps
    value = make_alpha(alpha)
    if config.pre is None and config.pre_task is None and value != 0.0:
        name = "start" if alpha.kind == "constant" else "kind"
        found = f"alpha.{name}: found {getattr(alpha, name)!r}"
        raise UserError(f"{found} without pre, expected recordings in pre, or an unsupervised loss in pre_task")
    if alpha.start == alpha.end:  # there is no way to go
        return
    if alpha.kind in ("linear", "cosine") and alpha.begin + alpha.steps > steps:
        raise UserError(
            f"alpha.steps: found {alpha.steps} after alpha.begin {alpha.begin}, expected an end within the {steps} "
            f"steps of trainer.steps: alpha would stop at {_at_end(value, steps):.3g}, alpha.end is {alpha.end}"
        )
    if alpha.kind == "recadam" and abs(_at_end(value, steps) - alpha.end) > RECADAM_REST * abs(alpha.start - alpha.end):
        raise UserError(
            f"alpha.middle: found {alpha.middle} with alpha.rate {alpha.rate}, expected a sigmoid that has done "
            f"{1 - RECADAM_REST:.0%} of its way within the {steps} steps of trainer.steps: alpha would stop at "
            f"{_at_end(value, steps):.3g}, alpha.end is {alpha.end}"
        )


def ends_of_sweeps(config: TrainConfig) -> list[str]:
    """Return lines for the log if alpha or the teacher's weight, at one end of a sweep, leave others without effect."""
    alpha, lines = make_alpha(config.alpha), []
    if config.alpha.kind != "constant" and config.alpha.start == config.alpha.end:
        lines.append(f"alpha.kind: {config.alpha.kind!r} from alpha.start to the same alpha.end: alpha is constant")
    if alpha == 0.0 and config.pre is not None and not config.optimizer.ewc:
        lines.append("pre: nothing is learned from it with alpha.start 0: this is plain fine-tuning")
    if alpha == 0.0 and config.pre_task is not None:
        lines.append("pre_task: it has no effect with alpha.start 0")
    if alpha == 1.0:
        lines.append("data: nothing is learned from it with alpha.start 1: only L_pre is trained")
    if config.pre is not None and alpha in (0.0, 1.0) and config.trainer.step.gradients != "sum":
        gradients = config.trainer.step.gradients
        lines.append(f"trainer.step.gradients: {gradients!r} with alpha.start {alpha:g}: there is one gradient")
    if config.teacher.checkpoint and config.teacher.weight == 0:
        lines.append("teacher.checkpoint: nothing is learned from it with teacher.weight 0")
    if config.teacher.checkpoint and config.pre_task is not None and alpha == 1.0:
        lines.append("teacher.checkpoint: nothing is learned from it with alpha.start 1 and a pre_task")
    return lines


def _at_end(alpha: Any, steps: int) -> float:
    return float(alpha(np.float32(max(steps - 1, 0))))


def idle_in_run(config: TrainConfig) -> dict[str, str]:
    """Return the settings that others of the run leave without effect, as an `idle` method does (core/claims.py)."""
    idle = {} if config.init_from else {"start": "without init_from"}
    if not config.evaluate:
        names = ["trainer." + n for n in ("eval_first", "examples", "guards", "patience", "checkpoint.metric")]
        idle |= {name: "without evaluate" for name in names if value_at(config, name)}  # 0 turns it off anyway
    if config.pre is None:
        idle["trainer.step.gradients"] = "without recordings in pre: there is one gradient"
    if shares_recordings(config) and hasattr(config.task, "augment"):
        reason = "with a pre_task on the recordings of data, whose frames are hidden instead"
        idle |= {f"task.augment.{name}": reason for name in MASKS}
    return idle | _idle_in_plans(config)


def shares_recordings(config: TrainConfig) -> bool:
    """Return True if the unsupervised L_pre is on the recordings of the task, in the same forward pass."""
    return config.pre_task is not None and config.pre is None and make_alpha(config.alpha) != 0.0


def idle_in_start(config: TrainConfig) -> dict[str, str]:
    """Return the settings of `start` without effect on a run whose task is known."""
    task: Any = config.task
    idle = {}
    if not task.named_speakers:
        idle["start.speakers"] = "in a task without speakers"
    elif task.speakers != "data":
        idle["start.speakers"] = "with {task.speakers}"
    return idle


def check_kept_reader(config: TrainConfig, old: TaskConfig) -> None:
    """Check that a run that keeps the reader of its start checkpoint gives no settings of another one.

    Args:
        config: the run, with its task.
        old: the checkpoint's task.

    Raises:
        UserError: naming the settings.
    """
    for name in ("tokenizer", "frontend"):
        given = getattr(config.task, name, None)
        if given is not None and given not in (type(given)(), getattr(old, name, None)):
            raise UserError(
                f"task.{name}: found {given}, which nothing uses: that of init_from is kept; expected it left out, or "
                "start.tokenizer 'new'"
            )


def _idle_in_plans(config: TrainConfig) -> dict[str, str]:
    """Return the settings of `DataConfig` that are used only in training, only in evaluation, or only with labels.

    Streams may share their settings: what another stream uses with the same value is not idle.
    """
    streams = {"data": (config.data, False)} | ({} if config.pre is None else {"pre": (config.pre, False)})
    streams |= {f"evaluate.{i}.data": (e.data, True) for i, e in enumerate(config.evaluate)}
    unused = {name: _idle_in_stream(data.plan, evaluated) for name, (data, evaluated) in streams.items()}
    for name in streams:
        if _has_no_labels(config, name):
            names = ("label_multiple", "max_labels", "bucket_labels")
            names = ("empty_texts", *(f"plan.{field}" for field in names))
            unused[name] |= dict.fromkeys(names, "without texts, of which no label is made")

    def shared(name: str, field: str) -> bool:
        used = (value_at(data, field) for other, (data, _) in streams.items() if field not in unused[other])
        return value_at(streams[name][0], field) in used

    return {
        f"{name}.{field}": reason.replace("{", "{" + f"{name}.plan.")
        for name, fields in unused.items()
        for field, reason in fields.items()
        if not shared(name, field)
    }


def _has_no_labels(config: TrainConfig, name: str) -> bool:
    """Return True if the texts of a stream are not read: of a task without a reader, or in `pre` with a pre_task."""
    if name == "pre" and config.pre_task is not None:
        return True
    return config.task is not None and not config.task.reads_text


def _idle_in_stream(plan: PlanConfig, evaluated: bool) -> dict[str, str]:
    """Return the settings of a stream that its other settings, or its use, leave without effect."""
    if evaluated:
        names = ("min_seconds", "max_seconds", "max_labels", "bucket_seconds", "bucket_labels", "join")
        idle = dict.fromkeys(("seed", "empty_texts", *(f"plan.{name}" for name in names)), "in an evaluation set")
    else:
        idle = {"plan.eval_max_seconds": "in training"}
        if plan.bucket_seconds:
            names = ("num_buckets", "seconds_multiple", "max_seconds")
            idle |= {f"plan.{name}": "with {bucket_seconds}" for name in names}
        if plan.bucket_labels:
            idle |= {f"plan.{name}": "with {bucket_labels}" for name in ("label_multiple", "max_labels")}
    if plan.rows:
        idle |= {f"plan.{name}": "with {rows}" for name in ("seconds_per_batch", "max_rows")}
    return idle


def check_metrics(config: TrainConfig, metrics: Mapping[str, Better]) -> None:
    """Check the metrics of checkpoints and guards against those that the task reports.

    Args:
        config: the run.
        metrics: `Task.metrics`; empty where the task does not say.

    Raises:
        UserError: for a metric that no evaluation has, with the nearest spelling, or a direction in which it gets
            worse.
    """
    known: dict[str, Better] = {f"{e.name}/{name}": better for e in config.evaluate for name, better in metrics.items()}
    if not known:
        return
    best = config.trainer.checkpoint
    if best.metric is not None:
        better = metric_of(known, best.metric, "trainer.checkpoint.metric")
        if better not in (best.mode, "either"):
            raise UserError(
                f"trainer.checkpoint.mode: found {best.mode!r} with metric {best.metric!r}, expected {better!r}: the "
                "worst checkpoint would be the best"
            )
    for number, guard in enumerate(config.trainer.guards):
        name = f"trainer.guards.{number}.metric"
        if metric_of(known, guard.metric, name) == "max":
            smaller = ", ".join(metric for metric, better in known.items() if better != "max")
            raise UserError(f"{name}: found {guard.metric!r}, of which more is better, expected one of {smaller}")


def metric_of(known: Mapping[str, Better], metric: str, flag: str) -> Better:
    """Return the direction that is better of a metric. Raises UserError, naming the flag, for an unknown one."""
    if metric not in known:
        raise UserError(f"{flag}: found {metric!r}, expected one of {', '.join(known)}{did_you_mean(metric, known)}")
    return known[metric]


def check_names(config: TrainConfig) -> None:
    """Raise UserError for an evaluation set without a name of its own, by which its metrics are called NAME/METRIC."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(e.name for e in config.evaluate):
        if not name.strip() or "/" in name:
            raise UserError(f"evaluate.{number}.name: found {name!r}, expected a name without '/'")
        if name in numbers:
            first, second = (
                f"evaluate.{i} ({', '.join(source.path for source in config.evaluate[i].data.sources)})"
                for i in (numbers[name], number)
            )
            raise UserError(f"evaluate: found the name {name!r} for both {first} and {second}, expected one name each")
        numbers[name] = number


def late_stages(config: TrainConfig) -> list[str]:
    """Return lines for the log about stages that begin or end after the run.

    No error: a run of a few steps, to try a config, has them, and so has the first part of one that is resumed.
    """
    optimizer, steps = config.optimizer, config.trainer.steps
    warmup, hold, decay = optimizer.warmup_steps, optimizer.hold_steps, optimizer.decay_steps
    late = []
    if warmup > steps:
        late.append(("optimizer.warmup_steps", warmup, "the learning rate never reaches peak_lr"))
    if optimizer.schedule == "tri_stage" and warmup + hold >= steps:
        late.append(("optimizer.hold_steps", hold, "the learning rate does not decay"))
    elif optimizer.schedule == "tri_stage" and warmup + hold + decay > steps:
        late.append(("optimizer.decay_steps", decay, "the learning rate never reaches end_lr"))
    if optimizer.schedule == "wsd" and warmup + decay > steps:
        late.append(("optimizer.decay_steps", decay, "the decay takes all steps after the warm-up"))
    late += [("optimizer.falls", fall, "it is not reached") for fall in optimizer.falls if fall >= steps]
    late += [("optimizer.hold", n, f"{pattern!r} is not trained") for pattern, n in optimizer.hold if n >= steps]
    reduction = getattr(config.task, "reduction", ())  # of a voice
    late += [("task.reduction", step, "it is not reached") for step, _ in reduction if step >= steps]
    return [f"{name}: {value} of trainer.steps {steps}: {effect}" for name, value, effect in late]


def no_evaluation(config: TrainConfig) -> list[str]:
    """Return lines for the log about how to evaluate, if nothing is; no error, as derived configs keep them."""
    every, lines = config.trainer.eval_every, []
    if not config.evaluate and every not in (0, TrainerConfig().eval_every):
        lines.append(f"trainer.eval_every: {every} without evaluate: nothing is evaluated")
    speak = getattr(config.task, "speak", 0)  # of a voice
    if not config.evaluate and speak:
        lines.append(f"task.speak: {speak} without evaluate: nothing is evaluated")
    return lines


def check_stages(config: TrainConfig) -> None:
    """Raise UserError for a schedule without its stages, or a profile that begins after the run."""
    if config.optimizer.schedule == "steps" and not config.optimizer.falls:
        raise UserError("optimizer.schedule: found 'steps' without optimizer.falls, expected them, or 'constant'")
    first = config.trainer.watch.profile.partition(":")[0]
    if first.isdecimal() and int(first) >= config.trainer.steps:
        raise UserError(
            f"trainer.watch.profile: found step {int(first)}, expected one before the end, trainer.steps "
            f"{config.trainer.steps}"
        )
