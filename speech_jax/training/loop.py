"""The training loop: evaluate, save, next batch, step.

The order matters: a checkpoint must hold the position of the data that the saved parameters have been trained on.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.placement import replicated
from speech_jax.core.types import PyTree, Report, Task, TrainState
from speech_jax.monitoring.progress import Progress, clock
from speech_jax.monitoring.prometheus import Endpoint
from speech_jax.monitoring.step_log import Pending, StepLog
from speech_jax.monitoring.tracking import Tracker
from speech_jax.monitoring.watchdog import Profile, Watchdog, make_sinks
from speech_jax.training import optimizer as optimizers
from speech_jax.training.checkpoint import Checkpoints
from speech_jax.training.compiling import Programs, compile_programs, init_spec_of
from speech_jax.training.config import MeshConfig, OptimizerConfig, TrainerConfig
from speech_jax.training.feed import Feed
from speech_jax.training.frozen import moving_state
from speech_jax.training.guard import Guards
from speech_jax.training.hosts import check_shared, run_on_all_or_fail
from speech_jax.training.privacy import forget_noise_key, noise_key
from speech_jax.training.sharding import make_mesh
from speech_jax.training.signals import RunLock, StopRequested, StopSignal
from speech_jax.training.state import init_shapes, make_state, num_params
from speech_jax.training.step import check_names


class FitResult(NamedTuple):
    """Outcome of a run.

    Attributes:
        state: the last state.
        reports: evaluation set -> its last Report.
        stopped: True if a signal ended the run before its last step; it has been saved and can be resumed.
        ended: reasons why the run ended early (a guard, no improvement); empty if it did not.
        compile_seconds: seconds of compilation.
        programs: number of compiled gradient programs, one per loss term and batch shape.
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
    """Train until `config.steps`, or resume the run in `out_dir` if there is one.

    SIGTERM and SIGINT finish the step, save a checkpoint and return with `stopped`.

    Args:
        task: model, objective, batch shapes and evaluation.
        train_data: `ResumableBatches` or `PairedBatches`; its state is saved with every checkpoint.
        config: length of the run, evaluations, checkpoints, logs.
        optimizer: optimizer, learning rate, frozen parameters.
        mesh: layout of the devices.
        out_dir: folder of the run: checkpoints, logs, evaluations.
        assets: JSON that is saved with every checkpoint: config, tokenizer, audio settings, versions.
        texts: file name -> text to write into `out_dir`, once no other run holds it.
        pipeline: JSON settings that decide the order of the data; resuming with other ones is refused.
        eval_sets: name -> function that makes the batches. Metrics are logged as "<name>/<metric>", and are those of
            the moving average where one is kept.
        init: (params, model_state) to start from; ignored on resume.
        fisher: weights of the parameters for `optimizer.ewc`; ignored on resume.
        units: host batch -> (real units, units with padding), for example seconds of audio, for the logged rates.
        unit_name: name of the unit in the logs.
        seed: seed of the initialization and of all randomness in training.
        epsilon: steps -> epsilon spent (`privacy.Accountant`); required if `config.step.privacy` is on.

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
        if lock is not None:
            for name, text in (texts or {}).items():
                write_file(out / name, text)
        with StopSignal() as stop:
            loop = _TrainingLoop(
                task=task,
                data=train_data,
                config=config,
                optimizer=optimizer,
                mesh=mesh,
                out=out,
                assets=assets,
                pipeline=pipeline or {},
                eval_sets=eval_sets or {},
                init=init,
                fisher=fisher,
                units=units,
                unit_name=unit_name,
                seed=seed,
                epsilon=epsilon,
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
        pipeline: Mapping[str, Any],
        eval_sets: Mapping[str, Callable[[], Iterable]],
        init: tuple[PyTree, PyTree] | None,
        fisher: PyTree | None,
        units: Callable[[PyTree], tuple[float, float]] | None,
        unit_name: str,
        seed: int,
        epsilon: Callable[[int], float] | None,
    ):
        self.task, self.data, self.config, self.eval_sets = task, data, config, eval_sets
        self.out, self.seed, self.optimizer_config = out, seed, optimizer
        self.units = units  # of this process's rows
        self.pipeline = json.loads(json.dumps(pipeline))
        self.private = config.step.privacy.on
        if self.private and epsilon is None:
            raise ValueError("a private run needs `epsilon`")
        self.main = jax.process_index() == 0

        # Where the run starts. DO NOT CHANGE THE ORDER:
        # 1. Shapes and shardings of the state; nothing is computed yet.
        # 2. Restore the newest whole checkpoint directly into those shardings. Only if there is none, initialize.
        # 3. Refuse a changed data pipeline before the data is moved to the saved position.
        # 4. Open the logs last: they drop the lines after the step that the run starts from.

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
        self.guards = Guards(config.guards, config.checkpoint, config.patience)
        self.within_guards = True  # at the last evaluation
        self.ended: tuple[str, ...] = ()  # why the run ends early
        self.checkpoints = Checkpoints(out, config.checkpoint, assets)
        restored = self.checkpoints.restore(self.struct)
        if restored is None:
            self.state = make()
        else:
            self.state, record = restored
            self._check_pipeline(record.get("pipeline") or {})
            self.guards.restore(record.get("guards") or {})
            self.ended = tuple(record.get("ended") or ())
            self.data.restore(record["data"])
        self.start = int(self.state.step)
        self.saved_step = self.start if restored else None

        # --- 4. logs ---
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
            self.progress.say(f"resuming at step {self.start}")
            for reason in self.ended:
                self.progress.say(f"the run has ended: {reason}")

    def run(self, stop: StopSignal) -> FitResult:
        """Compile, train to the end or to a signal, and close everything."""
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
        finally:
            self.watchdog.close()
            self.profile.close()
            self.progress.close()
            self.tracker.close()
            self.checkpoints.close()  # also after an error: finishes the save in the background
        seconds, count = (programs.seconds, programs.count) if programs else (0.0, 0)
        return FitResult(self.state, self.reports, stopped, self.ended, seconds, count)

    def _compile(self, stop: StopSignal) -> Programs:
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
        self.log.restart_clock()
        pending = None  # the step whose metrics have not been read from the device yet
        step = self.start
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
            if stopping or done or (every and step > self.start and step % every == 0):
                self.log.read(pending, self.saved_step)
                pending = None
                self._save(step, metrics, wait=stopping or done)
            if stopping or done:
                return stopping
            self.checkpoints.check()

            # --- next batch, step ---
            if self.profile.changes_at(step):
                self.log.read(pending, self.saved_step)
                pending = None
                self.progress.say(self.profile.start_or_stop(step))
            with self.watchdog.step(step + 1), self.profile.step(step + 1):
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
        metric = self.config.checkpoint.metric
        if metric is not None and metric not in metrics:
            names = ", ".join(sorted(metrics))
            raise UserError(f"trainer.checkpoint.metric: found {metric!r}, expected one of {names}")
        self.within_guards, reasons = self.guards.update(metrics)
        self.ended = tuple(reasons)
        self.tracker.write("eval", step, metrics=metrics)
        text = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        text += "" if self.within_guards else " (a guard is broken)"
        self.progress.say(f"step {step} evaluated in {clock(time.monotonic() - began)}: {text}")
        for reason in self.ended:
            self.progress.say(f"stopping at step {step}: {reason}")
        return metrics

    def _save(self, step: int, metrics: dict[str, float] | None, *, wait: bool, position: Any = None) -> None:
        if self.saved_step != step:
            record = {
                "data": self.data.state if position is None else position,
                "pipeline": self.pipeline,
                "metrics": metrics,
                "guards": self.guards.record,
                "ended": self.ended,
                "within_guards": self.within_guards if metrics is not None else True,
            }
            self.checkpoints.save(step, self.state, record)
            self.saved_step = step
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


def _place_key(key: jax.Array, mesh: Mesh) -> jax.Array:
    """Put the key on every device of all processes; `jax.device_put` does that for plain numbers only."""
    wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(key))
    return jax.jit(wrap, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(key)))
