"""A run that resumes: what a changed setting, other recordings and a finished run mean, and what is written."""

import dataclasses
import hashlib
import json
import shutil
import types
import typing
from pathlib import Path

import pytest

from speech_jax.config import EvalConfig, TrainConfig, config_from_assets
from speech_jax.core.types import TaskConfig
from speech_jax.data.config import DataConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.resume import CLASSES, CONTINUES, FIXED, FREE, Change, Saved, class_of, decide, rate_line
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.training.checkpoint import load_assets
from speech_jax.training.config import GuardConfig, OptimizerConfig, TrainerConfig
from tests.support import domains
from tests.support.domains import replace

CONFIG = TrainConfig(out_dir="runs/a", data=DataConfig(), task=CTCTaskConfig(), pre=DataConfig())


def leaves(hint, name=""):
    """Yield the name of every setting of TrainConfig, with those of every member of a union."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for member in arguments:
            yield from leaves(member, name) if member is not types.NoneType else ()
    elif origin is tuple and dataclasses.is_dataclass(arguments[0]):
        yield from leaves(arguments[0], f"{name}.0")
    elif dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        for field in dataclasses.fields(hint):
            yield from leaves(hints[field.name], f"{name}.{field.name}".lstrip("."))
    elif hint is not TaskConfig:
        yield name


def test_every_setting_has_a_class():
    names = set(leaves(TrainConfig))
    assert len(names) > 300
    classes = {name: class_of(Change(name, (), ()), CONFIG) for name in sorted(names)}
    assert [name for name, (_, reason) in classes.items() if "no class" in reason] == []
    assert {kind for _, kind, _ in CLASSES} == {FREE, CONTINUES, FIXED}
    assert all(reason for _, kind, reason in CLASSES if kind == FIXED)


def saved(config=CONFIG, step=4, ended=(), **changes):
    return Saved(step, replace(config, **changes), {}, {}, ended)


def changed(path, value, config=CONFIG):
    """Return the config with one setting changed."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: changed(rest, value, getattr(config, name)) if rest else value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 7),
        ("init_from", "runs/b"),
        ("start.which", "last"),
        ("task.model.width", 12),
        ("task.audio.hop", 80),
        ("task.tokenizer.vocab_size", 50),
        ("adapter.kind", "lora"),
        ("optimizer.name", "lion"),
        ("optimizer.clip_norm", None),
        ("optimizer.anchor", 0.1),
        ("optimizer.groups", (("^encoder/", None), (".*", 1.0))),
        ("trainer.step.ema", 0.9),
        ("trainer.step.privacy.noise_multiplier", 1.0),
    ],
)
def test_what_is_fixed_is_refused_with_both_values(path, value):
    with pytest.raises(Exception, match=rf"runs/a: {path}: found .*, expected .* as at step 4: .*another --out-dir"):
        decide(changed(path, value), saved())


@pytest.mark.parametrize("path", ["trainer.step.ema", "optimizer.clip_norm"])
def test_zero_turns_on_what_none_turns_off(path):
    config = changed(path, None)
    with pytest.raises(Exception, match=f"runs/a: {path}: found 0.0, expected None as at step 4"):
        decide(changed(path, 0.0, config), saved(config))


@pytest.mark.parametrize(
    ("path", "value"),
    [("trainer.log_every", 3), ("mesh.fsdp", 2), ("data.workers", 2), ("task.model.remat", True), ("out_dir", "b")],
)
def test_what_is_free_is_not_mentioned(path, value):
    for steps in (4, 10):  # finished or not
        config = changed("trainer.steps", steps)
        resumption = decide(changed(path, value, config), saved(config))
        assert not resumption.lines and not resumption.changes


def test_what_continues_is_said_and_reaches_nothing_at_the_end():
    config = changed("alpha", AlphaConfig(start=0.9))
    resumption = decide(config, saved())
    assert resumption.lines == ("alpha.start: 0.0 until step 4, 0.9 from there",)
    assert resumption.changes == ({"step": 4, "setting": "alpha.start", "before": 0.0, "after": 0.9},)
    dropout = changed("task.model.dropout", 0.5)
    assert decide(dropout, saved()).lines == ("task.model.dropout: 0.1 until step 4, 0.5 from there",)
    with pytest.raises(Exception, match="finished at step 10000: alpha.start 0.9 .was 0.0. would reach nothing"):
        decide(config, saved(step=10_000))
    with pytest.raises(Exception, match="seed: found 1, .*alpha.start 0.9 .was 0.0. would reach nothing"):
        decide(replace(config, seed=1), saved(step=10_000))


