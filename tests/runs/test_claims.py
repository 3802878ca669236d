"""Settings that reach nothing are errors before the first step."""

import dataclasses
from pathlib import Path

import pytest

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.config import EvalConfig, load_config_file, parse_config
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.finetuning.config import AdapterConfig, StartConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.claims import check_run
from speech_jax.runs.prepare import prepare
from speech_jax.runs.resume import Saved, decide
from speech_jax.tasks.ctc import TeacherConfig
from speech_jax.tasks.pretrain import AutoencoderConfig, PretrainTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import (
    CheckpointConfig,
    GuardConfig,
    MeshConfig,
    OptimizerConfig,
    StepConfig,
    WatchConfig,
)
from tests.support.domains import base, finetune, part

ROOT = Path(__file__).parents[2]
replace = dataclasses.replace


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda file: file.stem)
def test_the_configs_set_nothing_in_vain(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check_run(load_config_file(str(file))) == []


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda file: file.stem)
def test_every_config_can_be_tried_for_a_few_steps(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = check_run(parse_config(["--config", str(file), "--trainer.steps", "4", "--optimizer.warmup-steps", "1"]))
    assert all(" of trainer.steps 4: " in line for line in lines)


def config(**changes):
    """Return the config of a fine-tuning of 4 steps on files that no check of settings reads."""
    return replace(finetune(base(Path("corpus"), Path("start")), Path("run")), **changes)


PRE = part(Path("corpus"), "A-train")
TASK = base(Path("corpus"), Path("start")).task
TRAINER = config().trainer
DEV = config().evaluate[0]


def trainer(**changes):
    return replace(TRAINER, **changes)


def best(**changes):
    return trainer(checkpoint=CheckpointConfig(**changes))


REFUSED = {
    # alpha
    "alpha.start: found 0.3 without pre": dict(alpha=AlphaConfig(start=0.3)),
    "alpha.kind: found 'linear' without pre": dict(alpha=AlphaConfig("linear", end=1.0, steps=2)),
    "alpha.steps: found 1000 after alpha.begin 0, expected an end within the 4 steps .* stop at 0.997": dict(
        pre=PRE, alpha=AlphaConfig("linear", start=1.0)
    ),
    "alpha.steps: found 3 after alpha.begin 2": dict(pre=PRE, alpha=AlphaConfig("cosine", start=1.0, begin=2, steps=3)),
    "alpha.middle: found 500 with alpha.rate 0.01, .* 90%": dict(pre=PRE, alpha=AlphaConfig("recadam", start=1.0)),
    "alpha.end: found 0.1, which nothing uses with alpha.kind 'constant'": dict(pre=PRE, alpha=AlphaConfig(end=0.1)),
    "trainer.step.gradients: found 'pcgrad', .* without recordings in pre": dict(
        trainer=trainer(step=StepConfig(gradients="pcgrad"))
    ),
    # the start
    r"start.fresh: found \('\^head/',\), which nothing uses without init_from": dict(
        init_from="", start=StartConfig(fresh=("^head/",))
    ),
    "adapter.rank: found 4, which nothing uses with adapter.kind 'none'": dict(adapter=AdapterConfig(rank=4)),
    "teacher.weight: found 0.3, which nothing uses with teacher.checkpoint ''": dict(teacher=TeacherConfig(weight=0.3)),
    # the optimizer
    "optimizer.momentum: found 0.5, .* with optimizer.name 'adamw'": dict(optimizer=OptimizerConfig(momentum=0.5)),
    "optimizer.hold_steps: found 2, .* optimizer.schedule 'noam'": dict(optimizer=OptimizerConfig(hold_steps=2)),
    "optimizer.anchor_free: found .*anchor 0.0 and optimizer.ewc 0.0": dict(optimizer=OptimizerConfig(anchor_free=())),
    "optimizer.ewc_batches: found 9, .* with optimizer.ewc 0.0": dict(optimizer=OptimizerConfig(ewc_batches=9)),
    "optimizer.schedule: found 'steps' without optimizer.falls": dict(optimizer=OptimizerConfig(schedule="steps")),
    "optimizer.warmup_steps: found 4, expected fewer than the 4 steps": dict(
        optimizer=OptimizerConfig(schedule="wsd", warmup_steps=4)
    ),
    # evaluation
    r"found the name 'dev' for both evaluate.0 \(.*A-dev.jsonl\) and evaluate.2 \(.*B-dev.jsonl\)": dict(
        evaluate=(EvalConfig("dev", DEV.data), EvalConfig("x", DEV.data), EvalConfig("dev", part(Path("c"), "B-dev")))
    ),
    "evaluate.1.name: found '', expected a name without '/'": dict(
        evaluate=(EvalConfig("dev", DEV.data), EvalConfig("", DEV.data))
    ),
    "evaluate.0.name: found 'A/x', expected a name without '/'": dict(evaluate=(EvalConfig("A/x", DEV.data),)),
    "trainer.checkpoint.mode: found 'max', .* with trainer.checkpoint.metric None": dict(trainer=best(mode="max")),
    "trainer.checkpoint.metric: found 'A/wer', .* without evaluate": dict(evaluate=(), trainer=best(metric="A/wer")),
    r"trainer.guards: found \(Guard.*, which nothing uses without evaluate": dict(
        evaluate=(), trainer=trainer(guards=(GuardConfig("A/wer"),))
    ),
    "trainer.examples: found 3, .* with trainer.tensorboard False": dict(trainer=trainer(examples=3)),
    "trainer.watch.profile: found step 10": dict(trainer=trainer(watch=WatchConfig(profile="10:20"))),
    "trainer.watch.metrics_host: .* with trainer.watch.metrics_port 0": dict(
        trainer=trainer(watch=WatchConfig(metrics_host="0.0.0.0"))
    ),
    "trainer.step.privacy.microbatch: .*noise_multiplier 0.0": dict(
        trainer=trainer(step=StepConfig(privacy=replace(StepConfig().privacy, microbatch=4)))
    ),
    # out of range
    "trainer.log_every: found 0, expected 1 or more": dict(trainer=trainer(log_every=0)),
    "trainer.eval_every: found -1, expected 0 or more": dict(trainer=trainer(eval_every=-1)),
    "trainer.step.accumulate: found -2, expected 1": dict(trainer=trainer(step=StepConfig(accumulate=-2))),
    "trainer.step.ema: found 2.0, expected a number from 0": dict(trainer=trainer(step=StepConfig(ema=2.0))),
    "trainer.checkpoint.keep_last: found 0, expected 1": dict(trainer=best(keep_last=0)),
    "trainer.checkpoint.keep_best: found -1": dict(trainer=best(keep_best=-1, metric="A/wer")),
    "optimizer.eps: found -1.0": dict(optimizer=OptimizerConfig(eps=-1.0)),
    "data.channel: found '0', expected mean, left, right or a number from 1": dict(data=replace(PRE, channel="0")),
    "pre.sources.0.limit: found -1, expected 0 or more": dict(
        pre=DataConfig(sources=(SourceConfig(path="x", limit=-1),)), alpha=AlphaConfig(start=0.3)
    ),
    "evaluate.0.data.threads: found 0, expected 1": dict(evaluate=(EvalConfig("A", replace(PRE, threads=0)),)),
    # recordings
    "data.plan.max_rows: found 4, .* with data.plan.rows 8": dict(
        data=replace(PRE, plan=PlanConfig(rows=8, row_multiple=1, max_rows=4))
    ),
    "data.plan.eval_max_seconds: found 9.0, .* in training": dict(
        data=replace(PRE, plan=PlanConfig(eval_max_seconds=9.0))
    ),
    "evaluate.0.data.plan.max_seconds: found 9.0, .* in an evaluation set": dict(
        evaluate=(EvalConfig("A", replace(PRE, plan=PlanConfig(max_seconds=9.0))),)
    ),
    "data.sources.0.split: found 'train', .*kind 'manifest'": dict(
        data=DataConfig(sources=(SourceConfig(path="x", split="train"),))
    ),
    "data.plan.max_labels: found 9, .* without texts": dict(
        data=replace(PRE, plan=PlanConfig(max_labels=9)), task=PretrainTaskConfig(model=TASK.model), init_from=""
    ),
    "pre.plan.label_multiple: found 4, .* without texts": dict(
        pre=replace(PRE, plan=PlanConfig(label_multiple=4)), pre_task=PretrainTaskConfig(model=TASK.model),
        alpha=AlphaConfig(start=0.3),
    ),
    "mesh.rules: found .* with mesh.fsdp 1 and mesh.tensor 1": dict(
        mesh=MeshConfig(rules=(("kernel$", (None, "tensor")), (".*", "auto")))
    ),
    "data.cache_mb: found 9, .* with data.workers 2": dict(data=replace(PRE, workers=2, cache_mb=9)),
    # tasks
    "task.augment.noise_snr: .* with task.augment.noise 0.0": dict(
        task=replace(TASK, augment=AugmentConfig(noise_snr=(0.0, 9.0)))
    ),
    "task.augment.freq_masks: found 2, .* with a pre_task on the recordings of data": dict(
        task=replace(TASK, augment=AugmentConfig(freq_masks=2)), pre_task=PretrainTaskConfig(model=TASK.model),
        alpha=AlphaConfig(start=0.3),
    ),
    "task.model.num_features: found 40, .* with task.audio.width 80": dict(
        task=replace(TASK, model=replace(TASK.model, num_features=40))
    ),
    "task.audio.lifter: found 22.0, .* with task.audio.features 'log_mel'": dict(
        task=replace(TASK, audio=AudioConfig(lifter=22.0))
    ),
    "task.tokenizer.vocab_size: found 64, .* with task.tokenizer.kind 'char'": dict(
        task=replace(TASK, tokenizer=TokenizerConfig(vocab_size=64))
    ),
    "task.autoencoder.width: found 8, .* with task.method 'best_rq'": dict(
        task=PretrainTaskConfig(autoencoder=AutoencoderConfig(width=8))
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_a_setting_that_reaches_nothing_is_refused_before_data_is_read(message):
    with pytest.raises(UserError, match=message):
        prepare(config(**REFUSED[message]))


SHARED = replace(PRE, plan=PlanConfig(max_seconds=9.0, eval_max_seconds=20.0))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (dict(pre=PRE), ["pre: nothing is learned from it with alpha.start 0: this is plain fine-tuning"]),
        (dict(pre=PRE, alpha=AlphaConfig(start=0.3)), []),
        (dict(pre=PRE, alpha=AlphaConfig(start=1.0)), ["data: nothing is learned from it with alpha.start 1"]),
        (dict(pre=PRE, alpha=AlphaConfig("cosine", 1.0, steps=4)), []),
        (dict(pre=PRE, alpha=AlphaConfig("recadam", 1.0, rate=2.0, middle=1)), []),
        (dict(pre=PRE, optimizer=OptimizerConfig(ewc=1.0, warmup_steps=1)), []),
        (dict(pre_task=PretrainTaskConfig()), ["pre_task: it has no effect with alpha.start 0"]),
        (dict(optimizer=OptimizerConfig()), ["optimizer.warmup_steps: 1000 of trainer.steps 4"]),
        (dict(evaluate=(), trainer=trainer(eval_every=2)), ["trainer.eval_every: 2 without evaluate"]),
        # one end of a sweep
        (dict(pre=PRE, alpha=AlphaConfig("linear", 0.3, 0.3)), ["alpha.kind: 'linear' from alpha.start to the same"]),
        (
            dict(pre=PRE, trainer=trainer(step=StepConfig(gradients="pcgrad"))),
            ["pre: nothing is learned", "trainer.step.gradients: 'pcgrad' with alpha.start 0: there is one gradient"],
        ),
        (
            dict(teacher=TeacherConfig("start", weight=0.0, hidden=1.0)),
            ["teacher.checkpoint: nothing is learned from it with teacher.weight 0"],
        ),
        (
            dict(pre=PRE, pre_task=PretrainTaskConfig(), teacher=TeacherConfig("x"), alpha=AlphaConfig(start=1.0)),
            ["data: nothing", "teacher.checkpoint: nothing is learned from it with alpha.start 1 and a pre_task"],
        ),
        # a run of a few steps, or the first part of a longer one
        (
            dict(optimizer=OptimizerConfig(warmup_steps=1, schedule="wsd", decay_steps=4)),
            ["optimizer.decay_steps: 4 of trainer.steps 4: the decay takes all steps after the warm-up"],
        ),
        (
            dict(optimizer=OptimizerConfig(warmup_steps=1, schedule="tri_stage", hold_steps=9)),
            ["optimizer.hold_steps: 9 of trainer.steps 4: the learning rate does not decay"],
        ),
        (
            dict(optimizer=OptimizerConfig(warmup_steps=1, schedule="tri_stage", hold_steps=1, decay_steps=3)),
            ["optimizer.decay_steps: 3 of trainer.steps 4: the learning rate never reaches end_lr"],
        ),
        (
            dict(optimizer=OptimizerConfig(warmup_steps=1, schedule="steps", falls=(2, 4))),
            ["optimizer.falls: 4 of trainer.steps 4: it is not reached"],
        ),
        (
            dict(optimizer=OptimizerConfig(warmup_steps=1, hold=(("^encoder/", 4), ("x", 3)))),
            ["optimizer.hold: 4 of trainer.steps 4: '^encoder/' is not trained"],
        ),
        (dict(data=SHARED, evaluate=(EvalConfig("A", SHARED),)), []),  # one plan for both
        (dict(start=StartConfig(which="last"), adapter=AdapterConfig("lora", rank=4)), []),
    ],
)
def test_what_is_legitimate_passes_and_what_has_no_effect_is_logged(changes, lines):
    found = check_run(config(**changes))
    assert len(found) == len(lines) and all(f.startswith(line) for f, line in zip(found, lines, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(trainer=best(metric="B/wre")), "metric: found 'B/wre', expected one of .*; did you mean 'B/wer'"),
        (dict(trainer=best(metric="b/wer")), "found 'b/wer', expected a metric of one of the sets A, B; .* 'B'"),
        (dict(trainer=best(metric="B/loss", mode="max")), "trainer.checkpoint.mode: found 'max' .* expected 'min'"),
        (dict(trainer=trainer(guards=(GuardConfig("A/ver"),))), "trainer.guards.0.metric: found 'A/ver', .* 'A/wer'"),
        (dict(start=StartConfig(speakers="new")), "start.speakers: found 'new', .* in a task without speakers"),
    ],
)
def test_a_metric_or_a_start_that_the_task_has_not_is_refused(start_models, tmp_path, changes, message):
    """A metric is refused before recordings are read, which may take an hour and are missing here."""
    run = replace(finetune(start_models(), tmp_path / "run"), **changes)
    if "trainer" in changes:
        run = replace(run, data=part(tmp_path, "missing"))
    with pytest.raises(UserError, match=message):
        prepare(run)


