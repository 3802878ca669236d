"""Training as a user runs it: the front door on small recordings, stopped and resumed, mixed, and given bad input."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from safetensors import safe_open

from speech_jax import average, convert, evaluate, transcribe
from speech_jax import train as front_door
from speech_jax.artifacts.recognizer import load_recognizer_parts, save_recognizer
from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig, config_from_assets, load_config_file, parse_config
from speech_jax.core.errors import UserError
from speech_jax.data import manifest
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.finetuning.adapters import load_adapter
from speech_jax.finetuning.config import AdapterConfig, StartConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.prepare import prepare
from speech_jax.runs.streams import load_stream, warn_of_misfits
from speech_jax.runs.train import closing_lines, train
from speech_jax.tasks.ctc import CTCTaskConfig, TeacherConfig
from speech_jax.tasks.pretrain import BestRQConfig, PretrainTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training import checkpoint
from speech_jax.training.checkpoint import find_checkpoint, load_assets, load_params
from speech_jax.training.checksums import replace_file
from speech_jax.training.config import (
    CheckpointConfig,
    GuardConfig,
    MeshConfig,
    OptimizerConfig,
    StepConfig,
    TrainerConfig,
)
from speech_jax.training.layout import read_item
from tests.support import domains

ROOT = Path(__file__).parents[1]
WORDS = ("one", "two", "three", "four", "five")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Sets of twenty clips of 0.4 to 1 s: each word is a tone of its own, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for domain in ("old", "new", "old_test"):
        rows = []
        for i in range(20):
            word = WORDS[i % len(WORDS)]
            seconds = 0.4 + 0.6 * rng.random()
            time_axis = np.arange(int(16000 * seconds)) / 16000
            tone = np.sin(2 * np.pi * (300 + 200 * WORDS.index(word)) * time_axis)
            audio = 0.1 * tone + 0.01 * rng.standard_normal(len(time_axis))
            soundfile.write(folder / f"{domain}{i}.wav", audio, 16000)
            row = {"id": f"{domain}{i}", "audio": f"{domain}{i}.wav", "text": word, "seconds": len(time_axis) / 16000}
            rows.append(json.dumps(row | {"speaker": "tone", "domain": domain}))
        (folder / f"{domain}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def data(corpus: Path, domain: str, **plan) -> DataConfig:
    plan = {"num_buckets": 2, "rows": 8, **plan}
    return DataConfig(sources=(SourceConfig(path=str(corpus / f"{domain}.jsonl")),), plan=PlanConfig(**plan))


def tiny(corpus: Path, out: Path, **changes) -> TrainConfig:
    """A run with everything on that could make it unrepeatable: dropout, augmentation, batch norm, an average."""
    config = TrainConfig(
        out_dir=str(out),
        data=data(corpus, "old"),
        task=CTCTaskConfig(
            model=ConformerConfig(
                width=16, layers=1, heads=2, kernel_size=5, subsampling="dw_striding", subsampling_channels=8
            ),
            augment=AugmentConfig(speed=(0.9, 1.0, 1.1), freq_masks=1, time_masks=1),
        ),
        evaluate=(EvalConfig("old", data(corpus, "old", num_buckets=1)),),
        optimizer=OptimizerConfig(warmup_steps=5),
        trainer=TrainerConfig(
            steps=12,
            eval_every=6,
            log_every=1,
            step=StepConfig(ema=0.9),
            checkpoint=CheckpointConfig(every=6, metric="old/wer"),
        ),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory) -> tuple[TrainConfig, object]:
    """One finished run that the tests share."""
    config = tiny(corpus, tmp_path_factory.mktemp("runs") / "old")
    return config, train(config)


def fingerprint(out: str | Path) -> str:
    """Parameters, average and batch statistics of the last checkpoint."""
    digest = hashlib.sha256()
    for ema in (False, True):
        for leaf in jax.tree.leaves(load_params(out, "last", ema=ema)):
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def losses(out: str | Path) -> dict[int, float]:
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"]["loss"] for line in lines if line["kind"] == "train"}


def test_a_run_compiles_one_program_a_bucket_and_leaves_a_folder_that_is_enough(trained):
    config, result = trained
    assert result.programs == 2
    assert not result.stopped
    assert {"old/wer", "old/cer", "old/loss"} <= {
        name for line in Path(config.out_dir, "metrics.jsonl").read_text().splitlines()
        for name in json.loads(line)["metrics"]
    }  # fmt: skip
    assets = load_assets(find_checkpoint(config.out_dir, "last"))
    assert {"config", "tokenizer", "audio_fingerprint", "versions"} <= set(assets)
    assert config_from_assets(assets) == config
    seconds = [utterance.seconds for utterance in manifest.read_manifest(config.data.sources[0].path)]
    assert assets["row_seconds"] == pytest.approx(np.quantile(seconds, 0.95), abs=0.01)


def test_a_run_from_a_checkpoint_knows_the_longer_recordings_of_both(corpus, trained, tmp_path):
    start, _ = trained
    short = dataclasses.replace(start.data, plan=dataclasses.replace(start.data.plan, max_seconds=0.9))
    config = dataclasses.replace(start, data=short, out_dir=str(tmp_path / "new"), task=None)
    known = load_assets(start.out_dir)["row_seconds"]
    assert prepare(dataclasses.replace(config, task=start.task)).assets["row_seconds"] <= 0.9 < known
    assert prepare(dataclasses.replace(config, init_from=start.out_dir)).assets["row_seconds"] == known
    parts = load_recognizer_parts(start.out_dir)
    assert parts.row_seconds == known
    save_recognizer(tmp_path / "elsewhere", parts._replace(row_seconds=0.0))  # as a converted model: nothing is known
    config = dataclasses.replace(config, init_from=str(tmp_path / "elsewhere"))
    assert "row_seconds" not in prepare(config).assets


def test_a_run_ends_with_its_best_checkpoint_and_the_command_that_uses_it(trained):
    config, result = trained
    best, figures, command = closing_lines(config, result)
    step = find_checkpoint(config.out_dir, "best").name
    assert best.startswith(f"best checkpoint: {config.out_dir}/checkpoints/{step}, old/wer ")
    assert f"{config.out_dir}/metrics.jsonl" in figures and f"tensorboard --logdir {config.out_dir}" in figures
    assert command == f"next: python -m speech_jax.transcribe --checkpoint {config.out_dir} RECORDING.wav"
    assert closing_lines(dataclasses.replace(config, task=None), result)[-1] == command  # that of the checkpoint
    stopped = closing_lines(config, result._replace(stopped=True))
    assert stopped == [f"stopped at step {config.trainer.steps}; the same command resumes"]


def write_config_file(path: Path, config: TrainConfig) -> Path:
    """A config file that rebuilds `config` from its text."""
    from speech_jax.core.config_dict import to_text

    path.with_suffix(".json").write_text(to_text(config))
    path.write_text(
        "import json\nfrom pathlib import Path\nfrom speech_jax.config import TrainConfig\n"
        "from speech_jax.core.config_dict import from_dict\n"
        f"config = from_dict(TrainConfig, json.loads(Path({str(path.with_suffix('.json'))!r}).read_text()))\n"
    )
    return path


def run(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "speech_jax.train", *arguments]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_stopped_at_a_random_step_and_resumed_it_is_the_same_run_bit_for_bit(corpus, tmp_path):
    steps = 60
    trainer = TrainerConfig(
        steps=steps, eval_every=0, log_every=1, step=StepConfig(ema=0.9), checkpoint=CheckpointConfig(every=1000)
    )
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    file = write_config_file(tmp_path / "config.py", tiny(corpus, straight, trainer=trainer, evaluate=()))
    process = run("--config", str(file))
    assert process.wait(timeout=300) == 0, process.stdout.read()

    process = run("--config", str(file), "--out-dir", str(stopped))
    target = random.Random(time.time_ns()).randint(2, steps // 2)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        log = stopped / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= target:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    assert process.wait(timeout=300) == 0, process.stdout.read()
    at = max(int(p.name) for p in (stopped / "checkpoints").iterdir() if p.name.isdigit())
    assert target <= at < steps, "the signal came too late to mean anything"
    assert process.stdout.read().endswith(f"stopped at step {at}; the same command resumes\n")

    process = run("--config", str(file), "--out-dir", str(stopped))
    assert process.wait(timeout=300) == 0, process.stdout.read()
    assert losses(stopped) == losses(straight)
    assert fingerprint(stopped) == fingerprint(straight)


def test_fine_tuning_mixes_two_streams_from_a_checkpoint_and_compiles_one_program_a_bucket(corpus, trained, tmp_path):
    start, _ = trained
    trainer = dataclasses.replace(start.trainer, steps=3, checkpoint=CheckpointConfig(every=3))
    config = tiny(
        corpus,
        tmp_path / "new",
        data=data(corpus, "new", num_buckets=1),
        pre=data(corpus, "old"),
        alpha=AlphaConfig(start=0.5),
        task=None,
        init_from=start.out_dir,
        evaluate=(),
        trainer=trainer,
    )
    result = train(config)
    assert result.programs == 3  # two buckets of the old domain and one of the new, not each with each
    lines = [json.loads(line) for line in Path(config.out_dir, "metrics.jsonl").read_text().splitlines()]
    metrics = [line["metrics"] for line in lines if line["kind"] == "train"]
    assert {"alpha", "grad_norm/pre", "grad_norm/task", "grad_cos/pre_task", "pre/loss", "task/loss"} <= set(metrics[0])
    assert metrics[0]["alpha"] == 0.5
    assert config_from_assets(load_assets(config.out_dir)).task == start.task


def expect_one_line(capsys, arguments, *fragments):
    with pytest.raises(SystemExit) as stop:
        sys.argv = ["train", *arguments]
        front_door.run_front_door(front_door.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    for fragment in fragments:
        assert fragment in error


def test_bad_configs_get_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    expect_one_line(capsys, ["--config", str(tmp_path / "none.py")], "none.py', expected a file or a name")
    bad = tmp_path / "bad.py"
    bad.write_text("from speech_jax.training.loop import TrainerConfig\n\nconfig = TrainerConfig(step_count=3)\n")
    expect_one_line(capsys, ["--config", str(bad)], "bad.py:3", "step_count")
    bad.write_text("config = 3\n")
    expect_one_line(capsys, ["--config", str(bad)], "found config = int, expected a TrainConfig")
    bad.write_text("config = (\n")
    expect_one_line(capsys, ["--config", str(bad)], "bad.py:1", "SyntaxError")


def test_an_unknown_flag_is_an_error_and_a_known_one_changes_the_config(corpus, tmp_path, capsys):
    file = write_config_file(tmp_path / "config.py", tiny(corpus, tmp_path / "run"))
    changed = parse_config(["--config", str(file), "--optimizer.peak-lr", "0.5", "--task.model.width", "32"])
    assert (changed.optimizer.peak_lr, changed.task.model.width) == (0.5, 32)
    assert (
        dataclasses.replace(changed, optimizer=OptimizerConfig(warmup_steps=5)).optimizer
        == load_config_file(str(file)).optimizer
    )
    with pytest.raises(UserError, match="^--optimizer.peek-lr: found an unknown flag, .*--optimizer.peak-lr"):
        parse_config(["--config", str(file), "--optimizer.peek-lr", "0.5"])


def test_a_checkpoint_of_another_model_or_other_audio_settings_is_refused(corpus, trained, tmp_path):
    start, _ = trained
    config = tiny(corpus, tmp_path / "new", init_from=start.out_dir)
    wider = dataclasses.replace(config.task, model=dataclasses.replace(config.task.model, width=32))
    with pytest.raises(UserError, match="shape"):
        train(dataclasses.replace(config, task=wider))
    other = dataclasses.replace(config.task, audio=dataclasses.replace(config.task.audio, num_mels=40))
    with pytest.raises(UserError, match=r"found audio\.num_mels = 80; expected .*: audio\.num_mels = 40"):
        train(dataclasses.replace(config, task=other))


def test_text_outside_the_tokenizer_is_named_with_its_line(corpus, trained, tmp_path):
    start, _ = trained
    manifest = tmp_path / "strange.jsonl"
    row = {"id": "x", "audio": str(corpus / "old0.wav"), "text": "zebra", "seconds": 0.5}
    manifest.write_text(json.dumps(row) + "\n")
    strange = DataConfig(sources=(SourceConfig(path=str(manifest)),))
    with pytest.raises(UserError, match=r"strange\.jsonl:1: .*'z'"):
        train(tiny(corpus, tmp_path / "new", init_from=start.out_dir, task=None, data=strange))


def test_a_replay_set_that_is_empty_or_holds_test_recordings_is_refused(corpus, trained, tmp_path, caplog):
    start, _ = trained
    config = tiny(corpus, tmp_path / "new", data=data(corpus, "new"), task=None, init_from=start.out_dir)
    config = dataclasses.replace(config, alpha=AlphaConfig(start=0.5))
    (corpus / "nobody.jsonl").write_text("")
    with pytest.raises(UserError, match=r"nobody\.jsonl"):
        train(dataclasses.replace(config, pre=data(corpus, "nobody")))
    aside = tmp_path / "aside"
    aside.symlink_to(corpus)  # the same recordings by another way
    with pytest.raises(
        UserError, match=r"pre: .*old\.jsonl:1: found a recording that the evaluation set 'old' has too"
    ):
        train(dataclasses.replace(config, pre=data(aside, "old")))
    assert not (tmp_path / "new" / "checkpoints").exists()


def test_two_runs_in_one_folder_are_refused(corpus, trained):
    from speech_jax.training.signals import RunLock

    config, _ = trained
    lock = RunLock(Path(config.out_dir))
    try:
        with pytest.raises(UserError, match="another"):
            train(config)
    finally:
        lock.release()


def test_transcripts_with_more_labels_than_frames_are_announced(corpus, trained, tmp_path, caplog):
    start, _ = trained
    manifest = tmp_path / "dense.jsonl"
    rows = [
        {"id": f"{i}", "audio": str(corpus / "old0.wav"), "text": text, "seconds": 0.5}
        for i, text in enumerate(["one", "threefivefourthreefive"])  # 13 frames at a subsampling of 4
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = Tokenizer.from_json(load_assets(start.out_dir)["tokenizer"])
    stream = load_stream(DataConfig(sources=(SourceConfig(path=str(manifest)),)), tokenizer, 16000)
    with caplog.at_level("WARNING", logger="speech_jax"):
        warn_of_misfits("data", stream, start.task.stream_options())
    assert "data: 1 of 2 transcripts have more labels" in caplog.text


def test_a_new_vocabulary_keeps_what_the_head_learned_for_each_character(corpus, trained, tmp_path, caplog):
    start, _ = trained
    rows = [json.loads(line) for line in (corpus / "new.jsonl").read_text().splitlines()]
    manifest = tmp_path / "zebra.jsonl"
    rows = [
        row | {"audio": str(corpus / row["audio"]), "text": row["text"].replace("three", "zebra"), "language": "en"}
        for row in rows
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny(
        corpus,
        tmp_path / "new",
        data=DataConfig(sources=(SourceConfig(path=str(manifest)),), plan=PlanConfig(num_buckets=1, rows=8)),
        evaluate=(),
        init_from=start.out_dir,
        task=None,
        start=StartConfig(tokenizer="new", which="last"),
        optimizer=OptimizerConfig(hold=(("^encoder/", 2),), warmup_steps=0),
        trainer=dataclasses.replace(start.trainer, steps=2, checkpoint=CheckpointConfig(every=2), step=StepConfig()),
    )
    with caplog.at_level("INFO", logger="speech_jax"):
        train(config)
    assert "11 kept, 3 new ('a' 'b' 'z'), 1 dropped ('h')" in caplog.text
    before, after = (load_params(path, "last") for path in (start.out_dir, config.out_dir))
    old, new = (load_assets(path, "last")["tokenizer"]["pieces"] for path in (start.out_dir, config.out_dir))
    shared = [(old.index(p), new.index(p)) for p in new if p in old]
    for i, j in shared:  # two steps of the head at most
        moved = np.abs(after[0]["head"]["kernel"][:, j] - before[0]["head"]["kernel"][:, i]).max()
        assert moved < 3 * config.optimizer.peak_lr
    jax.tree.map(np.testing.assert_array_equal, after[0]["encoder"], before[0]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, after[1], before[1])


def test_elastic_weights_need_the_old_recordings_and_hold_what_matters(corpus, trained, tmp_path):
    start, _ = trained
    optimizer = OptimizerConfig(ewc=1000.0, ewc_batches=3, warmup_steps=0)
    config = tiny(
        corpus,
        tmp_path / "new",
        data=data(corpus, "new", num_buckets=1),
        init_from=start.out_dir,
        task=None,
        evaluate=(),
        optimizer=optimizer,
        trainer=dataclasses.replace(start.trainer, steps=2, checkpoint=CheckpointConfig(every=2), step=StepConfig()),
    )
    with pytest.raises(UserError, match="optimizer.ewc: found no init_from or no pre"):
        train(config)
    result = train(dataclasses.replace(config, pre=data(corpus, "old"), alpha=AlphaConfig(start=0.0)))
    weights = jax.tree.leaves(result.state.opt_state, is_leaf=lambda x: hasattr(x, "fisher"))
    fisher = next(x.fisher for x in weights if hasattr(x, "fisher"))
    assert np.mean([np.mean(leaf) for leaf in jax.tree.leaves(fisher["encoder"])]) > 0
    assert not jax.tree.leaves(fisher["head"])


def test_adapters_are_trained_on_a_checkpoint_and_put_on_it_again(corpus, trained, tmp_path):
    """The run's own folder and the base with the small file are the same recognizer; without a base it is an error."""
    start, _ = trained
    config = tiny(
        corpus,
        tmp_path / "new",
        data=data(corpus, "new", num_buckets=1),
        init_from=start.out_dir,
        task=None,
        evaluate=(),
        adapter=AdapterConfig("lora", rank=2),
        start=StartConfig(which="last"),
        trainer=dataclasses.replace(start.trainer, steps=3, checkpoint=CheckpointConfig(every=3)),
    )
    train(config)
    own = load_recognizer_parts(config.out_dir)
    file = Path(config.out_dir) / "adapter.safetensors"
    put_on = load_recognizer_parts(start.out_dir, "last", str(file))
    assert put_on.tokenizer == own.tokenizer
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), put_on.params, own.params)
    base = load_recognizer_parts(start.out_dir, "last")
    jax.tree.map(np.testing.assert_array_equal, base.model_state, own.model_state)
    assert np.abs(base.params["head"]["kernel"] - own.params["head"]["kernel"]).max() > 0
    np.testing.assert_array_equal(
        base.params["encoder"]["subsampling"]["out"]["kernel"], own.params["encoder"]["subsampling"]["out"]["kernel"]
    )
    with pytest.raises(UserError, match="adapter: found no init_from"):
        train(tiny(corpus, tmp_path / "none", adapter=AdapterConfig("lora")))


