"""Fine-tuning runs as a user starts them: what is frozen computes as evaluated, and what pulls back is in the log."""

import dataclasses

import numpy as np
import pytest

from speech_jax.config import EvalConfig
from speech_jax.core.rules import named_leaves
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.prepare import prepare
from speech_jax.tasks.ctc import TeacherConfig
from speech_jax.training.checkpoint import load_params
from speech_jax.training.config import CheckpointConfig
from tests.support.domains import distance, finetune, logged, part, record, run, write_manifest

replace = dataclasses.replace
FROZEN = (("^encoder/", None), (".*", 1.0))


@pytest.mark.parametrize("way", ["frozen", "held", "lora"])
def test_the_training_loss_of_frozen_batch_norms_is_the_evaluated_one(start_models, tmp_path, way):
    """An epoch at a learning rate of almost 0: what is trained on, and what the evaluation says of the same rows."""
    start = start_models("batch")
    config = finetune(start, tmp_path / "run", steps=3)
    folder = config.data.sources[0].path.removesuffix("B-train.jsonl")
    rates = {"frozen": {"groups": FROZEN}, "held": {"hold": (("^encoder/", 3),)}, "lora": {}}[way]
    config = replace(
        config,
        evaluate=(EvalConfig("same", part(type(tmp_path)(folder), "B-train")),),
        optimizer=replace(config.optimizer, peak_lr=1e-9, **rates),
        trainer=replace(config.trainer, log_every=3),
    )
    if way == "lora":
        config = replace(config, adapter=AdapterConfig("lora", rank=4))
    result, text = run(config)
    assert result is not None, text
    trained = logged(config)[-1]["metrics"]["ctc"]
    assert trained == pytest.approx(logged(config, "eval")[-1]["metrics"]["same/loss"], rel=1e-5)


@pytest.mark.parametrize("rules", [{"groups": FROZEN}, {"hold": (("^encoder/", 3),)}])
def test_frozen_and_held_statistics_stay_with_a_teacher_too(start_models, tmp_path, rules):
    start = start_models("batch")
    config = finetune(start, tmp_path / "run", steps=3, teacher=TeacherConfig(start.out_dir))
    config = replace(config, optimizer=replace(config.optimizer, **rules))
    result, text = run(config)
    assert result is not None, text
    before, after = load_params(start.out_dir), load_params(config.out_dir)
    assert distance(before[0]["encoder"], after[0]["encoder"]) == 0.0
    assert distance(before[1], after[1]["own"]) == 0.0
    assert distance(before[0]["head"], after[0]["head"]) > 0


def test_each_penalty_is_a_term_of_its_own_in_the_log(start_models, tmp_path):
    """Its value is what it adds to the loss; its share of the gradient is between 0 and 1."""
    start = start_models()
    folder = start.data.sources[0].path.removesuffix("A-train.jsonl")
    config = finetune(start, tmp_path / "pulled", steps=3, pre=part(type(tmp_path)(folder), "A-train"))
    config = replace(
        config,
        alpha=AlphaConfig(start=0.2),
        optimizer=replace(config.optimizer, anchor=0.5, ewc=0.25, ewc_batches=3),
        trainer=replace(config.trainer, checkpoint=CheckpointConfig(every=1, keep_last=3)),
        teacher=TeacherConfig(start.out_dir, weight=0.4, hidden=0.1),
    )
    result, text = run(config)
    assert result is not None, text
    assert "Fisher information of the old domain: mean squared gradient of 24 utterances" in text
    first, _, last = (row["metrics"] for row in logged(config))
    folders = start.out_dir, f"{config.out_dir}/checkpoints/2"
    before, after = (named_leaves(load_params(folder)[0]) for folder in folders)
    pulled = [name for name in before if not name.startswith("head/")]
    squares = {name: (after[name].astype(np.float64) - before[name]) ** 2 for name in pulled}
    assert last["penalty/anchor"] == pytest.approx(0.25 * sum(x.sum() for x in squares.values()), rel=1e-5)
    assert first["penalty/anchor"] == first["penalty/ewc"] == first["penalty_share/anchor"] == 0.0
    for term in ("pre", "task"):
        assert last[f"{term}/penalty/teacher"] == pytest.approx(0.4 * last[f"{term}/teacher"], rel=1e-5)
        hidden = 0.4 * 0.1 * last[f"{term}/teacher_hidden"]
        assert last[f"{term}/penalty/teacher_hidden"] == pytest.approx(hidden, rel=1e-5)
        assert 0 < last[f"{term}/penalty_share/teacher"] < 1
        whole = 0.6 * last[f"{term}/ctc"] + 0.4 * last[f"{term}/teacher"] + hidden
        assert last[f"{term}/loss"] == pytest.approx(whole, rel=1e-5)
    assert 0 < last["penalty_share/anchor"] < 1 and 0 < last["penalty_share/ewc"] < 1 and last["penalty/ewc"] > 0


def test_the_fisher_information_does_not_depend_on_the_rows_of_a_batch(start_models, tmp_path):
    start = start_models("batch")
    folder = type(tmp_path)(start.data.sources[0].path.removesuffix("A-train.jsonl"))
    write_manifest(folder, "A-more", record(folder, "A", 32, 5))
    weights = {}
    for rows in (1, 16):
        config = finetune(start, tmp_path / f"fisher{rows}", pre=part(folder, "A-more", rows))
        config = replace(config, optimizer=replace(config.optimizer, ewc=0.1, ewc_batches=32 // rows, ewc_microbatch=3))
        prepared = prepare(config)
        prepared.feed.close()
        weights[rows] = prepared.fisher
    flat = {rows: np.concatenate([np.ravel(leaf) for leaf in named_leaves(w).values()]) for rows, w in weights.items()}
    assert np.corrcoef(flat[1], flat[16])[0, 1] > 0.9999
    top = {rows: set(np.argsort(f)[-len(f) // 10 :]) for rows, f in flat.items()}
    assert len(top[1] & top[16]) > 0.99 * len(top[1])
