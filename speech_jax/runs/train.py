"""A training run from its config to its last checkpoint, step by step.

The order of a run: config → recordings → task → state and loop (training/loop.py). Everything that the checkpoint
folder must carry goes with it as assets.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jax

from speech_jax.config import TrainConfig
from speech_jax.core.config_dict import to_text
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.finetuning.adapters import BASE, save_adapter
from speech_jax.monitoring.watch import Watch
from speech_jax.runs.prepare import PreparedRun, prepare
from speech_jax.runs.resolve import task_of
from speech_jax.runs.resume import SECRET_FILE, decide, saved_run
from speech_jax.runs.streams import audio_seconds
from speech_jax.training.checkpoint import FOLDER, find_checkpoint, read_params
from speech_jax.training.hosts import assert_equal_across_hosts, run_on_all_or_fail
from speech_jax.training.layout import read_item
from speech_jax.training.loop import FitResult, fit

ADAPTER_FILES = ("adapter.safetensors", "adapter_last.safetensors")  # of the best checkpoint; of the last one


def train(config: TrainConfig) -> FitResult:
    """Run `config` to its last step or until a signal; resume if there are checkpoints in `config.out_dir`.

    Args:
        config: The run.

    Returns:
        The last state, the last reports, and how the run ended.

    Raises:
        UserError: For anything that a user can correct.
    """
    with run_on_all_or_fail(lambda: Watch(config.trainer.watch, config.trainer.steps)) as watch:
        return _train(config, watch)


def _train(config: TrainConfig, watch: Watch) -> FitResult:
    # ===== 1. Prepare: settings, checkpoint, manifests, task, start, in the order that runs/prepare.py explains.
    # Every process prepares the whole run by itself; an error on one ends all of them.
    def prepared() -> PreparedRun:
        watch.begin("reading the recordings")
        run = prepare(config)
        watch.begin("the wait for the other processes")
        return run

    run = run_on_all_or_fail(prepared)
    config = run.config

    # ===== 2. Agree: processes that read different files would train on different batches without an error.
    recordings = {f"recordings of {name}": stream.facts for name, stream in run.streams.items()}
    assert_equal_across_hosts({"config": lambda: to_text(config)} | recordings)

    texts, pipeline = {"config.json": to_text(config)}, dict(run.pipeline)
    if run.accountant is None:
        pipeline |= {"contents": run.contents}
    else:  # a digest of private recordings is no part of a checkpoint, which may be published
        pipeline |= {"privacy": run.accountant.config.settings()}
        texts |= {SECRET_FILE: json.dumps(run.contents)}

    # ===== 3. Train. The state is restored or initialized there, after the run's folder is locked: what lies in the
    # folder decides, not what lay there when the recordings were read.
    result = fit(
        run.task,
        run.feed,
        config=config.trainer,
        optimizer=run.optimizer,
        mesh=config.mesh,
        out_dir=config.out_dir,
        assets=run.assets,
        texts=texts,
        pipeline=pipeline,
        resume=lambda step, record, assets: decide(
            config, saved_run(config.out_dir, step, record, assets), run.pipeline, run.contents
        ),
        eval_sets={name: stream.one_pass() for name, stream in run.eval_streams.items()},
        init=run.init,
        fisher=run.fisher,
        units=lambda batch: audio_seconds(batch, config.task.audio.sample_rate),
        seed=config.seed,
        epsilon=None if run.accountant is None else run.accountant.epsilon,
        watch=watch,
    )

    # ===== 4. Write the adapter, a file that fits on the start checkpoint.
    written = any((Path(config.out_dir) / name).exists() for name in ADAPTER_FILES)
    if config.adapter.kind != "none" and not result.stopped and not (result.finished_before and written):
        write_adapter(run)
    return result


def closing_lines(config: TrainConfig, result: FitResult) -> list[str]:
    """Return what to say at the end of a run: its checkpoint, its figures, and the command that uses it."""
    run = shlex.quote(config.out_dir)
    if result.stopped:
        return [f"stopped at step {int(result.state.step)}; the same command resumes"]
    try:
        which, folder, note = "best", find_checkpoint(config.out_dir, "best"), ""
    except UserError:  # no checkpoint is within the guards
        which, folder, note = "last", find_checkpoint(config.out_dir, "last"), ", beyond the guards"
    metrics = read_item(folder, "data").get("metrics") or {}
    ranked = config.trainer.checkpoint.metric
    names = sorted(metrics, key=lambda name: name != ranked) if ranked in metrics else list(metrics)
    figures = "".join(f", {name} {metrics[name]:.4g}" for name in names[:4])
    curves = f"; curves: tensorboard --logdir {run}" if config.trainer.tensorboard else ""
    lines = [
        f"{which} checkpoint: {Path(config.out_dir, FOLDER, folder.name)}{figures}{note}",
        f"figures of all steps: {Path(config.out_dir) / 'metrics.jsonl'}{curves}",
    ]
    command = task_of(config).next_command.format(run=run)
    return [*lines, f"next: {command}"] if command else lines


def write_adapter(run: PreparedRun) -> None:
    """Write the best checkpoint's `adapter.safetensors` into the run's folder.

    Where there is no best one, because the guards were broken at every evaluation, the last one's
    `adapter_last.safetensors` is written instead.
    """
    if jax.process_index() > 0:
        return
    out, trainer = Path(run.config.out_dir), run.config.trainer
    best, last = (out / name for name in ADAPTER_FILES)
    for older in (best, last):
        older.unlink(missing_ok=True)
    try:
        folder, file = find_checkpoint(out, "best"), best
        why = "the last" if trainer.checkpoint.metric is None else f"the best by {trainer.checkpoint.metric}"
        why += " within the guards" if trainer.guards else ""
    except UserError as error:
        log.warning("%s: not written: %s", best, error)
        folder, file, why = find_checkpoint(out, "last"), last, "the last, which may be beyond the guards"
    tokenizer = json.dumps(run.assets.get("tokenizer"))
    params, _ = read_params(folder)
    params[BASE].pop("pretext", None)  # what only training uses is not in a recognizer that the file is applied to
    save_adapter(file, params, run.config.adapter, tokenizer, step=int(folder.name))
    log.info("%s: step %s, %s, %.1f MB", file, folder.name, why, file.stat().st_size / 1e6)
