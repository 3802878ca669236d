"""Guards against forgetting: what may be the best, when a run ends, and that both survive a restart."""

import json

import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.types import Report
from speech_jax.training.checkpoint import find_checkpoint
from speech_jax.training.config import CheckpointConfig, GuardConfig
from speech_jax.training.guard import Guards
from tests.support import toy

OLD = GuardConfig("old/wer", within=0.1)


def evaluate(guards, *pairs):
    return [guards.update({"old/wer": old, "new/wer": new}) for old, new in pairs]


def started(guards, old=0.2):
    guards.set_references({"old/wer": old, "new/wer": 0.9})
    return guards


def test_the_start_model_is_the_reference_and_the_limit_is_relative():
    guards = Guards((OLD,), CheckpointConfig(metric="new/wer"), 0)
    assert guards.missing == ("old/wer",)
    verdicts = evaluate(started(guards), (0.21, 0.5), (0.2201, 0.3), (0.22, 0.4))
    assert [v.within for v in verdicts] == [True, False, True] and guards.missing == ()
    assert [v.best for v in verdicts] == [True, False, True]
    negative = started(Guards((OLD,), CheckpointConfig(), 0), -10.0)  # a log-likelihood
    assert [v.within for v in evaluate(negative, (-9.5, 1), (-8.9, 1))] == [True, False]


def test_a_broken_guard_ends_the_run_only_after_its_patience():
    guards = started(Guards((GuardConfig("old/wer", 0.0, patience=2),), CheckpointConfig(metric=None), 0))
    reasons = [v.reasons for v in evaluate(guards, (0.3, 1), (0.2, 1), (0.3, 1), (0.4, 1))]
    assert reasons[:3] == [(), (), ()]
    assert "old/wer 0.4 exceeds its limit 0.2 for 2 evaluations in a row" in reasons[3][0]


def test_no_progress_ends_the_run_and_progress_beyond_a_guard_is_none():
    guards = started(Guards((OLD,), CheckpointConfig(metric="new/wer"), 2))
    verdicts = evaluate(guards, (0.2, 0.5), (0.3, 0.1), (0.2, 0.6))
    assert [bool(v.reasons) for v in verdicts] == [False, False, True]
    assert "new/wer did not improve for 2 evaluations" in verdicts[-1].reasons[0]


def test_the_state_survives_a_restart():
    one, other = (Guards((OLD,), CheckpointConfig(metric="new/wer"), 3) for _ in range(2))
    evaluate(started(one), (0.2, 0.5), (0.3, 0.1))
    record = json.loads(json.dumps(one.record))
    assert other.restore(record)
    other.set_best({"old/wer": 0.2, "new/wer": 0.5})
    assert evaluate(one, (0.25, 0.6), (0.2, 0.6)) == evaluate(other, (0.25, 0.6), (0.2, 0.6))
    two = Guards((OLD, GuardConfig("other/wer")), CheckpointConfig(metric="new/wer"), 0)
    two.restore(record)
    assert two.missing == ("other/wer",) and two.limits == {"old/wer": pytest.approx(0.22)}
    without = Guards((), CheckpointConfig(metric="new/wer"), 0)
    without.restore(record)
    again = Guards((OLD,), CheckpointConfig(metric="new/wer"), 0)
    again.restore(without.record)
    assert not again.missing  # a start without the guard does not lose its reference


@pytest.mark.parametrize(
    ("guard", "config"),
    [
        (OLD, CheckpointConfig(metric="new/cer")),
        (OLD, CheckpointConfig(metric="new/wer", mode="max")),
        (GuardConfig("old/wer", within=0.0), CheckpointConfig(metric="new/wer")),
    ],
)
@pytest.mark.parametrize("rows", [[(0.2, 0.5)], [(0.3, 0.5)]], ids=["with a best", "without"])
def test_counts_and_scores_of_another_ranking_are_not_continued(guard, config, rows):
    changed = Guards((guard,), config, 3)
    guards = started(Guards((OLD,), CheckpointConfig(metric="new/wer"), 3))
    evaluate(guards, *rows, (0.3, 0.5))
    assert not changed.restore(guards.record)
    assert changed.record["without"] == changed.record["beyond"].get("old/wer") == 0
    changed.set_best({"old/wer": 0.2, "new/wer": 0.7, "new/cer": 0.7})  # the best of the kept ones
    better = 0.8 if config.mode == "max" else 0.6
    assert not changed.update({"old/wer": 0.2, "new/wer": 0.7, "new/cer": 0.7}).best
    assert changed.update({"old/wer": 0.2, "new/wer": better, "new/cer": better}).best


def test_without_kept_best_checkpoints_the_best_so_far_is_that_of_the_run():
    """A resume decides as the run would have without a stop."""
    one, other = (started(Guards((OLD,), CheckpointConfig(metric="new/wer", keep_best=0), 3)) for _ in range(2))
    evaluate(one, (0.2, 0.5))
    other.restore(one.record)
    other.set_best({"old/wer": 0.2, "new/wer": 0.9})
    assert evaluate(one, (0.2, 0.6)) == evaluate(other, (0.2, 0.6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guards((GuardConfig("x", within=-1),), CheckpointConfig(metric=None), 0), "within -1"),
        (lambda: Guards((), CheckpointConfig(metric=None), 3), "without checkpoint.metric"),
        (lambda: Guards((OLD, OLD), CheckpointConfig(), 0), "several for 'old/wer', expected one per metric"),
        (lambda: started(Guards((GuardConfig("odl/wer"),), CheckpointConfig(), 0)), "'odl/wer', expected one of"),
        (lambda: started(Guards((OLD,), CheckpointConfig(), 0), float("nan")), "old/wer nan of the start model"),
    ],
)
def test_bad_guards_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_run_keeps_the_best_within_its_guards_and_ends_early(tmp_path):
    """The third evaluation has the best new figure but broke the guard; from the fifth on nothing improves."""
    figures = iter([(0.2, 0.9), (0.2, 0.5), (0.3, 0.1), (0.2, 0.4), (0.2, 0.6), (0.2, 0.6), (0.2, 0.6)])

    def evaluate(params, model_state, batches):
        old, new = next(figures)
        return Report({"old": old, "new": new})

    options = dict(
        steps=40, task=toy.make_task()._replace(evaluate=evaluate), eval_sets={"set": lambda: []},
        eval_every=1, guards=(GuardConfig("set/old", within=0.1),), patience=2,
        checkpoint=CheckpointConfig(every=1, metric="set/new"),
    )  # fmt: skip
    result = toy.train(tmp_path, **options)
    assert int(result.state.step) == 5 and not result.stopped
    assert "set/new did not improve for 2 evaluations" in result.ended[0]
    assert find_checkpoint(tmp_path, "best").name == "3"
    assert find_checkpoint(tmp_path, "last").name == "5"
    again = toy.train(tmp_path, **options)  # the run is over, not interrupted
    assert int(again.state.step) == 5 and again.ended == result.ended and again.programs == 0
