"""The loop: order, compilations, bad numbers, evaluation, logs, what is refused."""

import json
import logging
import os
import resource
import signal
import time

import jax
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket, Report
from speech_jax.objectives.mix import mix
from speech_jax.training.checkpoint import find_checkpoint, load_assets, load_params, saved_steps
from speech_jax.training.config import CheckpointConfig, GuardConfig, StepConfig, TrainerConfig
from speech_jax.training.feed import PairedBatches, ResumableBatches
from speech_jax.training.signals import RunLock
from tests.support import toy


def lines(folder, kind):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def record(folder, step):
    return json.loads((folder / "checkpoints" / str(step) / "data" / "metadata").read_text())


def dev():
    return [toy.make_batch(n, seed=9) for n in range(3)]


def test_a_run_from_beginning_to_end(tmp_path, capsys):
    config = CheckpointConfig(every=5, metric="dev/mse")
    result = toy.train(
        tmp_path, steps=20, alpha=0.3, checkpoint=config, eval_sets={"dev": dev}, eval_every=5, eval_first=True
    )
    assert int(result.state.step) == 20 and not result.stopped
    train = lines(tmp_path, "train")
    assert [line["step"] for line in train] == list(range(2, 21, 2))
    last = train[-1]
    names = {"loss", "pre/loss", "task/loss", "task/abs_error", "grad_norm", "grad_norm/pre", "grad_cos/pre_task"}
    assert names | {"alpha", "learning_rate", "skipped"} <= set(last["metrics"])
    assert last["metrics"]["alpha"] == pytest.approx(0.3)
    expected = 0.3 * last["metrics"]["pre/loss"] + 0.7 * last["metrics"]["task/loss"]
    assert last["metrics"]["loss"] == pytest.approx(expected, rel=1e-5)
    real, padded = map(sum, zip(*[toy.units(toy.make_batch(n, seed=s)) for n in (18, 19) for s in (1, 2)], strict=True))
    assert last["rates"]["padding"] == pytest.approx(1 - real / padded)
    assert last["rates"]["points_per_second"] > 0 and last["rates"]["steps_per_second"] > 0
    assert "utilization" not in last["rates"]  # nobody knows the peak of a CPU
    evaluated = lines(tmp_path, "eval")
    assert [line["step"] for line in evaluated] == [0, 5, 10, 15, 20]
    assert evaluated[-1]["metrics"]["dev/mse"] < evaluated[0]["metrics"]["dev/mse"]
    # what is evaluated and handed out is the moving average
    params, model_state = load_params(tmp_path, "last")
    assert toy.digest(params) == toy.digest(result.state.ema) != toy.digest(result.state.params)
    report = toy.evaluate(params, model_state, dev())
    assert report.metrics["mse"] == pytest.approx(evaluated[-1]["metrics"]["dev/mse"], rel=1e-5)
    best = min(evaluated[1:], key=lambda line: line["metrics"]["dev/mse"])["step"]
    assert {best, 15, 20} == set(saved_steps(tmp_path / "checkpoints"))
    assert load_assets(tmp_path) == {"kind": "toy"}
    assert list((tmp_path / "tensorboard").glob("events*"))
    err = capsys.readouterr().err
    assert "evaluated in" in err and "compiled pre shape" in err and "step 20/20 | loss" in err
    assert "\r" not in err  # no bar where there is no terminal


class Compilations(logging.Handler):
    """The names of the programs that JAX compiles meanwhile."""

    def __enter__(self):
        self.names = []
        self._old = jax.config.jax_log_compiles
        jax.config.update("jax_log_compiles", True)
        self._logger = logging.getLogger("jax._src.interpreters.pxla")
        self._logger.addHandler(self)
        return self

    def emit(self, record):
        self.names.append(record.getMessage().split()[1])

    def __exit__(self, *_):
        self._logger.removeHandler(self)
        jax.config.update("jax_log_compiles", self._old)