def test_a_teacher_holds_the_student_and_survives_a_restart(corpus, trained, tmp_path):
    """Learning without forgetting, a smaller student from scratch; the second half of a run has the same teacher."""
    start, _ = trained
    config = tiny(
        corpus,
        tmp_path / "whole",
        data=data(corpus, "new", num_buckets=1),
        init_from=start.out_dir,
        task=None,
        evaluate=(),
        teacher=TeacherConfig(checkpoint=start.out_dir, weight=0.5, hidden=1.0),
        trainer=dataclasses.replace(start.trainer, steps=4, checkpoint=CheckpointConfig(every=2)),
    )
    train(config)
    lines = [json.loads(line) for line in Path(config.out_dir, "metrics.jsonl").read_text().splitlines()]
    first = next(line["metrics"] for line in lines if line["kind"] == "train")
    assert {"ctc", "teacher_hidden"} <= set(first)
    assert 0 < first["teacher"] < 0.5  # dropout and masks are all that differ
    half = dataclasses.replace(config, out_dir=str(tmp_path / "half"))
    train(dataclasses.replace(half, trainer=dataclasses.replace(half.trainer, steps=2)))
    train(half)
    assert losses(half.out_dir)[4] == losses(config.out_dir)[4]
    own = load_recognizer_parts(config.out_dir)
    assert set(own.model_state) == {"batch_stats"}  # what leaves the folder has no teacher in it

    # Without batch norm the student has no state of its own: the folder holds the teacher's alone, and still reads.
    small = dataclasses.replace(start.task, model=dataclasses.replace(start.task.model, width=8, conv_norm="layer"))
    student = dataclasses.replace(config, out_dir=str(tmp_path / "small"), init_from="", task=small)
    train(dataclasses.replace(student, trainer=dataclasses.replace(config.trainer, steps=1)))
    read = load_recognizer_parts(student.out_dir)
    assert read.params["head"]["kernel"].shape[0] == 8 and read.model_state == {}

    slower = dataclasses.replace(small, model=dataclasses.replace(small.model, subsampling_factor=8))
    for task, message in ((slower, "frames per minute"), (None, "another vocabulary")):
        bad = dataclasses.replace(student, out_dir=str(tmp_path / "bad"), task=task or small)
        if task is None:
            tokens = TokenizerConfig(alphabet="abcdefghijklmnopqrstuvwxyz ")
            bad = dataclasses.replace(bad, task=dataclasses.replace(small, tokenizer=tokens))
        with pytest.raises(UserError, match=message):
            train(bad)


