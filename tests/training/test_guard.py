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


def looks(guards, *pairs):
    return [guards.update({"old/wer": old, "new/wer": new}) for old, new in pairs]


def test_the_first_look_is_the_reference_and_the_limit_is_relative():
    guards = Guards((OLD,), CheckpointConfig(metric="new/wer"), 0)
    assert guards.needs_start
    good = [ok for ok, _ in looks(guards, (0.2, 0.9), (0.21, 0.5), (0.2201, 0.3), (0.22, 0.4))]
    assert good == [True, True, False, True] and not guards.needs_start


def test_a_broken_guard_ends_the_run_only_after_its_patience():
    guards = Guards((GuardConfig("old/wer", 0.0, patience=2),), CheckpointConfig(metric=None), 0)
    reasons = [why for _, why in looks(guards, (0.2, 1), (0.3, 1), (0.2, 1), (0.3, 1), (0.4, 1))]
    assert reasons[:4] == [[], [], [], []]
    assert "old/wer 0.4 exceeds its limit 0.2 for 2 evaluations in a row" in reasons[4][0]


def test_no_progress_ends_the_run_and_progress_beyond_a_guard_is_none():
    guards = Guards((OLD,), CheckpointConfig(metric="new/wer"), 2)
    found = looks(guards, (0.2, 0.9), (0.2, 0.5), (0.3, 0.1), (0.2, 0.6))
    assert [bool(why) for _, why in found] == [False, False, False, True]
    assert "new/wer did not improve for 2 evaluations" in found[-1][1][0]


def test_the_state_survives_a_restart():
    one, other = (Guards((OLD,), CheckpointConfig(metric="new/wer"), 3) for _ in range(2))
    looks(one, (0.2, 0.9), (0.2, 0.5), (0.3, 0.1))
    other.restore(json.loads(json.dumps(one.record)))
    assert looks(one, (0.25, 0.6), (0.2, 0.6)) == looks(other, (0.25, 0.6), (0.2, 0.6))
    fresh = Guards((OLD, GuardConfig("other/wer")), CheckpointConfig(metric="new/wer"), 0)
    fresh.restore(one.record)
    assert fresh.needs_start  # another list of guards has another reference


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guards((GuardConfig("x", within=-1),), CheckpointConfig(metric=None), 0), "within -1"),
        (lambda: Guards((), CheckpointConfig(metric=None), 3), "without checkpoint.metric"),
        (lambda: looks(Guards((GuardConfig("odl/wer"),), CheckpointConfig(), 0), (1, 1)), "'odl/wer', expected one of"),
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
