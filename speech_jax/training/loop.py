"""The training loop: evaluate, save, next batch, step.

The order matters: a checkpoint must hold the position of the data that the saved parameters have been trained on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.log import log
from speech_jax.core.placement import replicated
from speech_jax.core.types import PyTree, Report, Task, TrainState
from speech_jax.monitoring.progress import Progress, clock
from speech_jax.monitoring.step_log import Pending, StepLog
from speech_jax.monitoring.tracking import Tracker
from speech_jax.monitoring.watch import Watch
from speech_jax.monitoring.watchdog import Profile, make_sinks
from speech_jax.training import optimizer as optimizers
from speech_jax.training.checkpoint import Checkpoints
from speech_jax.training.compiling import Programs, compile_programs, init_spec_of
from speech_jax.training.config import MeshConfig, OptimizerConfig, TrainerConfig
from speech_jax.training.feed import Feed
from speech_jax.training.frozen import count_params, moving_state
from speech_jax.training.guard import Guards, Verdict
from speech_jax.training.hosts import check_shared, run_on_all_or_fail
from speech_jax.training.privacy import forget_noise_key, noise_key
from speech_jax.training.sharding import make_mesh
from speech_jax.training.signals import RunLock, StopRequested, StopSignal
from speech_jax.training.state import Init, init_shapes, make_state, start_values
from speech_jax.training.step import check_names

CHANGES_FILE = "settings.jsonl"


class Resumption(NamedTuple):
    """Judgment of a run that resumes from a checkpoint.

    Attributes:
        lines: what has changed since the checkpoint, for the log.
        changes: JSON objects of the changes that apply from the checkpoint's step on, for settings.jsonl.
        ended: reasons why the run has ended early; empty if it has steps to do.
    """

    lines: tuple[str, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    ended: tuple[str, ...] = ()


class FitResult(NamedTuple):
    """Outcome of a run.

    Attributes:
        state: the last state.
        reports: evaluation set -> its last Report; empty if the run was finished before.
        stopped: True if a signal ended the run before its last step; it has been saved and can be resumed.
        ended: reasons why the run ended early (a guard, no improvement); empty if it did not.
        compile_seconds: seconds of compilation.
        programs: number of compiled gradient programs, one per loss term and batch shape.
        finished_before: True if there was nothing to do: the run had been finished, and nothing was written.
    """

    state: TrainState
    reports: Mapping[str, Report]
    stopped: bool
    ended: tuple[str, ...]
    compile_seconds: float
    programs: int
    finished_before: bool = False


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
    resume: Callable[[int, Mapping[str, Any], Mapping[str, Any]], Resumption] | None = None,
    eval_sets: Mapping[str, Callable[[], Iterable]] | None = None,
    init: Init = None,
    fisher: PyTree | None = None,
    units: Callable[[PyTree], tuple[float, float]] | None = None,
    unit_name: str = "audio_seconds",
    seed: int = 0,
    epsilon: Callable[[int], float] | None = None,
    watch: Watch | None = None,
) -> FitResult:
    """Train until `config.steps`, or resume the run in `out_dir` if there is one.

    SIGTERM, SIGINT, SIGHUP and a closed stderr finish the step, save a checkpoint and return with `stopped`.

    Args:
        task: model, objective, batch shapes and evaluation.
        train_data: `ResumableBatches` or `PairedBatches`; its state is saved with every checkpoint.
        config: length of the run, evaluations, checkpoints, logs.
        optimizer: optimizer, learning rate, frozen parameters.
        mesh: layout of the devices.
        out_dir: folder of the run: checkpoints, logs, evaluations.
        assets: JSON that is saved with every checkpoint: config, tokenizer, audio settings, versions.
        texts: file name -> text to write into `out_dir`, once it is certain that the run starts or resumes.
        pipeline: JSON that decides what is in each batch; it is saved with every checkpoint.
        resume: (step, record, assets) of the checkpoint to resume from -> what it means for this run; raises UserError
            to refuse. None refuses another `pipeline`, unless `config.force_resume`.
        eval_sets: name -> function that makes the batches. Metrics are logged as "<name>/<metric>", and are those of
            the moving average where one is kept.
        init: (params, model_state) to start from, or a function that makes them. A resume uses them only to measure a
            guard's reference that its checkpoint does not have.
        fisher: weights of the parameters for `optimizer.ewc`; ignored on resume.
        units: host batch -> (real units, units with padding), for example seconds of audio, for the logged rates.
        unit_name: name of the unit in the logs.
        seed: seed of the initialization and of all randomness in training.
        epsilon: steps -> epsilon spent (`privacy.Accountant`); required if `config.step.privacy` is on.
        watch: what watches the run already; None starts it here, as `config.watch` says.

    Returns:
        The last state, the last reports, and how the run ended.

    Raises:
        UserError: if the model does not fit the checkpoint, the disk is full, another run holds the folder, or the
            loss is not finite for `config.max_bad_steps` steps in a row.

    Example:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from speech_jax.core.types import LossOut, Model, Report, Task
        >>> from speech_jax.training.feed import ResumableBatches
        >>> from speech_jax.training.config import MeshConfig, OptimizerConfig, TrainerConfig
        >>> from speech_jax.training.loop import fit
        >>> def init(key, batch):
        ...     return {"slope": jnp.zeros(())}, {}
        >>> def apply(params, model_state, batch, *, key, train):
        ...     return params["slope"] * batch["x"], model_state
        >>> def objective(params, model_state, batch, key, step):
        ...     out, model_state = apply(params, model_state, batch, key=key, train=True)
        ...     return LossOut(jnp.mean((out - batch["y"]) ** 2), jnp.float32(8), model_state, {})
        >>> def batch_spec(rows):
        ...     return {name: jax.ShapeDtypeStruct((rows,), jnp.float32) for name in "xy"}
        >>> def batches(start):
        ...     while True:
        ...         x = np.linspace(-1, 1, 8, dtype=np.float32)
        ...         yield {"x": x, "y": 3 * x}
        >>> task = Task(Model(init, apply), objective, batch_spec, lambda *_: Report({}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit(
        ...         task,
        ...         ResumableBatches(batches, buckets=[8]),
        ...         config=TrainerConfig(steps=2, tensorboard=False),
        ...         optimizer=OptimizerConfig(peak_lr=0.1, warmup_steps=0, schedule="constant"),
        ...         mesh=MeshConfig(),
        ...         out_dir=folder,
        ...         assets={},
        ...     )
        >>> int(result.state.step), round(float(result.state.params["slope"]), 3)
        (2, 0.2)
    """
    out = Path(out_dir)
    lock = run_on_all_or_fail(lambda: RunLock(out) if jax.process_index() == 0 else None)
    try:
        check_shared(out)
        with StopSignal() as stop, contextlib.ExitStack() as closing:  # in the reverse order, also after an error
            loop = _TrainingLoop(
                task=task,
                data=train_data,
                config=config,
                optimizer=optimizer,
                mesh=mesh,
                out=out,
                assets=assets,
                texts=texts or {},
                pipeline=pipeline or {},
                resume=resume,
                eval_sets=eval_sets or {},
                init=init,
                fisher=fisher,
                units=units,
                unit_name=unit_name,
                seed=seed,
                epsilon=epsilon,
                watch=watch or closing.enter_context(run_on_all_or_fail(lambda: Watch(config.watch, config.steps))),
                closing=closing,
            )
            return loop.run(stop)
    finally:
        train_data.close()
        if lock is not None:
            lock.release()


class _TrainingLoop:
    """The loop with everything it needs. See `fit` for the arguments."""

    def __init__(
        self,
        *,
        task: Task,
        data: Feed,
        config: TrainerConfig,
        optimizer: OptimizerConfig,
        mesh: MeshConfig,
        out: Path,
        assets: Mapping[str, Any],
        texts: Mapping[str, str],
        pipeline: Mapping[str, Any],
        resume: Callable[[int, Mapping[str, Any], Mapping[str, Any]], Resumption] | None,
        eval_sets: Mapping[str, Callable[[], Iterable]],
        init: Init,
        fisher: PyTree | None,
        units: Callable[[PyTree], tuple[float, float]] | None,
        unit_name: str,
        seed: int,
        epsilon: Callable[[int], float] | None,
        watch: Watch,
        closing: contextlib.ExitStack,
    ):
        self.task, self.data, self.config, self.eval_sets = task, data, config, eval_sets
        self.out, self.seed, self.optimizer_config = out, seed, optimizer
        self.watch, self.closing = watch, closing
        self.units = units  # of this process's rows
        self.init = init
        self.pipeline = json.loads(json.dumps(pipeline))
        self.texts, self.resume, self.unit_name, self.epsilon = texts, resume, unit_name, epsilon
        self.private = config.step.privacy.on
        if self.private and epsilon is None:
            raise ValueError("a private run needs `epsilon`")
        self.main = jax.process_index() == 0

        # Where the run starts. DO NOT CHANGE THE ORDER:
        # 1. Shapes and shardings of the state; nothing is computed yet.
        # 2. Decide if the run may resume from the newest whole checkpoint, before anything is written.
        # 3. Restore it directly into those shardings. Only if there is none, initialize.
        # 4. Open the logs last: they drop the lines after the step that the run starts from. A run that has nothing
        #    to do opens none, so that its folder stays as it is.

        # --- 1. shapes and shardings ---
        self.mesh = make_mesh(mesh)
        spec = init_spec_of(task.batch_spec, data.buckets[-1])
        params, model_state = init_shapes(task.model, spec, seed)
        make, self.struct, self.shardings = make_state(
            task.model,
            spec,
            lambda p: optimizers.make_optimizer(optimizer, p, config.steps, fisher),
            self.mesh,
            mesh,
            seed=seed,
            ema=config.step.ema is not None,
            init=init,
            rules=task.sharding,
        )
        self.trainable = optimizers.trainable(optimizer, params)
        self.optimizer = optimizers.make_optimizer(optimizer, params, config.steps)

        # --- 2. and 3. restore or initialize ---
        self.resumption = Resumption()
        self.guards = Guards(config.guards, config.checkpoint, config.patience)
        self.verdict = Verdict(within=True, best=False)  # of the last evaluation
        self.ended: tuple[str, ...] = ()  # why the run ends early
        watch.begin("restoring the state")
        self.checkpoints = Checkpoints(out, config.checkpoint, assets)
        closing.callback(self.checkpoints.close)  # finishes the save in the background
        restored = self.checkpoints.restore(self.struct, self._decide)
        if restored is None:
            self.state = make()
        else:
            self.state, record = restored
            if not self.guards.restore(record.get("guards") or {}):
                line = (
                    "checkpoint.metric, its mode or the guards changed: the best so far is the best kept checkpoint by "
                    "the new settings, and patience starts again"
                )
                self.resumption = self.resumption._replace(lines=(*self.resumption.lines, line))
            self.ended = self.resumption.ended
            self.data.restore(record["data"])
        self.start = int(self.state.step)
        self.saved_step = self.start if restored else None
        self.saved_metrics = restored is not None and bool(restored[1].get("metrics"))  # of that checkpoint
        self.reports: dict[str, Report] = {}

        # --- 4. logs ---
        no_steps = self.start >= config.steps and (self.saved_metrics or not self.eval_sets)
        self.finished_before = restored is not None and (bool(self.ended) or no_steps)
        if not self.finished_before:
            self._open_logs(params, model_state, None if restored is None else restored[1])

    def _decide(self, step: int, record: Mapping[str, Any], assets: Mapping[str, Any]) -> None:
        """Set `resumption` for the checkpoint of `step`. Raises UserError if the run may not resume from it."""
        if self.resume is not None:
            resume = self.resume
            self.resumption = run_on_all_or_fail(lambda: resume(step, record, assets))
        else:
            self._check_pipeline(record.get("pipeline") or {})
            self.resumption = Resumption(ended=tuple(record.get("ended") or ()))

    def _open_logs(self, params: PyTree, model_state: PyTree, record: Mapping[str, Any] | None) -> None:
        """Write the settings in force, and open the logs where the checkpoint with `record` left them."""
        config, out = self.config, self.out
        if self.main:
            for name, text in self.texts.items():
                write_file(out / name, text)
            write_changes(out / CHANGES_FILE, self.start, self.resumption.changes)
        self.profile = Profile(config.watch.profile, out / "profile", enabled=self.main)
        self.closing.callback(self.profile.close)
        endpoint = self.watch.endpoint
        self.progress = Progress(config.steps, self.start, seconds=config.progress_seconds, enabled=self.main)
        self.closing.callback(self.progress.close)
        sinks = ([endpoint] if endpoint else []) + (make_sinks(config.watch, out) if self.main else [])
        start = -1 if record is None else self.start
        self.tracker = Tracker(out, start, tensorboard=config.tensorboard, enabled=self.main, sinks=sinks)
        self.closing.callback(self.tracker.close)
        self.log = StepLog(
            self.progress,
            self.tracker,
            steps=config.steps,
            every=config.log_every,
            checks=check_names(params, model_state, self.trainable),
            bad=(int(self.state.opt_state.skipped), int(self.state.opt_state.skipped_in_a_row)),
            max_bad=config.max_bad_steps,
            unit_name=self.unit_name,
            epsilon=self.epsilon if self.private else None,
            beat=endpoint.beat if endpoint else None,
            warmup=self.optimizer_config.warmup_steps,
        )
        kind = jax.devices()[0].device_kind
        self.progress.say(f"{count_params(self.optimizer_config, params)} on {self.mesh.size} {kind} device(s)")
        if record is not None:
            self.log.restore(record.get("log") or {})
            self.progress.say(f"resuming at step {self.start}")
            for line in self.resumption.lines:
                self.progress.say(line)

    def run(self, stop: StopSignal) -> FitResult:
        """Compile, and train to the end or to a signal."""
        if self.finished_before:
            return self._finished()
        programs, stopped = None, False
        try:
            if self.start < self.config.steps and not self.ended:
                programs = self._compile(stop)
            stopped = self._train(programs, stop)
            if self.private and not stopped:
                forget_noise_key(self.out, int(self.state.step))
        except StopRequested:  # while compiling
            stopped = True
            self._save(self.start, None, wait=True)
        seconds, count = (programs.seconds, programs.count) if programs else (0.0, 0)
        return FitResult(self.state, self.reports, stopped, self.ended, seconds, count)

    def _finished(self) -> FitResult:
        """Return the result of a run that has nothing to do, and write nothing."""
        if self.private:
            forget_noise_key(self.out, self.start)
        reason = f"the run has ended early at step {self.start}: {'; '.join(self.ended)}"
        if not self.ended:
            reason = f"the run has reached its last step {self.start} (trainer.steps)"
        log.info("nothing to do: %s", reason)
        return FitResult(self.state, {}, False, self.ended, 0.0, 0, finished_before=True)

    def _compile(self, stop: StopSignal) -> Programs:
        self.watch.begin("compiling")
        keys = [jax.random.key(self.seed), *([noise_key(self.out, self.saved_step)] if self.private else [])]
        programs = compile_programs(
            self.task,
            state=self.struct,
            shardings=self.shardings,
            optimizer=self.optimizer,
            trainable=self.trainable,
            config=self.config.step,
            buckets=self.data.buckets,
            mesh=self.mesh,
            keys=[_place_key(key, self.mesh) for key in keys],
            rate=optimizers.learning_rate(self.optimizer_config, self.config.steps),
            moving_state=moving_state(self.optimizer_config, self.struct.params, self.struct.model_state),
            log_every=self.config.log_every,
            penalties=functools.partial(optimizers.penalties, self.optimizer_config),
            say=self.progress.say,
            check_stop=stop.check,
        )
        self.tracker.write("compile", self.start, metrics={"seconds": programs.seconds, "programs": programs.count})
        return programs

    def _train(self, programs: Programs | None, stop: StopSignal) -> bool:
        """Run the steps; return True if a signal ended them."""
        config = self.config
        self.watch.begin("the evaluation before the first step")
        pending = None  # the step whose metrics have not been read from the device yet
        step = self.start
        if step and self.guards.missing and not self.ended:
            try:
                self._measure_start(stop)
            except StopRequested:
                return True  # all that was trained is saved
        # only now: the references decide which checkpoints are within the guards
        self.guards.set_best(self.checkpoints.find_best(self.guards.limits).get("metrics") or {})
        while True:
            stopping = stop.requested(step)
            done = step >= config.steps or bool(self.ended)

            # DO NOT CHANGE THE ORDER: evaluate, save, next batch, step.
            # 1. Evaluate before saving: the checkpoint records the metrics that decide if it is the best.
            # 2. Save before taking the next batch: the saved data position must not count a batch that the saved
            #    parameters have not been trained on, or a resume would skip it.
            # 3. Dispatch step n, and only then read the metrics of step n - 1, so that the device never waits for the
            #    host. Before an evaluation or a save the pending step is read first, so that bad steps are noticed.

            # --- evaluate ---
            metrics = None
            if not stopping and self._eval_due(step):
                self.log.read(pending, self.saved_step)
                pending = None
                try:
                    metrics = self._evaluate(step, stop)
                    done |= bool(self.ended)
                except StopRequested:
                    stopping = True
                except Exception:  # bad input in an evaluation set must not cost the steps since the last save
                    self._save(step, None, wait=True)
                    raise

            # --- save ---
            every = config.checkpoint.every
            best = metrics is not None and self.verdict.best and config.checkpoint.keep_best > 0
            # A signal or an error had prevented the evaluation; that of step 0 is a reference and no candidate.
            evaluated = metrics is not None and step == self.saved_step and step > 0
            if stopping or done or best or evaluated or (every and step > self.start and step % every == 0):
                self.log.read(pending, self.saved_step)
                pending = None
                self._save(step, metrics, wait=stopping or done)
            if stopping or done:
                return stopping
            self.checkpoints.check()

            # --- next batch, step ---
            if step == self.start:
                self.log.restart_clock()  # only now, as compiling and a first evaluation tell nothing about the steps
            if self.profile.changes_at(step):
                self.log.read(pending, self.saved_step)
                pending = None
                self.progress.say(self.profile.start_or_stop(step))
            with self.watch.step(step + 1), self.profile.step(step + 1):
                assert programs is not None  # compiled where there are steps to run
                pending = self._step(programs, step, pending)
            step += 1

    def _step(self, programs: Programs, step: int, pending: Pending | None) -> Pending:
        """Take a batch and dispatch its step; read the metrics of the step before while the device works."""
        began = time.monotonic()
        position = self.data.state
        try:
            host_batch = next(self.data)
        except Exception:  # nor may bad input in the training data cost the steps since the last save
            self.log.read(pending, self.saved_step)
            self._save(step, None, wait=True, position=position)
            raise
        waited = time.monotonic() - began
        real, padded = self.units(host_batch) if self.units else (0.0, 0.0)
        real, padded = real * jax.process_count(), padded * jax.process_count()  # other processes' rows are similar
        self.state, logs, finite, flops = programs.run(self.state, host_batch)
        self.log.read(pending, self.saved_step)
        return Pending(step + 1, logs, finite, (real, padded, flops, waited))

    # --- evaluate and save ---

    def _eval_due(self, step: int) -> bool:
        if not self.eval_sets:
            return False
        if step == 0 and self.config.steps:
            return self.config.eval_first or bool(self.guards.missing)
        every = self.config.eval_every
        due = step >= self.config.steps or (every > 0 and step % every == 0)
        return due and not (step == self.saved_step and self.saved_metrics)

    def _evaluate(self, step: int, stop: StopSignal) -> dict[str, float]:
        params = self.state.params if self.state.ema is None else self.state.ema
        began, first = time.monotonic(), not self.reports
        self.reports = self._reports(params, self.state.model_state, self.eval_sets, stop)
        if first:  # most of it was compilation
            self.progress.exclude(time.monotonic() - began)
        metrics = _metrics(self.reports)
        for name, report in self.reports.items():
            self.tracker.report(name, step, report, self.config.examples)
        metric = self.config.checkpoint.metric
        if metric is not None and metric not in metrics:
            names = ", ".join(sorted(metrics))
            raise UserError(f"trainer.checkpoint.metric: found {metric!r}, expected one of {names}")
        if step == 0:
            self.guards.set_references(metrics)
        else:
            self.verdict = self.guards.update(metrics)
        self.ended = self.verdict.reasons
        self.tracker.write("eval", step, metrics=metrics)
        text = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        text += " (a guard is broken)" if not self.verdict.within else " (the best so far)" if self.verdict.best else ""
        text += "".join(f" ({name}: {note})" for name, report in self.reports.items() for note in report.notes)
        self.progress.say(f"step {step} evaluated in {clock(time.monotonic() - began)}: {text}")
        for reason in self.ended:
            self.progress.say(f"stopping at step {step}: {reason}")
        return metrics

    def _reports(
        self, params: PyTree, model_state: PyTree, sets: Iterable[str], stop: StopSignal
    ) -> dict[str, Report]:
        return {name: self.task.evaluate(params, model_state, stop.watch(self.eval_sets[name]())) for name in sets}

    def _measure_start(self, stop: StopSignal) -> None:
        """Measure the references of guards that were added after the first step, on the model the run started from."""
        missing = self.guards.missing
        spec = init_spec_of(self.task.batch_spec, self.data.buckets[-1])

        def make_init() -> Any:
            try:
                return self.init() if callable(self.init) else self.init
            except UserError as error:
                raise UserError(
                    f"trainer.guards: {self.checkpoints.root / str(self.start)} has no reference for "
                    f"{', '.join(missing)}, and the start model cannot be measured: {error}"
                ) from error

        init = run_on_all_or_fail(make_init)
        params, model_state = start_values(self.task.model, spec, self.seed, init, self.struct)
        sets = dict.fromkeys(name.rpartition("/")[0] for name in missing)
        metrics = _metrics(self._reports(params, model_state, [name for name in sets if name in self.eval_sets], stop))
        self.guards.set_references(metrics)
        references = {name: metrics[name] for name in missing}
        self.tracker.write("start_model", self.start, metrics=references)
        self.progress.say("start model: " + " ".join(f"{name} {value:.4g}" for name, value in references.items()))

    def _save(self, step: int, metrics: dict[str, float] | None, *, wait: bool, position: Any = None) -> None:
        if self.saved_step != step or (metrics is not None and not self.saved_metrics):
            record = {
                "data": self.data.state if position is None else position,
                "pipeline": self.pipeline,
                "metrics": metrics,
                "guards": self.guards.record,
                "log": self.log.sums,
                "ended": self.ended,
                "limits": self.guards.limits,
                "within_guards": None if metrics is None else self.verdict.within,
            }
            if self.saved_step == step:
                self.checkpoints.update(step, record)
            else:
                self.checkpoints.save(step, self.state, record)
            self.saved_step, self.saved_metrics = step, metrics is not None
        if wait:
            self.checkpoints.wait()

    def _check_pipeline(self, saved: Mapping[str, Any]) -> None:
        if self.config.force_resume or saved == self.pipeline:
            return
        name = next(n for n in sorted({*saved, *self.pipeline}) if saved.get(n) != self.pipeline.get(n))
        raise UserError(
            f"{self.checkpoints.root}: the data pipeline changed since this checkpoint: found {name} = "
            f"{saved.get(name)!r}, expected {self.pipeline.get(name)!r}; --trainer.force-resume resumes anyway, "
            "and the order of the data will differ"
        )


def write_changes(file: Path, step: int, changes: Sequence[Mapping[str, Any]]) -> None:
    """Write the settings that change at `step` after those that changed before it.

    A file that is there may have lines of this or of later steps, of a resume whose steps were lost; they are dropped.
    There is no file if nothing has changed.

    Args:
        file: JSON Lines; each has a "step".
        step: the step that the run resumes at.
        changes: the new lines.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    text = "".join(line + "\n" for line in [*kept, *map(json.dumps, changes)])
    if text:
        write_file(file, text)
    else:
        file.unlink(missing_ok=True)


def _metrics(reports: Mapping[str, Report]) -> dict[str, float]:
    """Return "<evaluation set>/<metric>" -> value."""
    return {f"{name}/{key}": float(x) for name, report in reports.items() for key, x in report.metrics.items()}


def _place_key(key: jax.Array, mesh: Mesh) -> jax.Array:
    """Put the key on every device of all processes; `jax.device_put` does that for plain numbers only."""
    wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(key))
    return jax.jit(wrap, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(key)))