def test_from_recordings_without_text_to_a_recognizer_that_keeps_its_pre_training(corpus, trained, tmp_path):
    """Pre-train, fine-tune from it with L_pre still on, and read with the result; the pretext never leaves training."""
    start, _ = trained
    silent = tmp_path / "silent.jsonl"
    rows = [json.loads(line) for line in (corpus / "old.jsonl").read_text().splitlines()]
    silent.write_text("".join(json.dumps(r | {"audio": str(corpus / r["audio"]), "text": ""}) + "\n" for r in rows))
    unlabeled = DataConfig(sources=(SourceConfig(path=str(silent)),), plan=PlanConfig(num_buckets=1, rows=8))
    pretext = PretrainTaskConfig(model=start.task.model, best_rq=BestRQConfig(codes=16), hidden_span=3)
    trainer = dataclasses.replace(start.trainer, steps=2, checkpoint=CheckpointConfig(every=2), step=StepConfig())
    first = tiny(
        corpus,
        tmp_path / "pretrained",
        data=unlabeled,
        task=pretext,
        evaluate=(EvalConfig("old", unlabeled),),
        trainer=trainer,
    )
    train(first)
    assert "tokenizer" not in load_assets(first.out_dir)
    with pytest.raises(UserError, match="expected a recognizer"):
        load_recognizer_parts(first.out_dir)

    second = tiny(
        corpus,
        tmp_path / "tuned",
        data=data(corpus, "new", num_buckets=1),
        pre=unlabeled,
        pre_task=pretext,
        alpha=AlphaConfig(start=0.5),
        init_from=first.out_dir,
        optimizer=OptimizerConfig(groups=(("^encoder/", None), ("", 1.0)), warmup_steps=0),
        evaluate=(),
        trainer=trainer,
    )
    train(second)
    lines = [json.loads(line) for line in Path(second.out_dir, "metrics.jsonl").read_text().splitlines()]
    metrics = next(line["metrics"] for line in lines if line["kind"] == "train")
    assert {"pre/accuracy", "pre/encoded_spread", "task/ctc"} <= set(metrics)
    before, after = (load_params(path, "last")[0] for path in (first.out_dir, second.out_dir))
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    assert set(after) == {"encoder", "head", "pretext"}
    assert set(load_recognizer_parts(second.out_dir).params) == {"encoder", "head"}

    # Without recordings of its own, L_pre hears the task's, in the same forward pass.
    shared = dataclasses.replace(
        second,
        out_dir=str(tmp_path / "shared"),
        pre=None,
        task=dataclasses.replace(second.task, augment=AugmentConfig(gain=1.0)),  # frames are hidden without SpecAugment
        pre_task=dataclasses.replace(pretext, augment=AugmentConfig(gain=1.0)),
    )
    train(shared)
    lines = [json.loads(line) for line in Path(shared.out_dir, "metrics.jsonl").read_text().splitlines()]
    metrics = next(line["metrics"] for line in lines if line["kind"] == "train")
    assert metrics["loss"] == pytest.approx(0.5 * metrics["pre/loss"] + 0.5 * metrics["task/loss"], rel=1e-5)
    with pytest.raises(UserError, match=r"pre_task\.augment: found another"):
        train(dataclasses.replace(shared, out_dir=str(tmp_path / "bad"), pre_task=pretext))

    other = dataclasses.replace(pretext, model=dataclasses.replace(pretext.model, kernel_size=3))
    with pytest.raises(UserError, match=r"pre_task and task: found model\.\w+: .* and .*, expected the same network"):
        train(dataclasses.replace(second, out_dir=str(tmp_path / "bad"), pre_task=other))