def test_compilations_are_as_many_as_buckets(tmp_path):
    """One gradient for each bucket of each stream, one update; nothing else, however long the run."""
    pre, task = (Bucket(8, 12, 1), Bucket(8, 20, 1), Bucket(8, 28, 1)), (Bucket(8, 12, 1), Bucket(8, 20, 1))
    data = PairedBatches(toy.feed(seed=1, buckets=pre), toy.feed(seed=2, buckets=task))
    with Compilations() as first:
        result = toy.train(tmp_path, steps=30, alpha=0.5, data=data, every=10)
    assert result.programs == len(pre) + len(task)
    assert first.names.count("jit(gradient)") == len(pre) + len(task)
    assert first.names.count("jit(update)") == 1
    met = {tuple(toy.make_batch(n, seed=1, buckets=pre)["x"].shape) for n in range(30)}
    assert len(met) == len(pre)  # all of them did come
    assert result.compile_seconds > 0
    assert lines(tmp_path, "compile")[0]["metrics"]["programs"] == result.programs


def test_the_longest_is_compiled_first(tmp_path, capsys):
    toy.train(tmp_path, steps=1)
    err = capsys.readouterr().err
    assert err.index("shape 1 of 2 (8 x 20)") < err.index("shape 2 of 2 (8 x 12)")


def test_a_shape_outside_the_plan_is_an_error(tmp_path):
    stray = toy.feed(wrap=lambda n, batch: batch if n < 3 else toy.make_batch(0, buckets=(Bucket(8, 16, 1),)))
    with pytest.raises(UserError, match=r"found a batch of .*\(8, 16\).*, expected one of the 2 shapes"):
        toy.train(tmp_path, data=stray, steps=6)


def test_bad_numbers_are_named_counted_and_in_the_end_fatal(tmp_path, capsys):
    def spoil(index, batch):
        if index in (3, 7) or index >= 12:
            batch["y"][2] = np.inf
        return batch

    with pytest.raises(UserError, match="found 4 bad steps in a row up to step 16.*the last checkpoint is step 12"):
        toy.train(tmp_path, steps=40, data=toy.feed(wrap=spoil), every=4, max_bad_steps=4)
    err = capsys.readouterr().err
    assert "step 4 skipped: the loss, the gradient of encoder/hidden/bias" in err
    assert [line["step"] for line in lines(tmp_path, "bad_step")] == [4, 8, 13, 14, 15, 16]
    assert lines(tmp_path, "train")[-1]["metrics"]["skipped"] >= 2
    assert all(line["metrics"]["loss"] is not None for line in lines(tmp_path, "train") if line["step"] <= 12)
    assert saved_steps(tmp_path / "checkpoints")[-1] == 12
    # the run can go on, with better data; the count of skipped steps goes on too
    result = toy.train(tmp_path, steps=14, every=4)
    assert int(result.state.opt_state.skipped) == 2


def test_two_runs_in_one_folder_are_refused(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match="found another run in this folder"):
        toy.train(tmp_path, steps=2)
    assert not (tmp_path / "metrics.jsonl").exists()
    lock.release()
    assert int(toy.train(tmp_path, steps=2).state.step) == 2


def test_a_changed_pipeline_is_refused_unless_forced(tmp_path):
    toy.train(tmp_path, steps=4, pipeline={"plan": {"seed": 1}, "workers": 2})
    with pytest.raises(UserError, match="found plan = {'seed': 1}, expected {'seed': 2}"):
        toy.train(tmp_path, steps=6, pipeline={"plan": {"seed": 2}, "workers": 2})
    result = toy.train(tmp_path, steps=6, pipeline={"plan": {"seed": 2}, "workers": 2}, force_resume=True)
    assert int(result.state.step) == 6
    assert int(toy.train(tmp_path, steps=7, pipeline={"plan": {"seed": 2}, "workers": 2}).state.step) == 7


def test_a_metric_that_nobody_measures_is_an_error(tmp_path):
    with pytest.raises(UserError, match="checkpoint.metric: found 'dev/wer', expected one of dev/mse"):
        toy.train(tmp_path, steps=2, checkpoint=CheckpointConfig(metric="dev/wer"), eval_sets={"dev": dev})


def test_a_run_starts_from_given_parameters(tmp_path):
    first = toy.train(tmp_path / "a", steps=3)
    start = load_params(tmp_path / "a", ema=False)
    again = toy.train(tmp_path / "b", steps=0, init=start)
    assert toy.digest(again.state.params) == toy.digest(first.state.params)
    assert toy.digest(again.state.model_state) == toy.digest(first.state.model_state)
    assert int(again.state.step) == 0
    start[0]["head"]["kernel"] = np.zeros((5, 1), np.float32)
    with pytest.raises(UserError, match=r"found 'head/kernel' with shape \(5, 1\), expected \(16, 1\)"):
        toy.train(tmp_path / "c", steps=1, init=start)


