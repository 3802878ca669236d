"""The training loop: evaluate, save, take a batch, step; in this order, so that what is saved fits the data's
position."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.placement import replicated
from speech_jax.core.types import PyTree, Report, Task, TrainState
from speech_jax.monitoring.progress import Progress, clock
from speech_jax.monitoring.prometheus import Endpoint
from speech_jax.monitoring.step_log import Pending, StepLog
from speech_jax.monitoring.tracking import Tracker
from speech_jax.monitoring.watchdog import Profile, WatchConfig, Watchdog, make_sinks
from speech_jax.training import optimizer as optimizers
from speech_jax.training.checkpoint import CheckpointConfig, Checkpoints
from speech_jax.training.compiling import Programs, compile_programs, init_spec_of
from speech_jax.training.feed import Feed
from speech_jax.training.guard import GuardConfig, Guards
from speech_jax.training.hosts import check_shared, run_on_all_or_fail
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.training.privacy import forget_noise_key, noise_key
from speech_jax.training.sharding import MeshConfig, make_mesh
from speech_jax.training.signals import RunLock, StopRequested, StopSignal
from speech_jax.training.state import init_shapes, make_state, num_params
from speech_jax.training.step import StepConfig, check_names


@dataclass(frozen=True)
class TrainerConfig:
    """How long a run is, and what happens between its steps."""

    steps: int = 10_000
    """Steps of the whole run; one that goes on counts those it has done."""
    step: StepConfig = field(default_factory=StepConfig)
    """What happens within a step: micro-batches, the moving average, how two gradients meet."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Which checkpoints are written and kept."""
    eval_every: int = 1000
    """Steps between evaluations; one more is always made at the end. 0 means only at the end."""
    eval_first: bool = False
    """Also evaluate before the first step; with guards that is done anyway."""
    guards: tuple[GuardConfig, ...] = ()
    """Old domains that must not get worse: a checkpoint beyond a guard is never the best."""
    patience: int = 0
    """End the run after so many evaluations in a row without a better checkpoint.metric; 0 never does."""
    log_every: int = 50
    """Steps that one line of metrics.jsonl and one point on TensorBoard are the mean of."""
    progress_seconds: float = 10.0
    """How often a line is printed where stderr is no terminal."""
    max_bad_steps: int = 10
    """A step whose loss or gradient is not finite is skipped; this many in a row end the run."""
    tensorboard: bool = True
    """Whether to write TensorBoard files beside metrics.jsonl."""
    examples: int = 8
    """How many transcripts of an evaluation TensorBoard shows."""
    force_resume: bool = False
    """Go on although the data pipeline's settings changed: the data's order will not be what it would have been."""
    watch: WatchConfig = new_field(WatchConfig())
    """How the run can be watched from outside."""


class FitResult(NamedTuple):
    """How a run ended.

    state:   the last state
    reports: {evaluation set: its last Report}
    stopped: a signal ended the run before its last step; it has been saved and can go on
    ended:   why the run ended before its last step of its own accord (a guard, no progress); empty if it did not
    compile_seconds: what compiling took
    programs: how many shapes of batch were compiled, over all terms; the update is one program more
    """

    state: TrainState
    reports: Mapping[str, Report]
    stopped: bool
    ended: tuple[str, ...]
    compile_seconds: float
    programs: int