def test_no_file_of_a_run_holds_the_password_of_its_store_and_a_resume_reaches_it(
    start_models, tmp_path, monkeypatch
):
    address, used = "postgresql://me:hunter2@127.0.0.1/db", []

    class Client:
        def __init__(self, tracking_uri):
            used.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id="1")

        def create_run(self, experiment_id, run_name):
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="2"))

        def get_run(self, run_id):
            return self.create_run("1", "")

        def log_batch(self, run, metrics):
            raise RuntimeError(f"{used[0]} does not answer")

        def set_terminated(self, run):
            pass

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", types.SimpleNamespace(Metric=lambda *values: values))
    texts = []
    for steps in (2, 4):
        config = domains.finetune(start_models(), tmp_path / "run", steps=steps)
        watch = dataclasses.replace(config.trainer.watch, mlflow=address)
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, watch=watch))
        result, text = domains.run(config)
        assert result is not None, text
        texts.append(text)
    assert used == [address] * 2 and "resuming at step 2" in texts[1]
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not [file for file in files if b"hunter2" in file.read_bytes()]
    assert "postgresql://me:***@127.0.0.1/db" in (tmp_path / "run" / "config.json").read_text()
    assert "hunter2" not in "".join(texts) and "trainer.watch" not in texts[1]
    assert "postgresql://me:***@127.0.0.1/db does not answer" in texts[0]