def test_the_loop_evaluates_saves_and_only_then_takes_a_batch(tmp_path):
    story = []

    def stream(start):
        n = start
        while True:
            story.append(("batch", n))
            yield toy.make_batch(n)
            n += 1

    def evaluate(params, model_state, batches):
        story.append(("eval", None))
        return toy.evaluate(params, model_state, batches)

    task = toy.make_task()._replace(evaluate=evaluate)
    toy.train(
        tmp_path,
        steps=4,
        data=ResumableBatches(stream, toy.BUCKETS),
        task=task,
        every=2,
        eval_every=2,
        eval_sets={"dev": dev},
    )
    assert [kind for kind, _ in story] == ["batch", "batch", "eval", "batch", "batch", "eval"]
    data = json.loads((tmp_path / "checkpoints" / "2" / "data" / "metadata").read_text())
    assert data["data"] == 2 and "dev/mse" in data["metrics"]


def test_alpha_zero_is_the_plain_run_bit_for_bit(tmp_path):
    """Three steps with dropout: the stream of the old domain is not even opened."""

    def never(start):
        raise AssertionError("the dropped stream was read")
        yield start

    plain = toy.train(tmp_path / "plain", steps=3, data=toy.feed(seed=2))
    objective = mix(toy.make_objective(scale=-1.0), toy.make_objective(), 0.0)

    class OnlyTask(PairedBatches):
        def __next__(self):
            return {"task": next(self._feeds["task"])}

    data = OnlyTask(ResumableBatches(never, toy.BUCKETS), toy.feed(seed=2))
    units = toy.units
    toy.units = lambda batch: units(batch["task"] if "task" in batch else batch)
    try:
        mixed = toy.train(tmp_path / "mixed", steps=3, data=data, task=toy.make_task(objective))
    finally:
        toy.units = units
    assert toy.digest(mixed.state) == toy.digest(plain.state)
    assert mixed.programs == plain.programs == 2


def test_micro_batches_and_the_average_in_a_run(tmp_path):
    mesh = toy.MeshConfig(data=1, fsdp=1, tensor=8)
    result = toy.train(tmp_path, steps=3, step=StepConfig(accumulate=2, ema=0.5), mesh=mesh)
    assert int(result.state.step) == 3 and np.isfinite(np.asarray(result.state.params["head"]["kernel"])).all()