def test_a_run_that_ended_early_resumes_if_what_ended_it_changes():
    trainer = TrainerConfig(steps=20, patience=2, checkpoint=replace(CONFIG.trainer.checkpoint, metric="A/wer"))
    config = replace(CONFIG, trainer=trainer)
    ended = saved(config, ended=("A/wer did not improve for 2 evaluations",))
    assert decide(config, ended).ended == ended.ended
    for path, value in (("trainer.patience", 5), ("trainer.steps", 30), ("trainer.guards", (GuardConfig("A/wer"),))):
        resumption = decide(changed(path, value, config), ended)
        assert not resumption.ended and f"resumes because of {path}" in resumption.lines[-1]
    for path, value in (("alpha", AlphaConfig(start=0.3)), ("trainer.steps", 10)):
        with pytest.raises(Exception, match="finished at step 4 .A/wer did not improve.*trainer.patience"):
            decide(changed(path, value, config), ended)


def test_a_folder_by_another_name_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start").mkdir()
    (tmp_path / "other").mkdir()
    config = replace(CONFIG, init_from="start")
    assert not decide(replace(config, init_from=str(tmp_path / "start")), saved(config)).lines
    with pytest.raises(Exception, match="init_from: found 'other', expected 'start'"):
        decide(replace(config, init_from="other"), saved(config))
    shutil.move(tmp_path / "start", tmp_path / "other")  # it was moved
    assert not decide(replace(config, init_from="other/start"), saved(config)).lines


def test_a_longer_schedule_names_the_jump_and_what_keeps_the_curve():
    before = replace(CONFIG, optimizer=OptimizerConfig(schedule="cosine", warmup_steps=2, peak_lr=1e-3),
                     trainer=TrainerConfig(steps=20))  # fmt: skip
    after = replace(before, trainer=TrainerConfig(steps=40))
    line = rate_line(before, after, 20)
    assert "at step 20: 1e-06 before, 0.000" in line
    assert "--optimizer.schedule constant --optimizer.peak-lr 1e-06 keeps the rate" in line
    assert "the curve" not in line  # no step of it is left
    assert "keeps the rate, --trainer.steps 20 the curve" in rate_line(before, after, 15)
    for schedule in ("tri_stage", "wsd"):
        one, two = (replace(c, optimizer=replace(c.optimizer, schedule=schedule)) for c in (before, after))
        assert "jumps at step 19" in rate_line(one, two, 19)
    for schedule in ("noam", "constant"):
        one, two = (replace(c, optimizer=replace(c.optimizer, schedule=schedule)) for c in (before, after))
        assert rate_line(one, two, 20) == ""
    assert "jumps" in rate_line(before, replace(before, optimizer=replace(before.optimizer, peak_lr=1e-2)), 5)


def test_seeds_of_earlier_versions():
    """`data.seed` was a number; None now takes the run's."""
    old = replace(CONFIG, seed=1, data=DataConfig(seed=1), pre=DataConfig(seed=0))
    now = replace(CONFIG, seed=1)
    before = Saved(4, old, {"task": "a", "pre": "b"}, {}, ())
    assert not decide(now, before).lines
    with pytest.raises(Exception, match="pre.seed: found 1, expected 0 .*--pre.seed 0 keeps it"):
        decide(now, before, {"task": "a", "pre": "c"}, {})
    kept = replace(now, pre=DataConfig(seed=0))
    assert "earlier version" in decide(kept, before, {"task": "a", "pre": "b"}, {}).lines[0]


# --- runs ---


def content(folder):
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(start_models, tmp_path_factory):
    """A finished run of four steps on recordings of its own, and their folder."""
    folder = tmp_path_factory.mktemp("finished")
    corpus = domains.make_corpus(folder / "data")
    start = start_models()
    config = domains.finetune(
        start, folder / "run", data=domains.part(corpus, "B-train"), pre=domains.part(corpus, "A-train"),
        alpha=AlphaConfig(start=0.3),
    )  # fmt: skip
    result, text = domains.run(config)
    assert result is not None, text
    return config, corpus