# --- what is called best is the best ---


def test_the_adapter_file_is_the_best_checkpoints_and_needs_no_start_model(start_models, tmp_path):
    """Also when the run resumes after `init_from` is gone; a guard that is added late needs it."""
    start = start_models()
    shutil.copytree(start.out_dir, tmp_path / "start")
    config = domains.finetune(dataclasses.replace(start, out_dir=str(tmp_path / "start")), tmp_path / "run", steps=12)
    trainer = dataclasses.replace(config.trainer, eval_every=2, checkpoint=CheckpointConfig(every=6, metric="A/loss"))
    config = dataclasses.replace(
        config,
        adapter=AdapterConfig(kind="lora", rank=4),
        optimizer=dataclasses.replace(config.optimizer, peak_lr=0.01),
        trainer=trainer,
    )
    _, text = domains.run(config)
    losses = {row["step"]: row["metrics"]["A/loss"] for row in domains.logged(config, "eval")}
    best = min(losses, key=losses.__getitem__)
    assert best not in (6, 12)  # it is off the saving steps, and not the last
    file = tmp_path / "run" / "adapter.safetensors"
    assert f"{file}: step {best}, the best by A/loss" in text
    with safe_open(file, framework="np") as tensors:
        assert tensors.metadata()["step"] == str(best)
    plain, _ = load_adapter(file, load_params(start.out_dir)[0])
    assert domains.distance(plain, load_recognizer_parts(config.out_dir).params) == 0

    # --- a guard that is added on a later start ---
    guards = (GuardConfig("A/loss", within=0.0),)
    guarded = dataclasses.replace(config, trainer=dataclasses.replace(trainer, steps=13, guards=guards))
    before = domains.logged(start, "eval")[-1]["metrics"]["A/loss"]
    result, text = domains.run(guarded)
    assert result is not None and f"start model: A/loss {before:.4g}" in text
    record = json.loads((find_checkpoint(config.out_dir, "last") / "data" / "metadata").read_text())
    assert record["guards"]["before"] == pytest.approx({"A/loss": before}, rel=1e-5)
    # the adapters forgot something at every evaluation, so that there is no best
    assert f"{file}: not written: " in text and not file.exists()
    assert file.with_name("adapter_last.safetensors").exists()
    with pytest.raises(UserError, match="every evaluated checkpoint breaks a guard .step 13: A/loss .*--which last"):
        find_checkpoint(config.out_dir)

    # --- another model lies in init_from, then it is gone ---
    other = (*guards, GuardConfig("B/loss"))
    late = dataclasses.replace(config, trainer=dataclasses.replace(trainer, steps=14, guards=other))
    shutil.rmtree(tmp_path / "start")
    for problem in ("found other parameters than those that this run started from (step 40)", "found no checkpoint"):
        if "other" in problem:
            last = shutil.copytree(find_checkpoint(config.out_dir, "last"), tmp_path / "start" / "checkpoints" / "40")
            replace_file(last, "data/metadata", json.dumps(read_item(last, "data") | {"step": 40}).encode())
        else:
            shutil.rmtree(tmp_path / "start")
        _, text = domains.run(late)
        assert "error: trainer.guards: " in text and "13 has no reference for B/loss" in text and problem in text
    result, text = domains.run(dataclasses.replace(config, trainer=dataclasses.replace(trainer, steps=14)))
    assert result is not None and file.exists() and not file.with_name("adapter_last.safetensors").exists()