def test_the_old_recordings_are_read_and_compared_also_at_alpha_0(start_models, tmp_path):
    start = start_models()
    corpus = Path(start.data.sources[0].path).parent
    with pytest.raises(UserError, match="missing.jsonl"):
        prepare(finetune(start, tmp_path / "run", pre=part(corpus, "missing")))
    same = replace(part(corpus, "B-train", rows=4), seed=3)
    for alpha in (0.0, 0.3):
        with pytest.raises(UserError, match="pre: found the same 24 recordings as in data"):
            prepare(finetune(start, tmp_path / "run", pre=same, alpha=AlphaConfig(start=alpha)))
    prepare(finetune(start, tmp_path / "run", pre=part(corpus, "A-train")))


def test_a_run_of_an_earlier_version_resumes_without_what_reached_nothing():
    now = config()
    task = replace(TASK, tokenizer=TokenizerConfig(vocab_size=64), model=replace(TASK.model, conv_norm_groups=4))
    idle = dict(task=task, adapter=AdapterConfig(rank=2), alpha=AlphaConfig(steps=7), start=StartConfig(which="last"))
    before = replace(now, init_from="", **idle)
    after = replace(now, init_from="", task=TASK)
    assert decide(after, Saved(2, before, {}, {}, ())).lines == ()
    with pytest.raises(UserError, match="adapter.kind"):
        decide(replace(after, adapter=AdapterConfig("lora")), Saved(2, before, {}, {}, ()))


def test_settings_of_a_tokenizer_that_is_not_made_are_refused(start_models, tmp_path):
    start = start_models()
    task = replace(start.task, tokenizer=TokenizerConfig(kind="bpe", vocab_size=64))
    with pytest.raises(UserError, match="task.tokenizer: found .*, which nothing uses: that of init_from is kept"):
        prepare(finetune(start, tmp_path / "run", task=task))
    prepare(finetune(start, tmp_path / "run", task=start.task))
