"""Private training as a user runs it: what it says, what it logs, and what it refuses."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import dp_accounting
import jax
import numpy as np
import pytest

from speech_jax import train as front_door
from speech_jax.core.errors import UserError
from speech_jax.finetuning.config import AdapterConfig, StartConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.train import train
from speech_jax.tasks.ctc import TeacherConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.checkpoint import FOLDER, load_params, saved_steps
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, PrivacyConfig, StepConfig, TrainerConfig
from tests.test_train import corpus, data, tiny, write_config_file  # noqa: F401

PRIVACY = PrivacyConfig(noise_multiplier=2.0, clip_norm=0.5, delta=1e-3)


def private(corpus, out, *, conv_norm="layer", privacy=PRIVACY, steps=4, **changes):  # noqa: F811
    """A mix of two streams of 20 utterances in batches of 8: three steps are an epoch, in each of them."""
    config = tiny(corpus, out)
    task = dataclasses.replace(
        config.task,
        model=dataclasses.replace(config.task.model, conv_norm=conv_norm),
        tokenizer=TokenizerConfig(alphabet="abcdefghijklmnopqrstuvwxyz "),
    )
    config = dataclasses.replace(
        config,
        task=task,
        data=data(corpus, "new", num_buckets=1),
        pre=data(corpus, "old", num_buckets=1),
        alpha=AlphaConfig(start=0.3),
        evaluate=(),
        trainer=TrainerConfig(
            steps=steps,
            eval_every=0,
            log_every=1,
            step=StepConfig(ema=0.9, privacy=privacy),
            checkpoint=CheckpointConfig(every=3),
        ),
    )
    return dataclasses.replace(config, **changes)


def train_lines(out) -> dict[int, dict]:
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"] for line in lines if line["kind"] == "train"}


def test_a_private_run_says_at_the_start_what_it_spends_and_never_logs_more(corpus, tmp_path, caplog):  # noqa: F811
    config = private(corpus, tmp_path / "run")
    with caplog.at_level("INFO", logger="speech_jax"):
        result = train(config)
    expected = [dp_accounting.get_epsilon_gaussian(2.0 / np.sqrt(n), 1e-3) for n in (1, 2)]
    assert f"privacy: epsilon {expected[1]:.4g} at delta 0.001 for any one utterance after 4 steps" in caplog.text
    logged = train_lines(config.out_dir)
    assert [logged[step]["privacy/epsilon"] for step in (1, 2, 3, 4)] == pytest.approx([expected[0]] * 3 + expected[1:])
    assert set(logged[1]) == {"alpha", "grad_norm", "learning_rate", "skipped", "privacy/epsilon"}
    assert result.programs == 1
    stored = (Path(config.out_dir) / "noise_key.secret").read_text()
    assert stored == '{"ended": 4}'

    # it goes on with the same settings and no others
    for change in (PrivacyConfig(), dataclasses.replace(PRIVACY, noise_multiplier=4.0)):
        with pytest.raises(UserError, match="trainer.step.privacy.noise_multiplier: found .*, expected 2.0"):
            train(private(corpus, config.out_dir, privacy=change, steps=5))
    manifest = corpus / "new.jsonl"  # in another order an utterance could be in more batches than were counted
    text = manifest.read_text()
    manifest.write_text("".join(reversed(text.splitlines(keepends=True))))
    try:
        expected = "data: found recordings with other utterances or another order, expected those of step 4; or another"
        with pytest.raises(UserError, match=expected):  # and no word of --trainer.force-resume, which is refused
            train(private(corpus, config.out_dir, steps=5))
    finally:
        manifest.write_text(text)
    digest = json.loads((Path(config.out_dir) / "recordings.secret").read_text())["task"]["texts"]
    files = [p for p in Path(config.out_dir, FOLDER).rglob("*") if p.is_file()]
    assert files and not any(digest.encode() in p.read_bytes() for p in files)
    secret = Path(config.out_dir) / "recordings.secret"
    digests = secret.read_text()
    secret.unlink()  # as in a run of an earlier version
    with pytest.raises(UserError, match=r"recordings.secret: found no digests .*: with other .*; or another --out-dir"):
        train(private(corpus, config.out_dir, steps=5))
    assert train(private(corpus, config.out_dir, steps=4)).state.step == 4  # it is finished: nothing is learned
    secret.write_text("[1]")
    with pytest.raises(UserError, match="recordings.secret: found no JSON object"):
        train(private(corpus, config.out_dir, steps=5))
    secret.write_text(digests)
    assert train(private(corpus, config.out_dir, steps=5)).state.step == 5

    # from there, on its task alone, adapters that a teacher holds; only they get noise
    tuned = private(
        corpus,
        tmp_path / "tuned",
        steps=2,
        pre=None,
        task=None,
        alpha=AlphaConfig(),
        init_from=config.out_dir,
        start=StartConfig(which="last"),
        adapter=AdapterConfig("lora", rank=2),
        teacher=TeacherConfig(checkpoint=config.out_dir),
    )
    train(tuned)
    before, after = load_params(config.out_dir, "last")[0], load_params(tuned.out_dir, "last", ema=False)[0]
    jax.tree.map(np.testing.assert_array_equal, after["base"]["encoder"], before["encoder"])
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(after["adapter"]))


def test_what_breaks_the_guarantee_gets_one_line_and_exit_code_2(corpus, tmp_path, capsys, monkeypatch):  # noqa: F811
    good = private(corpus, tmp_path / "run")

    def refused(*fragments, **changes):
        file = write_config_file(tmp_path / "config.py", dataclasses.replace(good, **changes))
        monkeypatch.setattr(sys, "argv", ["train", "--config", str(file)])
        with pytest.raises(SystemExit) as stop:
            front_door.run_front_door(front_door.main)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 2 and error.startswith("error: "), error
        for fragment in fragments:
            assert fragment in error
        assert not saved_steps(tmp_path / "run" / FOLDER)

    batch_norm = dataclasses.replace(good.task, model=dataclasses.replace(good.task.model, conv_norm="batch"))
    refused("task.model.conv_norm: found 'batch'", "expected 'layer' or 'group'", task=batch_norm)
    refused("task.tokenizer", "transcripts", task=dataclasses.replace(good.task, tokenizer=TokenizerConfig()))
    refused("optimizer.ewc", optimizer=OptimizerConfig(ewc=1.0, warmup_steps=1))
    refused("trainer.force_resume", trainer=dataclasses.replace(good.trainer, force_resume=True))
    refused("found 2 times", pre=data(corpus, "new", num_buckets=1))
    (tmp_path / "link").symlink_to(corpus)
    shutil.copytree(corpus, tmp_path / "copy")
    for folder in ("link", "copy"):
        refused("found 2 times", "new.jsonl:1", pre=data(tmp_path / folder, "new", num_buckets=1))
    refused("batches of [8] rows and of [16] in pre", pre=data(corpus, "old", num_buckets=1, rows=16))

    def with_privacy(**changes):
        step = StepConfig(privacy=dataclasses.replace(PRIVACY, **changes))
        return dataclasses.replace(good.trainer, step=step)

    refused("privacy.delta: found 0.1 with 20 utterances, expected less than", trainer=with_privacy(delta=0.1))
    refused("privacy.max_epsilon: found epsilon", "expected at most 1.0", trainer=with_privacy(max_epsilon=1.0))
    refused("found a batch of 8 rows, expected a multiple of 16", trainer=with_privacy(microbatch=2))


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch):
    from speech_jax.training import privacy

    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    privacy.libraries.cache_clear()
    with pytest.raises(UserError, match=r"pip install -e '.\[privacy\]'"):
        privacy.gaussian_epsilon(1.25, 3, 1e-5)