def test_the_adapter_of_a_run_with_a_pre_task_fits_its_base(start_models, tmp_path):
    start = start_models()
    pretext = PretrainTaskConfig(model=start.task.model, audio=start.task.audio, best_rq=BestRQConfig(codes=16))
    changes = dict(evaluate=(), pre_task=pretext, alpha=AlphaConfig(start=0.3), adapter=AdapterConfig("lora"))
    config = domains.finetune(start, tmp_path, steps=2, **changes)
    result, text = domains.run(config)
    assert result is not None, text
    put_on = load_recognizer_parts(start.out_dir, adapter=str(tmp_path / "adapter.safetensors"))
    assert domains.distance(put_on.params, load_recognizer_parts(config.out_dir).params) < 1e-6


def test_every_front_door_says_that_there_is_no_best_and_names_which_last(start_models, tmp_path):
    start = start_models()
    config = domains.finetune(start, tmp_path / "run", steps=4)
    trainer = dataclasses.replace(
        config.trainer,
        eval_every=2,
        guards=(GuardConfig("A/loss", within=0.0, patience=1),),
        checkpoint=CheckpointConfig(every=2, metric="B/loss"),
    )
    config = dataclasses.replace(config, trainer=trainer, optimizer=dataclasses.replace(config.optimizer, peak_lr=0.01))
    result, text = domains.run(config)
    assert result is not None and result.ended and "step 0 evaluated" in text
    run_folder, manifest_path = config.out_dir, start.evaluate[0].data.sources[0].path
    message = "every evaluated checkpoint breaks a guard .step 2: A/loss .*, limit .*--which last .start.which last"
    doors = {
        evaluate: ["--checkpoint", run_folder, "--manifest", manifest_path],
        transcribe: ["--checkpoint", run_folder, manifest_path],
        average: ["--start", start.out_dir, "--end", run_folder, "--keep", "0.5", "--out", str(tmp_path / "average")],
        convert: [run_folder, "--to", "nemo", "--out", str(tmp_path / "x.nemo")],
    }
    for door, arguments in doors.items():
        with pytest.raises(UserError, match=message):
            door.main(arguments)
    for changes in ({"init_from": run_folder}, {"teacher": TeacherConfig(run_folder)}):
        with pytest.raises(UserError, match=message):
            prepare(dataclasses.replace(domains.finetune(start, tmp_path / "next"), **changes))
    command = [sys.executable, "-m", "speech_jax.evaluate", *doors[evaluate]]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.returncode == 2 and process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert average.main([*doors[average], "--which", "last"]) == 0
    assert evaluate.main([*doors[evaluate], "--which", "last", "--out", str(tmp_path / "report")]) == 0
    assert "run (last, step 2)" in (tmp_path / "report" / "report.md").read_text()
    last = str(find_checkpoint(run_folder, "last"))  # the step's own folder, where there is no flag
    prepare(dataclasses.replace(domains.finetune(start, tmp_path / "next"), teacher=TeacherConfig(last)))