def fit(
    task: Task,
    train_data: Feed,
    *,
    config: TrainerConfig,
    optimizer: OptimizerConfig,
    mesh: MeshConfig,
    out_dir: str | Path,
    assets: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
    pipeline: Mapping[str, Any] | None = None,
    eval_sets: Mapping[str, Callable[[], Iterable]] | None = None,
    init: tuple[PyTree, PyTree] | None = None,
    fisher: PyTree | None = None,
    units: Callable[[PyTree], tuple[float, float]] | None = None,
    unit_name: str = "audio_seconds",
    seed: int = 0,
    epsilon: Callable[[int], float] | None = None,
) -> FitResult:
    """Trains until `config.steps`, or goes on with the run in `out_dir` if there is one.

    train_data: `Batches` or `PairedBatches`; its state is saved with every checkpoint.
    assets:   JSON that is saved with every checkpoint for the front doors: config, tokenizer, audio settings, versions.
    texts:    {file name: text} to write into the run's folder once no other run holds it.
    pipeline: JSON settings that decide the order of the data; a run does not go on with other ones.
    eval_sets: {name: makes its batches}; metrics are logged as "<name>/<metric>", of the average where one is kept.
    init:     (params, model_state) to start from; a run that goes on ignores it.
    fisher:   for `optimizer.ewc`, the weights of the parameters; a run that goes on ignores it.
    units:    host batch -> (real units, units with padding), for the rates: seconds of audio.
    epsilon:  for `config.step.privacy`, what so many steps spend (`privacy.Accountant`), to be logged.

    SIGTERM and SIGINT end the step, save, and return with `stopped`.
    Raises UserError for what a user can mend: a model that does not fit the checkpoint, a full disk, a second run in
    the folder, numbers that stay bad.
    """
    out = Path(out_dir)
    lock = run_on_all_or_fail(lambda: RunLock(out) if jax.process_index() == 0 else None)
    try:
        check_shared(out)
        if lock is not None:
            for name, text in (texts or {}).items():
                write_file(out / name, text)
        sets = dict(eval_sets or {})
        with StopSignal() as stop:
            run = _Run(
                task, train_data, config, optimizer, mesh, out, assets, pipeline, sets, init, fisher, units,
                unit_name, seed, epsilon,
            )  # fmt: skip
            return run.loop(stop)
    finally:
        train_data.close()
        if lock is not None:
            lock.release()