def refused(config, *fragments):
    """Check that the run is refused with these words, and that its folder stays as it is, byte for byte."""
    before = content(config.out_dir)
    result, text = domains.run(config)
    assert result is None, text
    error = text.splitlines()[-1]
    assert all(fragment in error for fragment in fragments), error
    assert content(config.out_dir) == before


def test_a_finished_run_does_nothing_and_says_so(finished):
    config, _ = finished
    before = content(config.out_dir)
    for again in (config, changed("trainer.log_every", 2, config)):
        result, text = domains.run(again)
        assert int(result.state.step) == 4 and result.finished_before and result.programs == 0
        assert "nothing to do: the run has reached its last step 4 (trainer.steps)" in text
        assert content(config.out_dir) == before
    with_more = replace(config, alpha=AlphaConfig(start=0.9), seed=7,
                        optimizer=replace(config.optimizer, peak_lr=0.5))  # fmt: skip
    refused(with_more, "seed: found 7, expected 0", "alpha.start 0.9", "optimizer.peak_lr 0.5", "would reach nothing")
    refused(replace(config, alpha=AlphaConfig(start=0.9)), "the run is finished at step 4: alpha.start 0.9")


def test_other_recordings_of_equal_size_are_noticed(finished):
    config, corpus = finished
    longer = changed("trainer.steps", 6, config)
    for name, flag in (("B-train", "data"), ("A-train", "pre")):
        manifest = corpus / f"{name}.jsonl"
        text = manifest.read_text()
        rows = text.splitlines(keepends=True)
        manifest.write_text("".join(reversed(rows)))
        refused(longer, f"{flag}: found recordings with other utterances or another order", "--trainer.force-resume")
        other = [json.loads(row) for row in rows]
        other[3]["text"] = other[4]["text"] = "a b"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in other))
        refused(longer, f"{flag}: found recordings with other texts")
        manifest.write_text(text)
    audio = corpus / "B0-5.wav"
    data = audio.read_bytes()
    audio.write_bytes(data + bytes(64))
    refused(longer, "data: found recordings with audio files of other sizes")
    audio.write_bytes(data)
    refused(changed("data.plan.rows", 4, longer), "data.plan.rows: found 4, expected 8", "--trainer.force-resume")
    refused(changed("trainer.step.ema", 0.9, longer), "trainer.step.ema: found 0.9, expected None")


def test_a_run_resumes_with_other_settings_from_a_moved_folder(finished, tmp_path):
    """What changes is said and written with its step; config.json tells what is in force."""
    first, corpus = finished
    shutil.copytree(first.out_dir, tmp_path / "run")
    shutil.copytree(corpus, tmp_path / "data")
    moved = domains.finetune(
        first, tmp_path / "run", steps=6, init_from=first.init_from, data=domains.part(tmp_path / "data", "B-train"),
        pre=domains.part(tmp_path / "data", "A-train"), alpha=AlphaConfig(start=0.9),
        evaluate=(EvalConfig("A", domains.part(tmp_path / "data", "A-dev")),),
    )  # fmt: skip
    result, text = domains.run(moved)
    assert int(result.state.step) == 6, text
    assert "alpha.start: 0.3 until step 4, 0.9 from there" in text
    lines = [json.loads(line) for line in (tmp_path / "run" / "settings.jsonl").read_text().splitlines()]
    assert {line["setting"] for line in lines} == {"alpha.start", "trainer.steps", "evaluate"}
    assert all(line["step"] == 4 for line in lines)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["alpha"]["start"] == 0.9
    assert config_from_assets(load_assets(tmp_path / "run", "last")).alpha.start == 0.9
    assert [row["metrics"]["alpha"] for row in domains.logged(moved)][-3:] == pytest.approx([0.3, 0.9, 0.9])

    # no replay from here on; a resume at the same step takes the place of the first one's lines
    plain = replace(changed("trainer.steps", 7, moved), alpha=AlphaConfig(start=0.0))
    result, text = domains.run(plain)
    assert int(result.state.step) == 7 and "pre: replayed until step 6, not replayed from there" in text, text
    result, text = domains.run(replace(changed("trainer.steps", 8, plain), alpha=AlphaConfig(start=0.5)))
    assert int(result.state.step) == 8 and "pre: not replayed until step 7, replayed from there" in text, text