def count_calls(monkeypatch, owner, name: str) -> list:
    """Arguments of every call of a function from now on."""
    calls, function = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(args) or function(*args, **kwargs))
    return calls


def test_a_run_reads_every_file_once_and_builds_its_task_once(corpus, trained, tmp_path, monkeypatch):
    start, _ = trained
    config = tiny(
        corpus,
        tmp_path / "new",
        data=data(corpus, "new", num_buckets=1),
        pre=data(corpus, "old"),
        alpha=AlphaConfig(start=0.5),
        init_from=start.out_dir,
        start=StartConfig(tokenizer="new"),
        evaluate=(EvalConfig("new", data(corpus, "new")), EvalConfig("old", data(corpus, "old_test"))),
        adapter=AdapterConfig(kind="lora"),
    )
    assets, params, tasks, texts, manifests = (
        count_calls(monkeypatch, owner, name)
        for owner, name in (
            (checkpoint, "read_assets"),
            (checkpoint, "read_params"),
            (CTCTaskConfig, "build"),
            (CTCTaskConfig, "make_reader"),
            (manifest, "_read_columns"),
        )
    )
    run = prepare(config)
    assert sorted(path.stem for path, _ in manifests) == ["new", "old", "old_test"]
    assert len(assets) == len(texts) == 1
    assert len(tasks) == 2  # the first has a placeholder for a reader: it names the metrics before anything is read
    assert len(params) == len({str(args) for args in params})  # no file twice
    assert run.streams["task"].utterances.texts is run.eval_streams["new"].utterances.texts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer": OptimizerConfig(schedule="cosine", warmup_steps=12)}, "optimizer.warmup_steps: found 12"),
        ({"data": DataConfig(plan=PlanConfig(num_buckets=0))}, "num_buckets = 0"),
        ({"alpha": AlphaConfig(start=2.0)}, "alpha"),
        ({"mesh": MeshConfig(fsdp=7)}, "mesh"),
        ({"teacher": TeacherConfig("folder", weight=2.0)}, "teacher"),
    ],
)
def test_settings_that_need_no_data_are_checked_before_any_is_read(corpus, tmp_path, monkeypatch, changes, expected):
    reads = count_calls(monkeypatch, manifest, "read_manifest")
    with pytest.raises(UserError, match=expected):
        prepare(tiny(corpus, tmp_path / "run", **changes))
    assert not reads