class _Run:
    """The parts of one call of `fit`, put together; `loop` is the story."""

    def __init__(
        self, task, data, config, optimizer, mesh_config, out, assets, pipeline, eval_sets, init, fisher, units,
        unit_name, seed, epsilon,
    ):  # fmt: skip
        self.task, self.data, self.config, self.eval_sets = task, data, config, eval_sets
        self.units = units  # of this process's rows
        self.pipeline = json.loads(json.dumps(pipeline or {}))
        self.mesh = make_mesh(mesh_config)
        self.main = jax.process_index() == 0

        # The state: shapes first, born sharded or restored sharded, never both.
        spec = init_spec_of(task.batch_spec, data.buckets[-1])
        params, model_state = init_shapes(task.model, spec, seed)
        make, self.struct, shardings = make_state(
            task.model,
            spec,
            lambda p: optimizers.make_optimizer(optimizer, p, config.steps, fisher),
            self.mesh,
            mesh_config,
            seed=seed,
            ema=config.step.ema is not None,
            init=init,
            rules=task.sharding,
        )
        self.guards = Guards(config.guards, config.checkpoint, config.patience)
        self.guarded, self.ended = True, ()  # whether the last evaluation was within the guards; why the run is over
        self.out, self.checkpoints = out, Checkpoints(out, config.checkpoint, assets)
        restored = self.checkpoints.restore(self.struct)
        if restored is None:
            self.state, self.record = make(), {}
        else:
            self.state, self.record = restored
            self._check_pipeline()
            self.guards.restore(self.record.get("guards") or {})
            self.ended = tuple(self.record.get("ended") or ())
            self.data.restore(self.record["data"])
        self.start = int(self.state.step)
        self.saved_step = self.start if restored else None
        self.private = config.step.privacy.on
        if self.private and epsilon is None:
            raise ValueError("a private run needs `epsilon`")

        # What the step is made of.
        self.shardings, self.seed, self.optimizer_config = shardings, seed, optimizer
        self.trainable = optimizers.trainable(optimizer, params)
        self.optimizer = optimizers.make_optimizer(optimizer, params, config.steps)

        watch = config.watch
        self.profile = Profile(watch.profile, out / "profile", enabled=self.main)
        self.endpoint = None
        if watch.metrics_port and self.main:
            self.endpoint = Endpoint(watch.metrics_host, watch.metrics_port, config.steps)
        self.watchdog = Watchdog(watch.stalled_after, self.endpoint.stalled if self.endpoint else None)
        self.progress = Progress(config.steps, self.start, seconds=config.progress_seconds, enabled=self.main)
        sinks = ([self.endpoint] if self.endpoint else []) + (make_sinks(watch, out) if self.main else [])
        self.tracker = Tracker(out, self.start, tensorboard=config.tensorboard, enabled=self.main, sinks=sinks)
        self.log = StepLog(
            self.progress,
            self.tracker,
            steps=config.steps,
            every=config.log_every,
            checks=check_names(params, model_state, self.trainable),
            bad=(int(self.state.opt_state.skipped), int(self.state.opt_state.skipped_in_a_row)),
            max_bad=config.max_bad_steps,
            unit_name=unit_name,
            epsilon=epsilon if self.private else None,
            beat=self.endpoint.beat if self.endpoint else None,
        )
        self.reports: dict[str, Report] = {}
        kind = jax.devices()[0].device_kind
        self.progress.say(f"{num_params(params):,} parameters on {self.mesh.size} {kind} device(s)")
        if restored:
            self.progress.say(f"going on at step {self.start}")
            for reason in self.ended:
                self.progress.say(f"the run has ended: {reason}")

    def loop(self, stop: StopSignal) -> FitResult:
        programs, stopped = None, False
        try:
            if self.start < self.config.steps and not self.ended:
                programs = self._compile(stop)
            stopped = self._steps(programs, stop)
            if self.private and not stopped:
                forget_noise_key(self.out, int(self.state.step))
        except StopRequested:  # while compiling
            stopped = True
            self._save(self.start, None, wait=True)
        finally:
            self.watchdog.close()
            self.profile.close()
            self.progress.close()
            self.tracker.close()
            self.checkpoints.close()  # also when something went wrong: what is being saved is finished
        seconds, count = (programs.seconds, programs.count) if programs else (0.0, 0)
        return FitResult(self.state, self.reports, stopped, self.ended, seconds, count)

    def _compile(self, stop: StopSignal) -> Programs:
        keys = [jax.random.key(self.seed), *([noise_key(self.out, self.saved_step)] if self.private else [])]
        programs = compile_programs(
            self.task,
            self.struct,
            self.shardings,
            self.optimizer,
            self.trainable,
            self.config.step,
            self.data.buckets,
            self.mesh,
            keys=[_place_key(key, self.mesh) for key in keys],
            rate=optimizers.learning_rate(self.optimizer_config, self.config.steps),
            moving_state=optimizers.moving_state(self.optimizer_config, self.struct.model_state),
            say=self.progress.say,
            check_stop=stop.check,
        )
        self.tracker.write("compile", self.start, metrics={"seconds": programs.seconds, "programs": programs.count})
        return programs

    def _steps(self, programs: Programs | None, stop: StopSignal) -> bool:
        """Runs the steps; returns whether a signal ended them."""
        config = self.config
        self.log.restart_clock()
        pending = None
        step = self.start
        while True:
            stopping = stop.requested(step)
            done = step >= config.steps or bool(self.ended)
            # DO NOT CHANGE THE ORDER: evaluate, save, next batch, step. What is saved has not seen the next batch.
            metrics = None
            if not stopping and self._eval_due(step):
                self.log.read(pending, self.saved_step)
                pending = None
                try:
                    metrics = self._evaluate(step, stop)
                    done |= bool(self.ended)
                except StopRequested:
                    stopping = True
                except Exception:  # bad input in an evaluation set does not cost the steps since the last save
                    self._save(step, None, wait=True)
                    raise
            every = config.checkpoint.every
            if stopping or done or (every and step > self.start and step % every == 0):
                self.log.read(pending, self.saved_step)
                pending = None
                self._save(step, metrics, wait=stopping or done)
            if stopping or done:
                return stopping
            self.checkpoints.check()

            if self.profile.turns(step):
                self.log.read(pending, self.saved_step)
                pending = None
                self.progress.say(self.profile.turn(step))
            with self.watchdog.step(step + 1), self.profile.step(step + 1):
                pending = self._step(programs, step, pending)
            step += 1

    def _step(self, programs: Programs, step: int, pending: Pending | None) -> Pending:
        """Takes a batch, sends it to the device, and meanwhile reads the step before."""
        waiting = time.monotonic()
        position = self.data.state
        try:
            host = next(self.data)
        except Exception:  # neither does bad input in the training data
            self.log.read(pending, self.saved_step)
            self._save(step, None, wait=True, position=position)
            raise
        waited = time.monotonic() - waiting
        real, padded = self.units(host) if self.units else (0.0, 0.0)
        real, padded = real * jax.process_count(), padded * jax.process_count()  # the others' rows are much the same
        self.state, logs, finite, flops = programs.run(self.state, host)
        self.log.read(pending, self.saved_step)
        return Pending(step + 1, logs, finite, (real, padded, flops, waited))

    # --- evaluate and save ---

    def _eval_due(self, step: int) -> bool:
        if not self.eval_sets:
            return False
        if step == self.start and step < self.config.steps:
            return step == 0 and (self.config.eval_first or self.guards.needs_start)
        every = self.config.eval_every
        return step >= self.config.steps or (every > 0 and step % every == 0)

    def _evaluate(self, step: int, stop: StopSignal) -> dict[str, float]:
        params = self.state.params if self.state.ema is None else self.state.ema
        metrics: dict[str, float] = {}
        began = time.monotonic()
        for name, batches in self.eval_sets.items():
            report = self.task.evaluate(params, self.state.model_state, stop.watch(batches()))
            self.reports[name] = report
            metrics |= {f"{name}/{key}": float(value) for key, value in report.metrics.items()}
            self.tracker.report(name, step, report, self.config.examples)
        wanted, known = self.config.checkpoint.metric, ", ".join(sorted(metrics))
        if wanted is not None and wanted not in metrics:
            raise UserError(f"checkpoint.metric: found {wanted!r}, expected one of {known}")
        self.guarded, reasons = self.guards.look(metrics)
        self.ended = tuple(reasons)
        self.tracker.write("eval", step, metrics=metrics)
        shown = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        shown += "" if self.guarded else " (beyond its guards)"
        self.progress.say(f"step {step} evaluated in {clock(time.monotonic() - began)}: {shown}")
        for reason in self.ended:
            self.progress.say(f"step {step} is the last: {reason}")
        return metrics

    def _save(self, step: int, metrics: dict[str, float] | None, *, wait: bool, position: Any = None) -> None:
        if self.saved_step != step:
            record = {
                "data": self.data.state if position is None else position,
                "pipeline": self.pipeline,
                "metrics": metrics,
                "guards": self.guards.record,
                "ended": self.ended,
                "within_guards": self.guarded if metrics is not None else True,
            }
            self.checkpoints.save(step, self.state, record)
            self.saved_step = step
        if wait:
            self.checkpoints.wait()

    def _check_pipeline(self) -> None:
        before = self.record.get("pipeline") or {}
        if self.config.force_resume or before == self.pipeline:
            return
        name = next(n for n in sorted({*before, *self.pipeline}) if before.get(n) != self.pipeline.get(n))
        raise UserError(
            f"{self.checkpoints.root}: found the run's data pipeline with {name} = {before.get(name)!r}, expected "
            f"{self.pipeline.get(name)!r} to stay the same; force_resume goes on all the same"
        )


def _place_key(key: jax.Array, mesh: Mesh) -> jax.Array:
    """The key on every device, of all processes: `jax.device_put` does that for plain numbers only."""
    wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(key))
    return jax.jit(wrap, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(key)))