def test_the_defaults_are_valid():
    assert TrainerConfig().checkpoint.keep_last >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread dies
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # so do orbax's writers
def test_a_full_disk_ends_the_run_and_not_what_it_had(tmp_path, caplog):
    """Checkpoints, log and TensorBoard all meet the limit; the run does not hang, and its log does not end it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(index, batch):
        if index == 12:
            manifest = tmp_path / "run" / "checkpoints" / "10" / "sha256.json"
            while not manifest.exists():  # that one is saved in the background
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        return batch

    expected = toy.train(tmp_path / "whole", steps=40, every=10)
    data = toy.feed(wrap=fill_the_disk)
    try:
        with pytest.raises(UserError, match="cannot save step 20.*the last good checkpoint is step 10"):
            toy.train(tmp_path / "run", steps=40, data=data, every=10)
        with pytest.raises(UserError, match="the run's logs cannot be written"):
            toy.train(tmp_path / "run", steps=40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "metrics.jsonl: cannot be written" in caplog.text
    result = toy.train(tmp_path / "run", steps=40, every=10)
    assert toy.digest(result.state) == toy.digest(expected.state)


def test_a_signal_in_an_evaluation_leaves_it(tmp_path):
    def slow():
        yield toy.make_batch(0)
        os.kill(os.getpid(), signal.SIGTERM)
        for n in range(1, 10):
            yield toy.make_batch(n)
        raise AssertionError("the evaluation went on")

    before = signal.getsignal(signal.SIGTERM)
    result = toy.train(tmp_path, steps=6, every=100, eval_every=4, eval_sets={"dev": slow})
    assert result.stopped and int(result.state.step) == 4
    assert saved_steps(tmp_path / "checkpoints") == [4]
    assert signal.getsignal(signal.SIGTERM) is before
    assert toy.digest(toy.train(tmp_path, steps=6).state) == toy.digest(toy.train(tmp_path / "whole", steps=6).state)


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_bad_input_does_not_cost_what_was_computed(tmp_path, where):
    def fail(index, batch):
        if index == 5:
            raise UserError("a.wav: found nothing, expected sound")
        return batch

    def bad_set():
        yield fail(5, None)

    data = PairedBatches(toy.feed(seed=1), toy.feed(seed=2, wrap=fail)) if where == "training" else None
    sets = {} if where == "training" else {"dev": bad_set}
    with pytest.raises(UserError, match="a.wav"):
        toy.train(tmp_path / "run", steps=8, alpha=0.5, data=data, every=100, eval_every=5, eval_sets=sets)
    assert saved_steps(tmp_path / "run" / "checkpoints") == [5]
    sets = {} if where == "training" else {"dev": dev}  # the evaluation that the error prevented is made up for
    resumed = toy.train(tmp_path / "run", steps=8, alpha=0.5, eval_every=5, eval_sets=sets)
    assert [line["step"] for line in lines(tmp_path / "run", "eval")] == ([] if where == "training" else [5, 8])
    assert bool(record(tmp_path / "run", 5)["metrics"]) == (where == "evaluation")
    whole = toy.train(tmp_path / "whole", steps=8, alpha=0.5)
    assert toy.digest(resumed.state) == toy.digest(whole.state)


# --- what is called best is saved ---


def evaluating(*values):
    """A task whose evaluations of "dev" return these values of "loss" and "old", and no more."""
    values = iter(values)

    def evaluate(params, model_state, batches):
        loss, old = next(values)
        return Report({"loss": loss, "old": old})

    return dict(task=toy.make_task()._replace(evaluate=evaluate), eval_sets={"dev": list}, eval_every=2)


BEST = CheckpointConfig(every=6, metric="dev/loss")


def test_the_best_evaluation_off_the_saving_steps_is_saved_and_kept(tmp_path):
    """Evaluations at 2, 4, …, checkpoints at 6, 12: the best is that of step 4."""
    sets = evaluating(*((loss, 1) for loss in (0.6, 0.41, 0.57, 0.59, 0.58, 0.569)))
    result = toy.train(tmp_path, steps=12, checkpoint=BEST, **sets)
    assert find_checkpoint(tmp_path).name == "4" and record(tmp_path, 4)["metrics"]["dev/loss"] == 0.41
    assert saved_steps(tmp_path / "checkpoints") == [4, 6, 12]
    assert toy.digest(result.state) == toy.digest(toy.train(tmp_path / "whole", steps=12).state)
    # across a resume: 0.42 at step 14 is not the best so far, 0.40 at step 16 is
    sets = evaluating((0.42, 1), (0.40, 1), (0.5, 1))
    toy.train(tmp_path, steps=18, checkpoint=BEST, **sets)
    assert saved_steps(tmp_path / "checkpoints") == [16, 18] and find_checkpoint(tmp_path).name == "16"


def test_keep_best_0_saves_nothing_in_addition(tmp_path):
    checkpoint = CheckpointConfig(every=6, metric="dev/loss", keep_best=0, keep_last=9)
    toy.train(tmp_path, steps=12, checkpoint=checkpoint, **evaluating(*((1 / n, 1) for n in range(1, 7))))
    assert saved_steps(tmp_path / "checkpoints") == [6, 12]


def test_the_start_is_no_candidate_for_the_best(tmp_path):
    sets = evaluating(*((loss, 1) for loss in (0.1, 0.5, 0.6, 0.7)))
    toy.train(tmp_path, steps=6, checkpoint=BEST, eval_first=True, **sets)
    assert find_checkpoint(tmp_path).name == "2"


def test_with_guards_alone_the_last_within_them_is_kept(tmp_path):
    sets = evaluating(*((0.5, old) for old in (1, 1, 1.01, 2, 2, 2, 2)))
    guards = (GuardConfig("dev/old", 0.02),)
    toy.train(tmp_path, steps=12, checkpoint=CheckpointConfig(every=0), guards=guards, **sets)
    assert saved_steps(tmp_path / "checkpoints") == [4, 12] and find_checkpoint(tmp_path).name == "4"
    assert record(tmp_path, 4)["within_guards"] and not record(tmp_path, 12)["within_guards"]


def test_another_metric_after_a_resume_is_compared_with_its_own_values(tmp_path, capsys):
    toy.train(tmp_path, steps=6, checkpoint=BEST, **evaluating((0.5, 3), (0.1, 9), (0.6, 5)))
    assert find_checkpoint(tmp_path).name == "4"
    by_old = CheckpointConfig(every=6, metric="dev/old")
    toy.train(tmp_path, steps=12, checkpoint=by_old, **evaluating((0.5, 6), (0.5, 7), (0.5, 8)))
    said = capsys.readouterr().err
    assert "checkpoint.metric, its mode or the guards changed" in said
    # 3 (step 2, deleted) is lost, 5 (step 6) is better than 6, the first after the resume
    assert find_checkpoint(tmp_path).name == "6" and "dev/old 6 (" not in said


def test_guards_that_change_on_a_resume_rank_the_kept_checkpoints(tmp_path, capsys):
    """No evaluation was within the first guard; by the second one step 2 is the best, and those after are worse."""
    options = dict(checkpoint=CheckpointConfig(every=2, metric="dev/loss", keep_last=9))
    sets = evaluating((0.9, 1), (0.5, 1.2), (0.6, 1.2), (0.7, 1.2))
    toy.train(tmp_path, steps=6, guards=(GuardConfig("dev/old", 0.1, patience=5),), **options, **sets)
    capsys.readouterr()
    sets = evaluating((0.6, 1.2), (0.7, 1.6), (0.8, 1.6))
    result = toy.train(tmp_path, steps=12, guards=(GuardConfig("dev/old", 0.5, patience=3),), **options, **sets)
    said = capsys.readouterr().err
    assert "guards changed" in said and "the best so far)" not in said and not result.ended
    assert find_checkpoint(tmp_path).name == "2"


def test_a_start_that_was_interrupted_is_no_candidate(tmp_path):
    """An evaluation of step 0 that failed is made up for; without it no guard has a limit."""

    def fail(params, model_state, batches):
        raise ValueError

    options = dict(checkpoint=BEST, guards=(GuardConfig("dev/old", 0.1),))
    sets = evaluating((0.1, 1), (0.5, 1), (0.6, 1), (0.7, 1))
    with pytest.raises(ValueError):
        toy.train(tmp_path, steps=6, **options, **(sets | {"task": toy.make_task()._replace(evaluate=fail)}))
    with pytest.raises(UserError, match="no checkpoint was evaluated, and it is unknown if its guards hold"):
        find_checkpoint(tmp_path)
    toy.train(tmp_path, steps=6, **options, **sets)
    assert find_checkpoint(tmp_path).name == "2"


@pytest.mark.parametrize("given", ["values", "function", "nothing"])
def test_a_guard_that_is_added_late_is_measured_on_the_start_model(tmp_path, capsys, given):
    """Its reference is that of step 0, and a second guard does not lose the first one's."""
    start = toy.init(jax.random.key(5), None)
    init = {"values": start, "function": lambda: start, "nothing": None}[given]

    def evaluate(params, model_state, batches):
        mse = toy.evaluate(params, model_state, batches).metrics["mse"]
        return Report({"mse": mse, "rmse": mse**0.5})

    options = dict(
        init=init, checkpoint=CheckpointConfig(every=4), eval_sets={"dev": dev}, eval_every=4,
        task=toy.make_task()._replace(evaluate=evaluate),
    )  # fmt: skip
    toy.train(tmp_path, steps=4, eval_first=True, **options)
    before = lines(tmp_path, "eval")[0]["metrics"]
    guards = (GuardConfig("dev/mse", within=0.0),)
    toy.train(tmp_path, steps=8, guards=guards, **options)
    assert record(tmp_path, 8)["guards"]["before"] == pytest.approx({"dev/mse": before["dev/mse"]})
    assert f"start model: dev/mse {before['dev/mse']:.4g}" in capsys.readouterr().err
    options["init"] = None if given == "nothing" else lambda: pytest.fail("the reference is known")
    toy.train(tmp_path, steps=12, guards=(GuardConfig("dev/mse", within=0.5),), **options)  # another limit
    assert record(tmp_path, 12)["limits"] == pytest.approx({"dev/mse": 1.5 * before["dev/mse"]})

    def gone():
        raise UserError("old/run: found no checkpoint")

    options["init"] = gone
    guards = (*guards, GuardConfig("dev/rmse"))
    with pytest.raises(UserError, match="trainer.guards: .*checkpoints/12 has no reference for dev/rmse.*old/run"):
        toy.train(tmp_path, steps=16, guards=guards, **options)
    options["init"] = init
    toy.train(tmp_path, steps=16, guards=guards, **options)
    assert record(tmp_path, 16)["guards"]["before"] == pytest.approx(before)
